"""Memory that two processes share, or that a fork gets a copy of. Sources: mmap(2), madvise(2).

By the calls themselves: Python's `mmap` object keeps a descriptor of its own, which suites that count theirs see.
"""

from __future__ import annotations

import ctypes

from fence_core.kernel import libc

_INTS = (ctypes.c_int,) * 3
_mmap = libc.function("mmap", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, *_INTS, ctypes.c_long)
_munmap = libc.function("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_madvise = libc.function("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value
# Source: include/uapi/asm-generic/mman-common.h.
_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS = 0x01, 0x02, 0x20
_MADV_DONTFORK, _MADV_DOFORK = 10, 11


def shared(size: int) -> int:
    """The address of fresh memory that a fork shares. Raises `KernelCallError`."""
    return _map(size, _MAP_SHARED | _MAP_ANONYMOUS, -1)


def private(size: int) -> int:
    """The address of fresh memory of which a fork has a copy. Raises `KernelCallError`."""
    return _map(size, _MAP_PRIVATE | _MAP_ANONYMOUS, -1)


def of_file(fd: int, size: int) -> int:
    """The address of a file's contents, which may be closed afterwards. Raises `KernelCallError`."""
    return _map(size, _MAP_SHARED, fd)


def _map(size: int, flags: int, fd: int) -> int:
    address = _mmap(None, size, _PROT_READ | _PROT_WRITE, flags, fd, 0)
    if address in (None, _MAP_FAILED):
        libc.fail("mmap")
    return int(address)


def view(address: int, size: int) -> memoryview:
    """What lies there, to be read and written."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def unmap(address: int, size: int) -> None:
    """Give the memory back. A view of it must not be used any more."""
    _munmap(address, size)


def inherit(address: int, size: int, *, by_forks: bool) -> None:
    """Whether forks that are made from now on have this memory at all. Raises `KernelCallError`."""
    if _madvise(address, size, _MADV_DOFORK if by_forks else _MADV_DONTFORK):
        libc.fail("madvise")
