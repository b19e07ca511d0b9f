"""What may pass through a tunnel to one name: decided on the first flight, and for HTTP/1 on every request. Pure.

The program believes that it talks to that name and port directly. Its first bytes say which protocol it speaks:

TLS     the whole ClientHello is collected; the name in it must be the tunnel's. Then everything passes.
HTTP/1  every request is parsed strictly, and its Host must be the tunnel's. Bodies stream.
other   passes (ssh, SMTP, databases).

Servers are more lenient than we are: some skip blank lines and spaces before a request, some take words for a method
that are none. So bytes count as HTTP as soon as their first line has "HTTP/" in it, whatever is before that, and are
then read strictly; only a first line without it makes the connection "other". A first line that has not ended yet may
be held (`undecided`), and let go of after a while (`release`): what has been passed on then is no whole request, and
the decision is still to come.
"""

from __future__ import annotations

import re

from fence_core.policy.domains import DomainError, canonical_host
from fence_core.proxy import http1, tls
from fence_core.proxy.refusal import RefusedError
from fence_core.proxy.responses import Responses

_FIRST_LINE_LIMIT = 8192
# What Python's http.server skips before a request, as the most lenient of the servers known; most skip CR and LF only.
_SKIPPED = b" \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0"
_TEXT = re.compile(rb"[!-~]")
_HTTP = re.compile(rb"HTTP/", re.IGNORECASE)
_HTTP_AT_END = re.compile(rb"HTTP/[0-9](?:\.[0-9])?\s*\Z", re.IGNORECASE)
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]")
_OLD_GET = re.compile(rb"GET[ \t]")  # HTTP/0.9 has no version in its line
_END_OF_LINE = re.compile(rb"[\r\n]")

# After a 101 for these the connection carries requests again, which nobody would judge. Without the header the server
# answers in HTTP/1.1, as the program expects of servers that do not have them.
_NO_UPGRADE_TO = (b"h2c", b"h2", b"tls/", b"http/")


