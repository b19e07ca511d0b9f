"""What the kernel would have answered to a change of a file itself that the policy refuses: 0 if it would make it.

For refused calls only, with an open descriptor of the file. The order is that of fs/attr.c, fs/utimes.c, fs/xattr.c.
"""

from __future__ import annotations

import errno
import os
import stat

from fence_core.broker.native_errno import Credentials

_UNCHANGED = 0xFFFF_FFFF
_CAP_CHOWN, _CAP_FOWNER, _CAP_SYS_ADMIN = 0, 3, 21  # include/uapi/linux/capability.h
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # include/uapi/linux/stat.h
_NANOSECONDS = 1_000_000_000


def of_mode(fd: int) -> int:
    """chmod(2): symbolic links have no mode to change."""
    return errno.EOPNOTSUPP if stat.S_ISLNK(os.fstat(fd).st_mode) else 0


def of_owner(tid: int, fd: int, uid: int, gid: int) -> int:
    """chown(2). `uid`, `gid`: 2**32 - 1 leaves it alone."""
    status, who = os.fstat(fd), Credentials(tid)
    if who.may(_CAP_CHOWN):
        return 0
    owns = who.uid == status.st_uid
    keeps_user = uid in (_UNCHANGED, status.st_uid)
    keeps_group = gid in (_UNCHANGED, status.st_gid) or gid in who.gids
    return 0 if owns and keeps_user and keeps_group else errno.EPERM


def of_times(tid: int, fd: int, seconds: tuple[int, int] | None) -> int:
    """utimensat(2). `seconds`: the two tv_nsec, None where no times were given."""
    if seconds is not None:
        if any(not 0 <= each < _NANOSECONDS and each not in (_UTIME_NOW, _UTIME_OMIT) for each in seconds):
            return errno.EINVAL
        if seconds == (_UTIME_NOW, _UTIME_NOW):
            seconds = None
    status, who = os.fstat(fd), Credentials(tid)
    if who.may(_CAP_FOWNER) or who.uid == status.st_uid:
        return 0
    if seconds is not None:
        return errno.EPERM
    return 0 if who.may_write(status) else errno.EACCES


def of_attribute(tid: int, fd: int, name: bytes) -> int:
    """setxattr(2), removexattr(2): whether this caller may have attributes of this kind on that file."""
    if name.startswith((b"security.", b"system.")):
        return 0  # whoever handles them decides
    status, who = os.fstat(fd), Credentials(tid)
    if name.startswith(b"trusted."):
        return 0 if who.may(_CAP_SYS_ADMIN) else errno.EPERM
    if name.startswith(b"user."):
        directory = stat.S_ISDIR(status.st_mode)
        if not directory and not stat.S_ISREG(status.st_mode):
            return errno.EPERM
        owns = who.uid == status.st_uid or who.may(_CAP_FOWNER)
        if directory and status.st_mode & stat.S_ISVTX and not owns:
            return errno.EPERM
    return 0 if who.may_write(status) else errno.EACCES
