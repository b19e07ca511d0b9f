"""Which system calls this kernel has, asked by making them with arguments that none of them can act on."""

from __future__ import annotations

import functools
from errno import ENOSYS

from fence_core.errors import KernelCallError
from fence_core.kernel import libc

__all__ = ["exists"]

_HARMLESS = frozenset({"fchmodat2", "setxattrat", "removexattrat", "file_setattr"})
"""With every argument -1 these are EINVAL, for their flags, before they look at anything else."""


@functools.cache
def exists(name: str) -> bool:
    """Whether the kernel has this call, one of those that came lately. Raises `ValueError` for any other."""
    if name not in _HARMLESS:
        raise ValueError(f"{name} cannot be tried safely")
    try:
        libc.call(name, -1, -1, -1, -1, -1, -1)
    except KernelCallError as error:
        return error.errno != ENOSYS
    return True
