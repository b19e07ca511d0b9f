"""Where the answers of a server begin and end, and which of them is a 101. Pure: no sockets.

Passing answers on needs no understanding. But a program may speak freely after `101 Switching Protocols` only, and a
refusal of ours may not be written into the middle of an answer. Where an answer is not understood the rest of the
connection is passed on unread (`unknown`), and then nothing is a 101 any more.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from fence_core.proxy.http1 import AmbiguousError, Chunked, Field, Sized, parse_fields

_LIMIT = 262144
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*)?")

Rewrite = Callable[[int, bytes, list[Field]], bytes]


class Responses:
    """Follows the answers on one connection. `rewrite(status, line, fields)` may replace the head of each."""

    def __init__(self, rewrite: Rewrite | None = None) -> None:
        self._rewrite = rewrite
        self._expected: deque[tuple[bytes, bool]] = deque()
        self._head = bytearray()
        self._body: Sized | Chunked | None = None
        self.unknown = False
        self.switched = False
        self.until_close = False
        """The answer under way ends with the connection."""
        self.begun = 0
        """Final answers whose head has been seen."""
        self.finished = 0

    @property
    def quiet(self) -> bool:
        """Nothing is under way or still to come."""
        return not self._expected and self._body is None and not self.until_close and not self.unknown

    @property
    def passive(self) -> bool:
        """Nothing in what follows will be looked at."""
        return self.unknown or self.switched or self.until_close

    def expect(self, method: bytes, upgrade: bool) -> None:
        """A request has been passed on."""
        self._expected.append((method, upgrade))

    def feed(self, data: bytes) -> bytes:
        """What is to be passed on to the program."""
        if self.passive:
            return data
        if self._rewrite is None:
            self._follow(data)
            return data
        return b"".join(self._follow(data))

    def _follow(self, data: bytes) -> list[bytes]:
        out: list[bytes] = []
        place = 0
        while place < len(data):
            if self._rewrite is not None and self.finished:
                break  # one answer is wanted
            if self.passive:
                out.append(data[place:])
                break
            if self._body is not None:
                try:
                    end = self._body.take(data, place)
                except AmbiguousError:
                    self.unknown = True
                    continue
                out.append(data[place:end])
                place = end
                if self._body.done:
                    self._body = None
                    self.finished += 1
                continue
            before = len(self._head)
            self._head += data[place:]
            end = self._head.find(b"\r\n\r\n", max(0, before - 3))
            if end < 0:
                if len(self._head) > _LIMIT or not b"HTTP/1.".startswith(self._head[:7]):
                    self._give_up(out)
                break
            block = bytes(self._head[: end + 4])
            place += end + 4 - before
            out.append(self._begin(block))
            self._head.clear()
        return out

    def _give_up(self, out: list[bytes]) -> None:
        self.unknown = True
        if self._rewrite is not None:
            out.append(bytes(self._head))
        self._head.clear()

    def _begin(self, block: bytes) -> bytes:
        line, *rest = block[:-4].split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        try:
            fields = parse_fields(rest)
            if match is None or not self._expected:
                raise AmbiguousError("not an answer")
            status = int(match[2])
            method, upgrade = self._expected[0]
            if status == 101:
                if not upgrade:
                    raise AmbiguousError("nobody asked for that")
                self.switched = True
                self._expected.clear()
                self.begun += 1
            elif status >= 200:
                self._frame(status, method, fields, old=match[1] == b"0")
        except AmbiguousError:
            self.unknown = True
            return block
        return block if self._rewrite is None else self._rewrite(status, line, fields)

    def _frame(self, status: int, method: bytes, fields: list[Field], *, old: bool) -> None:
        lengths = {field.value for field in fields if field.name == b"content-length"}
        codings = [field.value.lower() for field in fields if field.name == b"transfer-encoding"]
        body: Sized | Chunked | None = None
        if method == b"HEAD" or status in (204, 304):
            body = Sized(0)
        elif codings:
            if codings != [b"chunked"] or lengths or old:
                raise AmbiguousError("its end cannot be told")
            body = Chunked()
        elif lengths:
            length = lengths.pop()
            if lengths or not re.fullmatch(rb"[0-9]{1,18}", length):
                raise AmbiguousError("its end cannot be told")
            body = Sized(int(length))
        self._expected.popleft()
        self.begun += 1
        if body is None:
            self.until_close = True
        elif body.done:
            self.finished += 1
        else:
            self._body = body
