"""Tunnels: the program believes that it talks to the name itself, and no proxy's protocol is spoken."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.proxy.peers import FilterProcess, Server, WebServer, eventually, is_stuck, read_all, read_into, read_to

Web = Callable[[str], tuple[WebServer, Server]]
Serve = Callable[..., Server]

GET = b"GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n"


def curl(*arguments: str, code: int = 0, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["curl", "-sS", "-m", "15", "--noproxy", "*", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=30,
    )
    assert done.returncode == code, done
    return done.stdout + done.stderr


# -- who ----------------------------------------------------------------------------------------------------------


def test_a_stranger_is_reset(proxy: FilterProcess, web: Web) -> None:
    """Only fenced programs are served; nobody else gets a byte."""
    assert proxy.resets()
    _, server = web("a")
    proxy.referee.tunnel("a.test", 80, server.address)
    with proxy.connect() as sock:
        sock.sendall(GET % (b"", b"a.test"))
        assert read_to(sock, b"<end>").startswith(b"HTTP/1.1 200")
        who = proxy.referee.ops("who")[-1]
        assert (who["host"], who["port"]) == sock.getsockname()


def test_without_an_answer_of_the_broker_the_connection_is_refused(serve: Serve) -> None:
    """Bounded by its patience, before that of a client ends; and then it is a no, whatever is said later."""
    hasty = FilterProcess(patience=0.5)
    try:
        server = serve(lambda connection: None)
        hasty.referee.tunnel("a.test", 9, server.address)
        hasty.referee.silent.add("who")
        assert hasty.resets()
        hasty.referee.answer_late("who")
        hasty.referee.silent.clear()
        with hasty.connect() as sock:
            assert sock.recv(1) == b""
        assert server.accepted == 1
        assert len(hasty.referee.ops("who")) == 2
    finally:
        hasty.close()


# -- relaying -----------------------------------------------------------------------------------------------------


def test_a_server_that_speaks_first(proxy: FilterProcess, serve: Serve) -> None:
    """ssh, SMTP, MySQL: the program says nothing until it has heard something."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.sendall(b"got " + connection.recv(100))

    proxy.referee.tunnel("mail.test", 25, serve(greet).address)
    with proxy.connect() as sock:
        assert sock.recv(100) == b"220 hello\r\n"
        sock.sendall(b"EHLO me\r\n")
        assert read_all(sock) == b"got EHLO me\r\n"


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.mark.parametrize(
    "first", [b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"*1\r\n$4\r\nPING\r\n", b"hello", b"\x16", b"G"]
)
def test_other_protocols_pass(proxy: FilterProcess, serve: Serve, first: bytes) -> None:
    """Also when the first bytes have no end of line, or look as if a request could begin with them."""
    proxy.referee.tunnel("db.test", 5432, serve(echo).address)
    with proxy.connect() as sock:
        sock.sendall(first)
        assert sock.recv(100) == first
        sock.sendall(b"more\n")
        assert sock.recv(100) == b"more\n"


