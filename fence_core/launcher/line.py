"""A line from a fork to the process that made it, in memory that the two share. Run by fenced processes.

No descriptor belongs to it: a test may write into all that it finds, close them, put others in their place, fill them
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
import ctypes
import mmap
from collections.abc import Iterator

from fence_core.kernel import futex, libc

__all__ = ["Line"]

ROOM = 1 << 18
"""Bytes on the way at a time; a power of two, so that the counters may overflow."""
_DATA_AT = 4096
_SIZE = _DATA_AT + ROOM
_MASK = 0xFFFF_FFFF
_PATIENCE_MS = 1000
_WAITS_MS = (1, 2, 4, 8, 16, 32)
_mmap = libc.function(
    "mmap",
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_madvise = libc.function("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value
_MADV_DONTFORK, _MADV_DOFORK = 10, 11  # include/uapi/asm-generic/mman-common.h


class Line:
    """Both ends: the parent `clear`s it, forks while it is `lent`, `read`s and `answer`s; the fork `write`s."""

    def __init__(self) -> None:
        """Raises KernelCallError."""
        address = _mmap(None, _SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
        if address in (None, _MAP_FAILED):
            libc.fail("mmap")
        self._address = address
        memory = memoryview((ctypes.c_char * _SIZE).from_address(address)).cast("B")
        self._words = memory[:16].cast("I")
        self._data = memory[_DATA_AT:]
        self._step = 0
        self._advise(_MADV_DONTFORK)
        futex.prepare(_PATIENCE_MS, *_WAITS_MS)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The fork that is made within has the line, and that fork's own forks have not. Raises KernelCallError."""
        self._advise(_MADV_DOFORK)
        try:
            yield
        finally:
            self._advise(_MADV_DONTFORK)

    def _advise(self, advice: int) -> None:
        if _madvise(self._address, _SIZE, advice):
            libc.fail("madvise")

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
