"""Way out: `sendmmsg`, many datagrams in one call, the bad one in the middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("program:cc")
def test_sendmmsg(fenced: Fenced, probe: Callable[..., Path]) -> None:
    program = probe("sendmmsg")
    run = fenced.run(
        f"""
        import errno, socket, subprocess
        import pytest
        from here import AWAY

        @pytest.fixture
        def server():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.bind(("127.0.0.1", 0))
                s.setblocking(False)
                yield s

        def received(server):
            count = 0
            while True:
                try:
                    assert server.recv(99) == b"datagram"
                except BlockingIOError:
                    return count
                count += 1

        def send(server, *hosts):
            port = server.getsockname()[1]
            words = [f"{{host}}:{{port}}" for host in hosts]
            return subprocess.run([{str(program)!r}, *words], capture_output=True, text=True).stdout

        def test_away_first(server):
            assert send(server, AWAY, "127.0.0.1") == f"sent -1 errno {{errno.EACCES}} lengths 0 0\\n"
            assert received(server) == 0

        def test_away_in_the_middle(server):
            # As the kernel does it: what was sent before counts, and the error is not told.
            assert send(server, "127.0.0.1", AWAY, "127.0.0.1") == "sent 1 errno 0 lengths 8 0 0\\n"
            assert received(server) == 1

        def test_loopback(server):
            assert send(server, "127.0.0.1", "127.0.0.1", "127.0.0.1") == "sent 3 errno 0 lengths 8 8 8\\n"
            assert received(server) == 3
        """
    )
    for test in "test_away_first", "test_away_in_the_middle":
        (found,) = run.attempts(test)
        assert found.what.startswith("connect 198.51.100.7:"), run
        assert found.what.endswith("/udp"), run
        assert (found.phase, found.count, found.program) == ("call", 1, "sendmmsg"), run
        run.blamed(test)
    run.clean("test_loopback")
