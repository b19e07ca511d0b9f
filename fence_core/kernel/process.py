"""Facts about processes from /proc, and the forks that Python does not offer.

Sources: proc_pid_status(5), proc_pid_stat(5), proc_tid_children(5), clone(2).

Everything here is true of the moment it was read. A process that is gone raises `ProcessLookupError`, whichever
way the kernel said so (no such directory, or ESRCH in mid-read).
"""

from __future__ import annotations

import os
import posix
import sys
from errno import ENOENT, ESRCH
from typing import NamedTuple

from fence_core.errors import BrokerError, FenceUnavailable
from fence_core.kernel import arch, libc

# Source: include/uapi/linux/sched.h.
_CLONE_FILES = 0x00000400
_CLONE_PARENT = 0x00008000
_WALL = 0x40000000  # include/uapi/linux/wait.h
_SIGCHLD = 17  # the same on both machines

_CHUNK = 8192  # /proc/PID/status has less than 2 KiB, but as many groups as it likes


def clone_parent() -> int:
    """Fork a sibling: the new process is our parent's child, not ours. Return 0 in it, its pid here.

    A bare clone(2): no at-fork handler has run in the new process, neither Python's nor libc's. It must stay
    with what `kernel` offers, start no thread and leave by `libc.exit_now`. Its end sends our parent the
    signal that our own end will send, and it is our parent that waits for it. Raises `BrokerError` when this
    process has a second thread, else `KernelCallError`: EAGAIN, ENOMEM, EINVAL in the init of a pid namespace.
    """
    return _clone(_CLONE_PARENT | _SIGCHLD, "clone(CLONE_PARENT)")


def clone_child() -> int:
    """As `clone_parent`, but the new process is our child."""
    return _clone(_SIGCHLD, "clone")


def clone_with_our_files() -> int:
    """As `clone_child`, but both have one table of descriptors until the new process ends, which sends no signal.

    `wait_for_clone` waits for it. It must close nothing, and collect no garbage, which may close things.
    """
    return _clone(_CLONE_FILES, "clone(CLONE_FILES)")


def wait_for_clone(pid: int) -> int:
    """The wait status of a child that sends no signal when it ends. Raises `OSError`."""
    return os.waitpid(pid, _WALL)[1]


def _clone(flags: int, call: str) -> int:
    if thread_count() != 1:
        # The new process would own locks, of the interpreter and of malloc, that a thread holds which it does
        # not have. Python's first switch of threads waits for one for ever (measured).
        raise BrokerError(f"{call}: this process has more than one thread")
    # With only flags given the argument orders agree: x86_64 has (flags, stack, parent_tid, child_tid, tls),
    # aarch64 (flags, stack, parent_tid, tls, child_tid). No stack means: go on on a copy of this one.
    # The interpreter's lock is kept, so that both sides come back holding it.
    return libc.syscall_locked(arch.current().calls["clone"], flags, 0, 0, 0, 0, call=call)


def fork_unnoticed() -> int:
    """Fork as `os.fork` does, but let the child go on as if it were this process: 0 in it, its pid here.

    No at-fork handler runs, so that `random` keeps its state and coverage its data file. That is safe only without
    other threads; where there are any, and where libc has no such fork, it is an ordinary one. Raises `OSError`.
    """
    if thread_count() == 1:
        try:
            pid = libc.bare_fork()
        except FenceUnavailable:
            pass
        else:
            if pid == 0 and "threading" in sys.modules:
                # What the interpreter's own handler would have set right: the one id that has changed.
                sys.modules["threading"].main_thread()._set_native_id()
            return pid
    return posix.fork()  # debuggers put functions of their own in the place of those in `os`


def read_proc(path: str) -> bytes:
    """Return the whole of a file below /proc/PID. Raises `ProcessLookupError` when PID is gone, `OSError`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, _CHUNK)
            if len(data) < _CHUNK:
                return data  # these files come whole or in full chunks
            parts = [data]
            while data:
                data = os.read(fd, _CHUNK)
                parts.append(data)
            return b"".join(parts)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (ENOENT, ESRCH):
            raise ProcessLookupError(ESRCH, os.strerror(ESRCH), path) from None
        raise


class Status(NamedTuple):
    """What a thread belongs to. Numbers as this process's namespaces see them."""

    tgid: int
    ppid: int  # 0: the parent is outside this pid namespace


