"""Extended attributes: set and removed, by path or by descriptor. How each is carried out: `changing`."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import inode_errno
from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Arguments, signed
from fence_core.broker.handlers.changing import AT_FLAGS, Change, change_descriptor, change_path, for_os
from fence_core.broker.reply import Reply
from fence_core.errors import KernelCallError
from fence_core.kernel import calls

if TYPE_CHECKING:
    from fence_core.broker.loop import Broker

# include/uapi/linux/limits.h, include/uapi/linux/xattr.h
_NAME_MAX = 255
_SIZE_MAX = 65536
_ARGUMENTS = struct.Struct("=QII")
"""struct xattr_args { __aligned_u64 value; __u32 size; __u32 flags; };"""
_ARGUMENTS_MAX = 4096
"""PAGE_SIZE: what is larger is E2BIG, whatever is in it."""

# include/uapi/linux/posix_acl_xattr.h, posix_acl.h: a version, then entries of tag, rights and id
_LISTS = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
_LIST_HEAD = 4
_ENTRY = struct.Struct("=HHI")
_USER, _GROUP = 0x02, 0x08
_NO_ID = 0xFFFF_FFFF


def setxattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    attribute = _Attribute(broker, tid, args[1], args[2], args[3], args[4])
    return attribute.failed or change_path(
        broker, tid, "setxattr", AT_FDCWD, args[0], attribute.set, refused=attribute.cannot_set
    )


def lsetxattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    attribute = _Attribute(broker, tid, args[1], args[2], args[3], args[4])
    return attribute.failed or change_path(
        broker,
        tid,
        "setxattr",
        AT_FDCWD,
        args[0],
        attribute.set,
        flags=AT_SYMLINK_NOFOLLOW,
        refused=attribute.cannot_set,
    )


def fsetxattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    attribute = _Attribute(broker, tid, args[1], args[2], args[3], args[4])
    return attribute.failed or change_descriptor(
        broker, tid, "setxattr", signed(args[0]), attribute.set, refused=attribute.cannot_set
    )


def setxattrat(broker: Broker, tid: int, args: Arguments) -> Reply:
    """Linux 6.13: dirfd, path, flags, name, struct xattr_args, its size."""
    flags = args[2] & 0xFFFF_FFFF
    if not calls.exists("setxattrat"):
        return errno.ENOSYS
    size = args[5]
    if size < _ARGUMENTS.size:
        return errno.EINVAL
    if size > _ARGUMENTS_MAX:
        return errno.E2BIG
    given = broker.processes.find(tid).read(tid, args[4], size)
    if any(given[_ARGUMENTS.size :]):
        return errno.E2BIG  # copy_struct_from_user: of a later kernel
    value_at, value_size, how = _ARGUMENTS.unpack_from(given)
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    attribute = _Attribute(broker, tid, args[3], value_at, value_size, how)
    return attribute.failed or _at(
        broker, tid, "setxattr", signed(args[0]), args[1], flags, attribute.set, attribute.cannot_set
    )


def removexattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    attribute = _Attribute(broker, tid, args[1])
    return attribute.failed or change_path(
        broker, tid, "removexattr", AT_FDCWD, args[0], attribute.remove, refused=attribute.cannot_remove
    )


def lremovexattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    attribute = _Attribute(broker, tid, args[1])
    return attribute.failed or change_path(
        broker,
        tid,
        "removexattr",
        AT_FDCWD,
        args[0],
        attribute.remove,
        flags=AT_SYMLINK_NOFOLLOW,
        refused=attribute.cannot_remove,
    )


def fremovexattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    attribute = _Attribute(broker, tid, args[1])
    return attribute.failed or change_descriptor(
        broker, tid, "removexattr", signed(args[0]), attribute.remove, refused=attribute.cannot_remove
    )


def removexattrat(broker: Broker, tid: int, args: Arguments) -> Reply:
    """Linux 6.13: dirfd, path, flags, name."""
    flags = args[2] & 0xFFFF_FFFF
    if not calls.exists("removexattrat"):
        return errno.ENOSYS
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    attribute = _Attribute(broker, tid, args[3])
    return attribute.failed or _at(
        broker, tid, "removexattr", signed(args[0]), args[1], flags, attribute.remove, attribute.cannot_remove
    )


def _at(
    broker: Broker,
    tid: int,
    op: str,
    dirfd: int,
    address: int,
    flags: int,
    act: Change,
    refused: Callable[[int, bool], int],
) -> Reply:
    if flags & AT_EMPTY_PATH and dirfd >= 0 and not (address and broker.processes.find(tid).read_string(tid, address)):
        return change_descriptor(broker, tid, op, dirfd, act, refused=refused)
    return change_path(broker, tid, op, dirfd, address, act, flags=flags, refused=refused)


def _translated(broker: Broker, tid: int, given: bytes) -> bytes | None:
    """An access control list with the ids as our user namespace has them; None where one has no counterpart there."""
    if len(given) % _ENTRY.size != _LIST_HEAD:
        return given  # malformed: the kernel says so
    entries = [given[:_LIST_HEAD]]
    for tag, rights, number in _ENTRY.iter_unpack(given[_LIST_HEAD:]):
        outer = number
        if tag in (_USER, _GROUP):
            ids = broker.identities.outer_ids(tid, *((number, _NO_ID) if tag == _USER else (_NO_ID, number)))
            if ids is None:
                return None
            outer = ids[0] if tag == _USER else ids[1]
        entries.append(_ENTRY.pack(tag, rights, outer))
    return b"".join(entries)


class _Attribute:
    """An attribute copied from the caller's memory, and what is to become of it."""

    __slots__ = ("_flags", "_name", "_tid", "_value", "failed")

    def __init__(
        self, broker: Broker, tid: int, name_at: int, value_at: int = 0, size: int = 0, flags: int = 0
    ) -> None:
        process = broker.processes.find(tid)
        self._tid = tid
        self._flags = flags & 0xFFFF_FFFF
        self._name = b""
        self._value = b""
        self.failed = 0
        """What the kernel answers to these arguments whatever the file is."""
        if self._flags & ~(os.XATTR_CREATE | os.XATTR_REPLACE):
            self.failed = errno.EINVAL
            return
        try:
            self._name = process.read_string(tid, name_at)
        except KernelCallError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
        if not 0 < len(self._name) <= _NAME_MAX:
            self.failed = errno.ERANGE
        elif size > _SIZE_MAX:
            self.failed = errno.E2BIG
        elif size:
            self._value = process.read(tid, value_at, size)
            if broker.identities.changed and self._name in _LISTS:
                self._value = _translated(broker, tid, self._value) or b""
                self.failed = 0 if self._value else errno.EINVAL

    def set(self, fd: int, borrowed: bool) -> None:
        os.setxattr(for_os(fd, borrowed), self._name, self._value, self._flags)

    def remove(self, fd: int, borrowed: bool) -> None:
        os.removexattr(for_os(fd, borrowed), self._name)

    def cannot_set(self, fd: int, borrowed: bool) -> int:
        """Why the kernel would not set it; 0 if it might."""
        forbidden = inode_errno.of_attribute(self._tid, fd, self._name)
        if forbidden:
            return forbidden
        present = self._look(fd, borrowed)
        if present == 0:
            return errno.EEXIST if self._flags & os.XATTR_CREATE else 0
        if present == errno.ENODATA:
            return errno.ENODATA if self._flags & os.XATTR_REPLACE else 0
        return present if present == errno.EOPNOTSUPP else 0

    def cannot_remove(self, fd: int, borrowed: bool) -> int:
        """Why the kernel would not remove it; 0 if it might."""
        forbidden = inode_errno.of_attribute(self._tid, fd, self._name)
        if forbidden:
            return forbidden
        present = self._look(fd, borrowed)
        return present if present in (errno.ENODATA, errno.EOPNOTSUPP) else 0

    def _look(self, fd: int, borrowed: bool) -> int:
        try:
            os.getxattr(for_os(fd, borrowed), self._name)
        except OSError as error:
            return error.errno or errno.EIO
        return 0
