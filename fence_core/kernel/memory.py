"""Read and write the memory of a stopped process. Sources: process_vm_readv(2), proc_pid_mem(5). Linux 3.2.

What was read is only what was there: other threads of the target write on. For a trapped call ask
`seccomp.Listener.is_valid` afterwards, or the bytes may be those of a process that took over the number.

Errors, as `KernelCallError`: EPERM, we may not inspect that process (undumpable: PR_SET_DUMPABLE 0, or a binary
without read permission; or another user's); ESRCH, it is gone; EFAULT, the address is not (wholly) mapped.

Measured (Linux 6.18, two shared cores, CPython 3.11): a path takes 2.8 us, of which the kernel has 1.4 (the
same call from C). A pread of an open /proc/PID/mem would take 1.3, but such a descriptor keeps showing
the old memory after an exec, and after vfork that is the parent's.

Where process_vm_readv is refused (by the seccomp profiles of container runtimes), the same is done on /proc/TID/mem:
`choose`. The kernel's own check of who may inspect whom is the same one. Two things differ there. Memory that the
process may not read itself (PROT_NONE) is read, where the kernel would have answered EFAULT. And it would let us write
what the process may not, so that is asked first (/proc/TID/maps). A descriptor is kept for one trapped call at most,
within which a memory cannot change: `for_each_call`.
"""

from __future__ import annotations

