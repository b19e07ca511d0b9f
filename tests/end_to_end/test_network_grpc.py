"""Way out: gRPC, which connects from threads of its own that never run Python."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("module:grpc")
def test_grpc(fenced: Fenced) -> None:
    run = fenced.run(
        """
        from concurrent import futures
        import grpc, pytest
        from here import AWAY, HELLO

        def same(data):
            return data

        def ask(target):
            with grpc.insecure_channel(target) as channel:
                call = channel.unary_unary("/here.Greeter/Hello", request_serializer=same, response_deserializer=same)
                return call(b"", timeout=20)

        @pytest.fixture(scope="module")
        def server():
            handler = grpc.unary_unary_rpc_method_handler(
                lambda request, context: HELLO, request_deserializer=same, response_serializer=same)
            server = grpc.server(futures.ThreadPoolExecutor(2))
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("here.Greeter", {"Hello": handler}),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            yield f"127.0.0.1:{port}"
            server.stop(None).wait()

        def test_away():
            with pytest.raises(grpc.RpcError) as caught:
                ask(f"{AWAY}:443")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

        def test_loopback(server):
            assert ask(server) == HELLO
        """
    )
    run.refused("test_away", "connect 198.51.100.7:443/tcp", count=None)
    run.clean("test_loopback")
