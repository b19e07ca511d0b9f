"""Opens for reading, and programs to be started, in sessions with `deny_read`: elsewhere neither is trapped for that.

The broker opens what it has judged, and hands the descriptor over: carried on by the kernel, the path could lead to
another file by then, and Landlock cannot take a file out of what may be read. Facts and consequences:

* What a process outside shows of itself in procfs the kernel tells nobody inside (Landlock is asked as ptrace is), but
  it would tell the broker: of those only what everybody may read is opened.
* Opening a pipe waits for its other end: that is left to a process of its own (`opener.py`).
* A terminal becomes that of a program that leads a session and has none, if it opens it itself. Such an open is
  continued; it is the one that could be led elsewhere.
* ``/dev/tty`` means the caller's terminal, which proc_pid_stat(5) names.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker import opener
from fence_core.broker.handlers import acting
from fence_core.broker.handlers.acting import is_of_a_stranger
from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from fence_core.broker.native_errno import native_errno
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.broker.resolve import follows
from fence_core.broker.terminals import TERMINAL_MAJORS, TTY, controlling, name_of
from fence_core.policy.requests import Read, Run

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.resolve import Located

_SHOWN_TO_ALL = frozenset(
    {
        "attr", "autogroup", "cgroup", "children", "cmdline", "comm", "coredump_filter", "cpuset", "gid_map", "limits",
        "loginuid",
        "mountinfo", "mounts", "mountstats", "net", "oom_adj", "oom_score", "oom_score_adj", "sched", "schedstat",
        "sessionid", "setgroups", "stat", "statm", "status", "task", "uid_map",
    }
)  # fmt: skip
"""Of ``/proc/PID``: what proc(5) does not make dependent on ptrace(2) access when it is opened."""


def open_to_read(call: Call, dirfd: int, raw: bytes, flags: int) -> Reply:
    """An open that changes nothing."""
    follow = follows(raw, not flags & os.O_NOFOLLOW)
    located = call.locate(dirfd, raw, follow=follow)
    if located.errno:
        return located.refusal(errno.ENOENT)
    failed = errno.ENOENT if follow and located.handle < 0 else located.pin(call)
    return failed or hand_over(call, located, located.handle, flags)


def hand_over(call: Call, located: Located, handle: int, flags: int) -> Reply:
    """Open the file behind an O_PATH descriptor for the caller, if it may be read."""
    status = os.fstat(handle)
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in TERMINAL_MAJORS:
        return open_terminal(call, handle, flags, status.st_rdev)
    if stat.S_ISFIFO(status.st_mode) and not flags & os.O_NONBLOCK and may_read(call, located, status):
        return opener.open_elsewhere(call, handle, flags)
    if call.services.resolver.is_other_procfs(handle):
        return errno.EACCES
    stranger = located.is_file and is_of_a_stranger(call.judged(located.path))
    if stranger and not _is_shown_to_all(located.path):
        return errno.EACCES
    opened = open_found(call, handle, flags)
    if opened == errno.EAGAIN and not flags & os.O_NONBLOCK:
        return opener.open_elsewhere(call, handle, flags)  # somebody has a lease on it
    if not isinstance(opened, HandOver):
        return opened  # the kernel's own refusal comes first, and is no violation
    if may_read(call, located, status):
        return opened
    refused = call.refuse(Read(_asked(call, located, status)), errno.EACCES)
    if refused == CONTINUE:
        return opened
    os.close(opened.fd)
    return refused


def refuse_open(call: Call, located: Located, flags: int) -> Reply | None:
    """For an open that may change something and reads as well: the refusal, or what a terminal answers; None where it
    is for the broker to open the file."""
    try:
        status = os.fstat(located.handle) if located.handle >= 0 else os.lstat(located.name, dir_fd=located.directory)
    except OSError:
        return None  # a new file: there is nothing to read
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in TERMINAL_MAJORS and located.handle >= 0:
        return open_terminal(call, located.handle, flags, status.st_rdev)
    if may_read(call, located, status):
        return None
    native = native_errno("open", located, call.tid, flags=flags)
    return native or call.refuse(Read(_asked(call, located, status)), errno.EACCES) or None


def may_read(call: Call, located: Located, status: os.stat_result) -> bool:
    """Whether no rule keeps this file from being read, by the path it was found at or by any other name of it."""
    path = _named(call, located)
    return all(
        judge.may_read(path) and not (status.st_nlink > 1 and judge.secret_name(status))
        for _, judge in call.process.account().judges
    )


def _named(call: Call, located: Located) -> str:
    """The path that rules speak of. A file that was removed had one: whoever has it open by O_PATH could remove it
    first, and read it then. For what never had a place on a disk it is no path at all, which no rule covers."""
    if not located.is_file and located.path.startswith("/"):
        return located.path.removesuffix(" (deleted)")
    return call.judged(located.path)


def _asked(call: Call, located: Located, status: os.stat_result) -> str:
    """By the name that a rule speaks of: a hard link may have been made long ago, under another one."""
    path = _named(call, located)
    for _, judge in call.process.account().judges:
        if not judge.may_read(path):
            break
        name = judge.secret_name(status) if status.st_nlink > 1 else ""
        if name:
            return name
    return path


def open_found(call: Call, handle: int, flags: int) -> HandOver | int:
    """Open what an O_PATH descriptor stands for, which does not keep anybody waiting."""
    kept = flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    opened = acting.hand_over(call, flags, lambda ours: os.open(f"/proc/self/fd/{handle}", kept | ours))
    if isinstance(opened, int) and flags & os.O_NOFOLLOW and stat.S_ISLNK(os.fstat(handle).st_mode):
        return errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP
    return opened


def open_terminal(call: Call, handle: int, flags: int, device: int) -> Reply:
    """Open a terminal for the caller, if only it can become that of its session by itself."""
    session, process, terminal = controlling(call.tid)
    if device == TTY:
        if not terminal:
            return errno.ENXIO
        try:
            handle = os.open(name_of(terminal), os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            return error.errno or errno.ENXIO
        call.keep(handle)
        if os.fstat(handle).st_rdev != terminal:
            return errno.ENXIO
    elif not terminal and not flags & os.O_NOCTTY and session == process:
        return CONTINUE
    return open_found(call, handle, flags)


def _is_shown_to_all(path: str) -> bool:
    parts = path.split("/")[3:]
    if parts[:1] == ["task"] and len(parts) > 1:
        parts = parts[2:]
    return not parts or parts[0] in _SHOWN_TO_ALL


def refuse_program(call: Call, dirfd: int, address: int, flags: int) -> Reply | None:
    """Whoever runs a file has read it. None where it may be run; the kernel carries that out."""
    raw = call.read_string(address)
    if not raw and flags & AT_EMPTY_PATH:
        located = call.services.resolver.descriptor(call, dirfd)
    else:
        follow = not flags & AT_SYMLINK_NOFOLLOW
        located = call.locate(dirfd, raw, follow=follow)
    failed = located.refusal(0)
    if failed:
        return failed
    if located.handle < 0:
        return None  # there is none
    status = os.fstat(located.handle)
    if may_read(call, located, status):
        return None
    if not status.st_mode & 0o111 or not stat.S_ISREG(status.st_mode):
        return errno.EACCES
    return call.refuse(Run(_asked(call, located, status)), errno.EACCES) or None
