"""What passes a tunnel, byte by byte: no sockets, every case in one piece and in pieces of one byte."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable, Iterator

import pytest

from fence_core.proxy.inspector import Inspector
from fence_core.proxy.refusal import RefusedError

OK = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def in_bytes(data: bytes) -> Iterator[bytes]:
    for place in range(len(data)):
        yield data[place : place + 1]


@pytest.fixture(params=[whole, in_bytes])
def cut(request: pytest.FixtureRequest) -> Callable[[bytes], Iterator[bytes]]:
    return request.param  # type: ignore[no-any-return]


def passes(data: bytes, cut: Callable[[bytes], Iterator[bytes]], port: int = 80, name: str = "a.test") -> bytes:
    """What comes out; and whatever is refused, no whole request for somebody else may have come out before."""
    inspector = Inspector(name, port)
    return b"".join(inspector.feed(part) for part in cut(data)) + inspector.end()


def refusal(data: bytes, cut: Callable[[bytes], Iterator[bytes]], port: int = 80, name: str = "a.test") -> RefusedError:
    inspector = Inspector(name, port)
    out = b""
    with pytest.raises(RefusedError) as caught:  # noqa: PT012
        for part in cut(data):
            out += inspector.feed(part)
    out += caught.value.before
    assert b"evil" not in out
    return caught.value


Cut = Callable[[bytes], Iterator[bytes]]

GOOD_HEADS = [
    OK,
    b"GET / HTTP/1.1\r\nhost:A.Test.:80 \r\n\r\n",
    b"GET http://a.test/x HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"GET //x/?u=http://evil@b.test:1/ HTTP/1.1\r\nHost: a.test\r\n\r\n".replace(b"evil", b"other"),
    b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a.test\r\nX: \xc3\xa4\t(1)\r\nX:\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n" + OK,
    b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello" + OK,
    b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n000\r\n\r\n" + OK,
    b'POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nA;x="y z"\r\n0123456789\r\n0\r\nT: 1\r\n\r\n'
    + OK,
]


@pytest.mark.parametrize("data", GOOD_HEADS)
def test_requests_for_the_name_pass_unchanged(data: bytes, cut: Cut) -> None:
    assert passes(data, cut) == data


def test_blank_lines_between_requests_are_dropped(cut: Cut) -> None:
    assert passes(b"\r\n" + OK + b"\r\n" + OK, cut) == OK + OK


POST = b"POST / HTTP/1.1\r\nHost: a.test\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (EVIL, 403),
        (OK + EVIL, 403),
        (b"\r\n" + EVIL, 403),
        (b"GET /evil HTTP/1.0\r\nHost: evil.test\r\n\r\n", 403),
        (b"GET /evil HTTP/1.1\r\nHost: a.test.evil.test\r\n\r\n", 403),
        (b"GET /evil HTTP/1.1\r\nHost: evila.test\r\n\r\n", 403),
        (b"GET /evil HTTP/1.1\r\nHost: a.test:81\r\n\r\n", 403),
        (b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 403),
        (b"GET http://evil.test/ HTTP/1.0\r\n\r\n", 403),
        (b"CONNECT evil.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 403),
        (POST + b"Content-Length: 2\r\n\r\nok" + EVIL, 403),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + EVIL, 403),
        # two readings
        (b"GET /evil HTTP/1.1\r\nHost: a.test\r\nHost: evil.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost: evil.test\r\nhost: a.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost: a.test, evil.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost: a.test@evil.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost: evil@a.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost: a.test\0.evil.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1\r\nHost: a.test/evil\r\n\r\n", 400),
        (b"GET http://evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET http://a.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
        (b"GET http://a.test:81/evil HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET http://evil@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET https://a.test/evil HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET evil HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET http:/evil HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length: 5, 5\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length: +5\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length: -5\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length: 0x5\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length:\r\n\r\n" + EVIL, 400),
        (POST + b"Content-Length : 5\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: identity\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + EVIL, 400),
        (b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b" X: folded\r\n\r\n" + EVIL, 400),
        (POST + b"X: a\r\n Host: evil.test\r\n\r\n", 400),
        (POST + b"X: a\nHost: evil.test\r\n\r\n", 400),
        (POST + b"X: a\rHost: evil.test\r\n\r\n", 400),
        (POST + b"X: evil\0\r\n\r\n", 400),
        (POST + b"X evil\r\n\r\n", 400),
        (POST + b": evil\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: evil.test\n\n", 400),
        (b"GET  /evil HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.1 \r\nHost: a.test\r\n\r\n", 400),
        (b"GET /evil HTTP/1.2\r\nHost: a.test\r\n\r\n", 400),
        (b"GET /evil http/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET /evil\r\nHost: evil.test\r\n\r\n", 400),
        (b" GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
        (b"\x0bGET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
        (b"\n" + EVIL, 400),
        (b"\0GET / HTTP/1.1\r\n\r\n" + EVIL, 400),
        (b"{evil / HTTP/1.1\r\n\r\n" + EVIL, 400),
        # chunks
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2;\rx\r\nok\r\n0\r\n\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokevil\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + EVIL, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nHost: other.test\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + EVIL, 400),
        (POST + b"X: " + b"x" * 70_000, 400),
    ],
)  # fmt: skip
def test_other_requests_do_not(data: bytes, status: int, cut: Cut) -> None:
    if cut is in_bytes and len(data) > 60_000:
        pytest.skip("elsewhere: quadratic, and the same as whole")
    refused = refusal(data, cut)
    assert refused.status == status
    assert refused.why


def test_a_request_cut_off_is_not_passed_on() -> None:
    """Some servers take the end of a connection for the end of a head."""
    inspector = Inspector("a.test", 80)
    assert inspector.feed(b"GET /evil HTTP/1.0\r\nHost: evil.test") == b""
    assert inspector.end() == b""


@pytest.mark.parametrize(
    "data", [b"PING\r\nmore", b"*1\r\n", b"SSH-2.0-x\r\n", b"\0\0\0\x08HTTP/1.1 is text\n", b"EHLO x\n"]
)
def test_other_protocols_pass(data: bytes, cut: Cut) -> None:
    assert passes(data, cut) == data


def test_h2c_is_not_offered_to_the_server(cut: Cut) -> None:
    """After a 101 for it, requests nobody judges would follow."""
    data = OK[:-2] + b"Connection: Upgrade, HTTP2-Settings, x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    assert passes(data, cut) == OK[:-2] + b"Connection: x\r\n\r\n"


WISH = OK[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        (b"HTTP/1.1 101 Switching\r\n\r\n", True),
        (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n", False),
        (b"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n", False),
        (b"not HTTP", False),
    ],
)
def test_only_a_101_sets_a_connection_free(answer: bytes, free: bool) -> None:
    inspector = Inspector("a.test", 80)
    assert inspector.feed(WISH + EVIL) == WISH
    assert inspector.waiting
    assert inspector.answered(answer) == answer
    assert not inspector.waiting
    if free:
        assert inspector.resume() == EVIL
    else:
        with pytest.raises(RefusedError):
            inspector.resume()


def test_a_101_for_an_earlier_request_sets_nothing_free() -> None:
    inspector = Inspector("a.test", 80)
    assert inspector.feed(OK + WISH) == OK + WISH
    inspector.answered(b"HTTP/1.1 101 Switching\r\n\r\n")
    assert not inspector.raw


# -- TLS ----------------------------------------------------------------------------------------------------------


def client_hello(name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """As Python's ssl sends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def records(message: bytes, size: int) -> bytes:
    return b"".join(
        b"\x16\x03\x01" + struct.pack("!H", len(message[place : place + size])) + message[place : place + size]
        for place in range(0, len(message), size)
    )


