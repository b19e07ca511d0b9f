"""Way out: a resolver of this host, asked by TCP or TLS, would carry names to anywhere."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_resolver_by_tcp(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        import pytest
        from here import HELLO, PORT

        def test_by_tls():
            with socket.socket() as s, pytest.raises(PermissionError):
                s.connect(("127.0.0.53", 853))

        def test_by_tcp():
            with socket.create_connection(("127.0.0.53", 53), timeout=5) as s:
                s.sendall(b"\\0\\6secret")  # the fence has answered the call, and closes the line
                assert s.recv(99) == b""

        def test_another_port():
            with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
                assert s.recv(99) == HELLO
        """
    )
    run.refused("test_by_tls", "connect 127.0.0.53:853/tcp")
    run.refused("test_by_tcp", "connect 127.0.0.53:53/tcp")
    run.clean("test_another_port")


def test_control_line_is_for_pytest_only(fenced: Fenced) -> None:
    """A subprocess cannot fetch, and so hide, the violations of the test that started it."""
    run = fenced.run(
        """
        import subprocess, sys, textwrap

        THIEF = '''
        import json, os, socket, sys
        try:
            socket.create_connection(("198.51.100.7", 443), timeout=5)
        except PermissionError:
            pass
        line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
        os.write(line, json.dumps({"op": "take", "nodeid": sys.argv[1]}).encode() + b"\\\\n")
        print(os.read(line, 65536).decode())
        '''

        def test_thief(request):
            thief = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(THIEF), request.node.nodeid],
                capture_output=True, text=True, check=True)
            assert "only a pytest process" in thief.stdout
        """
    )
    run.refused("test_thief", "connect 198.51.100.7:443/tcp", by=[run.attempts("test_thief")[0].program])


def test_word_of_the_kernel_itself(fenced: Fenced) -> None:
    """What comes from nobody has no sender: that the memory of a query may be used again."""
    run = fenced.run(
        """
        import ctypes, errno, select, socket

        libc = ctypes.CDLL(None, use_errno=True)
        SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000

        def test_it():
            query = bytes.fromhex("0001 0100 0001 0000 0000 0000 09") + b"localhost" + bytes.fromhex("00 0001 0001")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(("192.0.2.53", 53))
                room, size = ctypes.create_string_buffer(128), ctypes.c_uint(128)
                assert libc.recvfrom(s.fileno(), room, 99, MSG_ERRQUEUE, room, ctypes.byref(size)) == -1
                assert ctypes.get_errno() == errno.EAGAIN
                s.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
                assert s.send(query, MSG_ZEROCOPY) == len(query)
                poll = select.poll()
                poll.register(s, 0)
                assert poll.poll(10_000)
                assert libc.recvfrom(s.fileno(), room, 99, MSG_ERRQUEUE, room, ctypes.byref(size)) == 0
                assert size.value == 0
                s.settimeout(10)
                assert s.recvfrom(512)[1] == ("192.0.2.53", 53)
        """
    )
    run.clean("test_it")
