"""Calls that no rule can allow: what root does to the machine, and what reaches into processes outside.

They never happen inside, whatever the mode: an audit of a mount would not be one. Stopped instead of answered by the
filter itself, since only here can be told whether the kernel would have refused them anyway: to most callers it does,
and then its own error is the answer, and nothing is reported. All of them are rare.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import AT_FDCWD, signed
from fence_core.broker.calls.registers import TIOCLINUX, TIOCSCTTY, TIOCSTI
from fence_core.broker.paths.terminals import TERMINAL_MAJORS, controlling, is_slave
from fence_core.broker.reply import CONTINUE, Reply
from fence_core.kernel import arch, credentials, namespaces
from fence_core.kernel import process as kernel_process
from fence_core.kernel.credentials import (
    CAP_DAC_READ_SEARCH,
    CAP_PERFMON,
    CAP_SYS_ADMIN,
    CAP_SYS_BOOT,
    CAP_SYS_MODULE,
    CAP_SYS_PACCT,
    CAP_SYS_PTRACE,
    CAP_SYS_RAWIO,
    CAP_SYS_TTY_CONFIG,
    Credentials,
)
from fence_core.policy.requests import SystemCall

if TYPE_CHECKING:
    from fence_core.broker.call import Call

    Native = Callable[[Call], int]
    """The error with which the kernel would refuse this call of somebody who has the capability; 0: it would not."""


def refuse(call: Call, what: str, of: str = "machine") -> int:
    return call.refuse(SystemCall(what, of), errno.EPERM)


def _closed(
    what: str, capability: int, native: Native | None = None, *, of_namespace: bool = False
) -> Callable[[Call], Reply]:
    """A handler for a call that takes this capability. `of_namespace`: over the caller's own namespaces will do."""

    def handler(call: Call) -> Reply:
        if not may(call.tid, capability, of_namespace=of_namespace):
            return errno.EPERM
        number = native(call) if native is not None else 0
        return number or refuse(call, what)

    return handler


def may(tid: int, capability: int, *, of_namespace: bool = False) -> bool:
    if of_namespace:
        # In a mount namespace of its own, which belongs to its user namespace, whoever it is outside of that.
        status = kernel_process.read_proc(f"/proc/{tid}/status")
        own = not namespaces.is_ours(tid, "mnt")
        return Credentials(status, here=own or credentials.count_here(tid)).may(capability)
    return _in_first_user_namespace() and credentials.of(tid).may(capability)


@functools.cache
def _in_first_user_namespace() -> bool:
    """Only there do the capabilities over the machine count (user_namespaces(7))."""
    with open("/proc/self/uid_map", "rb") as lines:
        return lines.read().split() == [b"0", b"0", b"4294967295"]


# ---------------------------------------------------------------- the machine

_MS_REMOUNT, _MS_BIND, _MS_MOVE, _MS_PROPAGATION = 0x20, 0x1000, 0x2000, 0x1E0000  # include/uapi/linux/mount.h
_OPEN_TREE_CLONE = 1
_REBOOT_MAGIC = 0xFEE1DEAD  # include/uapi/linux/reboot.h
_QUOTA_CHANGES = frozenset({0x800002, 0x800003, 0x800006, 0x800008, 0x5801, 0x5802, 0x5804, 0x5806})
"""Q_QUOTAON, Q_QUOTAOFF, Q_SETINFO, Q_SETQUOTA; Q_XQUOTAON, Q_XQUOTAOFF, Q_XSETQLIM, Q_XQUOTARM (quotactl(2))."""
_HANDLE_MAX = 128  # MAX_HANDLE_SZ, include/linux/exportfs.h


def _path(call: Call, address: int, dirfd: int = AT_FDCWD) -> tuple[int, str]:
    """The error with which a path cannot be walked, and where it leads."""
    located = call.locate(dirfd, call.read_string(address), follow=True)
    if located.errno:
        return located.refusal(errno.EINVAL), ""
    return (0, located.path) if located.handle >= 0 else (errno.ENOENT, "")


def _leads_nowhere(place: int) -> Native:
    """`place`: of the path among the arguments; that of the directory that it begins at stands before it, if any."""

    def native(call: Call) -> int:
        return _path(call, call.args[place], signed(call.args[place - 1]) if place else AT_FDCWD)[0]

    return native


def _no_mount(call: Call) -> int:
    number, target = _path(call, call.args[1])
    if number:
        return number
    if call.args[3] & _MS_REMOUNT or call.args[3] & _MS_PROPAGATION:
        return 0 if os.path.ismount(target) else errno.EINVAL
    if call.args[3] & (_MS_BIND | _MS_MOVE):
        return _path(call, call.args[0])[0]
    return _no_file_system(call, call.args[2])


def _no_file_system(call: Call, address: int) -> int:
    if not address:
        return errno.EINVAL
    wanted = call.read_string(address).partition(b".")[0]
    with open("/proc/filesystems", "rb") as lines:
        return 0 if any(line.split()[-1] == wanted for line in lines) else errno.ENODEV


