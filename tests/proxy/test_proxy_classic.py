"""Programs that use the filter as their HTTP proxy: CONNECT, and requests that name a whole URI."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.proxy.peers import CONNECT_REFUSED, FilterProcess, Server, WebServer, eventually, read_all, read_to

Web = Callable[[str], tuple[WebServer, Server]]
Serve = Callable[..., Server]


def curl(proxy: FilterProcess, *arguments: str, codes: Sequence[int] = (0,), stdin: str | None = None) -> str:
    done = subprocess.run(
        ["curl", "-sS", "-m", "15", "-x", f"http://127.0.0.1:{proxy.port}", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=30,
    )
    assert done.returncode in codes, done
    return done.stdout + done.stderr


def ask(proxy: FilterProcess, request: bytes, until: bytes = b"") -> bytes:
    with proxy.connect() as sock:
        sock.sendall(request)
        return read_to(sock, until) if until else read_all(sock)


# -- CONNECT ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("program:curl")
def test_connect(proxy: FilterProcess, tls_server: Callable[..., Server], authority: tuple[Any, str]) -> None:
    """Allowed: a tunnel. Not allowed: what curl says is what users know."""
    proxy.referee.proxy(api_test=tls_server("api.test").address)
    assert "api.test saw" in curl(proxy, "https://api.test/", "--cacert", authority[1])
    asked = proxy.referee.ops("ask")[-1]
    assert (asked["name"], asked["port"], asked["how"]) == ("api.test", 443, "CONNECT")
    told = curl(proxy, "https://other.test/", codes=CONNECT_REFUSED)
    assert "CONNECT tunnel failed, response 403" in told


def test_a_refused_connect_names_domain_rule_and_remedy(proxy: FilterProcess) -> None:
    """The broker has recorded it; a second violation would be a lie."""
    proxy.referee.proxy()
    told = ask(proxy, b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 403")
    assert b"other.test:443 is not allowed\nrule: network.allowed_domains\nallow it so\n" in told
    assert not proxy.referee.violations


def test_early_data_behind_a_connect(proxy: FilterProcess, serve: Serve) -> None:
    proxy.referee.proxy(a_test=serve(lambda c: c.sendall(c.recv(100).upper())).address)
    told = ask(proxy, b"CONNECT a.test:22 HTTP/1.1\r\n" + b"Host: a.test:22\r\n\r\nssh-like\n")
    assert told.startswith(b"HTTP/1.1 200")
    assert told.endswith(b"\r\n\r\nSSH-LIKE\n")


def test_what_passes_a_connect_is_inspected(proxy: FilterProcess, web: Web) -> None:
    handler, server = web("api")
    proxy.referee.proxy(api_test=server.address)
    request = b"CONNECT api.test:80 HTTP/1.1\r\nHost: api.test\r\n\r\nGET / HTTP/1.1\r\nHost: %s\r\n\r\n"
    assert b"api saw" in ask(proxy, request % b"api.test", b"<end>")
    assert b"403 Forbidden" in ask(proxy, request % b"other.test")
    assert proxy.referee.violations == ["HTTP for other.test through a tunnel to api.test:80"]
    assert len(handler.heads) == 1


def test_an_unreachable_server_is_a_502(proxy: FilterProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    proxy.referee.proxy(a_test=address)
    assert ask(proxy, b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n").startswith(b"HTTP/1.1 502")
    assert ask(proxy, b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n").startswith(b"HTTP/1.1 502")


def test_refused_addresses_are_a_403(proxy: FilterProcess) -> None:
    proxy.referee.proxy(localhost=None)
    proxy.referee.use = lambda found: []
    told = ask(proxy, b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 403")
    assert b"rule: network.private" in told


def test_ipv6_literals(proxy: FilterProcess, serve: Serve) -> None:
    server = serve(WebServer("six"), socket.AF_INET6)
    proxy.referee.proxy()
    proxy.referee.rules["::1"] = {"allowed": True, "to": None}
    place = b"[::1]:%d" % server.port
    told = ask(proxy, b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nGET / HTTP/1.0\r\n\r\n" % (place, place), b"<end>")
    assert b"six saw" in told
    told = ask(proxy, b"GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n" % (place, place))
    assert b"Host: " + place in told
    assert proxy.referee.ops("addresses")[-1]["found"] == ["::1"]


# -- whole URIs ---------------------------------------------------------------------------------------------------


@pytest.mark.needs("program:curl")
def test_each_request_goes_to_its_own_host(proxy: FilterProcess, web: Web) -> None:
    """Stock proxy.py sends the second one to the first host."""
    one, first = web("one")
    two, second = web("two")
    proxy.referee.proxy(one_test=first.address, two_test=second.address)
    told = curl(proxy, "http://one.test/a", "http://two.test/b", "http://no.test/c", "http://one.test/d")
    assert [told.count(word) for word in ("one saw", "two saw", "no.test:80 is not allowed")] == [2, 1, 1]
    assert [head.split(b"\r\n")[:2] for head in one.heads] == [
        [b"GET /a HTTP/1.1", b"Host: one.test"],
        [b"GET /d HTTP/1.1", b"Host: one.test"],
    ]
    assert len(two.heads) == 1
    assert [question["how"] for question in proxy.referee.ops("ask")][:2] == [
        "GET http://one.test/a",
        "GET http://two.test/b",
    ]


def test_pipelined_requests_get_one_answer_and_the_end(proxy: FilterProcess, web: Web) -> None:
    """Whoever pipelines must be ready for that; the second request is never sent to the first host."""
    one, first = web("one")
    two, second = web("two")
    proxy.referee.proxy(one_test=first.address, two_test=second.address)
    request = b"GET http://%s.test/ HTTP/1.1\r\nHost: %s.test\r\n\r\n"
    told = ask(proxy, request % (b"one", b"one") + request % (b"two", b"two"))
    assert told.count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in told
    assert (len(one.heads), len(two.heads)) == (1, 0)


def test_headers_for_the_next_machine_are_not_passed_on(proxy: FilterProcess, web: Web) -> None:
    """Repeated ones of the program are, all of them; the host is the URI's."""
    handler, server = web("a")
    proxy.referee.proxy(a_test=server.address)
    ask(
        proxy,
        b"GET http://A.test:80/x?y#z HTTP/1.1\r\nhOST: a.test\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n"
        b"Proxy-Authorization: Basic x\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nCookie: a\r\nCookie: b\r\n\r\n",
    )
    assert handler.heads == [
        b"GET /x?y HTTP/1.1\r\nHost: a.test\r\nCookie: a\r\nCookie: b\r\nConnection: close\r\n\r\n"
    ]


