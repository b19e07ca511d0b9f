"""Who waits for what a thread does: asked of the main thread of its process, which answers on the page.

See `launcher/waiting.py` for what it is asked and why. Facts and consequences:

* A Python handler runs in the main thread only, between two of its instructions, or when a call in which it waits has
  been interrupted, which Python then makes again (PEP 475). So it is asked where it runs or waits, or is about to be
  answered itself. A test that has put a handler of its own in the place of ours is not asked, nor one that has none.
* Who waits for a thread of a pool can be told as long as that thread waits for us. So the answer is waited for, a
  millisecond at most times, and long enough for a busy machine. All other calls wait meanwhile: so whoever does not
  answer is left alone for a while, and no process is waited for longer than some seconds in all.
* About a call of the main thread's own it answers when that call has returned: nobody waits for that.
"""

from __future__ import annotations

import json
import time
from typing import Protocol

from fence_core.events.model import Frame
from fence_core.kernel import arch, signals
from fence_core.kernel import process as kernel_process
from fence_core.link.page import Page
from fence_core.text import encodable

_PATIENCE_S = 1.0
_LEFT_ALONE_S = 10.0
_PATIENCE_IN_ALL_S = 10.0
_PAUSE_S = 0.0002
_AGAIN_MAX = 100
"""Times that it is asked while it has started a thread, and does not wait for that yet."""
_BUSY_MAX = 25
"""How often in turn its main thread may be seen in a call that is no waiting, some 0.3 ms apart."""
_LINES_MAX = 200
_NAME_MAX = 200
_LINE_MAX = 10**9


_WAITING = (
    "clock_nanosleep",
    "nanosleep",
    "wait4",
    "waitid",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_wait",
    "epoll_pwait",
    "read",
    "futex",
)


def waits(tid: int, *, or_runs: bool = False) -> bool:
    """Whether this thread sits in a call in which Python waits, and which it makes again after a signal (PEP 475).

    `or_runs`: or in none.
    """
    try:
        number = kernel_process.read_proc(f"/proc/{tid}/syscall").split(None, 1)[0]
    except (OSError, IndexError):
        return False
    if number == b"running":
        return or_runs
    calls = arch.current().calls
    return number.isdigit() and int(number) in {calls[name] for name in _WAITING if name in calls}


class Waiting(Protocol):
    """Whatever is to be told who waits; the ledger's records."""

    lead: tuple[Frame, ...]
    joint: int
    thread: str
    is_whole: bool


class Inquiries:
    """Questions to one pytest process, and to what it forks."""

    __slots__ = ("_left_alone_until", "_number", "_page", "_signal", "_target", "_waited_s")

    def __init__(self, page: Page, signal: int) -> None:
        self._page = page
        self._signal = signal
        self._number = 0
        self._target: Waiting | None = None
        self._left_alone_until = 0.0
        self._waited_s = 0.0

    def ask(self, pid: int, tid: int, target: Waiting, *, wait: bool) -> None:
        """`wait`: the main thread can answer now."""
        self.collect()
        began = time.monotonic()
        if began < self._left_alone_until or self._waited_s > _PATIENCE_IN_ALL_S:
            return
        for _ in range(_AGAIN_MAX):
            self._number = (self._page.asked()[0] + 1) & 0xFFFF_FFFF
            try:
                if not self._page.ask(self._number, tid) or not signals.state(pid).has_handler(self._signal):
                    break
                signals.tgkill(pid, pid, self._signal)
            except OSError:
                break
            self._target = target
            if not wait or not self._answered(pid, began + _PATIENCE_S) or target.is_whole:
                break
            time.sleep(_PAUSE_S)
        self._waited_s += time.monotonic() - began

    def _answered(self, pid: int, deadline: float) -> bool:
        busy = 0
        while not self.collect():
            # What it does is short, or a call that waits for us: then it cannot answer before we do.
            busy = 0 if waits(pid, or_runs=True) else busy + 1
            if busy > _BUSY_MAX:
                return False
            if time.monotonic() >= deadline:
                self._left_alone_until = deadline + _LEFT_ALONE_S
                return False
            time.sleep(_PAUSE_S)
        return True

    def collect(self) -> bool:
        """Take the answer; whether none is outstanding any more."""
        if self._target is None:
            return True
        answer = self._page.told(self._number)
        if answer is None:
            return False
        read_answer(answer, self._target)
        self._target = None
        return True


def read_answer(answer: bytes, target: Waiting) -> None:
    """It comes from a process that runs tests, which can only tell lies about itself. What makes no sense is left."""
    try:
        found = json.loads(answer)
        lines = [_frame(*line) for line in found["lines"][:_LINES_MAX]]
        joint, thread, whole = int(found["joint"]), str(found["thread"])[:_NAME_MAX], bool(found["whole"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return
    target.lead, target.joint, target.thread, target.is_whole = tuple(lines), joint, encodable(thread), whole


def _frame(path: object, line: object, function: object) -> Frame:
    if not isinstance(line, int) or not 0 <= line < _LINE_MAX:
        raise ValueError(line)
    return Frame(encodable(str(path)), line, encodable(str(function)))