def hello(*extensions: tuple[int, bytes], tail: bytes = b"") -> bytes:
    """A handshake message made by hand."""
    block = b"".join(struct.pack("!HH", kind, len(content)) + content for kind, content in extensions)
    body = (
        b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + struct.pack("!H", len(block)) + block + tail
    )
    return b"\x01" + len(body).to_bytes(3, "big") + body


def sni(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    block = b"".join(bytes([kind]) + struct.pack("!H", len(name)) + name for name in names)
    return 0, struct.pack("!H", len(block)) + block


DATA = b"\x17\x03\x03\0\x02ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.test", "A.TEST", None])
def test_real_hellos_for_the_name_pass(name: str | None, version: ssl.TLSVersion, cut: Cut) -> None:
    data = client_hello(name, version) + DATA
    assert passes(data, cut, 443) == data


@pytest.mark.parametrize("size", [1, 3, 40, 16384])
def test_a_hello_in_many_records(size: int, cut: Cut) -> None:
    good = records(hello(sni(b"a.test"), (16, b"x")), size) + DATA
    assert passes(good, cut, 443) == good
    assert refusal(records(hello(sni(b"evil.test")), size), cut, 443).what.startswith("TLS for evil.test")


@pytest.mark.parametrize(
    "message",
    [
        hello(sni(b"a.test"), sni(b"evil.test")),
        hello(sni(b"evil.test"), sni(b"a.test")),
        hello(sni(b"a.test", b"evil.test")),
        hello(sni(b"a.test\0evil")),
        hello(sni(b"")),
        hello(sni()),
        hello(sni(b"a.test", kind=1)),
        hello((0, b"")),
        hello((0, sni(b"a.test")[1] + b"x")),
        hello(sni(b"a.test"), tail=b"x"),
        hello(sni(b"a.test"))[:-3] + b"\xff\xff\xff",
        b"\x02" + hello(sni(b"a.test"))[1:],
        b"\x01\x02\x00\x00" + bytes(131072),
        hello(sni(b"a.test")) + hello(sni(b"evil.test")),
    ],
)
def test_a_hello_that_can_be_read_in_two_ways_is_refused(message: bytes, cut: Cut) -> None:
    if cut is in_bytes and len(message) > 60_000:
        pytest.skip("elsewhere: quadratic, and the same as whole")
    assert refusal(records(message, 16384), cut, 443).status == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01\0\x02\x01\0" + records(hello(sni(b"evil.test")), 999),  # an alert that a server may skip
        b"\x17\x03\x01\0\x01x" + records(hello(sni(b"evil.test")), 999),
        b"\x16\x03\x01\0\0" + records(hello(sni(b"evil.test")), 999),
        records(hello(sni(b"a.test")), 30)[:35] + DATA,
    ],
)
def test_records_out_of_order_are_refused(data: bytes, cut: Cut) -> None:
    assert refusal(data, cut, 443).status == 0


def test_a_second_hello_is_read_too(cut: Cut) -> None:
    """After a HelloRetryRequest some servers take the name from it."""
    first, change = records(hello(sni(b"a.test")), 999), b"\x14\x03\x03\0\x01\x01"
    assert passes(first + change + first + DATA, cut, 443) == first + change + first + DATA
    assert refusal(first + change + records(hello(sni(b"evil.test")), 999), cut, 443)
    assert refusal(first + change + records(hello(sni(b"evil.test")), 4), cut, 443)
    early = records(hello(sni(b"a.test"), (42, b"")), 999) + DATA
    assert passes(early + DATA, cut, 443) == early + DATA
    assert refusal(early + records(hello(sni(b"evil.test")), 999), cut, 443)


def test_ech_does_not_hide_another_outer_name(cut: Cut) -> None:
    good = records(hello((0xFE0D, b"\0" * 20), sni(b"a.test")), 999)
    assert passes(good, cut, 443) == good
    assert refusal(records(hello((0xFE0D, b"\0" * 20), sni(b"evil.test")), 999), cut, 443)