def test_a_half_ended_tunnel_still_answers(proxy: FilterProcess, serve: Serve) -> None:
    """Both ways: the program's end reaches the server, whose answer reaches the program."""

    def count(connection: socket.socket) -> None:
        connection.sendall(b"%d bytes" % len(read_all(connection)))

    proxy.referee.tunnel("a.test", 9, serve(count).address)
    with proxy.connect() as sock:
        sock.sendall(b"\x00" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"100000 bytes"

    heard = []

    def half(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        heard.append(read_all(connection))

    proxy.referee.tunnel("a.test", 9, serve(half).address)
    with proxy.connect() as sock:
        assert read_all(sock) == b"bye"
        sock.sendall(b"\x00late")
    eventually(lambda: heard == [b"\x00late"], "what came after the server's end is lost")


def test_an_unreachable_server_resets_the_program(proxy: FilterProcess) -> None:
    """Its connect has succeeded long before; ECONNRESET is what is left."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    proxy.referee.tunnel("a.test", 9, address)
    assert proxy.resets()


def test_a_server_that_resets_resets_the_program(proxy: FilterProcess, serve: Serve) -> None:
    """After what it sent: nothing may look like an end in good order."""

    def vanish(connection: socket.socket) -> None:
        connection.sendall(b"x" * 1000)
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    proxy.referee.tunnel("a.test", 9, serve(vanish).address)
    with proxy.connect() as sock:
        sock.sendall(b"\x00")
        data = bytearray(2000)
        with pytest.raises(ConnectionResetError):
            read_into(sock, data)
        assert data.count(b"x") == 1000


def test_a_program_that_vanishes_is_gone_for_the_server(proxy: FilterProcess, serve: Serve) -> None:
    seen: list[object] = []

    def wait(connection: socket.socket) -> None:
        try:
            while data := connection.recv(10):
                connection.sendall(data)
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")

    proxy.referee.tunnel("a.test", 9, serve(wait).address)
    for expected in ("reset", "end"):
        seen.clear()
        with proxy.connect() as sock:
            sock.sendall(b"\x00")
            sock.recv(1)
            if expected == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda expected=expected: seen == [expected], expected)


def test_a_slow_reader_costs_no_memory(proxy: FilterProcess, serve: Serve) -> None:
    """Both ways: what is not read is not taken."""
    size = 200 * 1024 * 1024
    block = bytes(1 << 20)

    pouring: list[socket.socket] = []

    def pour(connection: socket.socket) -> None:
        pouring.append(connection)
        for _ in range(size >> 20):
            connection.sendall(block)

    proxy.referee.tunnel("a.test", 9, serve(pour).address)
    with proxy.connect() as sock:
        sock.recv(1)
        before = proxy.memory()
        eventually(lambda: is_stuck(pouring[0]) and proxy.is_idle(), "it takes more and more")
        assert proxy.memory() - before < 8 << 20

    enough = threading.Event()
    server = serve(lambda connection: enough.wait(10) and None)
    proxy.referee.tunnel("a.test", 9, server.address)
    with proxy.connect() as sock:
        before = proxy.memory()
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):  # noqa: PT012
            for _ in range(size >> 20):
                sock.sendall(block)
        assert proxy.memory() - before < 8 << 20
    enough.set()


def test_much_passes_unchanged(proxy: FilterProcess, serve: Serve) -> None:
    size = 100 << 20
    block = os.urandom(1 << 20)

    def pour(connection: socket.socket) -> None:
        connection.recv(1)
        for _ in range(size >> 20):
            connection.sendall(block)

    proxy.referee.tunnel("a.test", 9, serve(pour).address)
    with proxy.connect() as sock:
        sock.sendall(b"\x00")
        buffer = bytearray(size + 1)
        view, got = memoryview(buffer), 0
        while count := sock.recv_into(view[got:]):
            got += count
    assert got == size
    assert all(buffer[place << 20 : (place + 1) << 20] == block for place in range(size >> 20))


def test_a_thousand_tunnels_at_once(proxy: FilterProcess) -> None:
    """Opened together, all working, idle for nothing."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("elsewhere: needs 4,096 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    proxy.referee.tunnel("a.test", 9, listener.getsockname())
    listener.settimeout(20)
    clients, servers = [], []
    try:
        for _ in range(1000):
            clients.append(proxy.connect())
        servers = [listener.accept()[0] for _ in range(1000)]
        cpu = proxy.cpu()
        for client in clients:
            client.sendall(b"\x00%d" % client.getsockname()[1])
        for server in servers:
            server.settimeout(20)
            server.sendall(server.recv(100))
        for client in clients:
            assert client.recv(100) == b"\x00%d" % client.getsockname()[1]
        assert proxy.cpu() - cpu < 3
        eventually(proxy.is_idle, "a thousand idle tunnels keep it busy")
    finally:
        for sock in (*clients, *servers, listener):
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- addresses ----------------------------------------------------------------------------------------------------


def test_only_approved_addresses_are_connected_to(proxy: FilterProcess, web: Web) -> None:
    """The broker sees what was found; what it refuses is not reached (rebinding)."""
    handler, server = web("a")
    proxy.referee.tunnel("localhost", server.port)
    proxy.referee.use = lambda found: []
    assert proxy.resets()
    asked = proxy.referee.ops("addresses")[-1]
    assert asked["name"] == "localhost"
    assert "127.0.0.1" in asked["found"]
    assert not handler.heads

    proxy.referee.use = lambda found: ["127.0.0.1"]
    with proxy.connect() as sock:
        sock.sendall(GET % (b"", b"localhost:%d" % server.port))
        assert read_to(sock, b"<end>").startswith(b"HTTP/1.1 200")


def test_the_next_address_is_tried(proxy: FilterProcess, web: Web) -> None:
    _, server = web("a")
    proxy.referee.tunnel("localhost", server.port)
    proxy.referee.use = lambda found: ["127.0.0.9", "::1", "127.0.0.1"]
    with proxy.connect() as sock:
        sock.sendall(GET % (b"", b"localhost"))
        assert sock.recv(12) == b"HTTP/1.1 200"
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)


def test_a_pinned_name_is_neither_resolved_nor_vetted(proxy: FilterProcess, web: Web) -> None:
    _, server = web("stub")
    proxy.referee.tunnel("does-not-exist.test", 80, server.address)
    assert "stub saw" in curl("http://does-not-exist.test/", "--connect-to", f"::127.0.0.1:{proxy.port}")
    assert not proxy.referee.ops("addresses")


def test_a_name_that_does_not_exist(proxy: FilterProcess) -> None:
    """HTTP is told why, everything else is reset."""
    proxy.referee.tunnel("does-not-exist.invalid", 80)
    with proxy.connect() as sock:
        try:
            sock.sendall(GET % (b"", b"does-not-exist.invalid"))
            told = read_all(sock)
        except ConnectionResetError:
            return  # the resolver was faster than the request
        assert told.startswith(b"HTTP/1.1 502")
        assert b"does-not-exist.invalid" in told


# -- TLS ----------------------------------------------------------------------------------------------------------


def handshake(proxy: FilterProcess, ca: str, name: str | None, **more: Any) -> str:
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    with proxy.connect() as sock, context.wrap_socket(sock, server_hostname=name) as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n")
        return read_all(secure).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["api.test", "API.Test", None])
