"""Whether a name exists outside of the fence, for a session that learns: a name that does not, does not inside either.

Elsewhere nobody needs to know: what no rule lists does not exist, and what one lists is looked up when it is connected
to. The broker never waits, so a process of its own asks, and the query that wants to know is answered afterwards.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from fence_core.broker.services.look_ups import NotYetKnownError
from fence_core.kernel import libc, process

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.broker.loop import Loop

__all__ = ["Outside"]

_AT_ONCE_MAX = 32
"""Names that are asked for at a time; others count as there."""
_KNOWN_MAX = 10_000
_PATIENCE_S = 10
"""How long a name server has; whoever asks gives up sooner."""
_THERE, _ABSENT = b"1", b"0"


class Outside:
    """What this machine's own resolver says, once for each name."""

    def __init__(self, loop: Loop, listener_fd: int) -> None:
        """`listener_fd`: the broker's, of which no other process may keep a copy."""
        self._loop = loop
        self._listener_fd = listener_fd
        self._known: dict[str, bool] = {}
        self._asked: dict[str, list[Callable[[], None]]] = {}

    def exists(self, name: str) -> bool:
        """Whether there is such a name. Where that cannot be found out, there is. Raises NotYetKnownError."""
        known = self._known.get(name)
        if known is not None:
            return known
        full = len(self._asked) >= _AT_ONCE_MAX or len(self._known) >= _KNOWN_MAX
        if name not in self._asked and (full or not self._ask(name)):
            return True
        raise NotYetKnownError(self._asked[name])

    def _ask(self, name: str) -> bool:
        """Whether somebody is asking now."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            pid = process.clone_child()
        except OSError:
            os.close(ours)
            os.close(theirs)
            return False
        if pid == 0:
            self._look_up(name, theirs)
        os.close(theirs)
        self._asked[name] = []
        self._loop.watch(ours, lambda: self._heard(name, ours))
        return True

    def _heard(self, name: str, fd: int) -> None:
        self._loop.unwatch(fd)
        said = os.read(fd, 1)
        os.close(fd)
        self._known[name] = said != _ABSENT
        for then in self._asked.pop(name):
            then()

    def _look_up(self, name: str, line: int) -> NoReturn:
        """Run by the new process."""
        try:
            # First of all: while a copy of the listener is open, calls of the tests would wait for an answer for ever.
            os.close(self._listener_fd)
            libc.set_parent_death_signal(signal.SIGKILL)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.alarm(_PATIENCE_S)
            os.closerange(3, line)
            os.closerange(line + 1, 1 << 20)
            os.write(line, _ABSENT if _is_absent(name) else _THERE)
        finally:
            libc.exit_now(0)


def _is_absent(name: str) -> bool:
    """Without the machine's search list: which name is meant was found out before."""
    for spelled in (name, f"{name}."):
        try:
            socket.getaddrinfo(spelled, None, type=socket.SOCK_STREAM)
            return False
        except socket.gaierror as error:
            found = error.errno
        except (OSError, UnicodeError):
            return False
    return found in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
