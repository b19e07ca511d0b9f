"""A timer that interrupts a system call: for calls that must not wait, on open files that others can make wait.

Runs in the supervisor. Sources: timer_create(2), sigevent(3type), signal(7) ("Interruption of system calls").
"""

from __future__ import annotations

import ctypes
import signal
import struct
from typing import TYPE_CHECKING

from fence_core.kernel import arch, libc
from fence_core.kernel.signals import SIGRTMAX

if TYPE_CHECKING:
    from types import TracebackType

SIGNAL = SIGRTMAX - 4
_SIGEV_SIGNAL = 0
_SIGEVENT = struct.Struct("@Pii48x")
"""struct sigevent, 64 bytes: value, signal, how it notifies."""
_ITIMERSPEC = struct.Struct("@qqqq")
_CLOCK_MONOTONIC = 1


def _heard(number: int, frame: object) -> None:
    """Nothing to do: that there is a handler ends the call."""


class Interruption:
    """``with Interruption(seconds): ...``: a call inside that waits longer fails with EINTR, every so many seconds.

    One at a time, in the main thread only. Made once, used often: two system calls each time.
    """

    def __init__(self, seconds: float) -> None:
        """Raises KernelCallError; ValueError outside the main thread."""
        calls = arch.current().calls
        self._settime = calls["timer_settime"]
        whole, part = divmod(round(seconds * 1e9), 1_000_000_000)
        # Again and again: the first one may come just before the call begins to wait.
        self._on = ctypes.create_string_buffer(_ITIMERSPEC.pack(whole, part, whole, part), _ITIMERSPEC.size)
        self._off = ctypes.create_string_buffer(_ITIMERSPEC.size)
        signal.signal(SIGNAL, _heard)  # without SA_RESTART, as Python sets all handlers
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        event = ctypes.create_string_buffer(_SIGEVENT.pack(0, SIGNAL, _SIGEV_SIGNAL), _SIGEVENT.size)
        number = ctypes.c_int()
        libc.syscall(
            calls["timer_create"],
            _CLOCK_MONOTONIC,
            ctypes.addressof(event),
            ctypes.addressof(number),
            call="timer_create",
        )
        self._timer = number.value

    def __enter__(self) -> None:
        libc.syscall(self._settime, self._timer, 0, ctypes.addressof(self._on), call="timer_settime")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        libc.syscall(self._settime, self._timer, 0, ctypes.addressof(self._off), call="timer_settime")
