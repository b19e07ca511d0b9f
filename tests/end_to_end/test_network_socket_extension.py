"""Way out: `_socket`, the extension below `socket`, which patches of `socket` do not reach."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_socket_extension(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import _socket
        import pytest
        from here import AWAY, HELLO, PORT

        def test_away():
            s = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            with pytest.raises(PermissionError):
                s.connect((AWAY, 443))
            s.close()

        def test_loopback():
            s = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            s.connect(("127.0.0.1", PORT))
            assert s.recv(99) == HELLO
            s.close()
        """
    )
    run.refused("test_away", "connect 198.51.100.7:443/tcp", line="s.connect((AWAY, 443))")
    run.clean("test_loopback")
