"""Calls that change a file itself and not its name: mode, owner, times, attributes, length; by path or by descriptor.

Landlock knows nothing of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.broker.handlers.acting import DIRECTORY_ENDS, judged_path, refusal
from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Arguments, signed
from fence_core.broker.native_errno import INODE
from fence_core.broker.reply import CONTINUE, Reply
from fence_core.broker.resolve import ASK_KERNEL

if TYPE_CHECKING:
    from fence_core.broker.attribution import Process
    from fence_core.broker.loop import Broker
    from fence_core.broker.resolve import Located


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


def _at_flags(broker: Broker, tid: int, op: str, dirfd: int, address: int, flags: int) -> Reply:
    if flags & AT_EMPTY_PATH and not broker.processes.find(tid).read_string(tid, address):
        return _by_descriptor(broker, tid, op, signed(dirfd))
    return _one(broker, tid, op, dirfd, address, follow=not flags & AT_SYMLINK_NOFOLLOW)


def _one(broker: Broker, tid: int, op: str, dirfd: int, address: int, *, follow: bool) -> Reply:
    process = broker.processes.find(tid)
    raw = process.read_string(tid, address)
    if op in INODE and (raw.endswith(DIRECTORY_ENDS) or raw in (b".", b"..")):
        follow = True
    located = broker.resolver.locate(tid, process.pid, signed(dirfd), raw, follow=follow)
    return _judge(broker, process, tid, op, located)


def _by_descriptor(broker: Broker, tid: int, op: str, fd: int) -> Reply:
    process = broker.processes.find(tid)
    return _judge(broker, process, tid, op, broker.resolver.descriptor(tid, fd))


def _judge(broker: Broker, process: Process, tid: int, op: str, located: Located) -> Reply:
    if located.errno:
        return CONTINUE if located.errno == ASK_KERNEL else located.errno
    if not located.is_file or process.may_write(judged_path(broker, process, located.path), op):
        return CONTINUE
    return refusal(broker, process, tid, op, located)