def _no_new_mount(call: Call) -> int:
    return _no_file_system(call, call.args[0])


def _nothing_mounted(call: Call) -> int:
    number, target = _path(call, call.args[0])
    return number or (0 if os.path.ismount(target) else errno.EINVAL)


def _no_roots(call: Call) -> int:
    return _path(call, call.args[0])[0] or _path(call, call.args[1])[0]


def _no_accounting(call: Call) -> int:
    return _path(call, call.args[0])[0] if call.args[0] else 0  # without a file it is switched off


def _no_swap(call: Call) -> int:
    number, path = _path(call, call.args[0])
    with open("/proc/swaps", "rb") as lines:
        in_use = any(line.split()[0] == os.fsencode(path) for line in lines)
    return number or (0 if in_use else errno.EINVAL)


def _no_module(call: Call) -> int:
    name = os.fsdecode(call.read_string(call.args[0]))
    return 0 if os.path.isdir(f"/sys/module/{name}/holders") and "/" not in name else errno.ENOENT


def _no_code(call: Call) -> int:
    return 0 if call.args[1] else errno.ENOEXEC


def _no_magic(call: Call) -> int:
    return 0 if call.args[0] & 0xFFFF_FFFF == _REBOOT_MAGIC else errno.EINVAL


def _only_asks(call: Call) -> int:
    """Of quotactl(2): what asks only is refused without a word, since programs do in passing."""
    return errno.EPERM if (call.args[0] & 0xFFFF_FFFF) >> 8 not in _QUOTA_CHANGES else 0


def _only_asks_by_descriptor(call: Call) -> int:
    return errno.EPERM if (call.args[1] & 0xFFFF_FFFF) >> 8 not in _QUOTA_CHANGES else 0


def _no_handle(call: Call) -> int:
    size = int.from_bytes(call.read(call.args[1], 4), "little")
    if not 0 < size <= _HANDLE_MAX:
        return errno.EINVAL
    start = signed(call.args[0])
    return 0 if start == AT_FDCWD or os.path.lexists(f"/proc/{call.tid}/fd/{start}") else errno.EBADF


def _no_tree(call: Call) -> int:
    """open_tree(2) opens a path, and makes a copy of what is mounted there if it is told so: only that is one."""
    return 0 if call.args[2] & _OPEN_TREE_CLONE else errno.EPERM


CLOSED = {
    "mount": _closed("mount", CAP_SYS_ADMIN, _no_mount, of_namespace=True),
    "fsopen": _closed("mount", CAP_SYS_ADMIN, _no_new_mount, of_namespace=True),
    "fspick": _closed("mount", CAP_SYS_ADMIN, _leads_nowhere(1), of_namespace=True),
    "mount_setattr": _closed("mount", CAP_SYS_ADMIN, _leads_nowhere(1), of_namespace=True),
    "move_mount": _closed("mount", CAP_SYS_ADMIN, _leads_nowhere(1), of_namespace=True),
    "open_tree": _closed("mount", CAP_SYS_ADMIN, _no_tree, of_namespace=True),
    "open_tree_attr": _closed("mount", CAP_SYS_ADMIN, _no_tree, of_namespace=True),
    "umount2": _closed("unmount", CAP_SYS_ADMIN, _nothing_mounted, of_namespace=True),
    "pivot_root": _closed("change the root of all (pivot_root)", CAP_SYS_ADMIN, _no_roots, of_namespace=True),
    "open_by_handle_at": _closed("open a file by handle (open_by_handle_at)", CAP_DAC_READ_SEARCH, _no_handle),
    "acct": _closed("switch process accounting (acct)", CAP_SYS_PACCT, _no_accounting),
    "iopl": _closed("reach the ports of the machine (iopl)", CAP_SYS_RAWIO),
    "ioperm": _closed("reach the ports of the machine (ioperm)", CAP_SYS_RAWIO),
    "init_module": _closed("load a kernel module", CAP_SYS_MODULE, _no_code),
    "finit_module": _closed("load a kernel module", CAP_SYS_MODULE),
    "delete_module": _closed("unload a kernel module", CAP_SYS_MODULE, _no_module),
    "kexec_load": _closed("load another kernel", CAP_SYS_BOOT),
    "kexec_file_load": _closed("load another kernel", CAP_SYS_BOOT),
    "reboot": _closed("restart the machine (reboot)", CAP_SYS_BOOT, _no_magic),
    "swapon": _closed("change swap space", CAP_SYS_ADMIN, _leads_nowhere(0)),
    "swapoff": _closed("change swap space", CAP_SYS_ADMIN, _no_swap),
    "quotactl": _closed("change quotas", CAP_SYS_ADMIN, _only_asks),
    "quotactl_fd": _closed("change quotas", CAP_SYS_ADMIN, _only_asks_by_descriptor),
    "vhangup": _closed("hang up the terminal (vhangup)", CAP_SYS_TTY_CONFIG),
}
"""Handlers by call; `table.py` has the names, too."""
_BY_NUMBER = {number: CLOSED[name] for name, number in arch.current().calls.items() if name in CLOSED}


