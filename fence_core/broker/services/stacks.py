"""The Python line that did it: a real-time signal to the blocked thread, answered by `faulthandler`.

Facts and consequences:

* A thread that waits for our answer under WAIT_KILLABLE_RECV takes no signal until the answer is there. A signal
  queued before the answer is therefore handled exactly when the call returns, by that thread, on that line, before
  any Python code can swallow the error. Without that flag a signal makes the kernel withdraw and repeat the
  notification for ever: there are no stacks then.
* A program started by exec has the signal's default action: it would be killed. So a stack is asked for only where
  the kernel says that the thread catches the signal and does not block it, and where this process (or the one it was
  forked from) registered and has not made an exec since, which the broker sees since exec is trapped.
* The descriptor that `faulthandler` writes to is a number that a test may have closed and reused: the broker looks
  at what it is just before it sends the signal.
* All threads write into one pipe. One stack is asked for at a time; it is complete once the thread neither has the
  signal pending nor blocks it (it is blocked while its handler runs). "No stack" is a normal outcome: nobody waits.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

from fence_core.kernel import signals

if TYPE_CHECKING:
    from fence_core.broker.services.inquiries import Inquiries, Waiting
    from fence_core.events.model import Frame
    from fence_core.link.page import Page

_WAIT_S = 0.005
"""The longest that a second denial waits for the stack of the one before to be written (it takes 25 us)."""
_GIVE_UP_S = 1.0
"""After this an unwritten stack no longer keeps others from being asked for."""


class StackTarget(Protocol):
    """Whatever is waiting for a stack; the ledger's records."""

    stack: tuple[Frame, ...]


class StackPipe:
    """The pipe of one registered pytest process, shared with what it forks without an exec."""

    __slots__ = ("_asked", "_inode", "_inquiries", "_target", "_tid", "answers", "read_fd", "signal", "target_fd")

    def __init__(self, read_fd: int, inode: int) -> None:
        self.read_fd = read_fd
        self._inode = inode
        self.signal = 0
        """0 until the process has said that its handler stands."""
        self.target_fd = -1
        self.answers: tuple[Page, int] | None = None
        """Where its main thread says who waits for a thread, and by which signal it is asked; None: it cannot be."""
        self._inquiries: Inquiries | None = None
        self._target: StackTarget | None = None
        self._tid = 0
        self._asked = 0.0

    def ask(self, pid: int, tid: int, target: StackTarget) -> None:
        """Queue the signal for a thread that waits for our answer; call this before answering."""
        if not self.signal:
            return
        self.collect(_WAIT_S)
        if self._target is not None:
            if time.monotonic() < self._asked + _GIVE_UP_S:
                return  # two stacks at once could not be told apart
            self._target = None
        try:
            if not signals.state(tid).has_handler(self.signal):
                return
            if os.stat(f"/proc/{pid}/fd/{self.target_fd}").st_ino != self._inode:
                return
            signals.tgkill(pid, tid, self.signal)
        except OSError:
            return
        self._target, self._tid, self._asked = target, tid, time.monotonic()

    def ask_who_waits(self, pid: int, tid: int, target: Waiting, *, wait: bool) -> None:
        """Ask the main thread who waits for that thread, if it can be asked; `wait`: it can answer now."""
        if self.answers is None:
            return
        if self._inquiries is None:
            from fence_core.broker.services.inquiries import Inquiries  # only ever needed where something was refused

            self._inquiries = Inquiries(*self.answers)
        self._inquiries.ask(pid, tid, target, wait=wait)

    def collect(self, patience_s: float = 0.0) -> None:
        """Read the outstanding stack, if the thread has written all of it, and the outstanding answer."""
        if self._inquiries is not None:
            self._inquiries.collect()
        target = self._target
        if target is None:
            return
        deadline = time.monotonic() + patience_s
        while not self._written():
            if time.monotonic() >= deadline:
                break
            time.sleep(0.0002)
        text = b""
        try:
            while chunk := os.read(self.read_fd, 65536):
                text += chunk
        except BlockingIOError:
            pass
        frames = parse_stack(text.decode("utf-8", "replace"))
        if frames:
            target.stack = frames
        if frames or self._written():
            self._target = None

    def _written(self) -> bool:
        try:
            state = signals.state(self._tid)
        except OSError:
            return True
        return not (state.pending_thread | state.blocked) & signals.bit(self.signal)

    def close(self) -> None:
        os.close(self.read_fd)


def parse_stack(text: str) -> tuple[Frame, ...]:
    """faulthandler's traceback as frames, outermost call first."""
    from fence_core.events.model import Frame

    frames: list[Frame] = []
    for text_line in text.splitlines():
        if text_line.startswith('  File "'):
            # From the right, since a file may have any name: File "PATH", line N in FUNCTION
            path, _, rest = text_line[8:].rpartition('", line ')
            number, _, function = rest.partition(" in ")
            if number.isdigit():
                frames.append(Frame(path, int(number), function))
        elif frames:
            break  # the end of this stack
    return tuple(reversed(frames))
