"""Way out: a program without any shared library, which no preloaded or patched one could stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import AWAY, Fenced


@pytest.mark.needs("program:cc")
def test_static_program(fenced: Fenced, probe: Callable[..., Path]) -> None:
    program = probe("static_connect", "-static")
    run = fenced.run(
        f"""
        import errno, subprocess
        from here import AWAY, HELLO, PORT

        def connect(host, port):
            return subprocess.run([{str(program)!r}, host, str(port)], capture_output=True).stdout

        def test_away():
            assert connect(AWAY, 443) == f"errno {{errno.EACCES}}\\n".encode()

        def test_loopback():
            assert connect("127.0.0.1", PORT) == HELLO
        """
    )
    found = run.refused("test_away", "connect 198.51.100.7:443/tcp", by=["static_connect"])
    assert found.argv == [str(program), AWAY, "443"]
    run.clean("test_loopback")
