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
    return Arch(machine, table.AUDIT_ARCH, table.X32_BIT, table.CALLS)


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
