"""A filter process, a broker that is scripted, and servers: all are gone when a test ends."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.proxy.peers import FilterProcess, Server, WebServer, eventually


@pytest.fixture(scope="session")
def _filter_process() -> Iterator[FilterProcess]:
    process = FilterProcess()
    yield process
    process.close()


@pytest.fixture
def proxy(_filter_process: FilterProcess) -> Iterator[FilterProcess]:
    """The filter, with a fresh script. It must be as it was when the test ends: no bug, no descriptor more."""
    _filter_process.referee.reset()
    before = _filter_process.descriptors()
    yield _filter_process
    assert not _filter_process.complaints()
    assert _filter_process.process.poll() is None
    if len(_filter_process.referee.asked) and before < 8:
        return  # the first connections opened what the loop and the resolver keep
    eventually(lambda: _filter_process.descriptors() <= before + 1, "descriptors are left open")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(handle: Callable[[socket.socket], None], family: int = socket.AF_INET) -> Server:
        servers.append(Server(handle, family))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def web(serve: Callable[..., Server]) -> Callable[[str], tuple[WebServer, Server]]:
    def start(name: str) -> tuple[WebServer, Server]:
        handler = WebServer(name)
        return handler, serve(handler)

    return start


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """A CA of our own, and the file of its certificate."""
    import trustme

    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return ca, str(path)


@pytest.fixture
def tls_server(serve: Callable[..., Server], authority: tuple[Any, str]) -> Callable[..., Server]:
    """An HTTPS server whose certificate is good for all the names."""

    def start(*names: str) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority[0].issue_cert(*names).configure_cert(context)
        handler = WebServer(names[0])

        def handle(connection: socket.socket) -> None:
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    handler(secure)
            except ssl.SSLError:
                pass

        return serve(handle)

    return start
