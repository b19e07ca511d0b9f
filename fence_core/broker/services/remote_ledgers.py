"""What the fences on other machines have refused, in the ledger of this run.

Run by the supervisor of a run that has workers on other machines. Their fences are supervised there; the carrier, a
process of ours outside of the fence, passes on what they say.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from fence_core.errors import BrokerError
from fence_core.events.model import Violation
from fence_core.events.wire import from_wire
from fence_core.link import remote

if TYPE_CHECKING:
    from fence_core.broker.loop import Loop
    from fence_core.events.ledger import Ledger

_LAST_WORDS_S = 30.0
"""How long the carrier may take to end what it has started, when the run is over. It has shorter bounds of its own."""


class RemoteLedgers:
    """The line to the carrier."""

    def __init__(self, line: socket.socket, loop: Loop, ledger: Ledger) -> None:
        self._line = line
        self._loop = loop
        self._ledger = ledger
        self._lines = remote.Lines()
        self._open = True
        self._all = False
        self.lost: list[str] = []
        """Fences of which nobody knows what they have refused, and what else was not told, in words."""
        line.setblocking(False)
        loop.watch(line.fileno(), self.drain)

    def drain(self) -> None:
        """Read what was said by now. Raises BrokerError for what is not understood; then it counts as lost."""
        while self._open:
            try:
                chunk = self._line.recv(remote.CHUNK)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            if not chunk:
                self._open = False
                self._loop.unwatch(self._line.fileno())
                if not self._all:
                    self.lost.append("what is outside of the fence ended before it could say all")
            for line in self._lines.of(chunk):
                self._heard(line)

    def close(self) -> None:
        """The run is over: wait until the carrier has told all, and has gone."""
        waits = select.poll()
        waits.register(self._line.fileno(), select.POLLIN)
        self._line.shutdown(socket.SHUT_WR)
        while self._open:
            if not waits.poll(_LAST_WORDS_S * 1000):
                self.lost.append("what is outside of the fence does not end")
                break
            try:
                self.drain()
            except BrokerError:
                pass  # it is known that something is missing
        self._line.close()

    def _heard(self, line: bytes) -> None:
        try:
            said = remote.read(line)
            if said["kind"] == remote.VIOLATIONS:
                for plain in said["violations"]:
                    self._ledger.adopt(from_wire(Violation, plain))
            elif said["kind"] == remote.OVER:
                self._ledger.dropped += said["dropped"]
                if said["unwritten"]:
                    self.lost.append("something was refused on another machine that could not be written down there")
            elif said["kind"] == remote.ALL:
                self._all = True
            elif said["kind"] == remote.LOST:
                self.lost.append(str(said["what"]))
        except (KeyError, TypeError, ValueError) as error:
            self.lost.append("what a fence on another machine has said is not understood")
            raise BrokerError(f"a fence on another machine: {type(error).__name__}: {error}") from error
