"""Way out: uvloop, whose connections are made by libuv."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("module:uvloop")
def test_uvloop(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import asyncio
        import pytest, uvloop
        from here import AWAY, HELLO, PORT

        async def fetch(host, port):
            reader, writer = await asyncio.open_connection(host, port)
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data

        def run(what):
            loop = uvloop.new_event_loop()
            try:
                return loop.run_until_complete(what)
            finally:
                loop.close()

        def test_away():
            with pytest.raises(PermissionError):
                run(fetch(AWAY, 443))

        def test_loopback():
            assert run(fetch("127.0.0.1", PORT)) == HELLO
        """
    )
    run.refused(
        "test_away", "connect 198.51.100.7:443/tcp", line="reader, writer = await asyncio.open_connection(host, port)"
    )
    run.clean("test_loopback")
