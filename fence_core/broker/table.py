"""Which calls stop at the broker, and who handles each: the dispatcher and the seccomp filter come from this table.

To add a call: a row here, a handler in `handlers/`, a row in the end-to-end table of its family. See
`docs/internals/adding-a-syscall.md`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fence_core.broker.handlers import (
    binding,
    connecting,
    files,
    flags,
    inodes,
    making,
    messages,
    moves,
    options,
    privileged,
    queues,
    ties,
    xattrs,
)
from fence_core.broker.handlers import exec as exec_
from fence_core.kernel import bpf
from fence_core.kernel.arch import Arch

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.reply import Reply

    Handler = Callable[[Call], Reply]

TRAP = bpf.RET_USER_NOTIF
ALLOW = bpf.RET_ALLOW


def _opens(flags_arg: int) -> tuple[bpf.Case | int, ...]:
    """Only opens that can change something: the flags are in a register, so the filter itself can tell."""
    return (bpf.Case((bpf.Condition(flags_arg, "any_bits", files.CHANGES),), TRAP), ALLOW)


_SOCKET: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(0, "eq", socket.AF_UNIX),), ALLOW),
    bpf.Case((bpf.Condition(0, "eq", 16),), ALLOW),  # AF_NETLINK
    TRAP,
)
_SENDTO: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(4, "ne", 0, 64),), TRAP),
    bpf.Case((bpf.Condition(3, "any_bits", messages.MSG_FASTOPEN),), TRAP),
    ALLOW,
)
_RECVFROM: tuple[bpf.Case | int, ...] = (bpf.Case((bpf.Condition(4, "ne", 0, 64),), TRAP), ALLOW)
_TIES = tuple(
    bpf.Case((bpf.Condition(2, "eq", name), bpf.Condition(1, "eq", socket.SOL_SOCKET)), TRAP)
    for name in (ties.SO_BINDTODEVICE, ties.SO_BINDTOIFINDEX)
)
_SETSOCKOPT: tuple[bpf.Case | int, ...] = (
    *_TIES,
    bpf.Case((bpf.Condition(1, "eq", socket.IPPROTO_IP), bpf.Condition(2, "eq", 4), bpf.Condition(4, "ne", 0)), TRAP),
    # 32 to 63: interfaces, memberships and their filters, and what else of these levels has such a number.
    *(
        bpf.Case(
            (bpf.Condition(1, "eq", level), bpf.Condition(2, "any_bits", 32), bpf.Condition(2, "no_bits", 0xFFFFFFC0)),
            TRAP,
        )
        for level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6)
    ),
    *(
        bpf.Case((bpf.Condition(2, "eq", name), bpf.Condition(1, "eq", socket.IPPROTO_IPV6)), TRAP)
        for name in options.IPV6_NAMES
    ),
    ALLOW,
)
_GETSOCKOPT: tuple[bpf.Case | int, ...] = (*_TIES, ALLOW)

_USERFAULTFD_NEW = 0xAA00  # of /dev/userfaultfd, include/uapi/linux/userfaultfd.h
_TCGETS = 0x5401  # what isatty asks, of every file that is opened: it comes first
_WITHOUT_SIZE = 0xFFFF0000
_FREQUENT = (_TCGETS, 0x541B, 0x5413, 0x5421, 0x5451)
"""FIONREAD, TIOCGWINSZ, FIONBIO and FIOCLEX besides: requests that do not go through the whole list."""


def _ioctl(refused_plain: tuple[int, ...], refused: tuple[int, ...]) -> tuple[bpf.Case | int, ...]:
    """Requests that are stopped, and those that are refused: without and with the bits of size and direction."""
    eperm = bpf.errno_action(errno.EPERM)
    return (
        *(bpf.Case((bpf.Condition(1, "eq", request),), ALLOW) for request in _FREQUENT),
        bpf.Case((bpf.Condition(1, "eq", privileged.TIOCSTI),), TRAP),
        bpf.Case((bpf.Condition(1, "eq", privileged.TIOCLINUX),), TRAP),
        bpf.Case((bpf.Condition(1, "eq", privileged.TIOCSCTTY), bpf.Condition(2, "ne", 0, 64)), TRAP),
        bpf.Case((bpf.Condition(1, "eq", _USERFAULTFD_NEW),), eperm),  # see `_EPERM`
        *(bpf.Case((bpf.Condition(1, "eq", request),), eperm) for request in refused_plain),
        # Most requests of terminals, pipes and sockets end here.
        bpf.Case((bpf.Condition(1, "no_bits", _WITHOUT_SIZE),), ALLOW),
        *(bpf.Case((bpf.Condition(1, "eq", request),), TRAP) for request in flags.REQUESTS),
        *(bpf.Case((bpf.Condition(1, "eq", request),), eperm) for request in refused),
        ALLOW,
    )


_IOCTL = _ioctl(flags.REFUSED_PLAIN, flags.REFUSED)
_IOCTL_OF_ROOT = _ioctl(flags.REFUSED_PLAIN + flags.OF_ROOT, flags.REFUSED + flags.OF_ROOT_SIZED)

_RLIMIT_LOCKS = 10
_SETRLIMIT: tuple[bpf.Case | int, ...] = (
    # It tells whose account a process is on (`attribution.Marks`), and Linux has no other use for it.
    bpf.Case((bpf.Condition(0, "eq", _RLIMIT_LOCKS),), bpf.errno_action(errno.EPERM)),
    ALLOW,
)
_PRLIMIT: tuple[bpf.Case | int, ...] = (
    bpf.Case(
        (bpf.Condition(1, "eq", _RLIMIT_LOCKS), bpf.Condition(2, "ne", 0, 64)),
        bpf.errno_action(errno.EPERM),
    ),
    bpf.Case((bpf.Condition(0, "ne", 0), bpf.Condition(2, "ne", 0, 64)), TRAP),
    ALLOW,
)

_CLONE_NEWUSER = 0x10000000  # include/uapi/linux/sched.h; clone3 has its flags in memory, where no filter can look
_UNSHARE: tuple[bpf.Case | int, ...] = (bpf.Case((bpf.Condition(0, "any_bits", _CLONE_NEWUSER),), TRAP), ALLOW)
_CLONE = _UNSHARE
_PRCTL: tuple[bpf.Case | int, ...] = (
    *(
        # PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_CAP_AMBIENT: the next program has other capabilities (capabilities(7)).
        bpf.Case((bpf.Condition(0, "eq", option),), TRAP)
        for option in (24, 28, 47)
    ),
    ALLOW,
)
_PTRACE: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(0, "eq", 16),), TRAP),  # PTRACE_ATTACH
    bpf.Case((bpf.Condition(0, "eq", 0x4206),), TRAP),  # PTRACE_SEIZE
    ALLOW,
)
_PERF: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(1, "eq", 0), bpf.Condition(4, "no_bits", 4)), ALLOW),  # of the caller itself
    TRAP,
)
_FANOTIFY: tuple[bpf.Case | int, ...] = (
    # Who is asked for permission can deny others every file, or keep them waiting: FAN_CLASS_CONTENT, _PRE_CONTENT.
    bpf.Case((bpf.Condition(0, "any_bits", 0x0C),), bpf.errno_action(errno.EPERM)),
    # Its events come with descriptors, which the kernel opens with these flags for writing, if they say so.
    bpf.Case((bpf.Condition(1, "any_bits", os.O_ACCMODE),), bpf.errno_action(errno.EPERM)),
    ALLOW,
)
_OF_OTHERS: tuple[bpf.Case | int, ...] = (bpf.Case((bpf.Condition(0, "ne", 0),), TRAP), ALLOW)
"""Calls about a process by its number, of which 0 means the caller."""
_PRIORITY: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(0, "eq", 0), bpf.Condition(1, "eq", 0)), ALLOW),  # PRIO_PROCESS: of itself
    TRAP,
)
_IO_PRIORITY: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(0, "eq", 1), bpf.Condition(1, "eq", 0)), ALLOW),  # IOPRIO_WHO_PROCESS: of itself
    TRAP,
)
_IDENTITY = (
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
    "capset",
)
"""After one of these a process may be somebody else than the broker is: what the broker does for it is done with its
rights (`identity.py`)."""

TRAPPED: Mapping[str, tuple[Handler, bpf.Action]] = {
    # files
    "open": (files.open_, _opens(1)),
    "openat": (files.openat, _opens(2)),
    "creat": (files.creat, TRAP),
    "mkdir": (files.mkdir, TRAP),
    "mkdirat": (files.mkdirat, TRAP),
    "mknod": (files.mknod, TRAP),
    "mknodat": (files.mknodat, TRAP),
    "unlink": (files.unlink, TRAP),
    "unlinkat": (files.unlinkat, TRAP),
    "rmdir": (files.rmdir, TRAP),
    "symlink": (files.symlink, TRAP),
    "symlinkat": (files.symlinkat, TRAP),
    "truncate": (inodes.truncate, TRAP),
    "chmod": (inodes.chmod, TRAP),
    "fchmodat": (inodes.fchmodat, TRAP),
    "fchmodat2": (inodes.fchmodat2, TRAP),
    "chown": (inodes.chown, TRAP),
    "lchown": (inodes.lchown, TRAP),
    "fchownat": (inodes.fchownat, TRAP),
    "utime": (inodes.utime, TRAP),
    "utimes": (inodes.utimes, TRAP),
    "futimesat": (inodes.futimesat, TRAP),
    "utimensat": (inodes.utimensat, TRAP),
    "setxattr": (xattrs.setxattr, TRAP),
    "lsetxattr": (xattrs.lsetxattr, TRAP),
    "removexattr": (xattrs.removexattr, TRAP),
    "lremovexattr": (xattrs.lremovexattr, TRAP),
    "fchmod": (inodes.fchmod, TRAP),
    "fchown": (inodes.fchown, TRAP),
    "fsetxattr": (xattrs.fsetxattr, TRAP),
    "fremovexattr": (xattrs.fremovexattr, TRAP),
    "setxattrat": (xattrs.setxattrat, TRAP),
    "removexattrat": (xattrs.removexattrat, TRAP),
    "file_setattr": (flags.file_setattr, TRAP),
    "ioctl": (flags.ioctl, _IOCTL),
    "rename": (moves.rename, TRAP),
    "renameat": (moves.renameat, TRAP),
    "renameat2": (moves.renameat2, TRAP),
    "link": (moves.link, TRAP),
    "linkat": (moves.linkat, TRAP),
    "mq_open": (
        queues.mq_open,
        (bpf.Case((bpf.Condition(1, "any_bits", queues.CHANGES),), TRAP), ALLOW),
    ),
    "mq_unlink": (queues.mq_unlink, TRAP),
    # network
    "socket": (making.socket_, _SOCKET),
    "connect": (connecting.connect, TRAP),
    "bind": (binding.bind, TRAP),
    "listen": (binding.listen, TRAP),
    "sendto": (messages.sendto, _SENDTO),
    "recvfrom": (messages.recvfrom, _RECVFROM),
    "sendmsg": (messages.sendmsg, TRAP),
    "sendmmsg": (messages.sendmmsg, TRAP),
    "setsockopt": (options.setsockopt, _SETSOCKOPT),
    "getsockopt": (options.getsockopt, _GETSOCKOPT),
    # programs
    "execve": (exec_.execve, TRAP),
    "execveat": (exec_.execveat, TRAP),
    "chroot": (exec_.change_root, TRAP),
    "setns": (exec_.setns, TRAP),
    "prlimit64": (exec_.prlimit, _PRLIMIT),
    "unshare": (exec_.change_identity, _UNSHARE),
    "clone": (exec_.change_identity, _CLONE),
    **dict.fromkeys(_IDENTITY, (exec_.change_identity, TRAP)),
    "prctl": (exec_.change_identity, _PRCTL),
    "sched_setparam": (exec_.schedule, _OF_OTHERS),
    "sched_setscheduler": (exec_.schedule, _OF_OTHERS),
    "sched_setattr": (exec_.schedule, _OF_OTHERS),
    "sched_setaffinity": (exec_.schedule, _OF_OTHERS),
    "setpriority": (exec_.set_priority, _PRIORITY),
    "ioprio_set": (exec_.set_io_priority, _IO_PRIORITY),
    # what root does to the machine, and what reaches into processes outside
    **{name: (handler, TRAP) for name, handler in privileged.CLOSED.items()},
    "ptrace": (privileged.ptrace, _PTRACE),
    "process_vm_writev": (privileged.process_vm_writev, TRAP),
    "pidfd_getfd": (privileged.pidfd_getfd, TRAP),
    "perf_event_open": (privileged.perf_event_open, _PERF),
}

_ENOSYS = (
    # Programs fall back to calls that can be judged.
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "openat2",
    # Paths in such memory the broker could not read. Kernels say so where it is not switched on (secretmem.enable).
    "memfd_secret",
)
_EPERM = (
    # Memory that a program serves itself would keep the broker waiting while it reads an argument.
    "userfaultfd",
    # Programs try these in passing, and do without.
    "bpf",
    "add_key",
    "request_key",
    "keyctl",
    # Of what another call has begun, which is refused.
    "fsconfig",
    "fsmount",
)


_WATCHING_READS: Mapping[str, bpf.Action] = {
    "open": TRAP,
    "openat": TRAP,
    # Gives descriptors of the files that others open.
    "fanotify_init": bpf.errno_action(errno.EPERM),
    # Samples of another process's stack hold what lies there, its environment included.
    "perf_event_open": bpf.errno_action(errno.EPERM),
    "uselib": bpf.errno_action(errno.ENOSYS),
}
"""What is different where the policy has `deny_read`. Nothing else opens a file by its path, and has its content, but
execve(2), which is trapped anyway; readlink(2), stat(2) and getxattr(2) tell of files without reading them."""


def rules(arch: Arch, *, watch_reads: bool = False, as_root: bool = False) -> dict[int, bpf.Action]:
    """Call number to action, for calls this machine has."""
    calls = arch.calls
    found: dict[int, bpf.Action] = {calls[name]: action for name, (_, action) in TRAPPED.items() if name in calls}
    found[calls["setrlimit"]] = _SETRLIMIT
    found[calls["fanotify_init"]] = _FANOTIFY
    found.update({calls[name]: bpf.errno_action(errno.ENOSYS) for name in _ENOSYS if name in calls})
    found.update({calls[name]: bpf.errno_action(errno.EPERM) for name in _EPERM if name in calls})
    if as_root:
        # Its flags lie in memory: libc asks by clone(2) instead, where the filter sees who makes a user namespace.
        found[calls["clone3"]] = bpf.errno_action(errno.ENOSYS)
        found[calls["ioctl"]] = _IOCTL_OF_ROOT
    if watch_reads:
        found.update({calls[name]: action for name, action in _WATCHING_READS.items() if name in calls})
    return found


def handlers(arch: Arch) -> dict[int, Handler]:
    """Call number to handler."""
    return {arch.calls[name]: handler for name, (handler, _) in TRAPPED.items() if name in arch.calls}


def filter_program(arch: Arch, *, watch_reads: bool = False, as_root: bool = False) -> bytes:
    """The seccomp program. Depends on nothing but the machine, and on whether opens for reading are watched, and
    whether the fenced processes begin with privileges that they could give up."""
    return bpf.assemble(rules(arch, watch_reads=watch_reads, as_root=as_root), arch=arch)