def test_tls_for_the_name_of_the_tunnel(
    proxy: FilterProcess, tls_server: Callable[..., Server], authority: tuple[Any, str], name: str | None
) -> None:
    proxy.referee.tunnel("api.test", 443, tls_server("api.test").address)
    assert "api.test saw" in handshake(proxy, authority[1], name)
    assert not proxy.referee.violations


@pytest.mark.parametrize("name", ["other.test", "xapi.test", "api.test.evil.test", "127.0.0.1.evil"])
def test_tls_for_another_name_is_refused(
    proxy: FilterProcess, tls_server: Callable[..., Server], authority: tuple[Any, str], name: str
) -> None:
    """Domain fronting: the violation is recorded before the program sees the end."""
    server = tls_server("api.test", name)
    proxy.referee.tunnel("api.test", 443, server.address)
    with pytest.raises(ssl.SSLError, match=r"(?i)access[ _]denied"):
        handshake(proxy, authority[1], name)
    assert proxy.referee.violations == [f"TLS for {name} through a tunnel to api.test:443"]


@pytest.mark.needs("program:curl")
def test_curl_speaks_tls_through_a_tunnel(
    proxy: FilterProcess, tls_server: Callable[..., Server], authority: tuple[Any, str]
) -> None:
    proxy.referee.tunnel("api.test", 443, tls_server("api.test", "other.test").address)
    through = ("--cacert", authority[1], "--connect-to", f"::127.0.0.1:{proxy.port}")
    assert "api.test saw" in curl("https://api.test/", *through)
    assert "access denied" in curl("https://other.test/", *through, code=35)


