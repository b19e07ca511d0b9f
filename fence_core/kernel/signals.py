"""Signals as data: a descriptor to read them from, and which of them a thread blocks or catches.

Sources: signalfd(2), signal(7), tgkill(2), proc_pid_status(5).
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import TYPE_CHECKING, NamedTuple

from fence_core.kernel import libc, process

if TYPE_CHECKING:
    from collections.abc import Iterable

# As libc sees them: glibc keeps the kernel's first two real-time signals (32, 33) for its threads.
SIGRTMIN: int = int(getattr(signal, "SIGRTMIN", 34))
SIGRTMAX: int = int(getattr(signal, "SIGRTMAX", 64))

# Who sent it (siginfo.code). Source: include/uapi/asm-generic/siginfo.h.
SI_USER = 0  # kill(2)
SI_KERNEL = 0x80  # the kernel itself: Ctrl-C, Ctrl-Z and hang-up of the terminal

_SFD_CLOEXEC = 0o2000000
_SFD_NONBLOCK = 0o4000
_SET_SIZE = 8  # bytes of the kernel's sigset_t, not of libc's

# struct signalfd_siginfo, 128 bytes: ssi_signo, errno, code, pid, uid, fd, tid, band, overrun, trapno, status.
_SIGINFO = struct.Struct("=IiiIIiIIIIi84x")


class SignalInfo(NamedTuple):
    """One signal that was read."""

    signo: int
    code: int  # who sent it; of SIGCHLD, why
    pid: int  # of the sender, or of the child; 0 when outside our pid namespace
    status: int  # SIGCHLD: exit status, or the number of the signal that ended or stopped the child


class SignalState(NamedTuple):
    """Signals of one thread as bit masks: signal n is bit n - 1."""

    pending_thread: int  # waiting for this thread
    pending_shared: int  # waiting for any thread of the process
    blocked: int
    caught: int  # have a handler

    def has_handler(self, signo: int) -> bool:
        """Whether `signo` would run a handler in this thread now: caught and not blocked."""
        return bool(self.caught & ~self.blocked & bit(signo))

    def deliverable(self, *, main_thread: bool) -> int:
        """Return the signals that wait for this thread and that it does not block.

        Those of the whole process count for the main thread only: a worker may never be chosen to take them.
        """
        pending = self.pending_thread
        if main_thread:
            pending |= self.pending_shared
        return pending & ~self.blocked


def bit(signo: int) -> int:
    """Return the mask of one signal (1 to 64)."""
    return 1 << (signo - 1)


def mask(signals: Iterable[int]) -> int:
    """Return the mask of several signals."""
    result = 0
    for signo in signals:
        result |= bit(signo)
    return result


def create_signalfd(signals: Iterable[int], *, nonblocking: bool = True) -> int:
    """Return a descriptor (close-on-exec) from which `signals` are read. The caller blocks them first.

    Raises `KernelCallError`.
    """
    chosen = ctypes.c_uint64(mask(signals))
    flags = _SFD_CLOEXEC | (_SFD_NONBLOCK if nonblocking else 0)
    return libc.call("signalfd4", -1, ctypes.addressof(chosen), _SET_SIZE, flags)


def read_signalfd(fd: int, most: int = 16) -> list[SignalInfo]:
    """Return the signals that wait, at most `most`; empty when none does and `fd` does not block.

    Of several equal signals below SIGRTMIN only one is there: after SIGCHLD wait for every child that has
    ended. Raises `OSError`.
    """
    try:
        data = os.read(fd, _SIGINFO.size * most)
    except BlockingIOError:
        return []
    return [SignalInfo(i[0], i[2], i[3], i[10]) for i in _SIGINFO.iter_unpack(data)]


def tgkill(tgid: int, tid: int, signo: int) -> None:
    """Send `signo` to one thread. Raises `KernelCallError`: ESRCH it is gone, EPERM, EAGAIN queue full."""
    libc.call("tgkill", tgid, tid, signo)


def parse_state(status: bytes) -> SignalState:
    """Return the signal masks in the text of a status file."""
    field = process.field
    return SignalState(
        int(field(status, b"SigPnd"), 16),
        int(field(status, b"ShdPnd"), 16),
        int(field(status, b"SigBlk"), 16),
        int(field(status, b"SigCgt"), 16),
    )


def state(tid: int) -> SignalState:
    """Return the signal masks of thread `tid`. Raises `ProcessLookupError` when it is gone."""
    return parse_state(process.read_proc(f"/proc/{tid}/status"))
