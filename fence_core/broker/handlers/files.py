"""Calls that change the disk by path: judged where the kernel resolves them, in the caller's own view.

Every handler takes the broker, the calling thread and the six argument registers, and returns a reply.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.native_errno import INODE, has_our_rights, native_errno
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.broker.resolve import ASK_KERNEL, AT_FDCWD, Located
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.attribution import Process
    from fence_core.broker.loop import Broker

Arguments = tuple[int, int, int, int, int, int]

AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY
_DIRECTORY_ENDS = (b"/", b"/.", b"/..")
"""A path that ends so is followed to the directory it names, whatever the flags say (path_resolution(7))."""


def signed(value: int) -> int:
    """An int argument: the kernel looks at the lower half of the register only."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


# ---------------------------------------------------------------- opens


def openat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _open(broker, tid, signed(args[0]), args[1], args[2])


def open_(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _open(broker, tid, AT_FDCWD, args[0], args[1])


def creat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _open(broker, tid, AT_FDCWD, args[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)


def _open(broker: Broker, tid: int, dirfd: int, address: int, flags: int) -> Reply:
    process = broker.processes.find(tid)
    raw = process.read_string(tid, address)
    if raw.startswith(b"/proc/fence/"):
        return broker.doors(process, tid, raw)
    writes = flags & (_WRITES | _TMPFILE)
    if flags & os.O_PATH or not writes:
        return CONTINUE
    follow = not (flags & os.O_NOFOLLOW or (flags & os.O_CREAT and flags & os.O_EXCL)) or raw.endswith(_DIRECTORY_ENDS)
    located = broker.resolver.locate(tid, process.pid, dirfd, raw, follow=follow)
    if located.errno:
        return CONTINUE if located.errno == ASK_KERNEL else located.errno
    if not located.is_file:
        return CONTINUE
    if flags & _TMPFILE == _TMPFILE:
        located.parent, located.path = located.path, f"{located.path}/(unnamed temporary file)"
    if process.may_write(_own_proc(broker, process, located.path)):
        return CONTINUE
    if flags & os.O_CREAT and not flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_EXCL | _TMPFILE):
        reply = _open_existing(tid, located.path, signed(flags))
        if reply is not None:
            return reply
    return _refuse(broker, process, tid, "open", located, flags=flags)


def _open_existing(tid: int, path: str, flags: int) -> Reply | None:
    """O_CREAT without write access changes nothing where the file exists: that file, opened without O_CREAT.

    None where there is none. The kernel opens itself what may keep its opener waiting, and for callers with fewer
    rights than we have.
    """
    try:
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        kind = stat.S_IFMT(os.fstat(handle).st_mode)
        if kind in (stat.S_IFDIR, stat.S_IFLNK):
            return None
        if kind != stat.S_IFREG or not has_our_rights(tid):
            return CONTINUE
        # O_NONBLOCK: somebody may have a lease on it.
        found = os.open(f"/proc/self/fd/{handle}", flags & ~(os.O_CREAT | os.O_NOFOLLOW) | os.O_NONBLOCK | os.O_CLOEXEC)
    except BlockingIOError:
        return CONTINUE
    except OSError:
        return None
    finally:
        os.close(handle)
    os.set_blocking(found, not flags & os.O_NONBLOCK)
    return HandOver(found, cloexec=bool(flags & os.O_CLOEXEC))


# ---------------------------------------------------------------- one path


def mkdir(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "mkdir", AT_FDCWD, args[0], follow=False)


def mkdirat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "mkdir", args[0], args[1], follow=False)