class Inspector:
    """Both directions of one tunnel. Bytes go in by `feed` and `answered`, what may pass comes out."""

    def __init__(self, name: str, port: int, *, cleartext_h2: bool = False) -> None:
        self._name = str(canonical_host(name))
        self._port = port
        self._cleartext_h2 = cleartext_h2
        self._buffer = bytearray()
        self._sent = 0
        """How much of the buffer has been passed on already: never a whole line of HTTP, nor a whole ClientHello."""
        self._kind = ""
        self._body: http1.Sized | http1.Chunked | None = None
        self._second_hello = False
        self._early_data = False
        self.raw = False
        """From now on everything passes."""
        self.undecided = False
        self.waiting = False
        """A request to upgrade is under way: what follows is kept until its answer is known."""
        self.responses: Responses | None = None

    finished = False
    one_answer = False

    @property
    def speaks_http(self) -> bool:
        return self._kind == "http"

    @property
    def transparent(self) -> bool:
        """Nothing that the server says will be looked at."""
        return self.raw or (self.responses is not None and self.responses.passive and not self.waiting)

    def feed(self, data: bytes) -> bytes:
        """What of the program's bytes may pass now. Raises RefusedError."""
        if self.raw:
            return data
        body = self._body
        if body is not None and not self._buffer and isinstance(body, http1.Sized) and body.left >= len(data):
            body.left -= len(data)
            return data
        self._buffer += data
        return self._advance()

    def answered(self, data: bytes) -> bytes:
        """What of the server's bytes may pass: all, but they are watched where HTTP is spoken."""
        responses = self.responses
        if responses is not None:
            begun = responses.begun
            responses.feed(data)
            if self.waiting and (responses.begun > begun or responses.unknown):
                self.waiting = False
                self.raw = responses.switched
        return data

    def resume(self) -> bytes:
        """What may pass of the bytes kept while `waiting`. Raises RefusedError."""
        return self._advance() if self._buffer else b""

    def release(self) -> bytes:
        """Let go of a first line that has not ended yet; it stays to be judged."""
        if not self.undecided:
            return b""
        self.undecided = False
        part = bytes(self._buffer[self._sent :])
        self._sent = len(self._buffer)
        return part

    def end(self) -> bytes:
        """The program has ended its side: what may pass still. Not a request cut off: some servers would take it."""
        if self._kind:
            return b""
        return self.release()

    def server_ended(self) -> bool:
        """Whether the server may end here; in a tunnel it may always."""
        return True

    # -- the first flight ---------------------------------------------------------------------------------------------

    def _advance(self) -> bytes:
        if not self._kind:
            self._classify()
        if self._kind == "tls":
            return self._tls()
        if self._kind == "http":
            return self._http()
        if self._kind == "other":
            self.raw = True
        elif self.undecided:
            return b""
        part = bytes(self._buffer[self._sent :])
        if self.raw:
            self._buffer.clear()
        else:
            self._sent = len(self._buffer)
        return part

    def _classify(self) -> None:
        buffer = self._buffer
        first = buffer[0]
        if 0x14 <= first <= 0x17 and bytes(buffer[1:2]) in (b"", b"\x03"):
            # Some servers skip an alert before the ClientHello; the parser takes a handshake record only.
            if len(buffer) > 1:
                self._decide("tls")
            else:
                self.undecided = not self._sent
            return
        start = 0
        while start < len(buffer) and buffer[start] in _SKIPPED:
            start += 1
        if start == len(buffer):
            if start > _FIRST_LINE_LIMIT:
                self._decide("http")  # and refused: there is no other end to it
            else:
                self.undecided = self._sent < len(buffer)
            return
        end = _END_OF_LINE.search(buffer, start)
        line = bytes(buffer[start : end.start() if end else None])
        text = _TEXT.match(line) is not None
        if text and (_HTTP.search(line) or _OLD_GET.match(line)):
            self._decide("http")
        elif end or len(line) > _FIRST_LINE_LIMIT:
            # The version may be still to come: many servers take longer lines than we would keep.
            maybe = not end and _METHOD.match(line)
            self._decide("http" if maybe or _HTTP_AT_END.search(line) else "other")
        else:
            # Nothing binary needs to be held: by itself it is no request for anybody.
            self.undecided = text and not any(byte < 9 for byte in line[:64])

    def _decide(self, kind: str) -> None:
        self._kind = kind
        self.undecided = False
        if kind == "http":
            self.responses = Responses()

    def _cut(self, end: int) -> bytes:
        """Take what is before `end` off the buffer; return what of it was not passed on yet."""
        part = bytes(self._buffer[self._sent : end])
        del self._buffer[:end]
        self._sent = max(0, self._sent - end)
        return part

    @property
    def _where(self) -> str:
        return f"{self._name}:{self._port}"

    # -- TLS ----------------------------------------------------------------------------------------------------------

    def _tls(self) -> bytes:
        out = []
        try:
            while self._buffer and not self.raw:
                if self._second_hello:
                    end, second = tls.next_hello(self._buffer, self._early_data)
                    out.append(self._cut(end))
                    if second is None:
                        break
                    if not second:
                        self.raw = True
                        break
                hello = tls.parse_hello(self._buffer)
                if hello is None:
                    break
                self._check_server_name(hello.name)
                out.append(self._cut(hello.end))
                if self._second_hello:
                    self.raw = True
                self._second_hello = True
                self._early_data = hello.early_data
        except tls.MalformedHelloError as error:
            refused = RefusedError(0, f"a TLS ClientHello through a tunnel to {self._where}: {error}", "ambiguous")
            refused.before = b"".join(out)
            raise refused from None
        if self.raw:
            out.append(self._cut(len(self._buffer)))
        return b"".join(out)

    def _check_server_name(self, name: bytes | None) -> None:
        if name is None:
            return
        try:
            asked = str(canonical_host(name.decode("ascii")))
        except (DomainError, UnicodeDecodeError):
            raise tls.MalformedHelloError("its server name is not a host name") from None
        if asked != self._name:
            raise RefusedError(0, f"TLS for {asked} through a tunnel to {self._where}", "own name")

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def _http(self) -> bytes:
        out: list[bytes] = []
        try:
            while self._buffer and not self.waiting and not self.raw:
                if self._body is not None:
                    end = self._body.take(self._buffer, 0)
                    out.append(self._cut(end))
                    if self._body.done:
                        self._body = None
                    continue
                blank = 0
                while self._buffer.startswith(b"\r\n", blank):
                    blank += 2
                if blank:
                    self._cut(blank)  # allowed before a request, and dropped
                    continue
                if self._buffer.startswith(b"PRI * HTTP/2.0\r\n"[: len(self._buffer)]):
                    if len(self._buffer) < 16:
                        break
                    self._preface()
                    break
                end = http1.find_head_end(self._buffer)
                if not end:
                    break
                head = http1.parse_request_head(bytes(self._buffer[:end]))
                out.append(self._judge(head, end))
        except http1.AmbiguousError as error:
            refused = RefusedError(400, f"an HTTP request through a tunnel to {self._where}: {error}", "ambiguous")
            refused.before = b"".join(out)
            raise refused from None
        except RefusedError as refused:
            refused.before = b"".join(out)
            raise
        if self.raw:
            out.append(self._cut(len(self._buffer)))
        return b"".join(out)

    def _preface(self) -> None:
        if not self._cleartext_h2:
            raise RefusedError(403, f"HTTP/2 without TLS through a tunnel to {self._where}", "cleartext HTTP/2")
        self.responses = None
        self.raw = True

    def _judge(self, head: http1.RequestHead, end: int) -> bytes:
        """The bytes to send for this head, which ends at `end`. Raises AmbiguousError and RefusedError."""
        host = head.host
        if head.method == b"CONNECT":
            target = head.target.decode("latin-1")
            raise RefusedError(403, f"CONNECT {target} through a tunnel to {self._where}", "own name")
        absolute = None
        if not head.target.startswith(b"/") and head.target != b"*":
            absolute = http1.split_absolute(head.target)
            if absolute is None:
                raise http1.AmbiguousError("its target is neither a path nor a URI")
            if absolute[0] != "http":
                raise http1.AmbiguousError("its URI is not of http")
        places = []
        if host is not None:
            places.append(http1.parse_authority(host))
        if absolute is not None:
            places.append(http1.parse_authority(absolute[1]))
            if len(places) > 1 and (places[0][0] != places[1][0] or (places[0][1] or 80) != (places[1][1] or 80)):
                raise http1.AmbiguousError("its Host is not that of its URI")
        for asked, port in places:
            if asked != self._name or (port is not None and port != self._port):
                other = asked if port is None else f"{asked}:{port}"
                raise RefusedError(403, f"HTTP for {other} through a tunnel to {self._where}", "own name")
        upgrade = _wants_upgrade(head)
        rebuilt = b""
        if not upgrade and head.values(b"upgrade"):
            rebuilt = _without_upgrade(head)
        assert self.responses is not None
        self.responses.expect(head.method, upgrade)
        sent = self._sent
        part = self._cut(end)
        if not head.body.done:
            self._body = head.body
        elif upgrade:
            self.waiting = True
        return rebuilt[sent:] if rebuilt else part


def _wants_upgrade(head: http1.RequestHead) -> bool:
    protocols = head.tokens(b"upgrade")
    return (
        bool(protocols)
        and head.body.done  # else its end and the first bytes of the new protocol could be mistaken for one another
        and b"upgrade" in head.tokens(b"connection")
        and not any(protocol.startswith(_NO_UPGRADE_TO) for protocol in protocols)
    )


def _without_upgrade(head: http1.RequestHead) -> bytes:
    """The same request, without the wish to speak something else afterwards."""
    lines = [head.line]
    for field in head.fields:
        if field.name in (b"upgrade", b"http2-settings"):
            continue
        if field.name == b"connection":
            kept = [
                token
                for token in field.value.split(b",")
                if token.strip(b" \t").lower() not in (b"upgrade", b"http2-settings")
            ]
            if kept:
                lines.append(b"Connection: " + b",".join(kept).strip(b" \t"))
            continue
        lines.append(field.line)
    return b"\r\n".join([*lines, b"", b""])
