"""HTTP/1 as strictly as it can be read: heads of requests, and where bodies end. Pure: no sockets.

A filter that reads a request in another way than the server behind it can be made to judge one request and pass on
another (request smuggling). So whatever the RFCs leave to the taste of the reader is refused here, not repaired.
RFC 9110, RFC 9112.
"""

from __future__ import annotations

import re

from fence_core.policy.domains import DomainError, canonical_host

HEAD_LIMIT = 65536
_CHUNK_LINE_LIMIT = 4096

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~]*)?")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::([0-9]{1,5}))?")


class AmbiguousError(ValueError):
    """This can be read in more than one way, or not at all; the text says what, for the user."""


class Field:
    """One line of a head. `name` is in lower case, `line` as it was sent, without its end."""

    __slots__ = ("line", "name", "value")

    def __init__(self, name: bytes, value: bytes, line: bytes) -> None:
        self.name = name
        self.value = value
        self.line = line


class RequestHead:
    """A request up to its empty line, checked. `host` is its one Host field, None without."""

    __slots__ = ("body", "fields", "host", "line", "method", "minor", "target")

    def __init__(self, line: bytes, fields: list[Field]) -> None:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise AmbiguousError("its first line is not a request line")
        self.line = line
        self.method: bytes = match[1]
        self.target: bytes = match[2]
        self.minor = 1 if match[3] == b"1" else 0
        self.fields = fields
        hosts = self.values(b"host")
        if len(hosts) > 1:
            raise AmbiguousError("it has two Host headers")
        self.host: bytes | None = hosts[0] if hosts else None
        if self.host is None and self.minor:
            raise AmbiguousError("it has no Host header")
        self.body = self._framing()

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of that lower-case name."""
        return [field.value for field in self.fields if field.name == name]

    def tokens(self, name: bytes) -> set[bytes]:
        """The members of a comma-separated field, in lower case."""
        joined = b",".join(self.values(name)).lower()
        return {token for token in (part.strip(b" \t") for part in joined.split(b",")) if token}

    def _framing(self) -> Sized | Chunked:
        lengths = self.values(b"content-length")
        codings = self.values(b"transfer-encoding")
        if len(lengths) > 1:
            raise AmbiguousError("it has two Content-Length headers")
        if codings:
            if lengths:
                raise AmbiguousError("it has both Content-Length and Transfer-Encoding")
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                raise AmbiguousError("its Transfer-Encoding is not just chunked")
            if not self.minor:
                raise AmbiguousError("it has a Transfer-Encoding in HTTP/1.0")
            return Chunked()
        if lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise AmbiguousError("its Content-Length is not a number")
        return Sized(int(lengths[0]) if lengths else 0)


def find_head_end(data: bytes | bytearray) -> int:
    """Offset behind the empty line of the head that data begins with, 0 while it is missing. Raises AmbiguousError."""
    end = data.find(b"\r\n\r\n")
    part = data if end < 0 else data[: end + 4]
    if part.count(b"\n") != part.count(b"\r\n"):
        raise AmbiguousError("a line of it ends without CR")
    if len(part) > HEAD_LIMIT:
        raise AmbiguousError("its headers are longer than 64 KiB")
    return end + 4 if end >= 0 else 0


def parse_fields(lines: list[bytes]) -> list[Field]:
    """Header lines without their ends. Raises AmbiguousError."""
    fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            if line[:1] in (b" ", b"\t"):
                raise AmbiguousError("a header goes on in a second line")
            if re.match(_TOKEN + rb"[ \t]+:", line):
                raise AmbiguousError("a header has a space before its colon")
            raise AmbiguousError("a header holds a character that none may have")
        fields.append(Field(match[1].lower(), match[2], line))
    return fields


def parse_request_head(block: bytes) -> RequestHead:
    """`block`: up to and with the empty line. Raises AmbiguousError."""
    line, *rest = block[:-4].split(b"\r\n")
    return RequestHead(line, parse_fields(rest))


def parse_authority(text: bytes) -> tuple[str, int | None]:
    """`host` or `host:port`: the canonical host as text, the port or None. Raises AmbiguousError."""
    if b"@" in text:
        raise AmbiguousError("a host in it holds userinfo")
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise AmbiguousError("a host in it is none")
    try:
        host = str(canonical_host(match[1].decode("ascii")))
    except DomainError as error:
        raise AmbiguousError(f"a host in it {error}") from None
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65536:
        raise AmbiguousError("a port in it is none")
    return host, port


def split_absolute(target: bytes) -> tuple[str, bytes, bytes] | None:
    """Scheme in lower case, authority and the rest of a URI; None if the target is no absolute one."""
    match = _ABSOLUTE.fullmatch(target)
    return (match[1].decode("ascii").lower(), match[2], match[3]) if match else None


class Sized:
    """A body of a known length."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size

    @property
    def done(self) -> bool:
        return not self.left

    def take(self, data: bytes | bytearray, start: int) -> int:
        """Offset behind what of data, from start, belongs to the body."""
        count = min(self.left, len(data) - start)
        self.left -= count
        return start + count


class Chunked:
    """A body in chunks, with its trailer."""

    __slots__ = ("_left", "_line", "_state", "_trailer_size", "done")

    def __init__(self) -> None:
        self.done = False
        self._state = "size"
        self._left = 0
        self._line = bytearray()
        self._trailer_size = 0

    def take(self, data: bytes | bytearray, start: int) -> int:
        """Offset behind what of data, from start, belongs to the body. Raises AmbiguousError."""
        while start < len(data) and not self.done:
            if self._state == "data":
                count = min(self._left, len(data) - start)
                self._left -= count
                start += count
                if not self._left:
                    self._state = "data end"
                continue
            newline = data.find(b"\n", start)
            stop = newline + 1 if newline >= 0 else len(data)
            self._line += data[start:stop]
            start = stop
            if len(self._line) > _CHUNK_LINE_LIMIT:
                raise AmbiguousError("a line between its chunks is too long")
            if newline < 0:
                # The part of a line is passed on, so it must not be a whole one for readers content with CR.
                if b"\r" in self._line[:-1]:
                    raise AmbiguousError("a line between its chunks ends without LF")
                if self._state == "data end" and self._line != b"\r":
                    raise AmbiguousError("a chunk of it is longer than it says")
                break
            if not self._line.endswith(b"\r\n"):
                raise AmbiguousError("a line between its chunks ends without CR")
            line = bytes(self._line[:-2])
            self._line.clear()
            self._end_line(line)
        return start

    def _end_line(self, line: bytes) -> None:
        if self._state == "size":
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise AmbiguousError("the size of a chunk is not a plain number")
            self._left = int(match[1], 16)
            self._state = "data" if self._left else "trailer"
        elif self._state == "data end":
            if line:
                raise AmbiguousError("a chunk of it is longer than it says")
            self._state = "size"
        elif line:
            self._trailer_size += len(line)
            (field,) = parse_fields([line])
            if field.name in (b"host", b"content-length", b"transfer-encoding") or self._trailer_size > HEAD_LIMIT:
                raise AmbiguousError("its trailer holds what belongs into the head")
        else:
            self.done = True
