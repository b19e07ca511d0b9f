"""Way out: `socket.socket.connect_ex`, which raises nothing."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_connect_ex(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, socket
        from here import AWAY, HELLO, PORT

        def test_away():
            with socket.socket() as s:
                assert s.connect_ex((AWAY, 443)) == errno.EACCES

        def test_loopback():
            with socket.socket() as s:
                assert s.connect_ex(("127.0.0.1", PORT)) == 0
                assert s.recv(99) == HELLO
        """
    )
    run.refused("test_away", "connect 198.51.100.7:443/tcp", line="assert s.connect_ex((AWAY, 443)) == errno.EACCES")
    run.clean("test_loopback")
