"""What the kernel would have answered to a call that the policy refuses.

The fence adds refusals and never changes the kernel's own answers: ``mkdir`` of a directory that exists is EEXIST
whether or not the policy would let it be made, and no violation, since nothing was going to change. Called for
refused calls only, with the target's credentials; the order of the checks is that of fs/namei.c.
"""

from __future__ import annotations

import errno
import os
import stat

from fence_core.broker.resolve import Located

CREATING = frozenset({"mkdir", "mknod", "symlink", "link", "bind"})
INODE = frozenset({"chmod", "chown", "utime", "setxattr", "removexattr"})


class Credentials:
    """Effective ids of the calling thread, from proc(5) status."""

    __slots__ = ("gid", "gids", "privileged", "uid")

    def __init__(self, tid: int) -> None:
        uid, gid, gids, capabilities = os.geteuid(), os.getegid(), {os.getegid(), *os.getgroups()}, 0
        with open(f"/proc/{tid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Uid:"):
                    uid = int(line.split()[4])  # real, effective, saved, filesystem
                elif line.startswith("Gid:"):
                    gid = int(line.split()[4])
                    gids = {gid}
                elif line.startswith("Groups:"):
                    gids.update(int(word) for word in line.split()[1:])
                elif line.startswith("CapEff:"):
                    capabilities = int(line.split()[1], 16)
        self.uid = uid
        self.gid = gid
        self.gids = gids
        cap_dac_override = 1 << 1
        self.privileged = bool(capabilities & cap_dac_override) and in_our_user_namespace(tid)

    def may_write(self, status: os.stat_result) -> bool:
        """By mode bits; access control lists are not looked at, so a refusal by one is shown as a violation."""
        if self.privileged:
            return True
        mode = status.st_mode
        if status.st_uid == self.uid:
            return bool(mode & stat.S_IWUSR)
        if status.st_gid in self.gids:
            return bool(mode & stat.S_IWGRP)
        return bool(mode & stat.S_IWOTH)


def in_our_user_namespace(tid: int) -> bool:
    """Whether the capabilities of this thread mean what ours do: in a namespace of one's own one has them all."""
    try:
        return os.readlink(f"/proc/{tid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return False


def native_errno(op: str, located: Located, tid: int, *, flags: int = 0, other: Located | None = None) -> int:
    """The error number of the kernel's own refusal, 0 if it would have changed something.

    ``other`` is the new path of ``rename`` and the existing one of ``link``. ``flags`` are those of the call.
    """
    if located.errno:
        return located.errno
    try:
        status: os.stat_result | None = os.lstat(located.path)
    except OSError:
        status = None
    who = Credentials(tid)
    slash = located.name.endswith(b"/")  # fs/namei.c: then it must be, or become, a directory
    if op in CREATING:
        if status is not None:
            return errno.EADDRINUSE if op == "bind" else errno.EEXIST
        if slash and op != "mkdir":
            return errno.ENOENT
        if op == "link" and other is not None:
            return _link_source(other, located) or _directory(located.parent, None, who)
        return _directory(located.parent, None, who)
    if op == "open":
        return _open(status, located, flags, who)
    if status is None:
        return errno.ENOENT
    directory = stat.S_ISDIR(status.st_mode)
    if op == "unlink":
        if slash:
            return errno.EISDIR if directory else errno.ENOTDIR
        return _directory(located.parent, status, who) or (errno.EISDIR if directory else 0)
    if op == "rmdir":
        return (
            _directory(located.parent, status, who)
            or (0 if directory else errno.ENOTDIR)
            or (errno.EBUSY if os.path.ismount(located.path) else 0)
            or _not_empty(located.path)
        )
    if op == "rename" and other is not None:
        return _rename(status, located, other, flags, who)
    if op == "truncate":
        if directory:
            return errno.EISDIR
        return _file(status, located.path, who)
    if op in INODE:
        if _read_only(located.path):
            return errno.EROFS
        return 0 if who.privileged or status.st_uid == who.uid else errno.EPERM
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
        return _directory(located.parent or os.path.dirname(located.path), None, who)
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return errno.EEXIST
    if stat.S_ISLNK(status.st_mode):
        return errno.ELOOP
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
    sticky = entry is not None and status.st_mode & stat.S_ISVTX and not who.privileged
    if sticky and entry is not None and who.uid not in (entry.st_uid, status.st_uid):
        return errno.EPERM
    return 0


def _rename(status: os.stat_result, old: Located, new: Located, flags: int, who: Credentials) -> int:
    rename_noreplace, rename_exchange = 1, 2
    if new.errno:
        return new.errno
    try:
        target: os.stat_result | None = os.lstat(new.path)
    except OSError:
        target = None
    if os.stat(old.parent).st_dev != os.stat(new.parent).st_dev:
        return errno.EXDEV
    if target is not None and flags & rename_noreplace:
        return errno.EEXIST
    if target is None and flags & rename_exchange:
        return errno.ENOENT
    found = _directory(old.parent, status, who) or _directory(new.parent, target, who)
    if found or target is None or flags & rename_exchange:
        return found
    if stat.S_ISDIR(status.st_mode) != stat.S_ISDIR(target.st_mode):
        return errno.EISDIR if stat.S_ISDIR(target.st_mode) else errno.ENOTDIR
    return _not_empty(new.path) if stat.S_ISDIR(target.st_mode) else 0


def _link_source(source: Located, new: Located) -> int:
    if source.errno:
        return source.errno
    try:
        status = os.lstat(source.path)
    except OSError as error:
        return error.errno or errno.ENOENT
    if stat.S_ISDIR(status.st_mode):
        return errno.EPERM
    return errno.EXDEV if os.stat(new.parent).st_dev != status.st_dev else 0


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
