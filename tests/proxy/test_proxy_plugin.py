"""The plugin for proxy.py: in our server, which is `fence proxy`, and in proxy.py's own as anybody starts it.

Whoever goes by it is held to the policy by nothing but this: so what gets past the fence's own filter is tried here
too.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.peers import CONNECT_REFUSED, Server, WebServer, eventually, read_all, read_to

Web = Callable[[str], tuple[WebServer, Server]]
Serve = Callable[..., Server]

OURS = """
import json, sys
from pathlib import Path
from fence_core.policy.sources.load import find_config
from fence_core.proxy.desk import Desk
from fence_core.proxy.standalone import Server, listen

file, token = Path(sys.argv[1]), sys.argv[2]

def told(outcome):
    words = [outcome.mark, outcome.method, outcome.host, outcome.port, outcome.status, outcome.what, outcome.rule]
    print(json.dumps(words), flush=True)

listener = listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
Server(listener, Desk(find_config(file.parent, file).policy, told, token=token)).run()
"""


class Standalone:
    """A filter without a fence, in a process of its own."""

    def __init__(self, directory: Path, hosts: dict[str, Server], stock: bool = False, token: str = "") -> None:
        self._directory = directory
        names = [name for name in hosts if not name.startswith("-")]
        network: dict[str, Any] = {
            "allowedDomains": [*names, "*.wild.test"],
            "hosts": {name.strip("-"): "{}:{}".format(*server.address) for name, server in hosts.items()},
        }
        file = directory / "fence.json"
        file.write_text(json.dumps({"extends": "default-deny", "network": network}))
        self.outcomes: list[list[Any]] = []
        self.log = directory / "log"
        if stock:
            self.process, self.port = self._stock(file)
            return
        self.process = subprocess.Popen(
            [sys.executable, "-c", OURS, str(file), token], stdout=subprocess.PIPE, text=True, env=self._env()
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self._reader = threading.Thread(target=self._read, name="outcomes")
        self._reader.start()

    def _env(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self._directory), "PYTHONPATH": str(Path(__file__).parents[2])}

    def _stock(self, file: Path) -> tuple[subprocess.Popen[str], int]:
        port_file = self._directory / "port"
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "--port", "0", "--port-file", str(port_file), "--threaded",
             "--num-acceptors", "1", "--num-workers", "1", "--data-dir", str(self._directory / "data"),
             "--cache-dir", str(self._directory / "cache"), "--log-file", str(self.log),
             "--plugins", "fence_core.proxy.plugin.FenceFilter", "--fence-settings", str(file)],
            text=True, env=self._env(), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(lambda: port_file.exists() and port_file.read_text().strip(), "proxy.py does not start", 60)
        return process, int(port_file.read_text())

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.outcomes.append(json.loads(line))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def ask(self, request: bytes, until: bytes = b"") -> bytes:
        with self.connect() as sock:
            sock.sendall(request)
            return read_to(sock, until) if until else read_all(sock)

    def curl(self, *arguments: str, codes: Sequence[int] = (0,), user: str = "") -> str:
        done = subprocess.run(
            ["curl", "-sS", "-m", "15", "-x", f"http://{user}127.0.0.1:{self.port}", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode in codes, done
        return done.stdout + done.stderr

    def refuses(self, *expected: str) -> None:
        """It says that it has refused this, in words, and nothing else; its words come by a pipe of their own."""
        eventually(lambda: len(self._refused()) >= len(expected), f"not all is told: {expected}")
        assert self._refused() == list(expected)

    def _refused(self) -> list[str]:
        return [outcome[5] for outcome in self.outcomes if outcome[0] == "refused"]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        if self.process.stdout is not None:
            self._reader.join(10)
            self.process.stdout.close()


Start = Callable[..., Standalone]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Standalone] = []

    def begin(hosts: dict[str, Server], **more: Any) -> Standalone:
        running.append(Standalone(tmp_path, hosts, **more))
        return running[-1]

    yield begin
    for each in running:
        each.close()


GET = b"GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n"


@pytest.mark.needs("program:curl")
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_allowed_wildcard_refused(start: Start, web: Web, stock: bool) -> None:
    """By whole URI and by CONNECT, each refusal in the words that programs know."""
    handler, server = web("api")
    filter_ = start({"api.test": server, "-a.wild.test": server}, stock=stock)
    assert "api saw" in filter_.curl("http://api.test/")
    assert "api saw" in filter_.curl("-p", "http://api.test/")
    assert "api saw" in filter_.curl("http://a.wild.test/")
    assert "other.test:80 is not allowed" in filter_.curl("http://other.test/")
    told = filter_.curl("https://other.test/", codes=CONNECT_REFUSED)
    assert "CONNECT tunnel failed, response 403" in told
    assert len(handler.heads) == 3
    if stock:
        eventually(lambda: "refused other.test:443" in filter_.log.read_text(), "the refusal is not in the log")
    else:
        eventually(lambda: len(filter_.outcomes) == 5, "not every request is told")
        filter_.refuses("other.test:80 is not allowed", "other.test:443 is not allowed")


def test_tls_end_to_end(start: Start, tls_server: Callable[..., Server], authority: tuple[Any, str]) -> None:
    filter_ = start({"api.test": tls_server("api.test")})
    assert "api.test saw" in filter_.curl("https://api.test:443/", "--cacert", authority[1])


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_second_request_for_another_host(start: Start, web: Web, stock: bool) -> None:
    """proxy.py alone sends it to the host of the first."""
    one, first = web("one")
    two, second = web("two")
    filter_ = start({"one.test": first, "two.test": second}, stock=stock)
    with filter_.connect() as sock:
        sock.sendall(GET % (b"one.test", b"one.test"))
        read_to(sock, b"<end>")
        try:
            sock.sendall(GET % (b"two.test", b"two.test") + GET % (b"no.test", b"no.test"))
            assert not read_all(sock)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended
    assert [len(one.heads), len(two.heads)] == [1, 0]
    assert b"two saw" in filter_.ask(GET % (b"two.test", b"two.test"))


def test_what_passes_a_tunnel_is_inspected(start: Start, web: Web) -> None:
    handler, server = web("api")
    filter_ = start({"api.test": server})
    for other, status in ((b"api.test", b"api saw"), (b"evil.test", b"403 Forbidden")):
        with filter_.connect() as sock:
            sock.sendall(b"CONNECT api.test:80 HTTP/1.1\r\nHost: api.test\r\n\r\n")
            assert read_to(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            sock.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % other)
            assert status in read_to(sock, b"<end>" if other == b"api.test" else b"\n\n")
    assert len(handler.heads) == 1
    filter_.refuses("HTTP for evil.test through a tunnel to api.test:80")


@pytest.mark.needs("program:curl")
def test_tls_for_another_name(start: Start, tls_server: Callable[..., Server], authority: tuple[Any, str]) -> None:
    """A CDN would serve it: the address is that of an allowed name."""
    server = tls_server("api.test", "evil.test")
    filter_ = start({"api.test": server})
    through = ("--cacert", authority[1], "--connect-to", "evil.test:443:api.test:443")
    assert "api.test saw" in filter_.curl("https://api.test/", *through)
    filter_.curl("https://evil.test/", *through, codes=(35,))
    filter_.refuses("TLS for evil.test through a tunnel to api.test:443")


@pytest.mark.parametrize(
    ("spelled", "what"),
    [
        (b"127.0.0.1", "127.0.0.1:443 is not allowed"),
        (b"127.1", "127.0.0.1:443 is not allowed"),
        (b"0x7f000001", "127.0.0.1:443 is not allowed"),
        (b"[::1]", "::1:443 is not allowed"),
        (b"169.254.169.254", "169.254.169.254:443 is not allowed"),
        (b"localhost", "localhost:443 is not allowed"),
        (b"API.test.evil.test", "api.test.evil.test:443 is not allowed"),
    ],
)
def test_other_spellings_and_addresses(start: Start, web: Web, spelled: bytes, what: str) -> None:
    _, server = web("api")
    filter_ = start({"api.test": server})
    assert filter_.ask(b"CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n" % spelled).startswith(b"HTTP/1.1 403")
    assert b"api saw" in filter_.ask(b"GET http://API.TEST./ HTTP/1.1\r\nHost: api.test\r\n\r\n")
    filter_.refuses(what)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"CONNECT a.test:65536 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
        b"GET http://a.test\0.evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://u:p@evil@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test\\evil/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test?x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://\xff\xfe.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: host\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX Y: 1\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_cannot_be_judged_reaches_nobody(start: Start, web: Web, request_bytes: bytes) -> None:
    handler, server = web("a")
    filter_ = start({"a.test": server})
    assert filter_.ask(request_bytes)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"")
    assert not handler.heads
    assert b"a saw" in filter_.ask(GET % (b"a.test", b"a.test"))


def test_the_token(start: Start, web: Web) -> None:
    handler, server = web("api")
    filter_ = start({"api.test": server}, token="s3cret")
    request = b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n%s\r\n"

    def shown(token: bytes) -> bytes:
        return request % (b"Proxy-Authorization: Basic " + base64.b64encode(b"fence:" + token) + b"\r\n")

    for without in (request % b"", shown(b"wrong"), shown(b""), request % b"Proxy-Authorization: Bearer s3cret\r\n"):
        told = filter_.ask(without)
        assert told.startswith(b"HTTP/1.1 407")
        assert b'Proxy-Authenticate: Basic realm="fence"\r\n' in told
    assert not handler.heads
    assert b"api saw" in filter_.ask(shown(b"s3cret"))
    assert b"roxy-" not in handler.heads[0]


def test_it_does_not_connect_to_itself(start: Start, web: Web) -> None:
    """A wildcard that a policy allows may lead there: no request may go round in circles."""
    _, server = web("a")
    filter_ = start({"a.test": server})
    place = b"127.0.0.1:%d" % filter_.port
    assert b"is this proxy itself" in filter_.ask(GET % (place, place))


def test_200_connections_at_once(start: Start, web: Web) -> None:
    handler, server = web("api")
    filter_ = start({"api.test": server})
    sockets = [filter_.connect() for _ in range(200)]
    try:
        for sock in sockets:
            sock.sendall(b"CONNECT api.test:80 HTTP/1.1\r\nHost: api.test\r\n\r\n")
        for sock in sockets:
            assert read_to(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        for sock in sockets:  # all are open by now
            sock.sendall(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        for sock in sockets:
            assert b"api saw" in read_to(sock, b"<end>")
    finally:
        for sock in sockets:
            sock.close()
    assert len(handler.heads) == 200


def test_large_bodies_both_ways(start: Start, serve: Serve) -> None:
    """Neither side is kept in memory: each waits for the other."""
    size = 20 << 20

    def handle(connection: socket.socket) -> None:
        left = size
        while left and (data := connection.recv(1 << 16)):
            left -= len(data)
        connection.sendall(b"y" * size)

    filter_ = start({"a.test": serve(handle)})
    with filter_.connect() as sock:
        sock.sendall(b"CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\n")
        read_to(sock, b"\r\n\r\n")
        sock.sendall(b"\0" * size)
        assert len(read_all(sock)) == size


def test_without_a_policy_nothing_passes(start: Start, web: Web, tmp_path: Path) -> None:
    """proxy.py with our plugin, but without --fence-settings."""
    _, server = web("a")
    filter_ = start({"a.test": server}, stock=True)
    assert b"a saw" in filter_.ask(GET % (b"a.test", b"a.test"))
    code = (
        "from proxy.common.flag import FlagParser; from fence_core.proxy import plugin; "
        "flags = FlagParser.initialize([], plugins=[plugin.FenceFilter]); "
        "print(plugin._desk_of(flags).target('a.test', 80))"
    )
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert "a.test:80 is not allowed" in done.stderr
