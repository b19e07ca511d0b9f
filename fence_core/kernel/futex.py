"""Waiting for a word of shared memory to change, and waking who waits. Source: futex(2), futex(7).

Any process. The word has 32 bits and lies in memory that both sides have mapped (MAP_SHARED).
"""

from __future__ import annotations

import ctypes
from errno import EAGAIN, EINTR, ETIMEDOUT
from typing import NamedTuple

from fence_core.errors import KernelCallError
from fence_core.kernel import arch, libc

_WAIT, _WAKE = 0, 1  # include/uapi/linux/futex.h; without FUTEX_PRIVATE_FLAG: between processes
_ALL = 0x7FFF_FFFF
_NOTHING_WRONG = (EAGAIN, EINTR, ETIMEDOUT)


class _Seconds(NamedTuple):
    """A struct timespec that stays where it is, by its length in milliseconds."""

    address: int
    kept: object


_TIMES: dict[int, _Seconds] = {}
_number = -1
"""Of the call, from `prepare` on: where there is no such call, this module can be imported all the same."""


def prepare(*milliseconds: int) -> None:
    """Waits of these lengths will be asked for. To be called before the others. Raises `FenceUnavailable`."""
    global _number
    _number = arch.current().calls["futex"]
    for each in milliseconds:
        timespec = (ctypes.c_long * 2)(each // 1000, each % 1000 * 1_000_000)
        _TIMES[each] = _Seconds(ctypes.addressof(timespec), timespec)


def wait(address: int, value: int, milliseconds: int) -> None:
    """Sleep while the word there is `value`, at most so long (a length that was prepared).

    Comes back early for a signal, or for nothing: look at the word again. Raises `KernelCallError`.
    """
    try:
        libc.syscall(_number, address, _WAIT, value, _TIMES[milliseconds].address, call="futex")
    except KernelCallError as error:
        if error.errno not in _NOTHING_WRONG:
            raise


def wake(address: int) -> None:
    """Wake all who wait for the word there. A full memory barrier. Raises `KernelCallError`."""
    libc.syscall(_number, address, _WAKE, _ALL, call="futex")
