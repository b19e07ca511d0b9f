"""Way out: asyncio, whose connections are non-blocking and made by its event loop."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_asyncio(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import asyncio
        import pytest
        from here import AWAY, HELLO, PORT, UDP

        async def fetch(host, port):
            reader, writer = await asyncio.open_connection(host, port)
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data

        async def ping(host, port):
            answer = asyncio.get_running_loop().create_future()

            class Protocol(asyncio.DatagramProtocol):
                def datagram_received(self, data, sender):
                    answer.set_result(data)

                def error_received(self, error):
                    answer.set_exception(error)

            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Protocol, local_addr=("127.0.0.1", 0))
            try:
                transport.sendto(b"ping", (host, port))
                return await asyncio.wait_for(answer, 10)
            finally:
                transport.close()

        def test_away():
            with pytest.raises(PermissionError):
                asyncio.run(fetch(AWAY, 443))

        def test_many_at_once():
            async def all_of_them():
                return await asyncio.gather(
                    *(fetch(AWAY if n % 2 else "127.0.0.1", PORT) for n in range(20)), return_exceptions=True)

            answers = asyncio.run(all_of_them())
            assert answers[0::2] == [HELLO] * 10
            assert all(isinstance(answer, PermissionError) for answer in answers[1::2])

        def test_datagram_away():
            with pytest.raises(PermissionError):
                asyncio.run(ping(AWAY, 4444))

        def test_loopback():
            assert asyncio.run(fetch("127.0.0.1", PORT)) == HELLO

        def test_datagram_on_loopback():
            assert asyncio.run(ping("127.0.0.1", UDP)) == b"ping"
        """
    )
    run.refused(
        "test_away", "connect 198.51.100.7:443/tcp", line="reader, writer = await asyncio.open_connection(host, port)"
    )
    run.refused("test_many_at_once", f"connect 198.51.100.7:{fenced.loopback.hello}/tcp", count=10)
    run.refused("test_datagram_away", "connect 198.51.100.7:4444/udp", line='transport.sendto(b"ping", (host, port))')
    run.clean("test_loopback", "test_datagram_on_loopback")
