"""Way out: libc's `connect` by ctypes, and the bare system call, without any of Python's modules."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_ctypes(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import ctypes, errno, socket, struct
        import pytest
        from here import AWAY, HELLO, PORT
        from fence_core.kernel import arch

        libc = ctypes.CDLL(None, use_errno=True)

        def address(host, port):
            return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

        def connect(fd, where):
            return libc.connect(fd, where, 16)

        def syscall(fd, where):
            return libc.syscall(arch.current().calls["connect"], fd, where, 16)

        def attempt(call, where):
            fd = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
            assert fd >= 0
            result = call(fd, where)
            return fd, ctypes.get_errno() if result else 0

        @pytest.mark.parametrize("call", [connect, syscall])
        def test_away(call):
            fd, error = attempt(call, address(AWAY, 443))
            libc.close(fd)
            assert error == errno.EACCES

        @pytest.mark.parametrize("call", [connect, syscall])
        def test_loopback(call):
            fd, error = attempt(call, address("127.0.0.1", PORT))
            assert error == 0
            with socket.socket(fileno=fd) as s:
                assert s.recv(99) == HELLO
        """
    )
    what = "connect 198.51.100.7:443/tcp"
    run.refused("test_away[connect]", what, line="return libc.connect(fd, where, 16)")
    run.refused("test_away[syscall]", what, line='return libc.syscall(arch.current().calls["connect"], fd, where, 16)')
    run.clean("test_loopback[connect]", "test_loopback[syscall]")
