"""Calls that change a file itself and not its name: mode, owner, times and length; by path or by descriptor.

Extended attributes and flags are next door, in `xattrs` and `flags`. How each is carried out: `changing`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fence_core.broker import inode_errno, opener
from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Arguments, signed
from fence_core.broker.handlers.changing import (
    AT_FLAGS,
    Change,
    change,
    change_descriptor,
    change_path,
    find_path,
    for_os,
)
from fence_core.broker.reply import HandOver, Reply, Value, Wait
from fence_core.kernel import arch, calls, libc
from fence_core.kernel import process as kernel_process

if TYPE_CHECKING:
    from fence_core.broker.loop import Broker

_LONG = ctypes.c_long
_syscall = libc.function("syscall", _LONG, _LONG, _LONG, ctypes.c_char_p, _LONG, _LONG, _LONG)
_set_times = libc.function("syscall", _LONG, _LONG, _LONG, ctypes.c_char_p, ctypes.c_char_p, _LONG)

# ---------------------------------------------------------------- mode


def chmod(broker: Broker, tid: int, args: Arguments) -> Reply:
    return change_path(broker, tid, "chmod", AT_FDCWD, args[0], _mode(args[1]), refused=_no_mode)


def fchmodat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return change_path(broker, tid, "chmod", signed(args[0]), args[1], _mode(args[2]), refused=_no_mode)


def fchmodat2(broker: Broker, tid: int, args: Arguments) -> Reply:
    if not calls.exists("fchmodat2"):
        return errno.ENOSYS
    flags = args[3] & 0xFFFF_FFFF
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    return change_path(broker, tid, "chmod", signed(args[0]), args[1], _mode(args[2]), flags=flags, refused=_no_mode)


def fchmod(broker: Broker, tid: int, args: Arguments) -> Reply:
    return change_descriptor(broker, tid, "chmod", signed(args[0]), _mode(args[1]), refused=_no_mode)


def _no_mode(fd: int, borrowed: bool) -> int:
    return inode_errno.of_mode(fd)


def _mode(mode: int) -> Change:
    mode &= 0o7777
    if not calls.exists("fchmodat2"):
        return lambda fd, borrowed: os.chmod(for_os(fd, borrowed), mode)

    def act(fd: int, borrowed: bool) -> int | None:
        if borrowed:
            os.fchmod(fd, mode)
            return None
        failed = _syscall(arch.current().calls["fchmodat2"], fd, b"", mode, AT_EMPTY_PATH, 0)
        return ctypes.get_errno() if failed else None

    return act


# ---------------------------------------------------------------- owner


def chown(broker: Broker, tid: int, args: Arguments) -> Reply:
    owner = _owner(broker, tid, args[1], args[2])
    return change_path(broker, tid, "chown", AT_FDCWD, args[0], owner.change, refused=owner.refused)


def lchown(broker: Broker, tid: int, args: Arguments) -> Reply:
    owner = _owner(broker, tid, args[1], args[2])
    return change_path(
        broker, tid, "chown", AT_FDCWD, args[0], owner.change, flags=AT_SYMLINK_NOFOLLOW, refused=owner.refused
    )


def fchownat(broker: Broker, tid: int, args: Arguments) -> Reply:
    flags = args[4] & 0xFFFF_FFFF
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    owner = _owner(broker, tid, args[2], args[3])
    return change_path(broker, tid, "chown", signed(args[0]), args[1], owner.change, flags=flags, refused=owner.refused)


def fchown(broker: Broker, tid: int, args: Arguments) -> Reply:
    owner = _owner(broker, tid, args[1], args[2])
    return change_descriptor(broker, tid, "chown", signed(args[0]), owner.change, refused=owner.refused)


_UNCHANGED = 0xFFFF_FFFF


class _Owner(NamedTuple):
    change: Change
    refused: Callable[[int, bool], int]


def _owner(broker: Broker, tid: int, uid: int, gid: int) -> _Owner:
    uid, gid = uid & _UNCHANGED, gid & _UNCHANGED
    if broker.identities.changed:
        outer = broker.identities.outer_ids(tid, uid, gid)
        if outer is None:
            # chown(2) in a user namespace that has no such id
            return _Owner(lambda *_: errno.EINVAL, lambda *_: errno.EINVAL)
        uid, gid = outer

    def act(fd: int, borrowed: bool) -> int | None:
        if borrowed:
            # To `os`, as to the C library, -1 is what leaves an id alone.
            os.fchown(fd, uid if uid != _UNCHANGED else -1, gid if gid != _UNCHANGED else -1)
            return None
        failed = _syscall(arch.current().calls["fchownat"], fd, b"", uid, gid, AT_EMPTY_PATH)
        return ctypes.get_errno() if failed else None

    return _Owner(act, lambda fd, _: inode_errno.of_owner(tid, fd, uid, gid))


# ---------------------------------------------------------------- times

_PAIR = struct.Struct("=qq")
_PAIRS = struct.Struct("=qqqq")
_UTIME_OMIT = (1 << 30) - 2  # include/uapi/linux/stat.h
_MICROSECONDS = 1_000_000


def utime(broker: Broker, tid: int, args: Arguments) -> Reply:
    """With whole seconds, a struct utimbuf."""
    times = None
    if args[1]:
        accessed, modified = _PAIR.unpack(broker.processes.find(tid).read(tid, args[1], _PAIR.size))
        times = _PAIRS.pack(accessed, 0, modified, 0)
    return _change_times(broker, tid, AT_FDCWD, args[0], times, 0)


def utimes(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _with_microseconds(broker, tid, AT_FDCWD, args[0], args[1])


def futimesat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _with_microseconds(broker, tid, signed(args[0]), args[1], args[2])


def _with_microseconds(broker: Broker, tid: int, dirfd: int, address: int, times_at: int) -> Reply:
    times = None
    if times_at:
        a, a_us, m, m_us = _PAIRS.unpack(broker.processes.find(tid).read(tid, times_at, _PAIRS.size))
        if not (0 <= a_us < _MICROSECONDS and 0 <= m_us < _MICROSECONDS):
            return errno.EINVAL
        times = _PAIRS.pack(a, a_us * 1000, m, m_us * 1000)
    return _change_times(broker, tid, dirfd, address, times, 0)


def utimensat(broker: Broker, tid: int, args: Arguments) -> Reply:
    times = None
    if args[2]:
        times = broker.processes.find(tid).read(tid, args[2], _PAIRS.size)
        _, a_ns, _, m_ns = _PAIRS.unpack(times)
        if a_ns == m_ns == _UTIME_OMIT:
            return Value(0)  # "we must not even check the path" (fs/utimes.c)
    return _change_times(broker, tid, signed(args[0]), args[1], times, args[3] & 0xFFFF_FFFF)


def _change_times(broker: Broker, tid: int, dirfd: int, address: int, times: bytes | None, flags: int) -> Reply:
    """Without a path it is about the descriptor itself, which is how libc makes futimens."""
    nanoseconds = None if times is None else _PAIRS.unpack(times)[1::2]

    def refused(fd: int, borrowed: bool) -> int:
        return inode_errno.of_times(tid, fd, nanoseconds)

    if not address and dirfd != AT_FDCWD:
        if flags:
            return errno.EINVAL
        return change_descriptor(broker, tid, "utime", dirfd, _times(times), refused=refused)
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    return change_path(broker, tid, "utime", dirfd, address, _times(times), flags=flags, refused=refused)


def _times(times: bytes | None) -> Change:
    """As the kernel takes them, since Python knows neither UTIME_NOW nor UTIME_OMIT. None: now."""

    def act(fd: int, borrowed: bool) -> int | None:
        number = arch.current().calls["utimensat"]
        failed = (
            _set_times(number, fd, None, times, 0) if borrowed else _set_times(number, fd, b"", times, AT_EMPTY_PATH)
        )
        return ctypes.get_errno() if failed else None

    return act


# ---------------------------------------------------------------- length


def truncate(broker: Broker, tid: int, args: Arguments) -> Reply:
    """truncate(2). ftruncate(2) needs a descriptor open for writing, which was judged when it was opened."""
    length = args[1] - (1 << 64) if args[1] >> 63 else args[1]
    if length < 0:
        return errno.EINVAL
    process = broker.processes.find(tid)
    located = find_path(broker, process, tid, AT_FDCWD, process.read_string(tid, args[0]), "truncate", follow=True)
    if isinstance(located, int):
        return located
    status = os.fstat(located.handle)
    if not stat.S_ISREG(status.st_mode):
        return errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    too_long = length > status.st_size and length > _file_size_limit(tid)

    def act(fd: int, _: bool) -> int | None:
        # Not truncate(2): that would wait for whoever has a lease on the file (fcntl(2), F_SETLEASE).
        opened = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if too_long:
            os.close(opened)
            _signal_thread(process.pid, tid, signal.SIGXFSZ)
            return errno.EFBIG
        return _cut(opened, length)

    reply = change(broker, process, tid, "truncate", located, act)
    if reply == errno.EAGAIN:
        opening = opener.open_elsewhere(broker, tid, located.handle, os.O_WRONLY)
        return opening if isinstance(opening, int) else _truncate_later(opening, length)
    return reply


def _truncate_later(opening: Wait, length: int) -> Wait:
    """Once the file could be opened: from then on nobody can get a lease on it."""
    opened = opening.poll

    def poll() -> int | Value | HandOver | None:
        answer = opened()
        if not isinstance(answer, HandOver):
            return answer
        return _cut(answer.fd, length) or Value(0)

    opening.poll = poll
    return opening


def _cut(fd: int, length: int) -> int | None:
    try:
        os.ftruncate(fd, length)
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
    return None


def _file_size_limit(tid: int) -> int:
    """From proc_pid_limits(5): prlimit(2) wants CAP_SYS_RESOURCE for a process that has changed its user."""
    for line in kernel_process.read_proc(f"/proc/{tid}/limits").splitlines():
        if line.startswith(b"Max file size"):
            soft = line.split()[3]
            return 1 << 63 if soft == b"unlimited" else int(soft)
    return 1 << 63


def _signal_thread(tgid: int, tid: int, number: int) -> None:
    """What the kernel sends who makes a file larger than his limit (setrlimit(2)). Raises ProcessLookupError."""
    libc.syscall(arch.current().calls["tgkill"], tgid, tid, number, call="tgkill")
