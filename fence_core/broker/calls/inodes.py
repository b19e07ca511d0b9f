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
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, signed
from fence_core.broker.calls.changing import (
    AT_FLAGS,
    Change,
    change_descriptor,
    change_found,
    change_path,
    find_path,
    for_os,
)
from fence_core.broker.paths import inode_errno, opener
from fence_core.broker.reply import HandOver, Reply, Value, Wait
from fence_core.kernel import arch, calls, libc, signals
from fence_core.kernel import process as kernel_process

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_LONG = ctypes.c_long
_syscall = libc.function("syscall", _LONG, _LONG, _LONG, ctypes.c_char_p, _LONG, _LONG, _LONG)
_set_times = libc.function("syscall", _LONG, _LONG, _LONG, ctypes.c_char_p, ctypes.c_char_p, _LONG)

# ---------------------------------------------------------------- mode


def chmod(call: Call) -> Reply:
    return change_path(call, _mode(call.args[1]), AT_FDCWD, call.args[0])


def fchmodat(call: Call) -> Reply:
    return change_path(call, _mode(call.args[2]), signed(call.args[0]), call.args[1])


def fchmodat2(call: Call) -> Reply:
    if not calls.exists("fchmodat2"):
        return errno.ENOSYS
    flags = call.args[3] & 0xFFFF_FFFF
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    return change_path(call, _mode(call.args[2]), signed(call.args[0]), call.args[1], flags)


def fchmod(call: Call) -> Reply:
    return change_descriptor(call, _mode(call.args[1]), signed(call.args[0]))


def _no_mode(fd: int, borrowed: bool) -> int:
    return inode_errno.of_mode(fd)


def _mode(mode: int) -> Change:
    mode &= 0o7777
    if not calls.exists("fchmodat2"):
        return Change("chmod", lambda fd, borrowed: os.chmod(for_os(fd, borrowed), mode), _no_mode)

    def act(fd: int, borrowed: bool) -> int | None:
        if borrowed:
            os.fchmod(fd, mode)
            return None
        failed = _syscall(arch.current().calls["fchmodat2"], fd, b"", mode, AT_EMPTY_PATH, 0)
        return ctypes.get_errno() if failed else None

    return Change("chmod", act, _no_mode)


# ---------------------------------------------------------------- owner


def chown(call: Call) -> Reply:
    return change_path(call, _owner(call, call.args[1], call.args[2]), AT_FDCWD, call.args[0])


def lchown(call: Call) -> Reply:
    return change_path(call, _owner(call, call.args[1], call.args[2]), AT_FDCWD, call.args[0], AT_SYMLINK_NOFOLLOW)


def fchownat(call: Call) -> Reply:
    flags = call.args[4] & 0xFFFF_FFFF
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    return change_path(call, _owner(call, call.args[2], call.args[3]), signed(call.args[0]), call.args[1], flags)


def fchown(call: Call) -> Reply:
    return change_descriptor(call, _owner(call, call.args[1], call.args[2]), signed(call.args[0]))


_UNCHANGED = 0xFFFF_FFFF


def _owner(call: Call, uid: int, gid: int) -> Change:
    uid, gid = uid & _UNCHANGED, gid & _UNCHANGED
    if call.services.identities.changed:
        outer = call.services.identities.outer_ids(call.tid, uid, gid)
        if outer is None:
            # chown(2) in a user namespace that has no such id
            return Change("chown", lambda *_: errno.EINVAL, lambda *_: errno.EINVAL)
        uid, gid = outer

    def act(fd: int, borrowed: bool) -> int | None:
        if borrowed:
            # To `os`, as to the C library, -1 is what leaves an id alone.
            os.fchown(fd, uid if uid != _UNCHANGED else -1, gid if gid != _UNCHANGED else -1)
            return None
        failed = _syscall(arch.current().calls["fchownat"], fd, b"", uid, gid, AT_EMPTY_PATH)
        return ctypes.get_errno() if failed else None

    return Change("chown", act, lambda fd, _: inode_errno.of_owner(call.tid, fd, uid, gid))


# ---------------------------------------------------------------- times

