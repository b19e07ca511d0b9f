"""Way out: node, with an event loop and a JavaScript engine of its own."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("program:node")
def test_node(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import subprocess
        from here import AWAY, HELLO, HTTP

        def node(script):
            return subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60).stdout.strip()

        def get(url):
            return node(
                f"require('http').get('{url}', r => r.setEncoding('utf8').on('data', d => process.stdout.write(d)))"
                ".on('error', e => console.log(e.code))")

        def test_http_away():
            assert get(f"http://{AWAY}/") == "EACCES"

        def test_fetch_away():
            assert node(f"fetch('http://{AWAY}:8080/').catch(e => console.log(e.cause.code))") == "EACCES"

        def test_name_away():
            assert get("http://api.stripe.com/") in ("ENOTFOUND", "EAI_AGAIN")

        def test_loopback():
            assert get(f"http://127.0.0.1:{HTTP}/") == HELLO.decode().strip()

        def test_fetch_on_loopback():
            script = f"fetch('http://127.0.0.1:{HTTP}/').then(r => r.text()).then(t => console.log(t))"
            assert node(script) == HELLO.decode().strip()
        """
    )
    run.refused("test_http_away", "connect 198.51.100.7:80/tcp", by=["node"])
    run.refused("test_fetch_away", "connect 198.51.100.7:8080/tcp", by=["node"])
    run.refused("test_name_away", "resolve api.stripe.com", by=["node"], count=None)
    run.clean("test_loopback", "test_fetch_on_loopback")