def closed(call: Call) -> Reply:
    """Any of `CLOSED`."""
    return _BY_NUMBER[call.number](call)


# ---------------------------------------------------------------- terminals


def ioctl(call: Call) -> Reply:
    """Input into a terminal, for the shell to run once pytest is done; or taking it away from its session."""
    request = call.args[1] & 0xFFFF_FFFF
    fd, borrowed = call.identify(signed(call.args[0]))
    call.keep(fd)
    status = os.fstat(fd)
    device = status.st_rdev
    if not (os.isatty(fd) if borrowed else stat.S_ISCHR(status.st_mode) and os.major(device) in TERMINAL_MAJORS):
        return errno.ENOTTY
    if request == TIOCSCTTY:
        if not is_slave(device) or call.services.terminals.is_ours(fd) or not may(call.tid, CAP_SYS_ADMIN):
            return CONTINUE
        return refuse(call, "take a terminal from its session (TIOCSCTTY)", "terminal")
    if request == TIOCLINUX and is_slave(device):
        return errno.ENOTTY
    own = controlling(call.tid)[2] == device and (request == TIOCLINUX or _types_into_own())
    if not own and not may(call.tid, CAP_SYS_ADMIN):
        return errno.EPERM
    name = "TIOCSTI" if request == TIOCSTI else "TIOCLINUX"
    return refuse(call, f"type into a terminal ({name})", "terminal")


def _types_into_own() -> bool:
    """Whether whoever has a terminal may put input into it: dev.tty.legacy_tiocsti, Linux 6.2."""
    try:
        with open("/proc/sys/dev/tty/legacy_tiocsti", "rb") as setting:
            return setting.read().strip() != b"0"
    except OSError:
        return True


# ---------------------------------------------------------------- processes outside
#
# Not kill(2): programs send themselves signals while others arrive, and a call that waits for us could then end with
# EINTR, which that one never does otherwise. Landlock refuses it for processes outside, without a word.


def ptrace(call: Call) -> Reply:
    """To attach, with one request or the other."""
    return _reach_into(call, signed(call.args[1]), "trace")


def process_vm_writev(call: Call) -> Reply:
    return _reach_into(call, signed(call.args[0]), "write the memory of")


def pidfd_getfd(call: Call) -> Reply:
    try:
        shown = kernel_process.read_proc(f"/proc/{call.tid}/fdinfo/{signed(call.args[0])}")
        pid = int(kernel_process.field(shown, b"Pid"))
    except (OSError, ValueError, LookupError):
        return CONTINUE  # no descriptor of a process: EBADF
    if not os.path.lexists(f"/proc/{pid}/fd/{signed(call.args[1])}"):
        return CONTINUE
    return _reach_into(call, pid, "take a descriptor from")


def perf_event_open(call: Call) -> Reply:
    """Of others than the caller: of one thread, of a group's processes, or of a processor."""
    pid = signed(call.args[1])
    by_cgroup = 4  # PERF_FLAG_PID_CGROUP, include/uapi/linux/perf_event.h
    whole_machine = pid < 0 or bool(call.args[4] & by_cgroup)
    if not whole_machine and not _is_outside(call, pid):
        return CONTINUE
    if not may(call.tid, CAP_PERFMON) and not may(call.tid, CAP_SYS_ADMIN):
        return errno.EACCES
    return refuse(call, "measure processes outside (perf_event_open)", "process")


def _reach_into(call: Call, pid: int, how: str) -> Reply:
    if not _is_outside(call, pid) or not _may_trace(call.tid, pid):
        return CONTINUE
    return refuse(call, f"{how} {_name(pid)}, a process outside", "process")


def _name(pid: int) -> str:
    try:
        return kernel_process.program_name(pid)
    except OSError:
        return "?"


def _is_outside(call: Call, pid: int) -> bool:
    """Whether this number is that of a process which is there, and not in the fence."""
    if pid <= 0 or call.services.processes.is_ours(pid):
        return False
    try:
        if not namespaces.is_ours(call.tid, "pid"):
            return False  # it has other numbers, and none for what is outside
        return not call.services.processes.is_fenced(pid)
    except OSError:
        return False


def _may_trace(tid: int, pid: int) -> bool:
    """ptrace(2), "Ptrace access mode checking": by a process outside of a fence, which is not its child."""
    if credentials.of(tid).may(CAP_SYS_PTRACE):
        return True
    ours = credentials.of(tid).uids[0]
    # What must not be inspected belongs to root there (proc(5)).
    return set(credentials.of(pid).uids[:3]) == {ours} and os.stat(f"/proc/{pid}").st_uid == ours and _yama() == 0


def _yama() -> int:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as setting:
            return int(setting.read())
    except (OSError, ValueError):
        return 0