def field(status: bytes, name: bytes) -> bytes:
    """Return the value of `name` (as b"Tgid") in a status file, stripped; empty when the kernel has it not."""
    # The one field a process fills in freely is Name, on the first line, with newlines escaped.
    start = status.find(b"\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 2
    end = status.find(b"\n", start)
    return status[start : end if end >= 0 else None].strip()


def filter_count(pid: int) -> int:
    """Return how many seccomp filters are in force there. Raises `ProcessLookupError`, `OSError`."""
    status = read_proc(f"/proc/{pid}/status")
    count = field(status, b"Seccomp_filters")  # since Linux 5.9
    return int(count) if count else int(field(status, b"Seccomp") == b"2")


def status_fields(pid: int) -> Status:
    """Return the status of process or thread `pid`. Raises `ProcessLookupError`."""
    raw = read_proc(f"/proc/{pid}/status")
    return Status(tgid=int(field(raw, b"Tgid")), ppid=int(field(raw, b"PPid")))


def thread_group(tid: int) -> int:
    """Return the pid of the process that thread `tid` belongs to. Raises `ProcessLookupError`."""
    return int(field(read_proc(f"/proc/{tid}/status"), b"Tgid"))


def thread_count() -> int:
    """Return how many threads this process has, those that Python knows nothing of included."""
    return len(os.listdir("/proc/self/task"))


def children(pid: int | None = None) -> list[int]:
    """Return the pids of the children of `pid` (this process), ended ones that nobody waited for included.

    Raises `ProcessLookupError`.
    """
    task = f"/proc/{'self' if pid is None else pid}/task"
    found: list[int] = []
    try:
        tids = os.listdir(task)
    except FileNotFoundError:
        raise ProcessLookupError(ESRCH, os.strerror(ESRCH), task) from None
    for tid in tids:
        try:
            # Without CONFIG_PROC_CHILDREN this file is missing, though the thread is there.
            found += map(int, read_proc(f"{task}/{tid}/children").split())
        except ProcessLookupError:
            if os.path.exists(f"{task}/{tid}"):
                return _children_by_search(os.getpid() if pid is None else pid)
    return found


def _children_by_search(pid: int) -> list[int]:
    found: list[int] = []
    wanted = b"%d" % pid
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if field(read_proc(f"/proc/{name}/status"), b"PPid") == wanted:
                    found.append(int(name))
            except ProcessLookupError:
                pass
    return found


# Numbers of fields, by which `stat_fields` has them. Source: proc_pid_stat(5).
STATE, PPID, SESSION, TTY_NR, NUM_THREADS, STARTTIME = 3, 4, 6, 7, 20, 22
STARTCODE, STARTSTACK, START_DATA, ENV_START, ENV_END = 26, 28, 45, 50, 51


def stat_fields(pid: int | str, last: int = -1) -> list[bytes]:
    """The fields of /proc/PID/stat under their numbers, from `STATE` on; behind `last` they need not be taken apart.

    Raises `ProcessLookupError`.
    """
    raw = read_proc(f"/proc/{pid}/stat")
    # The program name, field 2, is in brackets and may hold anything, brackets included.
    return [b"", b"", b"", *raw[raw.rindex(b")") + 2 :].split(None, last - 2 if last > 0 else -1)]


def start_time(pid: int) -> int:
    """Return when `pid` was started, in clock ticks since boot: (pid, start_time) names a process for good.

    Raises `ProcessLookupError`.
    """
    return int(stat_fields(pid, STARTTIME)[STARTTIME])


def program_name(pid: int) -> str:
    """Return the name of the program, at most 15 bytes, or what the process calls itself (PR_SET_NAME).

    Not to be trusted, and may hold any character but NUL. Raises `ProcessLookupError`.
    """
    raw = read_proc(f"/proc/{pid}/comm")
    return os.fsdecode(raw[:-1] if raw.endswith(b"\n") else raw)


def argv(pid: int) -> tuple[str, ...]:
    """Return the command line; empty for a process that has ended. Not to be trusted: the process can change it.

    Raises `ProcessLookupError`.
    """
    raw = read_proc(f"/proc/{pid}/cmdline")
    if not raw:
        return ()
    if raw.endswith(b"\0"):
        raw = raw[:-1]
    return tuple(os.fsdecode(word) for word in raw.split(b"\0"))