@pytest.mark.needs("program:openssl")
def test_openssl_through_a_tunnel(
    proxy: FilterProcess, tls_server: Callable[..., Server], authority: tuple[Any, str]
) -> None:
    """With and without a name, and with records so small that its hello has many."""
    proxy.referee.tunnel("api.test", 443, tls_server("api.test").address)
    common = [shutil.which("openssl") or "", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-CAfile", authority[1]]
    for more, good in (
        (["-servername", "api.test"], True),
        (["-servername", "api.test", "-tls1_2"], True),
        (["-noservername"], True),
        (["-servername", "api.test", "-split_send_frag", "512", "-max_send_frag", "512"], True),
        (["-servername", "other.test"], False),
    ):
        done = subprocess.run([*common, *more], input="Q\n", capture_output=True, text=True, timeout=20)
        assert ("BEGIN CERTIFICATE" in done.stdout) is good, (more, done)
    assert len(proxy.referee.violations) == 1


# -- HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("program:curl")
def test_curl_speaks_http_through_a_tunnel(proxy: FilterProcess, web: Web) -> None:
    """Get, post, upload in chunks with Expect, and two requests on one connection."""
    handler, server = web("api")
    proxy.referee.tunnel("api.test", 80, server.address)
    through = ("--connect-to", f"::127.0.0.1:{proxy.port}")
    assert "api saw 0 bytes" in curl("http://api.test/", *through)
    assert "api saw 9 bytes" in curl("http://api.test/", "-d", "some=data", *through)
    chunked = ("-T", "-", "-H", "Expect: 100-continue")
    assert "api saw 300000 bytes" in curl("http://api.test/", *chunked, *through, stdin="x" * 300_000)
    before = server.accepted
    assert curl("http://api.test/1", "http://api.test/2", *through).count("api saw") == 2
    assert server.accepted == before + 1
    assert "api saw" in curl("--http2", "http://api.test/", *through)  # would like h2c, and does without
    assert b"h2c" not in handler.heads[-1]
    assert not proxy.referee.violations


@pytest.mark.needs("program:curl")
def test_a_foreign_host_header_gets_a_403(proxy: FilterProcess, web: Web) -> None:
    """With domain, rule and remedy, and recorded before."""
    handler, server = web("api")
    proxy.referee.tunnel("api.test", 80, server.address)
    told = curl("http://api.test/", "-H", "Host: other.test", "-i", "--connect-to", f"::127.0.0.1:{proxy.port}")
    assert told.startswith("HTTP/1.1 403")
    assert "HTTP for other.test through a tunnel to api.test:80" in told
    assert "rule: a tunnel is for its own name only" in told
    assert proxy.referee.violations == ["HTTP for other.test through a tunnel to api.test:80"]
    assert not handler.heads


@pytest.mark.parametrize("apart", [False, True])
def test_a_later_request_for_another_host_is_refused(proxy: FilterProcess, web: Web, apart: bool) -> None:
    """Kept alive and pipelined: the first is answered, the second is not passed on."""
    handler, server = web("api")
    proxy.referee.tunnel("api.test", 80, server.address)
    with proxy.connect() as sock:
        first, second = GET % (b"1", b"api.test"), GET % (b"2", b"other.test")
        if apart:
            sock.sendall(first)
            told = read_to(sock, b"<end>")
            sock.sendall(second)
            told += read_all(sock)
        else:
            sock.sendall(first + second)
            told = read_all(sock)
    assert told.index(b"200 OK") < told.index(b"403 Forbidden")
    assert len(handler.heads) == 1
    assert len(proxy.referee.violations) == 1


def test_pipelined_requests_are_all_answered(proxy: FilterProcess, web: Web) -> None:
    _, server = web("api")
    proxy.referee.tunnel("api.test", 80, server.address)
    with proxy.connect() as sock:
        sock.sendall(b"".join(GET % (b"%d" % number, b"api.test") for number in range(3)))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).count(b"api saw") == 3


def test_an_ambiguous_request_gets_a_400(proxy: FilterProcess, web: Web) -> None:
    handler, server = web("api")
    proxy.referee.tunnel("api.test", 80, server.address)
    with proxy.connect() as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert read_all(sock).startswith(b"HTTP/1.1 400")
    assert proxy.referee.violations == [
        "an HTTP request through a tunnel to api.test:80: it has both Content-Length and Transfer-Encoding"
    ]
    assert not handler.heads


