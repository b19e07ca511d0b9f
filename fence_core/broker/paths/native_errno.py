"""What the kernel would have answered to a call that the policy refuses.

The fence adds refusals and never changes the kernel's own answers: ``mkdir`` of a directory that exists is EEXIST
whether or not the policy would let it be made, and no violation, since nothing was going to change. Called for
refused calls only, with the target's credentials; the order of the checks is that of fs/namei.c.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat

from fence_core.broker.paths.resolve import Located
from fence_core.kernel import credentials, links
from fence_core.kernel.credentials import CAP_DAC_OVERRIDE, Credentials

CREATING = frozenset({"mkdir", "mknod", "symlink", "link", "bind"})
NO_CHANGE = -1
INODE = frozenset({"chmod", "chown", "utime", "setxattr", "removexattr", "chattr"})


def native_errno(op: str, located: Located, tid: int, *, flags: int = 0, other: Located | None = None) -> int:
    """The error number of the kernel's own refusal, 0 if it would have changed something.

    ``located`` is the old path of ``rename`` and ``link``, ``other`` the new one. ``flags`` are those of the call.
    `NO_CHANGE` where a rename would succeed and do nothing.
    """
    if located.errno:
        return located.errno
    who = credentials.of(tid)
    if other is not None:
        return _link(located, other, who) if op == "link" else _rename(located, other, flags, who)
    try:
        status: os.stat_result | None = os.lstat(located.path)
    except OSError:
        status = None
    if op in CREATING:
        if status is not None:
            return errno.EADDRINUSE if op == "bind" else errno.EEXIST
        if (located.name.endswith(b"/") and op != "mkdir") or _in_procfs(located.path):
            return errno.ENOENT
        return _directory(located.parent, None, who) or _without_names(located.path)
    if op == "open":
        return _open(status, located, flags, who)
    if status is None:
        return errno.ENOENT
    directory = stat.S_ISDIR(status.st_mode)
    if op == "unlink":
        if located.name.endswith(b"/"):
            return errno.EISDIR if directory else errno.ENOTDIR
        return (
            _directory(located.parent, status, who)
            or _without_names(located.path)
            or (errno.EISDIR if directory else 0)
        )
    if op == "rmdir":
        return (
            _directory(located.parent, status, who)
            or (0 if directory else errno.ENOTDIR)
            or _without_names(located.path)
            or (errno.EBUSY if os.path.ismount(located.path) else 0)
            or _not_empty(located.path)
        )
    if op == "truncate":
        if directory:
            return errno.EISDIR
        if stat.S_ISLNK(status.st_mode):
            return errno.ENOENT  # followed, and nothing there
        return _file(status, located.path, who)
    if op in INODE:
        if _read_only(located.path):
            return errno.EROFS
        if op == "chmod" and re.match(r"/proc/(?:\d+|self|thread-self)/", located.path):
            return errno.EPERM  # proc_setattr (fs/proc/base.c)
        if op in ("chmod", "chattr") and not who.may(CAP_DAC_OVERRIDE) and status.st_uid != who.uid:
            return errno.EPERM  # of the others `inode_errno` knows more
    return 0


def _open(status: os.stat_result | None, located: Located, flags: int, who: Credentials) -> int:
    o_tmpfile = os.O_TMPFILE & ~os.O_DIRECTORY
    if flags & o_tmpfile:
        return _directory(located.parent, None, who) if os.path.isdir(located.parent) else errno.ENOTDIR
    if status is None:
        if not flags & os.O_CREAT:
            return errno.ENOENT
        if located.name.endswith(b"/"):
            return errno.EISDIR
        if flags & os.O_DIRECTORY:
            return errno.EINVAL
        if _in_procfs(located.path):
            return errno.ENOENT
        refused = _directory(located.parent or os.path.dirname(located.path), None, who)
        return refused or (errno.EACCES if _without_names(located.path) else 0)
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return errno.EEXIST
    if stat.S_ISLNK(status.st_mode):
        return errno.ENOENT if located.name.endswith(b"/") else errno.ELOOP  # followed, and nothing there; not followed
    if stat.S_ISDIR(status.st_mode):
        return errno.EISDIR
    if flags & os.O_DIRECTORY:
        return errno.ENOTDIR
    return _file(status, located.path, who)


def _file(status: os.stat_result, path: str, who: Credentials) -> int:
    if _read_only(path):
        return errno.EROFS
    return 0 if who.may_write(status) else errno.EACCES


def _directory(path: str, entry: os.stat_result | None, who: Credentials) -> int:
    """Whether entries of this directory may be made, or `entry` removed."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno or errno.EACCES
    if _read_only(path):
        return errno.EROFS
    if not who.may_write(status):
        return errno.EACCES
    sticky = entry is not None and status.st_mode & stat.S_ISVTX and not who.may(CAP_DAC_OVERRIDE)
    if sticky and entry is not None and who.uid not in (entry.st_uid, status.st_uid):
        return errno.EPERM
    return 0


