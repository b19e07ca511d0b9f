"""What a fork for one test tells the process that made it: messages, and the memory that carries them.

A message is a JSON array in a line of its own: its kind, then what belongs to that. Which kinds there are is up to the
host, whose table of `Shapes` both sides use. JSON and nothing that could make code run: a test may be under a narrower
policy than the process that reads this. And nothing is believed that was not checked.

No descriptor carries it: a test may write into all that it finds, close them, put others in their place, fill them
or make them not wait, and so may what it has started. Nobody else has this memory: an exec drops it, and no fork has
it (MADV_DONTFORK) but the one that is made while the parent says so (`lent`). Fixtures fork, too.

A ring of bytes with two counters. Layout, little-endian u32 words:

====  ======================================================
word  meaning
====  ======================================================
0     bytes written so far, modulo 2^32 (by the fork only)
1     bytes read so far, modulo 2^32 (by its parent only)
2     messages that the parent has dealt with
====  ======================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fence_core.kernel import futex, mapping
from fence_core.untouched import real

__all__ = ["Line", "Message", "Reader", "Sender", "Shapes", "Unreadable"]

Message = list[Any]
"""Kind, then what belongs to it."""
Shapes = Mapping[object, tuple["type | tuple[type, ...]", ...]]
"""By kind, the types of what belongs to it."""
MESSAGE_MAX = 1 << 30
"""Bytes of one message; a report holds all that its test has printed."""
_CUT = b"\x18"
"""Ends a line that was broken off: JSON has no such character."""

ROOM = 1 << 18
"""Bytes on the way at a time; a power of two, so that the counters may overflow."""
_DATA_AT = 4096
_SIZE = _DATA_AT + ROOM
_MASK = 0xFFFF_FFFF
_PATIENCE_MS = 1000
_WAITS_MS = (1, 2, 4, 8, 16, 32)


class Line:
    """Both ends: the parent `clear`s it, forks while it is `lent`, `read`s and `answer`s; the fork `write`s."""

    def __init__(self) -> None:
        """Raises KernelCallError."""
        self._address = mapping.shared(_SIZE)
        memory = mapping.view(self._address, _SIZE)
        self._words = memory[:16].cast("I")
        self._data = memory[_DATA_AT:]
        self._step = 0
        mapping.inherit(self._address, _SIZE, by_forks=False)
        futex.prepare(_PATIENCE_MS, *_WAITS_MS)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The fork that is made within has the line, and that fork's own forks have not. Raises KernelCallError."""
        mapping.inherit(self._address, _SIZE, by_forks=True)
        try:
            yield
        finally:
            mapping.inherit(self._address, _SIZE, by_forks=False)

    # ------------------------------------------------------------ parent

    def clear(self) -> None:
        """The fork before is gone; another one is about to be made."""
        words = self._words
        words[0] = words[1] = words[2] = 0
        self._step = 0

    def read(self) -> bytes:
        """What has been written since; empty if nothing was."""
        words = self._words
        begin = words[1]
        length = (words[0] - begin) & _MASK
        if not 0 < length <= ROOM:  # else somebody has written here who ought not to: nothing can be made of it
            return b""
        at = begin % ROOM
        first = bytes(self._data[at : at + length])
        found = first + bytes(self._data[: length - len(first)])
        words[1] = (begin + length) & _MASK
        futex.wake(self._address + 4)
        self._step = 0
        return found

    def wait(self) -> None:
        """Sleep until something is written, at most for some milliseconds: more the longer nothing was."""
        futex.wait(self._address, self._words[1], _WAITS_MS[self._step])
        self._step = min(self._step + 1, len(_WAITS_MS) - 1)

    def answer(self) -> None:
        """One more message has been dealt with."""
        words = self._words
        words[2] = (words[2] + 1) & _MASK
        futex.wake(self._address + 8)

    # ------------------------------------------------------------ fork

    def write(self, data: bytes, *, in_step: bool) -> None:
        """Waits while there is no room; `in_step`: and until the parent has dealt with it."""
        words = self._words
        answered = words[2]
        rest = memoryview(data)
        while rest:
            written, read = words[0], words[1]
            room = ROOM - ((written - read) & _MASK)
            if room <= 0:
                futex.wait(self._address + 4, read, _PATIENCE_MS)
                continue
            at = written % ROOM
            part = rest[: min(room, ROOM - at)]
            self._data[at : at + len(part)] = part
            futex.wake(self._address)  # nobody waits for this one: what was written is to be seen before the counter
            words[0] = (written + len(part)) & _MASK
            futex.wake(self._address)
            rest = rest[len(part) :]
        while in_step and words[2] == answered:
            futex.wait(self._address + 8, answered, _PATIENCE_MS)


class Unreadable(Exception):  # noqa: N818 - it is what was said, no error of who reads it
    """What arrived is nothing that a test's process says."""


class Sender:
    """The child's end of the line."""

    def __init__(self, line: Line, *, in_step: bool) -> None:
        """`in_step`: wait until the parent has dealt with what it was told."""
        self._line = line
        self._pid = real.getpid()
        self._in_step = in_step
        self._cut = False

    def send(self, *message: object) -> None:
        if real.getpid() != self._pid:
            return  # a fork that the test has made, and that came back into pytest
        data = encode(message)
        if self._cut:  # an alarm of the test has rung in the middle of the message before
            data = _CUT + b"\n" + data
        self._cut = True
        self._line.write(data, in_step=self._in_step)
        self._cut = False


class Reader:
    """Puts together what arrives in pieces. A last line without its end was never finished."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Raises Unreadable."""
        while chunk:
            line, end, chunk = chunk.partition(b"\n")
            self._parts.append(line)
            self._size += len(line)
            if self._size > MESSAGE_MAX:
                raise Unreadable("a message without an end")
            if end:
                whole = b"".join(self._parts)
                self._parts.clear()
                self._size = 0
                if not whole.endswith(_CUT):
                    yield self._checked(whole)

    def _checked(self, line: bytes) -> Message:
        try:
            message = real.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from None
        if not isinstance(message, list) or not message or not isinstance(message[0], str):
            raise Unreadable("no message")
        shape = self._shapes.get(message[0])
        if shape is None or len(shape) != len(message) - 1 or not all(map(isinstance, message[1:], shape)):
            raise Unreadable(f"no message of the kind {message[0]!r}")
        return message


def encode(message: object) -> bytes:
    """With its end. What is no plain data (a property of a test may be anything) goes as text, as it would be shown."""
    return real.dumps_any(message).encode() + b"\n"
