"""The name in a TLS ClientHello, and nothing else of TLS. Pure: bytes in, a name or a complaint out.

RFC 8446, 4.1.2 and 5.1; RFC 6066, 3 (server_name). Fragments of any size are put together; what is out of order is
refused rather than guessed at, since the server's reading of it is not known.
"""

from __future__ import annotations

LIMIT = 65536
"""Bytes of one ClientHello with its record headers. Real ones have a few hundred, with post-quantum keys 2,000."""

_HANDSHAKE = 0x16
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_EARLY_DATA = 42


class MalformedHelloError(ValueError):
    """This is no ClientHello, or one that could be read in two ways; the text says why."""


class Hello:
    """What of a ClientHello matters here. `name` None: it names nobody."""

    __slots__ = ("early_data", "end", "name")

    def __init__(self, name: bytes | None, early_data: bool, end: int) -> None:
        self.name = name
        self.early_data = early_data
        self.end = end
        """Offset behind its last record."""


def parse_hello(data: bytes | bytearray) -> Hello | None:
    """The ClientHello that this begins with; None while some of it is missing. Raises MalformedHelloError."""
    message = bytearray()
    place = 0
    while True:
        if place > LIMIT:
            raise MalformedHelloError("it is longer than 64 KiB")
        header = data[place : place + 5]
        if header and header[0] != _HANDSHAKE:
            raise MalformedHelloError("it begins with another record, or is interrupted by one")
        if len(header) > 1 and header[1] != 3:
            raise MalformedHelloError("its record has no version of TLS")
        if len(header) < 5:
            return None
        size = header[3] << 8 | header[4]
        if not 0 < size <= 16384:
            raise MalformedHelloError("a record of it has an impossible length")
        fragment = data[place + 5 : place + 5 + size]
        message += fragment
        if message and message[0] != _CLIENT_HELLO:
            raise MalformedHelloError("the first message is another one")
        if len(message) >= 4:
            wanted = 4 + int.from_bytes(message[1:4], "big")
            if wanted > LIMIT:
                raise MalformedHelloError("it is longer than 64 KiB")
            if len(message) > wanted:
                raise MalformedHelloError("its last record holds something else besides")
            if len(message) == wanted and len(fragment) == size:
                return _parse_body(bytes(message[4:]), place + 5 + size)
        if len(fragment) < size:
            return None
        place += 5 + size


class _Reader:
    """Vectors of TLS, each of which must lie wholly within what is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, count: int) -> bytes:
        part = self._data[self._place : self._place + count]
        if len(part) != count:
            raise MalformedHelloError("a length in it reaches beyond its end")
        self._place += count
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def vector(self, count: int) -> bytes:
        return self.take(self.number(count))

    def at_end(self) -> bool:
        return self._place == len(self._data)


def _parse_body(body: bytes, end: int) -> Hello:
    reader = _Reader(body)
    reader.take(2 + 32)  # version, random
    if len(reader.vector(1)) > 32:
        raise MalformedHelloError("its session id is too long")
    suites = reader.vector(2)
    if len(suites) < 2 or len(suites) % 2:
        raise MalformedHelloError("its list of ciphers is none")
    if not reader.vector(1):
        raise MalformedHelloError("its list of compressions is empty")
    if reader.at_end():
        return Hello(None, False, end)  # TLS 1.2 without extensions
    extensions = _Reader(reader.vector(2))
    if not reader.at_end():
        raise MalformedHelloError("something follows its extensions")
    name: bytes | None = None
    early_data = False
    while not extensions.at_end():
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind == _SERVER_NAME:
            if name is not None:
                raise MalformedHelloError("it names a server twice")
            name = _parse_server_name(content)
        elif kind == _EARLY_DATA:
            early_data = True
    return Hello(name, early_data, end)


def _parse_server_name(content: bytes) -> bytes:
    reader = _Reader(content)
    names = _Reader(reader.vector(2))
    if not reader.at_end():
        raise MalformedHelloError("something follows its list of server names")
    kind = names.number(1)
    name = names.vector(2)
    if not names.at_end():
        raise MalformedHelloError("it names several servers")
    if kind or not name:
        raise MalformedHelloError("its server name is not a host name")
    return name


def next_hello(data: bytes | bytearray, early_data: bool) -> tuple[int, bool | None]:
    """Whether a second ClientHello begins behind the first: (offset of the first record not skipped, answer or None).

    A server may ask for one (HelloRetryRequest), and some read its name anew. None: not known yet. A TLS 1.2 session
    that is resumed sends encrypted handshake records here; one of them looks like a ClientHello once in 2**32.
    Raises MalformedHelloError.
    """
    start = 0
    while True:
        header = data[start : start + 5]
        if len(header) < 5:
            return start, None
        size = header[3] << 8 | header[4]
        if header[0] == _HANDSHAKE:
            if size < 6:
                raise MalformedHelloError("a handshake record behind it is too short to be one")
            first = data[start + 5 : start + 11]
            if len(first) < 6:
                return start, None
            return start, first[0] == _CLIENT_HELLO and first[1] == 0 and first[4:6] == b"\x03\x03"
        if header[0] not in (0x14, 0x15) and not (header[0] == 0x17 and early_data):
            return start, False
        if len(data) < start + 5 + size:
            return start, None
        start += 5 + size