_PAIR = struct.Struct("=qq")
_PAIRS = struct.Struct("=qqqq")
_UTIME_OMIT = (1 << 30) - 2  # include/uapi/linux/stat.h
_MICROSECONDS = 1_000_000


def utime(call: Call) -> Reply:
    """With whole seconds, a struct utimbuf."""
    times = None
    if call.args[1]:
        accessed, modified = _PAIR.unpack(call.read(call.args[1], _PAIR.size))
        times = _PAIRS.pack(accessed, 0, modified, 0)
    return _change_times(call, AT_FDCWD, call.args[0], times, 0)


def utimes(call: Call) -> Reply:
    return _with_microseconds(call, AT_FDCWD, call.args[0], call.args[1])


def futimesat(call: Call) -> Reply:
    return _with_microseconds(call, signed(call.args[0]), call.args[1], call.args[2])


def _with_microseconds(call: Call, dirfd: int, address: int, times_at: int) -> Reply:
    times = None
    if times_at:
        a, a_us, m, m_us = _PAIRS.unpack(call.read(times_at, _PAIRS.size))
        if not (0 <= a_us < _MICROSECONDS and 0 <= m_us < _MICROSECONDS):
            return errno.EINVAL
        times = _PAIRS.pack(a, a_us * 1000, m, m_us * 1000)
    return _change_times(call, dirfd, address, times, 0)


def utimensat(call: Call) -> Reply:
    times = None
    if call.args[2]:
        times = call.read(call.args[2], _PAIRS.size)
        _, a_ns, _, m_ns = _PAIRS.unpack(times)
        if a_ns == m_ns == _UTIME_OMIT:
            return Value(0)  # "we must not even check the path" (fs/utimes.c)
    return _change_times(call, signed(call.args[0]), call.args[1], times, call.args[3] & 0xFFFF_FFFF)


def _change_times(call: Call, dirfd: int, address: int, times: bytes | None, flags: int) -> Reply:
    """Without a path it is about the descriptor itself, which is how libc makes futimens."""
    nanoseconds = None if times is None else _PAIRS.unpack(times)[1::2]

    def refused(fd: int, borrowed: bool) -> int:
        return inode_errno.of_times(call.tid, fd, nanoseconds)

    change = Change("utime", _times(times), refused)
    if not address and dirfd != AT_FDCWD:
        if flags:
            return errno.EINVAL
        return change_descriptor(call, change, dirfd)
    if flags & ~AT_FLAGS:
        return errno.EINVAL
    return change_path(call, change, dirfd, address, flags)


def _times(times: bytes | None) -> Callable[[int, bool], int | None]:
    """As the kernel takes them, since Python knows neither UTIME_NOW nor UTIME_OMIT. None: now."""

    def act(fd: int, borrowed: bool) -> int | None:
        number = arch.current().calls["utimensat"]
        failed = (
            _set_times(number, fd, None, times, 0) if borrowed else _set_times(number, fd, b"", times, AT_EMPTY_PATH)
        )
        return ctypes.get_errno() if failed else None

    return act


# ---------------------------------------------------------------- length


def truncate(call: Call) -> Reply:
    """truncate(2). ftruncate(2) needs a descriptor open for writing, which was judged when it was opened."""
    length = call.args[1] - (1 << 64) if call.args[1] >> 63 else call.args[1]
    if length < 0:
        return errno.EINVAL
    located = find_path(call, AT_FDCWD, call.read_string(call.args[0]), "truncate")
    if isinstance(located, int):
        return located
    status = os.fstat(located.handle)
    if not stat.S_ISREG(status.st_mode):
        return errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    too_long = length > status.st_size and length > _file_size_limit(call.tid)

    def act(fd: int, _: bool) -> int | None:
        # Not truncate(2): that would wait for whoever has a lease on the file (fcntl(2), F_SETLEASE).
        opened = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if too_long:
            os.close(opened)
            signals.tgkill(call.process.pid, call.tid, signal.SIGXFSZ)  # as the kernel does (setrlimit(2))
            return errno.EFBIG
        return _cut(opened, length)

    reply = change_found(call, Change("truncate", act), located)
    if reply == errno.EAGAIN:
        opening = opener.open_elsewhere(call, located.handle, os.O_WRONLY)
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
