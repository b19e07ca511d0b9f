"""One request in the classic way, `GET http://host/path`: the head for the server, its body, and one answer. Pure.

One request per connection, on both sides, and both are told so (`Connection: close`): whatever follows on the
program's connection is never sent to a server that another request was for. Programs open another connection.
"""

from __future__ import annotations

from fence_core.proxy import http1
from fence_core.proxy.http1 import Field, RequestHead
from fence_core.proxy.refusal import RefusedError
from fence_core.proxy.responses import Responses

# Fields that are for the next machine only (RFC 9110, 7.6.1), besides what Connection names.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
     b"upgrade", b"http2-settings"}
)  # fmt: skip
# A Connection header that names one of these asks us to change what the request is.
_NEVER_HOP_BY_HOP = frozenset({b"host", b"content-length", b"transfer-encoding"})


class Exchange:
    """Both directions of one request and its answer."""

    raw = False
    undecided = False
    speaks_http = True

    def __init__(self, head: RequestHead, authority: bytes, path: bytes) -> None:
        self._body = head.body
        self._done = head.body.done
        websocket = head.tokens(b"upgrade")
        self._upgrade = websocket == {b"websocket"} and b"upgrade" in head.tokens(b"connection") and self._done
        self.responses: Responses = Responses(self._rewrite)
        self.responses.expect(head.method, self._upgrade)
        self.first = self._build(head, authority, path)
        """The head for the server."""
        self.finished = False
        self._kept = bytearray()

    @property
    def waiting(self) -> bool:
        """The request is complete: nothing more is read from the program, but after an upgrade."""
        return self._done and not self.responses.switched

    @property
    def one_answer(self) -> bool:
        """The connection is done with after the answer, but not after a 101."""
        return not self.responses.switched

    @property
    def transparent(self) -> bool:
        return self.responses.switched or self.responses.unknown

    def _build(self, head: RequestHead, authority: bytes, path: bytes) -> bytes:
        named = head.tokens(b"connection")
        if named & _NEVER_HOP_BY_HOP:
            raise http1.AmbiguousError("its Connection header names what describes the request itself")
        dropped = _HOP_BY_HOP | named
        lines = [head.method + b" " + path + b" HTTP/1.%d" % head.minor, b"Host: " + authority]
        lines.extend(field.line for field in head.fields if field.name not in dropped and field.name != b"host")
        if self._upgrade:
            lines += [b"Connection: Upgrade", b"Upgrade: websocket"]
        else:
            lines.append(b"Connection: close")
        return b"\r\n".join([*lines, b"", b""])

    def _rewrite(self, status: int, line: bytes, fields: list[Field]) -> bytes:
        if status < 200:
            return b"\r\n".join([line, *(field.line for field in fields), b"", b""])
        kept = [field.line for field in fields if field.name not in (b"connection", b"keep-alive", b"proxy-connection")]
        return b"\r\n".join([line, *kept, b"Connection: close", b"", b""])

    def feed(self, data: bytes) -> bytes:
        """What of the program's bytes belongs to this request. Raises RefusedError."""
        if self.responses.switched:
            return data
        if self._done:
            if self._upgrade:
                self._kept += data  # a first word that did not wait for the 101
            return b""
        try:
            end = self._body.take(data, 0)
        except http1.AmbiguousError as error:
            raise RefusedError(400, f"an HTTP request: {error}", "ambiguous") from None
        self._done = self._body.done
        return data[:end]

    def resume(self) -> bytes:
        """What was kept until the 101."""
        kept = bytes(self._kept)
        self._kept.clear()
        return kept

    def answered(self, data: bytes) -> bytes:
        """What of the server's bytes is the answer."""
        responses = self.responses
        if self.finished:
            return b""
        out = responses.feed(data)
        if responses.switched:
            self.raw = True
        elif responses.finished:
            self.finished = True
        return out

    def release(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""

    def server_ended(self) -> bool:
        """Whether the answer was complete: one of a known length may not be cut off in silence."""
        responses = self.responses
        return self.finished or responses.until_close or responses.switched or responses.unknown