import ctypes
import os
from errno import EACCES, EFAULT, EINVAL, EIO, ENAMETOOLONG, ENOENT, EPERM, ESRCH
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable, KernelCallError
from fence_core.kernel import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ulong = ctypes.c_ulong
_SIGNATURE = (ctypes.c_int, ctypes.c_void_p, _ulong, ctypes.c_void_p, _ulong, _ulong)
_borrowing = (
    libc.function("process_vm_readv", ctypes.c_ssize_t, *_SIGNATURE),
    libc.function("process_vm_writev", ctypes.c_ssize_t, *_SIGNATURE),
)
_readv, _writev = _borrowing
_pread = libc.function("pread", ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
_pwrite = libc.function("pwrite", ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)

# The smallest page of any machine we know: never more than needed, whatever the real size.
_PAGE = 4096
# Most paths are shorter; the rest of a page would double the time.
_FIRST = 256


def choose(*, borrows: bool) -> None:
    """Decide for this process how memory is reached from now on: by process_vm_readv, or by /proc/TID/mem.

    Raises `FenceUnavailable` where the second is needed and does not work either.
    """
    global _readv, _writev
    _readv, _writev = _borrowing if borrows else (_read_file, _write_file)
    if not borrows:
        try:
            check(_read_file)
        except KernelCallError as error:
            raise FenceUnavailable(
                "process_vm_readv",
                f"it is refused here, and so is reading /proc/PID/mem: {error.strerror}",
                "Allow one of the two.",
            ) from None


def check(readv: Callable[..., int] = _borrowing[0]) -> None:
    """Try whether process_vm_readv works. Raises `KernelCallError`, `FenceUnavailable`."""
    text = b"fence"
    there, here = ctypes.create_string_buffer(text), ctypes.create_string_buffer(len(text))
    local = (_ulong * 2)(ctypes.addressof(here), len(text))
    remote = (_ulong * 2)(ctypes.addressof(there), len(text))
    if readv(os.getpid(), ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0) < 0:
        libc.fail("process_vm_readv")
    if here.raw != text:
        raise KernelCallError("process_vm_readv", EFAULT, "it reads something else")


def _read_file(tid: int, local: int, _: int, remote: int, count: int, flags: int) -> int:
    """As process_vm_readv(2) answers, with one local piece."""
    return _transfer(_pread, os.O_RDONLY, tid, local, remote, count)


def _write_file(tid: int, local: int, _: int, remote: int, count: int, flags: int) -> int:
    """As process_vm_writev(2) answers, with one local piece."""
    return _transfer(_pwrite, os.O_WRONLY, tid, local, remote, count)


def _transfer(call: Callable[..., int], flags: int, tid: int, local: int, remote: int, count: int) -> int:
    keeps = _keeps and flags == os.O_RDONLY
    try:
        fd = _kept(tid) if keeps else os.open(f"/proc/{tid}/mem", flags | os.O_CLOEXEC)
    except OSError as error:
        ctypes.set_errno({ENOENT: ESRCH, EACCES: EPERM}.get(error.errno or 0, error.errno or 0))
        return -1
    try:
        address, size = (_ulong * 2).from_address(local)
        pieces = (_ulong * (2 * count)).from_address(remote)
        done = 0
        for at in range(0, 2 * count, 2):
            want = min(pieces[at + 1], size - done)
            if call is _pwrite and not _writable(tid, pieces[at], pieces[at] + want):
                ctypes.set_errno(EFAULT)
                return -1
            # As a signed number: what lies in the kernel's half is EINVAL, not some other place.
            got = call(fd, address + done, want, ctypes.c_long(pieces[at]).value) if want else 0
            if got <= 0 and want and not done:  # nothing at all: its memory is gone
                number = ctypes.get_errno() if got else ESRCH
                ctypes.set_errno(EFAULT if number in (EIO, EINVAL) else number)
                return -1
            done += max(got, 0)
            if got < want:
                break
        return done
    finally:
        if not keeps:
            os.close(fd)


_keeps = False
_open_on, _open = 0, -1
"""A thread, and a descriptor on its memory, kept since the current call was received."""


def for_each_call(step: Callable[[], None]) -> Callable[[], None]:
    """`step`, which receives and answers one trapped call, such that it may open memory once and not for each read.

    For the broker, which has one thread. The caller waits meanwhile, so it executes nothing, and has the same memory.
    """
    global _keeps
    _keeps = _readv is _read_file
    if not _keeps:
        return step

    def afresh() -> None:
        _let_go()
        step()

    return afresh


def _let_go() -> None:
    global _open_on, _open
    if _open >= 0:
        os.close(_open)
        _open_on, _open = 0, -1


def _kept(tid: int) -> int:
    global _open_on, _open
    if tid != _open_on:
        _let_go()
        _open = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        _open_on = tid
    return _open


def _writable(tid: int, start: int, end: int) -> bool:
    """Whether the process could write to all of this itself. False if it is gone."""
    try:
        with open(f"/proc/{tid}/maps", "rb") as file:
            for line in file:
                span, rights, _ = line.split(b" ", 2)
                first, last = (int(edge, 16) for edge in span.split(b"-"))
                if first <= start < last:
                    if rights[1:2] != b"w":
                        return False
                    if end <= last:
                        return True
                    start = last
    except OSError:
        pass
    return False


class _Scratch:
    """A buffer and the two struct iovec (address, length) that describe the transfer."""

    __slots__ = ("buffer", "local", "local_at", "remote", "remote_at")

    def __init__(self) -> None:
        self.buffer = (ctypes.c_char * _PAGE)()
        # Always the whole buffer: the kernel stops at the end of the shorter of the two.
        self.local = (_ulong * 2)(ctypes.addressof(self.buffer), _PAGE)
        self.remote = (_ulong * 2)()
        self.local_at = ctypes.addressof(self.local)
        self.remote_at = ctypes.addressof(self.remote)


# Taken and put back by single list operations, so that threads never share a buffer and need no lock.
_idle: list[_Scratch] = []


def read(pid: int, address: int, length: int) -> bytes:
    """Return exactly `length` bytes at `address` of the process of thread `pid`; EFAULT if fewer are there."""
    if length > _PAGE:
        return b"".join(read(pid, address + done, min(_PAGE, length - done)) for done in range(0, length, _PAGE))
    if length <= 0:
        return b""
    scratch = _idle.pop() if _idle else _Scratch()
    remote = scratch.remote
    remote[0] = address
    remote[1] = length
    got = _readv(pid, scratch.local_at, 1, scratch.remote_at, 1, 0)
    if got == length:
        data: bytes = scratch.buffer[:length]  # type: ignore[assignment]  # a slice of c_char is bytes
        _idle.append(scratch)
        return data
    number = ctypes.get_errno() if got < 0 else EFAULT
    _idle.append(scratch)
    raise KernelCallError("process_vm_readv", number)


def gather(pid: int, pieces: Sequence[tuple[int, int]]) -> bytearray:
    """Return all bytes of these (address, length), at most 1,024 of them (IOV_MAX); EFAULT if some are missing."""
    if len(pieces) == 1 and pieces[0][1] <= _PAGE:
        return bytearray(read(pid, *pieces[0]))  # in a third of the time
    total = sum(length for _, length in pieces)
    found = bytearray(total)
    if not total:
        return found
    local = (_ulong * 2)(ctypes.addressof((ctypes.c_char * total).from_buffer(found)), total)
    remote = (_ulong * (2 * len(pieces)))(*(number for piece in pieces for number in piece))
    got = _readv(pid, ctypes.addressof(local), 1, ctypes.addressof(remote), len(pieces), 0)
    if got != total:
        raise KernelCallError("process_vm_readv", ctypes.get_errno() if got < 0 else EFAULT)
    return found


def read_string(pid: int, address: int, limit: int = 4096) -> bytes:
    """Return the C string at `address` of the process of thread `pid`, without its NUL.

    ENAMETOOLONG if no NUL is among the first `limit` bytes, EFAULT if the string runs into unmapped memory.
    Nothing behind the page that holds the NUL is touched.
    """
    scratch = _idle.pop() if _idle else _Scratch()
    remote = scratch.remote
    buffer = scratch.buffer
    # Up to the end of the page and no further: the next one may not exist.
    want = _PAGE - (address & (_PAGE - 1))
    if want > _FIRST:
        want = _FIRST
    parts: list[bytes] = []
    done = 0
    while True:
        if want > limit - done:
            want = limit - done
            if want <= 0:
                number = ENAMETOOLONG
                break
        remote[0] = address + done
        remote[1] = want
        got = _readv(pid, scratch.local_at, 1, scratch.remote_at, 1, 0)
        if got <= 0:
            number = ctypes.get_errno() if got < 0 else EFAULT
            break
        # `value` ends at the first NUL; one behind `got` is left over from an earlier read.
        text: bytes = buffer.value
        if len(text) < got:
            _idle.append(scratch)
            if parts:
                parts.append(text)
                return b"".join(parts)
            return text
        parts.append(text[:got])
        done += got
        want = _PAGE - ((address + done) & (_PAGE - 1))
    _idle.append(scratch)
    raise KernelCallError("process_vm_readv", number)


def write(pid: int, address: int, data: bytes) -> None:
    """Write all of `data` to `address` of the process of thread `pid`; EFAULT if not all of it fits.

    Read-only memory is EFAULT too. When it fails, a part may have been written.
    """
    if not data:
        return
    local = (_ulong * 2)(ctypes.addressof(buffer := ctypes.create_string_buffer(data, len(data))), len(data))
    remote = (_ulong * 2)(address, len(data))
    put = _writev(pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)
    if put != len(data):
        raise KernelCallError("process_vm_writev", ctypes.get_errno() if put < 0 else EFAULT)
    del buffer  # alive until here: `local` holds only its address


def read_own(address: int, length: int) -> bytes:
    """As `read`, of this very process, whatever is refused: the kernel copies it into a file in memory."""
    fd = os.memfd_create("fence-own-memory")
    try:
        put = _pwrite(fd, address, length, 0)
        if put != length:
            raise KernelCallError("pwrite", ctypes.get_errno() if put < 0 else EFAULT)
        return os.pread(fd, length, 0)
    finally:
        os.close(fd)


def write_own(address: int, data: bytes) -> None:
    """As `write`, in this very process, whatever is refused."""
    fd = os.memfd_create("fence-own-memory")
    try:
        os.write(fd, data)
        got = _pread(fd, address, len(data), 0)
        if got != len(data):
            raise KernelCallError("pread", ctypes.get_errno() if got < 0 else EFAULT)
    finally:
        os.close(fd)
