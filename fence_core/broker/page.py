"""The shared page: one pytest process writes what it is doing, the broker reads it at each trap.

Layout (little-endian u64 words, then the node id):

====  ==========================================================
word  meaning
====  ==========================================================
0     sequence: odd while the process is writing (a seqlock)
1     policy number
2     phase, an index into `events.model.PHASES`
3     length of the node id in bytes
4     violations so far (written by the broker only)
5...  node id, UTF-8
====  ==========================================================

A process can only lie about itself: the broker checks the policy number and the phase, and what the words say
chooses among policies that were registered, never beyond them.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from fence_core.kernel import libc

PAGE_BYTES = 65536
_NODEID_AT = 40
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
_MAP_FAILED = ctypes.c_void_p(-1).value
_NODEID_MAX = PAGE_BYTES - _NODEID_AT


class Page:
    """Both ends of the page; the fenced process calls `write` and `count`, the broker the rest."""

    __slots__ = ("_bytes", "_words")

    def __init__(self, fd: int) -> None:
        """Maps the page; `fd` may be closed afterwards. Raises KernelCallError.

        By mmap(2) itself: Python's `mmap` object keeps a descriptor of its own, which suites that count theirs see.
        """
        address = _mmap(None, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if address in (None, _MAP_FAILED):
            libc.fail("mmap")
        self._bytes = memoryview((ctypes.c_char * PAGE_BYTES).from_address(address)).cast("B")
        self._words = self._bytes.cast("Q")

    def write(self, nodeid: bytes, phase: int, policy: int) -> None:
        """What this process does from now on."""
        words = self._words
        size = len(nodeid)
        if size > _NODEID_MAX:
            nodeid = nodeid[:_NODEID_MAX]
            size = _NODEID_MAX
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


def create() -> int:
    """A fresh page as a memfd, sealed in size so that nobody can make the broker fault on it."""
    import fcntl

    fd = os.memfd_create("fence-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE_BYTES)
    f_add_seals, f_seal_shrink, f_seal_grow, f_seal_seal = 1033, 2, 4, 1
    fcntl.fcntl(fd, f_add_seals, f_seal_shrink | f_seal_grow | f_seal_seal)
    return fd