@pytest.mark.needs("program:curl")
def test_bodies(proxy: FilterProcess, web: Web) -> None:
    """Of known length, in chunks, after a 100, and none for HEAD."""
    handler, server = web("a")
    proxy.referee.proxy(a_test=server.address)
    assert "saw 9 bytes" in curl(proxy, "http://a.test/", "-d", "some=data")
    upload = ("-T", "-", "-H", "Expect: 100-continue")
    assert "saw 300000 bytes" in curl(proxy, "http://a.test/", *upload, stdin="x" * 300_000)
    assert handler.bodies[-1] == b"x" * 300_000
    with proxy.connect() as sock:
        sock.sendall(
            b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'3;name="v"\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n'
        )
        sock.shutdown(socket.SHUT_WR)  # and still there is an answer
        assert b"saw 3 bytes" in read_all(sock)
    with proxy.connect() as sock:
        sock.sendall(
            b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        assert b"saw 4 bytes" in read_all(sock)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nold"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nmore",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (b"what is this", b"what is this"),
    ],
)
def test_answers(proxy: FilterProcess, serve: Serve, answer: bytes, told: bytes) -> None:
    """Exactly one, however its end is marked; the server need not close for that."""
    done = threading.Event()

    def handle(connection: socket.socket) -> None:
        read_to(connection, b"\r\n\r\n")
        connection.sendall(answer)
        if b"Length" in answer or b"chunked" in answer or b"204" in answer:
            done.wait(10)

    proxy.referee.proxy(a_test=serve(handle).address)
    assert ask(proxy, b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n") == told
    done.set()


def test_an_answer_cut_off_is_not_passed_off_as_whole(proxy: FilterProcess, serve: Serve) -> None:
    def handle(connection: socket.socket) -> None:
        read_to(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")

    proxy.referee.proxy(a_test=serve(handle).address)
    with pytest.raises(ConnectionResetError):
        ask(proxy, b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")


def test_a_websocket_by_whole_uri(proxy: FilterProcess, web: Web) -> None:
    _, server = web("a")
    proxy.referee.proxy(a_test=server.address)
    with proxy.connect() as sock:
        sock.sendall(
            b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert read_to(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"


GOOD = b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"connect a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"CONNECT a.test:0 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"CONNECT a.test:65536 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test:0/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test/ HTTP/2.0\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
        b"GET http://a.test\0.evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://u:p@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://u:p@evil@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test\\evil/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test?x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://\xff\xfe.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: host\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: -1\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\nHost: a.test\n\n",
        b"\x16\x03\x01\x00\x05hello",
        b"nonsense\r\n\r\n",
        b"GET http://a.test/" + b"x" * 70_000,
    ],
)
def test_what_cannot_be_judged_gets_a_400_at_once(proxy: FilterProcess, web: Web, request_bytes: bytes) -> None:
    handler, server = web("a")
    proxy.referee.proxy(a_test=server.address)
    assert ask(proxy, request_bytes).startswith(b"HTTP/1.1 400")
    assert not handler.heads
    assert b"a saw" in ask(proxy, GOOD)


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [
        (b"A.TEST", "a.test"), (b"a.test.", "a.test"), (b"127.1", "127.0.0.1"), (b"0x7f000001", "127.0.0.1"),
        (b"2130706433", "127.0.0.1"), (b"[::ffff:127.0.0.1]", "127.0.0.1"),
    ],
)  # fmt: skip
def test_the_broker_is_asked_for_the_canonical_name(proxy: FilterProcess, spelled: bytes, canonical: str) -> None:
    proxy.referee.proxy()
    assert ask(proxy, b"CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n" % spelled).startswith(b"HTTP/1.1 403")
    assert proxy.referee.ops("ask")[-1]["name"] == canonical


def test_plain_bodies_are_not_slow(proxy: FilterProcess, serve: Serve) -> None:
    """Stock proxy.py takes 15 s for this, and 344 MB."""
    size = 50 << 20

    def handle(connection: socket.socket) -> None:
        read_to(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 20):
            connection.sendall(bytes(1 << 20))

    proxy.referee.proxy(a_test=serve(handle).address)
    before = proxy.memory()
    with proxy.connect() as sock:
        sock.sendall(GOOD)
        read_to(sock, b"\r\n\r\n")
        buffer = bytearray(1 << 20)
        while sock.recv_into(buffer):
            pass
    assert proxy.memory() - before < 16 << 20


def test_a_hanging_connect_hinders_nobody(proxy: FilterProcess, web: Web) -> None:
    _, server = web("a")
    proxy.referee.proxy(a_test=server.address)
    with socket.socket() as full:  # a backlog that takes nobody any more
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.create_connection(full.getsockname())]
        proxy.referee.rules["hang.test"] = {"allowed": True, "to": full.getsockname()}
        with proxy.connect() as sock:
            sock.sendall(b"CONNECT hang.test:1 HTTP/1.1\r\nHost: hang.test:1\r\n\r\n")
            assert b"a saw" in ask(proxy, GOOD)
        for filler in fillers:
            filler.close()


def test_disconnects_half_way_leave_nothing(proxy: FilterProcess, web: Web) -> None:
    _, server = web("a")
    proxy.referee.proxy(a_test=server.address)
    ask(proxy, GOOD)
    before = proxy.descriptors()
    for number in range(60):
        with proxy.connect() as sock:
            sock.sendall((b"", GOOD[:20], GOOD, b"CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n\r\nGET")[number % 4])
    eventually(lambda: proxy.descriptors() <= before, "descriptors are left")
    assert b"a saw" in ask(proxy, GOOD)
