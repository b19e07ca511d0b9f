"""The shared page: one pytest process writes what it is doing, the broker reads it at each trap.

Layout (little-endian u64 words, then the node id):

====  ==========================================================
word  meaning
====  ==========================================================
0     sequence: odd while the process is writing (a seqlock)
1     policy number
2     phase, an index into `events.phases.PHASES`
3     length of the node id in bytes
4     violations so far (written by the broker only)
5     what the broker wants to know: a number, and a thread
6     the number of what was answered last
7     length of that answer in bytes
8...  node id, UTF-8
====  ==========================================================

and behind the room for that, the answer (`launcher/waiting.py`), in JSON.

A process can only lie about itself: the broker checks the policy number and the phase, and what the words say
chooses among policies that were registered, never beyond them.

Beside the page, which a process shares with its forks, it keeps a *note* with the same words in memory of its own. A
fork has a copy of that, in which stands for good what the process was doing when it forked: the broker reads it when
it first sees the fork, however much later that is, and however the fork was made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from fence_core.errors import KernelCallError
from fence_core.kernel import mapping, memory
from fence_core.untouched_calls import calls as real

PAGE_BYTES = 65536
"""Of words and node id."""
_NODEID_AT = 64
_NODEID_MAX = PAGE_BYTES - _NODEID_AT
ANSWER_MAX = 1 << 15
_ALL_BYTES = PAGE_BYTES + ANSWER_MAX
_TID_BITS = 32
NO_THREAD = 0
"""Asked about in the place of a thread: what another program does, while the main thread is doing something itself."""


class Page:
    """Both ends of the page; the fenced process calls `write` and `count`, the broker the rest."""

    __slots__ = ("_address", "_bytes", "_words")

    def __init__(self, fd: int) -> None:
        """Maps the page; `fd` may be closed afterwards. Raises KernelCallError."""
        self._address = mapping.of_file(fd, _ALL_BYTES)
        self._bytes = mapping.view(self._address, _ALL_BYTES)
        self._words = self._bytes.cast("Q")

    def release(self) -> None:
        """Give the memory back. What was said last can still be read; what is written goes no further."""
        if not self._address:
            return
        kept = memoryview(bytearray(self._bytes[: _NODEID_AT + min(self._words[3], _NODEID_MAX)].tobytes() + bytes(7)))
        self._bytes = kept[: len(kept) & ~7]
        self._words = self._bytes.cast("Q")
        mapping.unmap(self._address, _ALL_BYTES)
        self._address = 0

    def write(self, nodeid: bytes, phase: int, policy: int) -> None:
        """What this process does from now on."""
        words = self._words
        size = len(nodeid)
        room = min(len(self._bytes), PAGE_BYTES) - _NODEID_AT
        if size > room:
            nodeid = nodeid[:room]
            size = room
        words[0] = (words[0] + 1) & 0xFFFF_FFFF | 1
        words[1] = policy
        words[2] = phase
        words[3] = size
        self._bytes[_NODEID_AT : _NODEID_AT + size] = nodeid
        words[0] = (words[0] + 1) & 0xFFFF_FFFE

    def write_phase(self, phase: int) -> None:
        """Only the phase changes: one word, so no torn read is possible."""
        self._words[2] = phase

    def phase(self) -> int:
        """What was last said, by this process or a fork of it."""
        return self._words[2]

    def count(self) -> int:
        """Violations of this process and its children so far."""
        return self._words[4]

    def policy(self) -> int:
        """Number of the policy in force. Unchecked: the page belongs to the fenced process."""
        return self._words[1]

    def add_violation(self) -> None:
        """Called by the broker, which alone writes this word."""
        self._words[4] = (self._words[4] + 1) & 0xFFFF_FFFF

    def ask(self, number: int, tid: int) -> bool:
        """Called by the broker before it sends the signal: who waits for what this thread does? False: nobody reads."""
        if not self._address:
            return False
        self._words[5] = (number & 0xFFFF_FFFF) << _TID_BITS | tid
        return True

    def asked(self) -> tuple[int, int]:
        """The number of the question, and the thread that it is about."""
        word = self._words[5] if self._address else 0
        return word >> _TID_BITS, word & ((1 << _TID_BITS) - 1)

    def tell(self, number: int, answer: bytes) -> None:
        """The answer to that question; what is too long is none."""
        if self._address and len(answer) <= ANSWER_MAX:
            self._bytes[PAGE_BYTES : PAGE_BYTES + len(answer)] = answer
            self._words[7] = len(answer)
            self._words[6] = number

    def told(self, number: int) -> bytes | None:
        """The answer to a question, unchecked; None as long as there is none."""
        if not self._address or self._words[6] != number:
            return None
        return bytes(self._bytes[PAGE_BYTES : PAGE_BYTES + min(self._words[7], ANSWER_MAX)])

    def stamp(self) -> tuple[int, int]:
        """Changes whenever the process says something new by `write` or `write_phase`."""
        return self._words[0], self._words[2]

    def read(self) -> tuple[str, int, int]:
        """Node id, phase and policy number; what is torn is read again, a few times."""
        words = self._words
        nodeid, phase, policy = b"", 0, 0
        for _ in range(8):
            before = words[0]
            phase, policy, size = words[2], words[1], min(words[3], _NODEID_MAX)
            nodeid = bytes(self._bytes[_NODEID_AT : _NODEID_AT + size])
            if before == words[0] and not before & 1:
                break
        return nodeid.decode("utf-8", "replace"), phase, policy


class Note:
    """The note of a pytest process, as it writes it.

    Layout (words as in the page): the token that tells it from whatever else may lie at this address; which of the two
    slots counts; the number of the fork for one test that is being made, 0 where none is; and the slots, each with
    policy number, phase, length of the node id, and the node id. The slot that does not count is the one that is
    written: so a fork by another thread, at whatever moment, copies a whole one.
    """

    __slots__ = ("_bytes", "_forks", "_words", "address", "token")

    def __init__(self) -> None:
        """Raises KernelCallError."""
        self._forks = 0
        self.address = mapping.private(_NOTE_BYTES)
        self._bytes = mapping.view(self.address, _NOTE_BYTES)
        self._words = self._bytes.cast("Q")
        self.token = int.from_bytes(os.urandom(8), "little")
        self._words[0] = self.token

    def write(self, nodeid: bytes, phase: int, policy: int) -> None:
        """What this process does from now on."""
        words = self._words
        slot = 1 - words[1]
        at = _SLOTS_AT[slot]
        size = min(len(nodeid), _NODEID_MAX)
        words[at >> 3] = policy
        words[(at >> 3) + 1] = phase
        words[(at >> 3) + 2] = size
        self._bytes[at + _HEAD.size : at + _HEAD.size + size] = nodeid[:size]
        words[1] = slot

    def write_phase(self, phase: int) -> None:
        """Only the phase changes."""
        self._words[(_SLOTS_AT[self._words[1]] >> 3) + 1] = phase

    @contextmanager
    def forking_for_a_test(self) -> Iterator[None]:
        """A fork in this block is known as that of a test by the copy of this note in it, from its first call on."""
        self._forks += 1
        self._words[_FORK] = self._forks
        pid = real.getpid()
        try:
            yield
        finally:
            if real.getpid() == pid:
                self._words[_FORK] = 0

    def release(self) -> None:
        """Give the memory back. What is written goes nowhere any more."""
        self._bytes = memoryview(bytearray(_NOTE_BYTES))
        self._words = self._bytes.cast("Q")
        mapping.unmap(self.address, _NOTE_BYTES)


_FORK = 2
_HEAD = struct.Struct("=QQQ")
_SLOTS_AT = (64, 64 + PAGE_BYTES)
_NOTE_BYTES = 64 + 2 * PAGE_BYTES


def read_note(pid: int, address: int, token: int) -> tuple[str, int, int] | None:
    """Node id, phase and policy number of the note in a process's memory; None if there is none. Unchecked."""
    try:
        found, slot = struct.unpack("=QQ", memory.read(pid, address, 16))
        if found != token:
            return None
        at = address + _SLOTS_AT[slot & 1]
        policy, phase, size = _HEAD.unpack(memory.read(pid, at, _HEAD.size))
        nodeid = memory.read(pid, at + _HEAD.size, min(size, _NODEID_MAX))
    except (KernelCallError, OverflowError):
        return None
    return nodeid.decode("utf-8", "replace"), phase, policy


def read_fork(pid: int, address: int, token: int) -> int:
    """The number of the fork for one test that was being made when this process was forked, by its note; 0: of none."""
    try:
        found, _, number = struct.unpack("=QQQ", memory.read(pid, address, 24))
    except (KernelCallError, OverflowError):
        return 0
    return int(number) if found == token else 0


def create() -> int:
    """A fresh page as a memfd, sealed in size so that nobody can make the broker fault on it."""
    import fcntl

    fd = os.memfd_create("fence-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _ALL_BYTES)
    f_add_seals, f_seal_shrink, f_seal_grow, f_seal_seal = 1033, 2, 4, 1
    fcntl.fcntl(fd, f_add_seals, f_seal_shrink | f_seal_grow | f_seal_seal)
    return fd
