"""Which calls stop at the broker, and all there is to know of each: dispatcher, filter and repeats read these rows.

To add a call: a row here, a handler in `calls/`, a row in the end-to-end table of its family. See
`docs/internals/adding-a-syscall.md`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fence_core.broker.calls import registers
from fence_core.broker.later import Family, found
from fence_core.broker.repeats import NAMES, OPENS, SOCKETS, Shape
from fence_core.kernel import bpf
from fence_core.kernel.arch import Arch
from fence_core.kernel.credentials import SETS_IDS
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.calls import (
        binding,
        connecting,
        entries,
        flags,
        inodes,
        making,
        messages,
        moves,
        opens,
        options,
        privileged,
        queues,
        xattrs,
    )
    from fence_core.broker.calls import exec as exec_
    from fence_core.broker.reply import Reply

    Handler = Callable[[Call], Reply]
else:
    binding, connecting, entries, exec_ = map(Family, ("binding", "connecting", "entries", "exec"))
    flags, inodes, making, messages = map(Family, ("flags", "inodes", "making", "messages"))
    moves, opens, options, privileged = map(Family, ("moves", "opens", "options", "privileged"))
    queues, xattrs = map(Family, ("queues", "xattrs"))

TRAP = bpf.RET_USER_NOTIF
ALLOW = bpf.RET_ALLOW

KERNEL = "kernel"
"""Never carried out by the broker: a second time is the kernel's."""
HARMLESS = "harmless"
"""Done twice, it leaves what it leaves done once."""


class Row(Record):
    """What there is to know of a call."""

    handler: Handler
    again: str
    """What a second time does, where a signal has the program make the call again (`repeats.py`): `KERNEL`, `HARMLESS`;
    or it is not as the first, and the call is about `NAMES`, `OPENS` or `SOCKETS`."""
    arguments: str = ""
    """A letter for each argument that counts: v value, s path or name, f descriptor, b address of data whose size is
    the next argument, m struct msghdr, n vector of those whose length is the next argument."""
    action: bpf.Action = TRAP
    """What the filter does, where harmless uses can be told from others by a register."""


def _opens(flags_arg: int) -> tuple[bpf.Case | int, ...]:
    """Only opens that can change something: the flags are in a register, so the filter itself can tell."""
    return (bpf.Case((bpf.Condition(flags_arg, "any_bits", registers.OPEN_CHANGES),), TRAP), ALLOW)


_SOCKET: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(0, "eq", socket.AF_UNIX),), ALLOW),
    bpf.Case((bpf.Condition(0, "eq", 16),), ALLOW),  # AF_NETLINK
    TRAP,
)
_SENDTO: tuple[bpf.Case | int, ...] = (
    bpf.Case((bpf.Condition(4, "ne", 0, 64),), TRAP),
    bpf.Case((bpf.Condition(3, "any_bits", registers.MSG_FASTOPEN),), TRAP),
    ALLOW,
)
_RECVFROM: tuple[bpf.Case | int, ...] = (bpf.Case((bpf.Condition(4, "ne", 0, 64),), TRAP), ALLOW)
_TIES = tuple(
    bpf.Case((bpf.Condition(2, "eq", name), bpf.Condition(1, "eq", socket.SOL_SOCKET)), TRAP)
    for name in (registers.SO_BINDTODEVICE, registers.SO_BINDTOIFINDEX)
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
        for name in registers.IPV6_NAMES
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
        bpf.Case((bpf.Condition(1, "eq", registers.TIOCSTI),), TRAP),
        bpf.Case((bpf.Condition(1, "eq", registers.TIOCLINUX),), TRAP),
        bpf.Case((bpf.Condition(1, "eq", registers.TIOCSCTTY), bpf.Condition(2, "ne", 0, 64)), TRAP),
        bpf.Case((bpf.Condition(1, "eq", _USERFAULTFD_NEW),), eperm),  # see `_EPERM`
        *(bpf.Case((bpf.Condition(1, "eq", request),), eperm) for request in refused_plain),
        # Most requests of terminals, pipes and sockets end here.
        bpf.Case((bpf.Condition(1, "no_bits", _WITHOUT_SIZE),), ALLOW),
        *(bpf.Case((bpf.Condition(1, "eq", request),), TRAP) for request in registers.OF_ATTRIBUTES),
        *(bpf.Case((bpf.Condition(1, "eq", request),), eperm) for request in refused),
        ALLOW,
    )


_IOCTL = _ioctl(registers.REFUSED_PLAIN, registers.REFUSED)
_IOCTL_OF_ROOT = _ioctl(registers.REFUSED_PLAIN + registers.OF_ROOT, registers.REFUSED + registers.OF_ROOT_SIZED)

