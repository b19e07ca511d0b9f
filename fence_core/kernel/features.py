"""Ask the kernel once what works, and why the rest does not.

Never the version string: distributions port features back, and containers take them away.
"""

from __future__ import annotations

import ctypes
import os
from errno import EFAULT
from typing import TYPE_CHECKING, NamedTuple

from fence_core.errors import FenceUnavailable, KernelCallError
from fence_core.kernel import credentials, landlock, libc, memory, pidfd, seccomp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# In the order in which a header shows them.
NAMES = (
    "seccomp",
    "wait_killable",
    "landlock",
    "landlock_network",
    "landlock_scopes",
    "pidfd_open",
    "pidfd_getfd",
    "process_vm_readv",
    "ptrace",
)


class Feature(NamedTuple):
    """One thing that the kernel can do for us, or cannot."""

    name: str
    available: bool
    detail: str  # what was found ("ABI 7"), or why it is not available


class Features:
    """What this kernel offers. SYNC_WAKE_UP is not among it: that needs a listener to ask."""

    __slots__ = ("_found", "landlock_abi")

    def __init__(self, found: Iterable[Feature], landlock_abi: int) -> None:
        self._found = {feature.name: feature for feature in found}
        self.landlock_abi = landlock_abi

    def __iter__(self) -> Iterator[Feature]:
        return iter(self._found.values())

    def __getitem__(self, name: str) -> Feature:
        return self._found[name]

    def available(self, name: str) -> bool:
        """Whether `name`, one of `NAMES`, is there."""
        return self._found[name].available

    def require(self, names: Iterable[str]) -> None:
        """Raise `FenceUnavailable` that lists what of `names` is missing, and why.

        A hyphen counts as an underscore. A name that is none of `NAMES` is refused with the valid ones.
        """
        wanted = [name.strip().replace("-", "_") for name in names]
        unknown = [name for name in wanted if name not in self._found]
        if unknown:
            raise FenceUnavailable(", ".join(unknown), "no such layer", f"Valid names: {', '.join(self._found)}.")
        missing = [feature for name in wanted if not (feature := self._found[name]).available]
        if missing:
            raise FenceUnavailable(
                ", ".join(feature.name for feature in missing),
                "; ".join(f"{feature.name}: {feature.detail}" for feature in missing)
                if len(missing) > 1
                else missing[0].detail,
                "Run on a kernel that has it, or do not require it.",
            )


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _seccomp() -> Feature:
    name = "seccomp"
    action = ctypes.c_uint32(0x7FC00000)  # SECCOMP_RET_USER_NOTIF
    sizes = (ctypes.c_uint16 * 3)()
    try:
        libc.call("seccomp", seccomp.GET_ACTION_AVAIL, 0, ctypes.addressof(action))
        libc.call("seccomp", seccomp.GET_NOTIF_SIZES, 0, ctypes.addressof(sizes))
    except KernelCallError as error:
        return Feature(name, False, f"no user notification: {_why(error)}")
    known = (seccomp.NOTIF_SIZE, seccomp.RESPONSE_SIZE, seccomp.DATA_SIZE)
    if tuple(sizes) != known:
        # Requests carry the size in their number; a kernel that grew its structs would refuse ours.
        return Feature(name, False, f"notifications have sizes {tuple(sizes)}, we know {known}")
    return Feature(name, True, "user notification")


def _wait_killable() -> Feature:
    name = "wait_killable"
    flags = seccomp.FILTER_FLAG_NEW_LISTENER | seccomp.FILTER_FLAG_WAIT_KILLABLE_RECV
    try:
        # Flags are checked first, then the (absent) program is read: nothing is ever installed.
        libc.call("seccomp", seccomp.SET_MODE_FILTER, flags, 0)
    except KernelCallError as error:
        if error.errno == EFAULT:
            return Feature(name, True, "")
        return Feature(name, False, f"the kernel does not know the flag: {_why(error)}")
    return Feature(name, False, "the kernel took a filter without a program")


def _landlock() -> tuple[list[Feature], int]:
    reason = "not built in, or switched off at boot"
    try:
        abi = landlock.abi_version()
    except KernelCallError as error:
        abi, reason = 0, _why(error)
    parts = [Feature("landlock", abi > 0, f"ABI {abi}" if abi else reason)]
    for name, first in (
        ("landlock_network", landlock.ABI_NETWORK),
        ("landlock_scopes", landlock.ABI_SCOPES),
    ):
        detail = f"ABI {abi}" if abi >= first else f"needs ABI {first}, has {abi}" if abi else reason
        parts.append(Feature(name, abi >= first, detail))
    return parts, abi


def _pidfd() -> list[Feature]:
    names = ("pidfd_open", "pidfd_getfd")
    try:
        own = pidfd.open_pidfd(os.getpid())
    except KernelCallError as error:
        return [Feature(name, False, _why(error)) for name in names]
    try:
        os.close(pidfd.get_fd(own, own))
        return [Feature(name, True, "") for name in names]
    except KernelCallError as error:
        return [Feature(names[0], True, ""), Feature(names[1], False, _why(error))]
    finally:
        os.close(own)


def _process_vm_readv() -> Feature:
    name = "process_vm_readv"
    try:
        memory.check()
    except KernelCallError as error:
        return Feature(name, False, _why(error))
    except FenceUnavailable as error:
        return Feature(name, False, error.reason)
    return Feature(name, True, "")


def _ptrace() -> Feature:
    """Yama: who may inspect whom. Source: Documentation/admin-guide/LSM/Yama.rst."""
    name = "ptrace"
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as file:
            scope = int(file.read())
    except (OSError, ValueError):
        return Feature(name, True, "no Yama")
    if scope <= 1:
        return Feature(name, True, f"Yama ptrace_scope {scope}")
    if scope == 2 and credentials.of(os.getpid()).may(credentials.CAP_SYS_PTRACE):
        return Feature(name, True, "Yama ptrace_scope 2, with CAP_SYS_PTRACE")
    return Feature(name, False, f"Yama ptrace_scope {scope} forbids inspecting one's own children")


_features: Features | None = None


def detect() -> Features:
    """Return what this kernel offers; asked once per process, in under 1 ms.

    Raises `FenceUnavailable` on a machine whose call numbers are unknown.
    """
    global _features
    if _features is None:
        land, abi = _landlock()
        found = [_seccomp(), _wait_killable(), *land, *_pidfd(), _process_vm_readv(), _ptrace()]
        _features = Features(found, abi)
    return _features