def test_a_request_cut_in_pieces_is_judged_as_a_whole(proxy: FilterProcess, web: Web, serve: Serve) -> None:
    """Also when its first bytes had to be let go of, lest a program of another protocol should wait for ever."""
    handler, _ = web("api")
    let_go = threading.Event()

    def handle(connection: socket.socket) -> None:
        assert connection.recv(2, socket.MSG_PEEK)
        let_go.set()
        handler(connection)

    proxy.referee.tunnel("api.test", 80, serve(handle).address)
    for host, good in ((b"api.test", True), (b"other.test", False)):
        with proxy.connect() as sock:
            let_go.clear()
            sock.sendall(b"GE")
            assert let_go.wait(20)
            sock.sendall((GET % (b"", host))[2:])
            told = read_to(sock, b"<end>") if good else read_all(sock)
        assert told.startswith(b"HTTP/1.1 200" if good else b"HTTP/1.1 403")
    assert [head.split(b"\r\n")[0] for head in handler.heads] == [b"GET / HTTP/1.1"]


def test_a_websocket_speaks_freely_after_the_servers_101_only(proxy: FilterProcess, web: Web) -> None:
    """A wish to upgrade alone opens nothing: what follows a 200 is judged as before."""
    handler, server = web("api")
    proxy.referee.tunnel("api.test", 80, server.address)
    wish = b"GET /%s HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with proxy.connect() as sock:
        sock.sendall(wish % b"" + b"early")
        told = read_to(sock, b"EARLY")
        assert told.startswith(b"HTTP/1.1 101")
        assert told.endswith(b"EARLY")
        sock.sendall(GET % (b"", b"other.test"))
        assert b"HOST: OTHER.TEST" in read_to(sock, b"\r\n\r\n")
    assert not proxy.referee.violations
    with proxy.connect() as sock:
        sock.sendall(wish % b"no-upgrade" + GET % (b"", b"other.test"))
        told = read_all(sock)
        assert told.index(b"200 OK") < told.index(b"403 Forbidden")
    assert len(handler.heads) == 2


@pytest.mark.needs("program:curl")
def test_http2_without_tls(proxy: FilterProcess, serve: Serve) -> None:
    """Refused in its own words; for a stub on this machine there is nothing to be fronted."""
    server = serve(echo)
    proxy.referee.tunnel("localhost", server.port)
    proxy.referee.use = lambda found: ["127.0.0.1"]
    with proxy.connect() as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"pytest-fence: HTTP/2 without TLS" in read_all(sock)
    assert len(proxy.referee.violations) == 1
    proxy.referee.tunnel("localhost", 80, server.address)
    with proxy.connect() as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert read_to(sock, b"SM\r\n\r\n").startswith(b"PRI")


# -- the user's own proxy -------------------------------------------------------------------------------------------


def corporate(answer: bytes, heads: list[bytes]) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        heads.append(read_to(connection, b"\r\n\r\n"))
        connection.sendall(answer)
        if b" 200 " in answer:
            echo(connection)

    return handle


def test_an_upstream_proxy(proxy: FilterProcess, serve: Serve) -> None:
    """Asked for a tunnel, with the name and its password; what comes with its answer is not lost."""
    heads: list[bytes] = []
    server = serve(corporate(b"HTTP/1.1 200 ok\r\n\r\nwelcome", heads))
    proxy.referee.tunnel("far.test", 22, upstream_proxy=f"http://me:p%40ss@127.0.0.1:{server.port}")
    with proxy.connect() as sock:
        assert sock.recv(100) == b"welcome"
        sock.sendall(b"\x00data")
        assert sock.recv(100) == b"\x00data"
    assert heads[0].startswith(b"CONNECT far.test:22 HTTP/1.1\r\nHost: far.test:22\r\n")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in heads[0]  # me:p@ss
    server = serve(corporate(b"HTTP/1.1 407 who are you\r\n\r\n", heads))
    proxy.referee.tunnel("far.test", 22, upstream_proxy=f"http://127.0.0.1:{server.port}")
    assert proxy.resets()
