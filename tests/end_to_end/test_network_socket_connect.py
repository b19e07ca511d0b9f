"""Way out: `socket.socket.connect`."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_socket_connect(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, socket
        import pytest
        from here import AWAY, AWAY6, HELLO, PORT

        def test_away():
            with socket.socket() as s, pytest.raises(PermissionError) as caught:
                s.connect((AWAY, 443))
            assert caught.value.errno == errno.EACCES

        def test_away_by_ipv6():
            with socket.socket(socket.AF_INET6) as s, pytest.raises(PermissionError):
                s.connect((AWAY6, 443))

        def test_away_non_blocking():
            with socket.socket() as s, pytest.raises(PermissionError):
                s.setblocking(False)
                s.connect((AWAY, 443))

        def test_away_thrice():
            for _ in range(3):
                with pytest.raises(PermissionError):
                    socket.create_connection((AWAY, 443), timeout=5)

        def test_away_not_caught():
            socket.create_connection((AWAY, 443), timeout=5)

        def test_loopback():
            with socket.socket() as s:
                s.connect(("127.0.0.1", PORT))
                assert s.recv(99) == HELLO
        """
    )
    v4, v6 = "connect 198.51.100.7:443/tcp", "connect [2001:db8::7]:443/tcp"
    run.refused("test_away", v4, line="s.connect((AWAY, 443))")
    run.refused("test_away_by_ipv6", v6, line="s.connect((AWAY6, 443))")
    run.refused("test_away_non_blocking", v4, line="s.connect((AWAY, 443))")
    run.refused("test_away_thrice", v4, count=3, line="socket.create_connection((AWAY, 443), timeout=5)")
    run.refused("test_away_not_caught", v4, fails_itself=True)
    assert "PermissionError" in run.report("test_away_not_caught")["text"]  # its own failure, and the violation
    run.clean("test_loopback")
