"""What the kernel would have answered to a change of a file itself that the policy refuses: 0 if it would make it.

For refused calls only, with an open descriptor of the file. The order is that of fs/attr.c, fs/utimes.c, fs/xattr.c.
"""

from __future__ import annotations

import errno
import os
import stat

from fence_core.kernel import credentials
from fence_core.kernel.credentials import CAP_CHOWN, CAP_SYS_ADMIN

_UNCHANGED = 0xFFFF_FFFF
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # include/uapi/linux/stat.h
_NANOSECONDS = 1_000_000_000


def of_mode(fd: int) -> int:
    """chmod(2): symbolic links have no mode to change."""
    return errno.EOPNOTSUPP if stat.S_ISLNK(os.fstat(fd).st_mode) else 0


def of_owner(tid: int, fd: int, uid: int, gid: int) -> int:
    """chown(2). `uid`, `gid`: 2**32 - 1 leaves it alone."""
    status, who = os.fstat(fd), credentials.of(tid)
    if who.may(CAP_CHOWN):
        return 0
    owns = who.uid == status.st_uid
    keeps_user = uid in (_UNCHANGED, status.st_uid)
    keeps_group = gid in (_UNCHANGED, status.st_gid) or who.is_in(gid)
    return 0 if owns and keeps_user and keeps_group else errno.EPERM


def of_times(tid: int, fd: int, seconds: tuple[int, int] | None) -> int:
    """utimensat(2). `seconds`: the two tv_nsec, None where no times were given."""
    if seconds is not None:
        if any(not 0 <= each < _NANOSECONDS and each not in (_UTIME_NOW, _UTIME_OMIT) for each in seconds):
            return errno.EINVAL
        if seconds == (_UTIME_NOW, _UTIME_NOW):
            seconds = None
    status, who = os.fstat(fd), credentials.of(tid)
    if who.owns(status):
        return 0
    if seconds is not None:
        return errno.EPERM
    return 0 if who.may_write(status) else errno.EACCES


def of_attribute(tid: int, fd: int, name: bytes) -> int:
    """setxattr(2), removexattr(2): whether this caller may have attributes of this kind on that file."""
    if name.startswith((b"security.", b"system.")):
        return 0  # whoever handles them decides
    status, who = os.fstat(fd), credentials.of(tid)
    if name.startswith(b"trusted."):
        return 0 if who.may(CAP_SYS_ADMIN) else errno.EPERM
    if name.startswith(b"user."):
        directory = stat.S_ISDIR(status.st_mode)
        if not directory and not stat.S_ISREG(status.st_mode):
            return errno.EPERM
        owns = who.owns(status)
        if directory and status.st_mode & stat.S_ISVTX and not owns:
            return errno.EPERM
    return 0 if who.may_write(status) else errno.EACCES
