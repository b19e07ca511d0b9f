"""Way out: TCP fast open, which connects without a `connect`: MSG_FASTOPEN, or with one that does nothing yet."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_fast_open(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, socket
        import pytest
        from here import AWAY, HELLO, PORT

        def test_sendto():
            with socket.socket() as s, pytest.raises(PermissionError):
                s.sendto(b"secret", socket.MSG_FASTOPEN, (AWAY, 443))

        def test_sendmsg():
            with socket.socket() as s, pytest.raises(PermissionError):
                s.sendmsg([b"secret"], [], socket.MSG_FASTOPEN, (AWAY, 443))

        def test_deferred_connect():
            TCP_FASTOPEN_CONNECT = 30
            with socket.socket() as s, pytest.raises(PermissionError):
                s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
                s.connect((AWAY, 443))

        def test_loopback():
            with socket.socket() as s:
                assert s.sendto(b"hello", socket.MSG_FASTOPEN, ("127.0.0.1", PORT)) == 5
                assert s.recv(99) == HELLO
                assert s.connect_ex(("127.0.0.1", PORT)) == errno.EISCONN

        def test_loopback_non_blocking():
            with socket.socket() as s:
                s.setblocking(False)
                try:
                    assert s.sendto(b"hello", socket.MSG_FASTOPEN, ("127.0.0.1", PORT)) == 5
                except BlockingIOError as error:  # without a cookie: connecting, and nothing was sent
                    assert error.errno == errno.EINPROGRESS
                s.settimeout(10)
                assert s.recv(99) == HELLO

        def test_nobody_listens():
            with socket.socket() as unused, socket.socket() as s:
                unused.bind(("127.0.0.1", 0))
                with pytest.raises(ConnectionRefusedError):
                    s.sendto(b"hello", socket.MSG_FASTOPEN, unused.getsockname())
        """
    )
    for test in "test_sendto", "test_sendmsg", "test_deferred_connect":
        run.refused(test, "connect 198.51.100.7:443/tcp")
    run.clean("test_loopback", "test_loopback_non_blocking", "test_nobody_listens")