def mknod(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _mknod(broker, tid, AT_FDCWD, args[0], args[1])


def mknodat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _mknod(broker, tid, args[0], args[1], args[2])


def _mknod(broker: Broker, tid: int, dirfd: int, address: int, mode: int) -> Reply:
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and os.geteuid() == 0):
        # A device node in a writable place is a way to everything behind it. Without privileges the kernel says
        # EPERM itself.
        process = broker.processes.find(tid)
        located = broker.resolver.locate(
            tid, process.pid, signed(dirfd), process.read_string(tid, address), follow=False
        )
        return broker.refuse(process, tid, Write("mknod device", located.path), errno.EPERM, whatever_rules=True)
    return _one(broker, tid, "mknod", dirfd, address, follow=False)


def unlink(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "unlink", AT_FDCWD, args[0], follow=False)


def unlinkat(broker: Broker, tid: int, args: Arguments) -> Reply:
    op = "rmdir" if args[2] & AT_REMOVEDIR else "unlink"
    return _one(broker, tid, op, args[0], args[1], follow=False)


def rmdir(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "rmdir", AT_FDCWD, args[0], follow=False)


def symlink(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "symlink", AT_FDCWD, args[1], follow=False)


def symlinkat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "symlink", args[1], args[2], follow=False)


def truncate(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "truncate", AT_FDCWD, args[0], follow=True)


def chmod(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "chmod", AT_FDCWD, args[0], follow=True)


def fchmodat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "chmod", args[0], args[1], follow=True)


def fchmodat2(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _at_flags(broker, tid, "chmod", args[0], args[1], args[3])


def chown(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "chown", AT_FDCWD, args[0], follow=True)


def lchown(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "chown", AT_FDCWD, args[0], follow=False)


def fchownat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _at_flags(broker, tid, "chown", args[0], args[1], args[4])


def utime(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "utime", AT_FDCWD, args[0], follow=True)


def futimesat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _nullable(broker, tid, args[0], args[1], 0)


def utimensat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _nullable(broker, tid, args[0], args[1], args[3])


def _nullable(broker: Broker, tid: int, dirfd: int, address: int, flags: int) -> Reply:
    """utimensat(2): without a path it means the descriptor itself, which is how libc makes futimens."""
    if address:
        return _at_flags(broker, tid, "utime", dirfd, address, flags)
    return _by_descriptor(broker, tid, "utime", signed(dirfd))


def setxattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "setxattr", AT_FDCWD, args[0], follow=True)


def lsetxattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "setxattr", AT_FDCWD, args[0], follow=False)


def removexattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "removexattr", AT_FDCWD, args[0], follow=True)


def lremovexattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _one(broker, tid, "removexattr", AT_FDCWD, args[0], follow=False)


# ---------------------------------------------------------------- one descriptor, which need not be open for writing


