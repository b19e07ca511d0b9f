"""The supervisor's loop: one thread that waits for calls, for descriptors and for its timers, and for nothing else.

Runs in the supervisor process. Measured facts: a second thread makes every call dearer and a second process gains
nothing, so there is one loop; ``poll`` on two descriptors is cheaper than ``epoll`` on many, so everything but the
listener sits behind one epoll descriptor.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

__all__ = ["Loop"]


class Loop:
    """Only `run` blocks; everything else is called from it."""

    def __init__(self, on_fault: Callable[[Exception], object]) -> None:
        """`on_fault` is told what a callback has raised; the loop goes on."""
        self._on_fault = on_fault
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, Callable[[], object]]] = []
        self.finished = False
        """Set by a callback: `run` is to return."""

    def run(self, listener_fd: int, step: Callable[[], object]) -> None:
        """Call `step` whenever there is a call to be received; until it is `finished`."""
        outer = select.poll()
        outer.register(listener_fd, select.POLLIN)
        outer.register(self._epoll.fileno(), select.POLLIN)
        poll = outer.poll
        while not self.finished:
            calls = 0
            for fd, event in poll(self._timeout_ms()):
                if fd == listener_fd:
                    calls = event
                else:
                    # Ends of processes come before calls: a reused number must not meet its former owner.
                    self._look_around()
            if calls & select.POLLIN:
                step()
            elif calls:
                outer.unregister(listener_fd)  # POLLHUP: no fenced process is left
            if self._timers:
                self._tick()

    def watch(self, fd: int, callback: Callable[[], object], events: int = select.EPOLLIN) -> None:
        """Call back whenever the descriptor is readable, or whatever else `events` says."""
        self._epoll.register(fd, events)
        self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call back once, that much later."""
        self._timers.append((time.monotonic() + seconds, callback))

    def guarded(self, callback: Callable[[], object]) -> None:
        """A fault in our own book-keeping is reported like one in a handler."""
        try:
            callback()
        except Exception as error:
            self._on_fault(error)

    def _timeout_ms(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, (min(self._timers, key=lambda timer: timer[0])[0] - time.monotonic()) * 1000 + 1)

    def _tick(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        if due:
            self._timers = [timer for timer in self._timers if timer[0] > now]
            for _, callback in due:
                self.guarded(callback)

    def _look_around(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._watched.get(fd)
            if callback is not None:
                self.guarded(callback)
