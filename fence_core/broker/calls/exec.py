"""Calls that change what a process is: a program started, a root or namespace entered, the limits of another one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, signed
from fence_core.broker.calls.secrets import secret_name
from fence_core.broker.reply import CONTINUE, Reply
from fence_core.kernel import credentials, links, namespaces
from fence_core.kernel.credentials import CAP_SYS_ADMIN
from fence_core.policy.requests import Run, SystemCall

if TYPE_CHECKING:
    from fence_core.broker.call import Call


_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h


def execve(call: Call) -> Reply:
    return _execute(call, (AT_FDCWD, call.args[0], call.args[1]), 0)


def execveat(call: Call) -> Reply:
    return _execute(call, (signed(call.args[0]), call.args[1], call.args[2]), call.args[4] & 0xFFFF_FFFF)


def _execute(call: Call, what: tuple[int, int, int], flags: int) -> Reply:
    """`deny_read` and rules for commands are judged. Stopping is what counts: a new program is bound to the test that
    starts it while its parent is still there, and the stack signal, which would now kill it, is forgotten."""
    dirfd, address, words = what
    refusal = call.services.commands.judge(call, dirfd, address, words)
    if refusal != CONTINUE:
        return refusal
    if call.services.watches_reads:
        refused = _refuse_program(call, dirfd, address, flags)
        if refused is not None:
            return refused
    call.services.processes.executes(call.process)
    return CONTINUE


def _refuse_program(call: Call, dirfd: int, address: int, flags: int) -> Reply | None:
    """Whoever runs a file has read it. None where it may be run; the kernel carries that out."""
    raw = call.read_string(address)
    if not raw and flags & AT_EMPTY_PATH:
        located = call.services.resolver.descriptor(call, dirfd)
    else:
        located = call.locate(dirfd, raw, follow=not flags & AT_SYMLINK_NOFOLLOW)
    failed = located.refusal(0)
    if failed:
        return failed
    if located.handle < 0:
        return None  # there is none
    status = os.fstat(located.handle)
    secret = secret_name(call, located, status)
    if not secret:
        return None
    if not status.st_mode & 0o111 or not stat.S_ISREG(status.st_mode):
        return errno.EACCES
    return call.refuse(Run(secret), errno.EACCES) or None


def change_root(call: Call) -> Reply:
    """chroot(2): from now on "/" may be another directory for some process of ours."""
    call.services.resolver.foreign_roots = True
    return CONTINUE


def change_identity(call: Call) -> Reply:
    """From now on a process may have other rights than at the start: see `identity.py`."""
    call.services.identities.note_change()
    return CONTINUE


def set_ids(call: Call) -> Reply:
    """setuid(2) and its kin: as `change_identity`, unless the process stays who it is."""
    call.services.identities.note_ids(call.tid, call.number, call.args)
    return CONTINUE


def setns(call: Call) -> Reply:
    """A namespace is known to be made inside by how its descriptor was had: below the /proc of another fenced
    process, or as a pidfd. What has a file name (``/run/netns/x``) was mounted there, which nobody can in here."""
    call.services.resolver.foreign_roots = True
    call.services.identities.note_change()
    try:
        path = os.readlink(f"/proc/{call.tid}/fd/{call.args[0] & 0xFFFF_FFFF}")
    except OSError:
        return CONTINUE  # EBADF
    if path.startswith("/"):
        answer = _no_namespace(call.identify(signed(call.args[0]))[0], call.args[1] & 0xFFFF_FFFF)
        if answer or not credentials.of(call.tid).may(CAP_SYS_ADMIN):
            return answer or errno.EPERM
    # Of mount namespaces root could have walked to others (ioctl_nsfs(2)): there, a path is not what it is here.
    if path.startswith("/") or (path.startswith("mnt:") and not _is_of_ours(call, path)):
        return call.refuse(SystemCall(f"enter namespace {path}", "namespace"), errno.EPERM)
    return CONTINUE


def _no_namespace(fd: int, kind: int) -> int:
    """The error of setns(2) for a descriptor of a file, if that is not a namespace, or none of this kind."""
    try:
        if not links.is_namespace(fd):
            return errno.EINVAL
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)  # which may be one with O_PATH
        try:
            return errno.EINVAL if kind not in (0, fcntl.ioctl(again, _NS_GET_NSTYPE)) else 0
        finally:
            os.close(again)
    finally:
        os.close(fd)


def _is_of_ours(call: Call, namespace: str) -> bool:
    """Whether some fenced process is in this mount namespace."""
    for pid in (call.tid, *call.services.processes.by_pid):
        try:
            if namespaces.of(pid, "mnt") == namespace:
                return True
        except OSError:
            continue
    return False


def prlimit(call: Call) -> Reply:
    """Only changes of another process's limits arrive here. With those of processes outside a test could end them,
    the guardian and the supervisor too: refused like a signal to them, which is no violation either."""
    return _unless_outside(call, call.args[0] & 0xFFFF_FFFF)


def schedule(call: Call) -> Reply:
    """sched_setscheduler(2) and its like on another process or thread."""
    return _unless_outside(call, call.args[0] & 0xFFFF_FFFF)


def set_priority(call: Call) -> Reply:
    """setpriority(2) on more than the caller."""
    return _prioritise(call, call.args[0] & 0xFFFF_FFFF, call.args[1] & 0xFFFF_FFFF)


def set_io_priority(call: Call) -> Reply:
    """ioprio_set(2) on more than the caller; its kinds count from 1."""
    return _prioritise(call, (call.args[0] & 0xFFFF_FFFF) - 1, call.args[1] & 0xFFFF_FFFF)


def _prioritise(call: Call, kind: int, who: int) -> Reply:
    if kind == os.PRIO_PROCESS:
        return _unless_outside(call, who)
    if kind not in (os.PRIO_PGRP, os.PRIO_USER):
        return CONTINUE  # EINVAL
    if kind == os.PRIO_PGRP and (who or os.getpgid(call.tid)) != os.getpgrp():
        return _unless_outside(call, who or os.getpgid(call.tid))
    # The supervisor is one of them.
    return CONTINUE if _has_own_numbers(call.tid) else call.refuse(_NEIGHBOURS, errno.EPERM)


_NEIGHBOURS = SystemCall("change the limits or the scheduling of processes outside", "neighbours")


def _unless_outside(call: Call, pid: int) -> Reply:
    if _has_own_numbers(call.tid):
        return CONTINUE
    if call.services.processes.is_ours(pid):
        return CONTINUE
    return call.refuse(_NEIGHBOURS, errno.EPERM) if os.path.exists(f"/proc/{pid}") else errno.ESRCH


def _has_own_numbers(tid: int) -> bool:
    """Whether it is in a PID namespace made inside, which has no numbers for what is outside."""
    return not namespaces.is_ours(tid, "pid")
