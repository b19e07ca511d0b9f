"""What `os` does not offer of names and descriptors: renameat2(2), linkat(2) with all flags, where a descriptor lies.

Called by the broker, on descriptors that it has judged.
"""

from __future__ import annotations

import ctypes

from fence_core.kernel import libc

# include/uapi/linux/fs.h
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
# include/uapi/linux/fcntl.h
_AT_FDCWD = -100
_AT_SYMLINK_FOLLOW = 0x400
_AT_EMPTY_PATH = 0x1000


def rename(old_directory: int, old: bytes, new_directory: int, new: bytes, flags: int) -> None:
    """renameat2(2). Raises `KernelCallError`."""
    first, second = ctypes.create_string_buffer(old), ctypes.create_string_buffer(new)
    libc.call("renameat2", old_directory, ctypes.addressof(first), new_directory, ctypes.addressof(second), flags)


def link(handle: int, directory: int, name: bytes, *, as_opened: bool = False) -> None:
    """Give the file behind an O_PATH descriptor, a symlink too, another name. Raises `KernelCallError`.

    By way of ``/proc/self/fd``, which needs no privilege (linkat(2)). `as_opened`: by AT_EMPTY_PATH, with what the
    kernel at hand asks for then: CAP_DAC_READ_SEARCH, or since 6.10 the credentials that the descriptor was opened by.
    """
    source = ctypes.create_string_buffer(b"" if as_opened else b"/proc/self/fd/%d" % handle)
    target = ctypes.create_string_buffer(name)
    start, flags = (handle, _AT_EMPTY_PATH) if as_opened else (_AT_FDCWD, _AT_SYMLINK_FOLLOW)
    libc.call("linkat", start, ctypes.addressof(source), directory, ctypes.addressof(target), flags)


def mount_of(fd: int) -> bytes:
    """The number of the mount that a descriptor lies on (mnt_id, proc_pid_fdinfo(5)): no name is moved across."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
        for line in lines:
            if line.startswith(b"mnt_id:"):
                return line[7:].strip()
    return b""


_PROC_SUPER_MAGIC, _NSFS_MAGIC = 0x9FA0, 0x6E736673  # include/uapi/linux/magic.h
_STATFS_BYTES = 120  # struct statfs on 64 bits; f_type, a long, comes first
_fstatfs = libc.function("fstatfs", ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


def is_procfs(fd: int) -> bool:
    """Whether a descriptor, one with O_PATH too, is open on a file of procfs. Raises `KernelCallError`."""
    return _magic(fd) == _PROC_SUPER_MAGIC


def is_namespace(fd: int) -> bool:
    """Whether it is open on a namespace, by whatever name. Raises `KernelCallError`."""
    return _magic(fd) == _NSFS_MAGIC


def _magic(fd: int) -> int:
    answer = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    if _fstatfs(fd, ctypes.addressof(answer)) < 0:
        libc.fail("fstatfs")
    return answer[0]