def fchmod(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _by_descriptor(broker, tid, "chmod", signed(args[0]))


def fchown(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _by_descriptor(broker, tid, "chown", signed(args[0]))


def fsetxattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _by_descriptor(broker, tid, "setxattr", signed(args[0]))


def fremovexattr(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _by_descriptor(broker, tid, "removexattr", signed(args[0]))


# ---------------------------------------------------------------- two paths


def rename(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, AT_FDCWD, args[0], AT_FDCWD, args[1], 0)


def renameat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, args[0], args[1], args[2], args[3], 0)


def renameat2(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, args[0], args[1], args[2], args[3], args[4])


def _rename(broker: Broker, tid: int, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int) -> Reply:
    process = broker.processes.find(tid)
    old = broker.resolver.locate(tid, process.pid, signed(old_fd), process.read_string(tid, old_at), follow=False)
    new = broker.resolver.locate(tid, process.pid, signed(new_fd), process.read_string(tid, new_at), follow=False)
    for located in (old, new):
        if located.errno:
            return CONTINUE if located.errno == ASK_KERNEL else located.errno
    old_allowed, new_allowed = process.may_write(old.path, "rename"), process.may_write(new.path, "rename")
    if old_allowed and new_allowed:
        return CONTINUE
    try:
        first, second = os.lstat(old.path), os.lstat(new.path)
        if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
            return broker.succeed()  # rename(2): two links to one file, "does nothing, and returns success"
    except OSError:
        pass
    native = native_errno("rename", old, tid, flags=flags, other=new)
    if native:
        return native
    return broker.refuse(process, tid, Write("rename", new.path if old_allowed else old.path), errno.EACCES)


def link(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _link(broker, tid, AT_FDCWD, args[0], AT_FDCWD, args[1], 0)


def linkat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _link(broker, tid, args[0], args[1], args[2], args[3], args[4])


def _link(broker: Broker, tid: int, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int) -> Reply:
    process = broker.processes.find(tid)
    raw = process.read_string(tid, old_at)
    resolver = broker.resolver
    if not raw and flags & AT_EMPTY_PATH:
        old = resolver.descriptor(tid, signed(old_fd))
    else:
        follow = bool(flags & AT_SYMLINK_FOLLOW)
        old = resolver.locate(tid, process.pid, signed(old_fd), raw, follow=follow)
    new = resolver.locate(tid, process.pid, signed(new_fd), process.read_string(tid, new_at), follow=False)
    for located in (old, new):
        if located.errno:
            return CONTINUE if located.errno == ASK_KERNEL else located.errno
    # A second name in a writable place would make the file behind it writable: the source must be, too.
    source_allowed = not old.is_file or process.may_write(old.path)
    if source_allowed and process.may_write(new.path, "link"):
        return CONTINUE
    native = native_errno("link", new, tid, other=old if old.is_file else None)
    if native:
        return native
    return broker.refuse(process, tid, Write("link", new.path if source_allowed else old.path), errno.EACCES)


# ---------------------------------------------------------------- common parts


def _at_flags(broker: Broker, tid: int, op: str, dirfd: int, address: int, flags: int) -> Reply:
    if flags & AT_EMPTY_PATH and not broker.processes.find(tid).read_string(tid, address):
        return _by_descriptor(broker, tid, op, signed(dirfd))
    return _one(broker, tid, op, dirfd, address, follow=not flags & AT_SYMLINK_NOFOLLOW)


def _one(broker: Broker, tid: int, op: str, dirfd: int, address: int, *, follow: bool) -> Reply:
    process = broker.processes.find(tid)
    raw = process.read_string(tid, address)
    if op in INODE and (raw.endswith(_DIRECTORY_ENDS) or raw in (b".", b"..")):
        follow = True
    located = broker.resolver.locate(tid, process.pid, signed(dirfd), raw, follow=follow)
    return _judge(broker, process, tid, op, located)


def _by_descriptor(broker: Broker, tid: int, op: str, fd: int) -> Reply:
    process = broker.processes.find(tid)
    return _judge(broker, process, tid, op, broker.resolver.descriptor(tid, fd))


def _judge(broker: Broker, process: Process, tid: int, op: str, located: Located) -> Reply:
    if located.errno:
        return CONTINUE if located.errno == ASK_KERNEL else located.errno
    if not located.is_file or process.may_write(_own_proc(broker, process, located.path), op):
        return CONTINUE
    return _refuse(broker, process, tid, op, located)


def _refuse(broker: Broker, process: Process, tid: int, op: str, located: Located, *, flags: int = 0) -> Reply:
    native = native_errno(op, located, tid, flags=flags)
    if native:
        return CONTINUE if native == ASK_KERNEL else native
    shown = "create" if flags & _TMPFILE == _TMPFILE else op  # a rule for it can only be one for its directory
    return broker.refuse(process, tid, Write(shown, located.path), errno.EACCES)


def _own_proc(broker: Broker, process: Process, path: str) -> str:
    """``/proc/<pid>/x`` of the caller or of another fenced process is judged as ``/proc/self/x``."""
    if not path.startswith("/proc/"):
        return path
    pid, _, rest = path[6:].partition("/")
    if pid.isdigit():
        owner = broker.processes.by_pid.get(int(pid))
        if owner is not None and (owner.proven or owner is process):
            return f"/proc/self/{rest}"
    return path