def _rename(old: Located, new: Located, flags: int, who: Credentials) -> int:
    """In the order of do_renameat2 and vfs_rename."""
    if links.mount_of(old.directory) != links.mount_of(new.directory):
        return errno.EXDEV
    if _read_only(old.parent):
        return errno.EROFS
    status, target = _named(old), _named(new)
    exchange = bool(flags & links.RENAME_EXCHANGE)
    if status is None:
        return errno.ENOENT
    if target is None and exchange:
        return errno.ENOENT
    if target is not None and flags & links.RENAME_NOREPLACE:
        return errno.EEXIST
    directory = stat.S_ISDIR(status.st_mode)
    over_directory = target is not None and stat.S_ISDIR(target.st_mode)
    if new.name.endswith(b"/") and not (over_directory if exchange else directory):
        return errno.ENOTDIR
    if old.name.endswith(b"/") and not directory:
        return errno.ENOTDIR
    if directory and (new.parent + "/").startswith(old.path + "/"):
        return errno.EINVAL
    if over_directory and (old.parent + "/").startswith(new.path + "/"):
        return errno.EINVAL if exchange else errno.ENOTEMPTY
    if target is not None and (status.st_dev, status.st_ino) == (target.st_dev, target.st_ino):
        return NO_CHANGE  # two links to one file: rename(2) "does nothing, and returns a success status"
    found = _directory(old.parent, status, who) or _directory(new.parent, target, who) or _without_names(old.path)
    if found:
        return found
    if target is not None and not exchange and directory != over_directory:
        return errno.ENOTDIR if directory else errno.EISDIR
    if old.parent != new.parent:
        # A directory that gets another parent has its ".." rewritten.
        for moved, its in ((directory, status), (exchange and over_directory, target)):
            if moved and its is not None and not who.may_write(its):
                return errno.EACCES
    if os.path.ismount(old.path) or (target is not None and os.path.ismount(new.path)):
        return errno.EBUSY
    return _not_empty(new.path) if over_directory and not exchange else 0


def _link(old: Located, new: Located, who: Credentials) -> int:
    """In the order of do_linkat and vfs_link. `old` has a handle, whether it was followed or not."""
    if _named(new) is not None:
        return errno.EEXIST
    if new.name.endswith(b"/") or _in_procfs(new.path):
        return errno.ENOENT
    if _read_only(new.parent):
        return errno.EROFS
    if links.mount_of(old.handle) != links.mount_of(new.directory):
        return errno.EXDEV
    status = os.fstat(old.handle)
    if not _may_link(status, who):
        return errno.EPERM
    return _directory(new.parent, None, who) or (errno.EPERM if stat.S_ISDIR(status.st_mode) else 0)


def _may_link(status: os.stat_result, who: Credentials) -> bool:
    """What fs.protected_hardlinks asks for (proc_sys_fs(5)): the owner may, others only what they may write."""
    if who.may(CAP_DAC_OVERRIDE) or status.st_uid == who.uid or not _protects_links():
        return True
    mode = status.st_mode
    special = mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP)
    return stat.S_ISREG(mode) and not special and who.may_write(status)


@functools.cache
def _protects_links() -> bool:
    try:
        with open("/proc/sys/fs/protected_hardlinks", "rb") as setting:
            return setting.read().strip() != b"0"
    except OSError:
        return False


def _named(located: Located) -> os.stat_result | None:
    """The status of the name itself; None where there is nothing."""
    try:
        return os.stat(located.name.rstrip(b"/"), dir_fd=located.directory, follow_symlinks=False)
    except OSError:
        return None


def _in_procfs(path: str) -> bool:
    """Where looking for a missing name fails, whatever for (proc_lookup, fs/proc/generic.c)."""
    return path.startswith("/proc/")


def _without_names(path: str) -> int:
    """Where only the kernel makes and removes names: no directory there has the operations for it (fs/namei.c)."""
    return errno.EPERM if _in_procfs(path) or (path.startswith("/dev/pts/") and os.path.ismount("/dev/pts")) else 0


def _not_empty(path: str) -> int:
    try:
        with os.scandir(path) as entries:
            return errno.ENOTEMPTY if next(entries, None) is not None else 0
    except OSError:
        return 0


def _read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        try:
            return bool(os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY)
        except OSError:
            return False
