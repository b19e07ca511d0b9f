"""Extended attributes: set and removed, by path or by descriptor. How each is carried out: `changing`."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import AT_FDCWD, AT_SYMLINK_NOFOLLOW, signed
from fence_core.broker.calls.changing import AT_FLAGS, Change, change_at, change_descriptor, change_path, for_os
from fence_core.broker.paths import inode_errno
from fence_core.broker.reply import Reply
from fence_core.errors import KernelCallError
from fence_core.kernel import calls

if TYPE_CHECKING:
    from fence_core.broker.call import Call

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


def setxattr(call: Call) -> Reply:
    attribute = _Attribute(call, *call.args[1:5])
    return attribute.failed or change_path(call, attribute.setting, AT_FDCWD, call.args[0])


def lsetxattr(call: Call) -> Reply:
    attribute = _Attribute(call, *call.args[1:5])
    return attribute.failed or change_path(call, attribute.setting, AT_FDCWD, call.args[0], AT_SYMLINK_NOFOLLOW)


def fsetxattr(call: Call) -> Reply:
    attribute = _Attribute(call, *call.args[1:5])
    return attribute.failed or change_descriptor(call, attribute.setting, signed(call.args[0]))


def setxattrat(call: Call) -> Reply:
    """Linux 6.13: dirfd, path, flags, name, struct xattr_args, its size."""
    flags = call.args[2] & 0xFFFF_FFFF
    if not calls.exists("setxattrat"):
        return errno.ENOSYS
    size = call.args[5]
    if size < _ARGUMENTS.size:
        return errno.EINVAL
    if size > _ARGUMENTS_MAX:
        return errno.E2BIG
    given = call.read(call.args[4], size)
    if any(given[_ARGUMENTS.size :]):
        return errno.E2BIG  # copy_struct_from_user: of a later kernel
    value_at, value_size, how = _ARGUMENTS.unpack_from(given)
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    attribute = _Attribute(call, call.args[3], value_at, value_size, how)
    return attribute.failed or change_at(call, attribute.setting, signed(call.args[0]), call.args[1], flags)


def removexattr(call: Call) -> Reply:
    attribute = _Attribute(call, call.args[1])
    return attribute.failed or change_path(call, attribute.removing, AT_FDCWD, call.args[0])


def lremovexattr(call: Call) -> Reply:
    attribute = _Attribute(call, call.args[1])
    return attribute.failed or change_path(call, attribute.removing, AT_FDCWD, call.args[0], AT_SYMLINK_NOFOLLOW)


def fremovexattr(call: Call) -> Reply:
    attribute = _Attribute(call, call.args[1])
    return attribute.failed or change_descriptor(call, attribute.removing, signed(call.args[0]))


def removexattrat(call: Call) -> Reply:
    """Linux 6.13: dirfd, path, flags, name."""
    flags = call.args[2] & 0xFFFF_FFFF
    if not calls.exists("removexattrat"):
        return errno.ENOSYS
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    attribute = _Attribute(call, call.args[3])
    return attribute.failed or change_at(call, attribute.removing, signed(call.args[0]), call.args[1], flags)


def _translated(call: Call, given: bytes) -> bytes | None:
    """An access control list with the ids as our user namespace has them; None where one has no counterpart there."""
    if len(given) % _ENTRY.size != _LIST_HEAD:
        return given  # malformed: the kernel says so
    entries = [given[:_LIST_HEAD]]
    for tag, rights, number in _ENTRY.iter_unpack(given[_LIST_HEAD:]):
        outer = number
        if tag in (_USER, _GROUP):
            pair = (number, _NO_ID) if tag == _USER else (_NO_ID, number)
            ids = call.services.identities.outer_ids(call.tid, *pair)
            if ids is None:
                return None
            outer = ids[0] if tag == _USER else ids[1]
        entries.append(_ENTRY.pack(tag, rights, outer))
    return b"".join(entries)


class _Attribute:
    """An attribute copied from the caller's memory, and what is to become of it."""

    __slots__ = ("_flags", "_name", "_tid", "_value", "failed", "removing", "setting")

    def __init__(self, call: Call, name_at: int, value_at: int = 0, size: int = 0, flags: int = 0) -> None:
        self._tid = call.tid
        self._flags = flags & 0xFFFF_FFFF
        self.setting = Change("setxattr", self._set, self._cannot_set)
        self.removing = Change("removexattr", self._remove, self._cannot_remove)
        self._name = b""
        self._value = b""
        self.failed = 0
        """What the kernel answers to these arguments whatever the file is."""
        if self._flags & ~(os.XATTR_CREATE | os.XATTR_REPLACE):
            self.failed = errno.EINVAL
            return
        try:
            self._name = call.read_string(name_at)
        except KernelCallError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
        if not 0 < len(self._name) <= _NAME_MAX:
            self.failed = errno.ERANGE
        elif size > _SIZE_MAX:
            self.failed = errno.E2BIG
        elif size:
            self._value = call.read(value_at, size)
            if call.services.identities.changed and self._name in _LISTS:
                self._value = _translated(call, self._value) or b""
                self.failed = 0 if self._value else errno.EINVAL

    def _set(self, fd: int, borrowed: bool) -> None:
        os.setxattr(for_os(fd, borrowed), self._name, self._value, self._flags)

    def _remove(self, fd: int, borrowed: bool) -> None:
        os.removexattr(for_os(fd, borrowed), self._name)

    def _cannot_set(self, fd: int, borrowed: bool) -> int:
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

    def _cannot_remove(self, fd: int, borrowed: bool) -> int:
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
