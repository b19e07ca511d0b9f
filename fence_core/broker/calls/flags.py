"""The flags that chattr(1) sets, and their like: by file_setattr(2), or by ioctl(2).

The requests of ioctl(2) need no descriptor that is open for writing. How each is carried out: `changing`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fence_core.broker.calls import privileged
from fence_core.broker.calls.arguments import AT_EMPTY_PATH, AT_FDCWD, signed
from fence_core.broker.calls.changing import AT_FLAGS, Change, change_at, change_descriptor
from fence_core.broker.calls.registers import OF_ATTRIBUTES, OF_TERMINALS
from fence_core.broker.reply import Reply
from fence_core.errors import KernelCallError
from fence_core.kernel import arch, calls, libc

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_UNMAPPED = 1
"""An address that nobody can have anything at (mmap_min_addr)."""
_FS_IOC_GETFLAGS = 0x80086601
_READ_FIRST = frozenset({0x40086602, 0x401C5820})
"""Of those the ones for which the kernel reads its argument before it asks what kind of file it is (fs/ioctl.c)."""

# include/uapi/linux/fs.h: struct file_attr, and the page that bounds what is taken
_FILE_ATTR_SIZE = 24
_FILE_ATTR_MAX = 4096

_file_setattr = libc.function(
    "syscall",
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_long,
    ctypes.c_long,
)


def ioctl(call: Call) -> Reply:
    """One of `OF_ATTRIBUTES`, or of those to terminals; the filter lets the others through, or refuses them."""
    request = call.args[1] & 0xFFFF_FFFF
    if request in OF_TERMINALS:
        return privileged.ioctl(call)
    try:
        given = call.read(call.args[2], OF_ATTRIBUTES[request])
    except KernelCallError as error:
        if error.errno != errno.EFAULT:
            raise
        given = b""  # whether there is such a descriptor comes first

    def act(fd: int, borrowed: bool) -> None:
        if not given and request in _READ_FIRST and not borrowed:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        with _usable(fd, borrowed) as own:
            fcntl.ioctl(own, request, given.ljust(32, b"\0") if given else _UNMAPPED)

    def refused(fd: int, borrowed: bool) -> int:
        if not given and request in _READ_FIRST:
            return errno.EFAULT
        return _has_no_flags(fd, borrowed)

    return change_descriptor(call, Change("chattr", act, refused), signed(call.args[0]))


@contextmanager
def _usable(fd: int, borrowed: bool) -> Iterator[int]:
    """A descriptor that takes ioctl(2), which one with O_PATH does not. Raises OSError: ENOTTY for what is neither a
    file nor a directory."""
    if borrowed:
        yield fd
        return
    if stat.S_IFMT(os.fstat(fd).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield own
    finally:
        os.close(own)


def _has_no_flags(fd: int, borrowed: bool) -> int:
    """What the kernel answers where the file, or its file system, has no such attributes; else 0."""
    try:
        with _usable(fd, borrowed) as own:
            fcntl.ioctl(own, _FS_IOC_GETFLAGS, bytes(8))
    except OSError as error:
        return error.errno if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP) else 0
    return 0


def file_setattr(call: Call) -> Reply:
    """Linux 6.17: dirfd, path, struct file_attr, its size, flags."""
    if not calls.exists("file_setattr"):
        return errno.ENOSYS
    flags, size = call.args[4] & 0xFFFF_FFFF, call.args[3]
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    if size > _FILE_ATTR_MAX:
        return errno.E2BIG
    if size < _FILE_ATTR_SIZE:
        return errno.EINVAL
    given = call.read(call.args[2], size)
    if any(given[_FILE_ATTR_SIZE:]):
        return errno.E2BIG  # copy_struct_from_user: of a later kernel
    number = arch.current().calls["file_setattr"]

    def act(fd: int, borrowed: bool) -> int | None:
        if borrowed:
            failed = _file_setattr(number, fd, b"", given, _FILE_ATTR_SIZE, AT_EMPTY_PATH)
        else:  # with AT_EMPTY_PATH it takes no O_PATH descriptor
            failed = _file_setattr(number, AT_FDCWD, f"/proc/self/fd/{fd}".encode(), given, _FILE_ATTR_SIZE, 0)
        return ctypes.get_errno() if failed else None

    return change_at(call, Change("chattr", act), signed(call.args[0]), call.args[1], flags)
