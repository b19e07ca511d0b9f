"""The line home of a fence on another machine: its ledger goes there, and its end means the end of the fence.

Run by the supervisor of such a fence. Nothing of this is open to the tests: what they are refused, the run is told,
whatever becomes of the worker's own reports.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from fence_core.launcher.session_report import say, say_what_was_left
from fence_core.link import remote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fence_core.broker.assemble import Broker
    from fence_core.broker.loop import Loop
    from fence_core.events.ledger import Ledger

_EACH_S = 0.1
"""How often what is new is told. A worker that crashes, or a connection that breaks, loses no more than that."""
_AT_A_TIME = 200
_LAST_WORD_S = 10.0
"""How long the last word may wait for somebody to read it."""


class Home:
    """A `session_report.Reporter` that says what is in the ledger; it hears nothing but the end of the line."""

    def __init__(self, fd: int, first: int) -> None:
        """`first`: the number of the first violation."""
        self._line = socket.socket(fileno=fd)
        self._line.set_inheritable(False)  # the tests do not get it
        self._first = first
        self._loop: Loop
        self._ledger: Ledger
        self.on_end: Callable[[], object] = lambda: None
        """Called once, when nobody is there any more."""
        self._told: dict[int, tuple[int, int]] = {}
        self._unsent = bytearray()

    def unusable(self, why: str) -> str:
        """Read by the gateway, which tells it as what stands in the way."""
        return f"ERROR: fence: {why}"

    def begin(self, broker: Broker, layers: Sequence[str]) -> None:
        self._loop, self._ledger = broker.loop, broker.scope.ledger
        self._ledger.first = self._first
        self._unsent += remote.line(remote.READY, layers=layers)
        self._flush()
        self._loop.watch(self._line.fileno(), self._ended)
        self._loop.after(_EACH_S, self._tick)

    def broken(self, error: BaseException) -> None:
        """There is no last word, which is noticed."""
        say(f"fence: internal error in the supervisor, the worker is ended: {type(error).__name__}: {error}")

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        """The last word: all that was not told yet."""
        self._tell()
        self._unsent += remote.line(remote.OVER, dropped=self._ledger.dropped, unwritten=broker.recorder.lost_one)
        say_what_was_left(left)
        self._line.settimeout(_LAST_WORD_S)
        try:
            self._line.sendall(self._unsent)
        except OSError:
            pass  # who does not hear it knows that it is missing
        self._line.close()
        return os.WEXITSTATUS(status)

    def _tick(self) -> None:
        self._tell()
        self._flush()
        self._loop.after(_EACH_S, self._tick)

    def _tell(self) -> None:
        fresh = []
        for record in self._ledger.records:
            stands = (record.count, len(record.stack))
            if self._told.get(record.made.number) != stands:
                self._told[record.made.number] = stands
                fresh.append(record)
        if not fresh:
            return
        from fence_core.events.wire import to_wire  # a run without violations does without

        for start in range(0, len(fresh), _AT_A_TIME):
            plain = [to_wire(record.violation()) for record in fresh[start : start + _AT_A_TIME]]
            self._unsent += remote.line(remote.VIOLATIONS, violations=plain)

    def _flush(self) -> None:
        """As much as there is room for: calls wait meanwhile."""
        try:
            while self._unsent:
                del self._unsent[: self._line.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()

    def _ended(self) -> None:
        self._loop.unwatch(self._line.fileno())
        self.on_end()
