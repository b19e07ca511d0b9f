"""Who a thread is to the kernel: its users, groups and capabilities.

Sources: credentials(7), capabilities(7), proc_pid_status(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from fence_core.kernel import namespaces
from fence_core.kernel.process import field, read_proc

# Source: include/uapi/linux/capability.h.
CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_SETGID = 6
CAP_SETUID = 7
CAP_NET_BIND_SERVICE = 10
CAP_NET_RAW = 13
CAP_SYS_MODULE = 16
CAP_SYS_RAWIO = 17
CAP_SYS_PTRACE = 19
CAP_SYS_PACCT = 20
CAP_SYS_ADMIN = 21
CAP_SYS_BOOT = 22
CAP_SYS_TTY_CONFIG = 26
CAP_MKNOD = 27
CAP_PERFMON = 38

SETS_IDS = {
    "setuid": ("uids", 1),
    "setgid": ("gids", 1),
    "setreuid": ("uids", 2),
    "setregid": ("gids", 2),
    "setresuid": ("uids", 3),
    "setresgid": ("gids", 3),
    "setfsuid": ("uids", 1),
    "setfsgid": ("gids", 1),
}
"""Calls that change ids: which ones, of `Credentials`, and how many arguments say what to."""
_NO_ID = 0xFFFF_FFFF  # as an argument: the call fails, or this id stays


class Credentials:
    """What was true when the status was read. Ids as this process's user namespace has them."""

    __slots__ = ("capabilities", "gid", "gids", "groups", "uid", "uids")

    def __init__(self, status: bytes, *, here: bool = True) -> None:
        """`status`: the text of /proc/TID/status. `here`: the thread is in our user namespace."""
        self.uids = tuple(map(int, field(status, b"Uid").split()))
        """Real, effective, saved, file system."""
        self.gids = tuple(map(int, field(status, b"Gid").split()))
        self.uid = self.uids[3]
        """The one that counts for files."""
        self.gid = self.gids[3]
        self.groups = tuple(map(int, field(status, b"Groups").split()))
        """Supplementary ones."""
        self.capabilities = effective(status) if here else 0
        """Those in force: in a user namespace of its own a thread may have any, which mean nothing in ours."""

    def __eq__(self, other: object) -> bool:
        """Whether the kernel lets both do the same to files."""
        return isinstance(other, Credentials) and all(
            getattr(self, name) == getattr(other, name) for name in ("uid", "gid", "capabilities", "groups")
        )

    __hash__ = None  # type: ignore[assignment]

    def may(self, capability: int) -> bool:
        """Whether this capability is in force."""
        return bool(self.capabilities >> capability & 1)

    def stay_in(self, call: str, args: Sequence[int]) -> bool:
        """Whether one of `SETS_IDS` changes none of the ids, which are all alike and are asked for once more.

        So do libraries that want a file opened with the rights of whoever started the program: setfsuid(getuid()).
        """
        name, count = SETS_IDS[call]
        ids = {*getattr(self, name)}
        return len(ids) == 1 and all(arg & 0xFFFF_FFFF in {*ids, _NO_ID} for arg in args[:count])

    def is_in(self, group: int) -> bool:
        return group == self.gid or group in self.groups

    def owns(self, file: os.stat_result) -> bool:
        """Whether the mode of this file may be changed."""
        return file.st_uid == self.uid or self.may(CAP_FOWNER)

    def may_write(self, file: os.stat_result) -> bool:
        """By mode bits; access control lists are not looked at."""
        if self.may(CAP_DAC_OVERRIDE):
            return True
        mode = file.st_mode
        if file.st_uid == self.uid:
            return bool(mode & stat.S_IWUSR)
        return bool(mode & (stat.S_IWGRP if self.is_in(file.st_gid) else stat.S_IWOTH))


def of(tid: int) -> Credentials:
    """Those of a thread. Raises `ProcessLookupError` where it is gone."""
    status = read_proc(f"/proc/{tid}/status")
    return Credentials(status, here=effective(status) != 0 and count_here(tid))


def count_here(tid: int) -> bool:
    """Whether the capabilities of this thread mean what ours do; not where nobody can tell any more."""
    try:
        return namespaces.is_ours(tid, "user")
    except OSError:
        return False


def effective(status: bytes) -> int:
    """The capabilities of a thread in its own user namespace, by the text of its status."""
    return int(field(status, b"CapEff"), 16)


def umask(status: bytes) -> int:
    return int(field(status, b"Umask") or b"022", 8)  # Linux 4.7
