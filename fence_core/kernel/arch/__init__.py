"""Call numbers of the machines we know; an unknown machine is refused, never guessed.

The one inner package whose `__init__` holds code: it is the door to the two tables beside it, of which
only one is ever imported.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from fence_core.errors import FenceUnavailable

SUPPORTED = ("x86_64", "aarch64")
_OF_ALL = {
    424: "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig",
    432: "fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise epoll_pwait2",
    442: "mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret",
    448: "process_mrelease futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake",
    455: "futex_wait futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal",
    463: "setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr",
}
"""The same on all machines, as in their own tables: those that came with Linux 5.1 and later."""

_FEATURE = "system call table"


class Arch(NamedTuple):
    """What a filter and a call need to know of one machine."""

    name: str
    audit_arch: int  # AUDIT_ARCH_*, as seccomp_data.arch reports it
    x32_bit: int | None  # set in call numbers of a second calling convention under the same audit_arch
    calls: dict[str, int]  # name -> number


def load(machine: str) -> Arch:
    """Return the table of `machine` ("x86_64" or "aarch64"). Raises `FenceUnavailable` for any other."""
    if machine == "x86_64":
        from fence_core.kernel.arch import x86_64 as table
    elif machine == "aarch64":
        from fence_core.kernel.arch import aarch64 as table  # type: ignore[no-redef]
    else:
        raise FenceUnavailable(
            _FEATURE,
            f"machine {machine!r} is not supported",
            f"Supported machines: {', '.join(SUPPORTED)}.",
        )
    return Arch(machine, table.AUDIT_ARCH, table.X32_BIT, _numbered({**table.CALLS, **_OF_ALL}))


def _numbered(rows: dict[int, str]) -> dict[str, int]:
    return {name: number for first, row in rows.items() for number, name in enumerate(row.split(), first)}


def check(machine: str, *, platform: str, byteorder: str, pointer_bits: int) -> Arch:
    """Return the table for an interpreter of these properties. Raises `FenceUnavailable`. Pure, for tests."""
    if platform != "linux":
        raise FenceUnavailable(_FEATURE, f"{platform} is not Linux", "The fence needs Linux.")
    arch = load(machine)
    if pointer_bits != 64:
        # uname reports the kernel's machine: a 32-bit interpreter makes calls by another table.
        raise FenceUnavailable(
            _FEATURE,
            f"this is a {pointer_bits}-bit Python on a {machine} kernel",
            f"Use a 64-bit Python. Supported machines: {', '.join(SUPPORTED)}.",
        )
    if byteorder != "little":
        raise FenceUnavailable(_FEATURE, f"{machine} in {byteorder}-endian mode is not supported", "")
    return arch


_current: Arch | None = None


def current() -> Arch:
    """Return this machine's table. Raises `FenceUnavailable` on a machine, word size or system not known."""
    global _current
    if _current is None:
        machine = os.uname().machine if hasattr(os, "uname") else "unknown"
        _current = check(
            machine,
            platform=sys.platform,
            byteorder=sys.byteorder,
            pointer_bits=sys.maxsize.bit_length() + 1,
        )
    return _current