_RLIMIT_LOCKS = 10
_SETRLIMIT: tuple[bpf.Case | int, ...] = (
    # It tells whose account a process is on (`marks.Marks`), and Linux has no other use for it.
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
_IDENTITY = ("setgroups", "capset")
"""After one of these a process may be somebody else than the broker is: what the broker does for it is done with its
rights (`identity.py`)."""

_CLOSED = (
    "mount", "fsopen", "fspick", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "umount2",
    "pivot_root", "open_by_handle_at", "acct", "iopl", "ioperm", "init_module", "finit_module", "delete_module",
    "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "quotactl", "quotactl_fd", "vhangup",
)  # fmt: skip
"""What takes a capability, and no rule can allow: each has its row in `privileged.CLOSED`, too."""

_MQ_OPEN: tuple[bpf.Case | int, ...] = (bpf.Case((bpf.Condition(1, "any_bits", registers.QUEUE_CHANGES),), TRAP), ALLOW)

TRAPPED: Mapping[str, Row] = {
    # files
    "open": Row(opens.open_, OPENS, "svv", _opens(1)),
    "openat": Row(opens.openat, OPENS, "fsvv", _opens(2)),
    "creat": Row(opens.creat, OPENS, "sv"),
    "mkdir": Row(entries.mkdir, NAMES, "sv"),
    "mkdirat": Row(entries.mkdirat, NAMES, "fsv"),
    "mknod": Row(entries.mknod, NAMES, "svv"),
    "mknodat": Row(entries.mknodat, NAMES, "fsvv"),
    "unlink": Row(entries.unlink, NAMES, "s"),
    "unlinkat": Row(entries.unlinkat, NAMES, "fsv"),
    "rmdir": Row(entries.rmdir, NAMES, "s"),
    "symlink": Row(entries.symlink, NAMES, "ss"),
    "symlinkat": Row(entries.symlinkat, NAMES, "sfs"),
    "truncate": Row(inodes.truncate, HARMLESS, "sv"),
    "chmod": Row(inodes.chmod, HARMLESS, "sv"),
    "fchmodat": Row(inodes.fchmodat, HARMLESS, "fsv"),
    "fchmodat2": Row(inodes.fchmodat2, HARMLESS, "fsvv"),
    "chown": Row(inodes.chown, HARMLESS, "svv"),
    "lchown": Row(inodes.lchown, HARMLESS, "svv"),
    "fchownat": Row(inodes.fchownat, HARMLESS, "fsvvv"),
    "utime": Row(inodes.utime, HARMLESS, "sv"),
    "utimes": Row(inodes.utimes, HARMLESS, "sv"),
    "futimesat": Row(inodes.futimesat, HARMLESS, "fsv"),
    "utimensat": Row(inodes.utimensat, HARMLESS, "fsvv"),
    "setxattr": Row(xattrs.setxattr, NAMES, "ssbv"),
    "lsetxattr": Row(xattrs.lsetxattr, NAMES, "ssbv"),
    "removexattr": Row(xattrs.removexattr, NAMES, "ss"),
    "lremovexattr": Row(xattrs.lremovexattr, NAMES, "ss"),
    "fchmod": Row(inodes.fchmod, HARMLESS, "fv"),
    "fchown": Row(inodes.fchown, HARMLESS, "fvv"),
    "fsetxattr": Row(xattrs.fsetxattr, NAMES, "fsbv"),
    "fremovexattr": Row(xattrs.fremovexattr, NAMES, "fs"),
    "setxattrat": Row(xattrs.setxattrat, NAMES, "fsvsb"),
    "removexattrat": Row(xattrs.removexattrat, NAMES, "fsvs"),
    "file_setattr": Row(flags.file_setattr, HARMLESS, "fsvvv"),
    "ioctl": Row(flags.ioctl, HARMLESS, "fvv", _IOCTL),
    "rename": Row(moves.rename, NAMES, "ss"),
    "renameat": Row(moves.renameat, NAMES, "fsfs"),
    "renameat2": Row(moves.renameat2, NAMES, "fsfsv"),
    "link": Row(moves.link, NAMES, "ss"),
    "linkat": Row(moves.linkat, NAMES, "fsfsv"),
    "mq_open": Row(queues.mq_open, OPENS, "svv", _MQ_OPEN),
    "mq_unlink": Row(queues.mq_unlink, NAMES, "s"),
    # network
    "socket": Row(making.socket_, HARMLESS, "vvv", _SOCKET),
    "connect": Row(connecting.connect, SOCKETS, "fb"),
    "bind": Row(binding.bind, SOCKETS, "fb"),
    "listen": Row(binding.listen, HARMLESS, "fv"),
    "sendto": Row(messages.sendto, SOCKETS, "fbvb", _SENDTO),
    "recvfrom": Row(messages.recvfrom, SOCKETS, "fvvv", _RECVFROM),
    "sendmsg": Row(messages.sendmsg, SOCKETS, "fmv"),
    "sendmmsg": Row(messages.sendmmsg, SOCKETS, "fnv"),
    "setsockopt": Row(options.setsockopt, SOCKETS, "fvvb", _SETSOCKOPT),
    "getsockopt": Row(options.getsockopt, HARMLESS, "fvvvv", _GETSOCKOPT),
    # programs
    "execve": Row(exec_.execve, KERNEL, "s"),
    "execveat": Row(exec_.execveat, KERNEL, "fsvvv"),
    "chroot": Row(exec_.change_root, KERNEL, "s"),
    "setns": Row(exec_.setns, KERNEL, "fv"),
    "prlimit64": Row(exec_.prlimit, KERNEL, action=_PRLIMIT),
    "unshare": Row(exec_.change_identity, KERNEL, action=_UNSHARE),
    "clone": Row(exec_.change_identity, KERNEL, action=_CLONE),
    **dict.fromkeys(SETS_IDS, Row(exec_.set_ids, KERNEL)),
    **dict.fromkeys(_IDENTITY, Row(exec_.change_identity, KERNEL)),
    "prctl": Row(exec_.change_identity, KERNEL, action=_PRCTL),
    "sched_setparam": Row(exec_.schedule, KERNEL, action=_OF_OTHERS),
    "sched_setscheduler": Row(exec_.schedule, KERNEL, action=_OF_OTHERS),
    "sched_setattr": Row(exec_.schedule, KERNEL, action=_OF_OTHERS),
    "sched_setaffinity": Row(exec_.schedule, KERNEL, action=_OF_OTHERS),
    "setpriority": Row(exec_.set_priority, KERNEL, action=_PRIORITY),
    "ioprio_set": Row(exec_.set_io_priority, KERNEL, action=_IO_PRIORITY),
    # what root does to the machine, and what reaches into processes outside
    **dict.fromkeys(_CLOSED, Row(privileged.closed, KERNEL)),
    "ptrace": Row(privileged.ptrace, KERNEL, action=_PTRACE),
    "process_vm_writev": Row(privileged.process_vm_writev, KERNEL),
    "pidfd_getfd": Row(privileged.pidfd_getfd, KERNEL),
    "perf_event_open": Row(privileged.perf_event_open, KERNEL, action=_PERF),
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


def rules(
    arch: Arch, *, watch_reads: bool = False, as_root: bool = False, borrows: bool = True
) -> dict[int, bpf.Action]:
    """Call number to action, for calls this machine has."""
    calls = arch.calls
    found: dict[int, bpf.Action] = {calls[name]: row.action for name, row in TRAPPED.items() if name in calls}
    found[calls["setrlimit"]] = _SETRLIMIT
    found[calls["fanotify_init"]] = _FANOTIFY
    found.update({calls[name]: bpf.errno_action(errno.ENOSYS) for name in _ENOSYS if name in calls})
    found.update({calls[name]: bpf.errno_action(errno.EPERM) for name in _EPERM if name in calls})
    if as_root:
        # Its flags lie in memory: libc asks by clone(2) instead, where the filter sees who makes a user namespace.
        found[calls["clone3"]] = bpf.errno_action(errno.ENOSYS)
        found[calls["ioctl"]] = _IOCTL_OF_ROOT
    if not borrows:
        found[calls["socket"]] = TRAP
    if watch_reads:
        found.update({calls[name]: action for name, action in _WATCHING_READS.items() if name in calls})
    return found


def handlers(arch: Arch, *, borrows: bool = True) -> dict[int, Handler]:
    """Call number to handler. `borrows`: the callers' descriptors may be taken; else the broker keeps copies."""
    by_name = {name: row.handler for name, row in TRAPPED.items() if name in arch.calls}
    if not borrows:
        from fence_core.broker.calls import lending

        borrowing = {name: found(handler) for name, handler in by_name.items() if name in lending.NAMES}
        by_name.update(lending.handlers(borrowing), socket=making.kept_socket)
    return {arch.calls[name]: handler for name, handler in by_name.items()}


def shapes(arch: Arch) -> dict[int, Shape]:
    """Call number to shape, for calls whose second time is not as the first."""
    return {
        arch.calls[name]: Shape(row.again, row.arguments)
        for name, row in TRAPPED.items()
        if name in arch.calls and row.again not in (KERNEL, HARMLESS)
    }


def filter_program(arch: Arch, *, watch_reads: bool = False, as_root: bool = False, borrows: bool = True) -> bytes:
    """The seccomp program. Depends on nothing but the machine, and on whether opens for reading are watched, whether
    the fenced processes begin with privileges that they could give up, and whether descriptors can be borrowed."""
    return bpf.assemble(rules(arch, watch_reads=watch_reads, as_root=as_root, borrows=borrows), arch=arch)
