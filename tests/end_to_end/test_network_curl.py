"""Way out: curl, a program that is no Python, started in every usual way."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import AWAY, Fenced

pytestmark = pytest.mark.needs("program:curl")


def test_curl(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, subprocess
        from here import AWAY, HELLO, HTTP

        def test_away():
            ended = subprocess.run(["curl", "-sS", "--max-time", "10", f"http://{AWAY}/"], capture_output=True)
            assert ended.returncode == 7  # CURLE_COULDNT_CONNECT
            assert ended.stdout == b""

        def test_by_a_shell():
            assert os.system(f"curl -s --max-time 10 https://{AWAY}/ || exit 9") >> 8 == 9

        def test_loopback():
            done = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{HTTP}/"], capture_output=True, check=True)
            assert done.stdout == HELLO
        """
    )
    found = run.refused("test_away", "connect 198.51.100.7:80/tcp", by=["curl"])
    assert found.argv == ["curl", "-sS", "--max-time", "10", "http://198.51.100.7/"]
    run.refused("test_by_a_shell", "connect 198.51.100.7:443/tcp", by=["sh", "curl"])
    run.clean("test_loopback")
    assert "$ curl -sS --max-time 10 http://198.51.100.7/" in run.out


def test_curl_by_name(fenced: Fenced) -> None:
    """The look-up is refused (6), not left to time out (28), and the report names the domain."""
    run = fenced.run(
        """
        import subprocess
        from here import HELLO, HTTP

        def test_away():
            curl = ["curl", "-s", "--connect-timeout", "10", "https://api.stripe.com/v1/charges"]
            assert subprocess.run(curl).returncode == 6

        def test_loopback():
            done = subprocess.run(["curl", "-sS", f"http://localhost:{HTTP}/"], capture_output=True, check=True)
            assert done.stdout == HELLO
        """,
        env={"RES_OPTIONS": "timeout:15"},  # when libc would ask again
    )
    # One line, however often and for however many types of record libc asks.
    run.refused("test_away", "resolve api.stripe.com", by=["curl"], count=None)
    run.clean("test_loopback")


def test_line_that_waits_for_a_program(fenced: Fenced) -> None:
    """curl has no Python stack: the report names the line of the test that waits for it."""
    run = fenced.run(
        """
        import subprocess
        from here import AWAY, HTTP

        def test_away():
            before = 1
            done = subprocess.run(["curl", "-sS", f"http://{AWAY}/"], capture_output=True)
            assert done.returncode == 7

        def test_loopback():
            subprocess.run(["curl", "-sS", f"http://127.0.0.1:{HTTP}/"], capture_output=True, check=True)
        """
    )
    attempt = run.refused(
        "test_away",
        f"connect {AWAY}:80/tcp",
        by=["curl"],
        line='done = subprocess.run(["curl", "-sS", f"http://{AWAY}/"], capture_output=True)',
    )
    assert attempt.chain == ["pytest", "curl"]
    run.clean("test_loopback")
