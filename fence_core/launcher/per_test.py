"""A process for one test: a fork of the pytest process, which the broker takes for that process itself.

Run by fenced pytest processes: `fork` by the one that runs the session, the rest by the fork too.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterable
from typing import NoReturn

from fence_core.errors import KernelCallError
from fence_core.kernel import landlock, libc
from fence_core.launcher import announced
from fence_core.launcher.child import FILES, add_places
from fence_core.launcher.numbers import out_of_the_way
from fence_core.link import doors
from fence_core.untouched import real

__all__ = ["Layer", "end", "fork"]

_TOO_MANY = errno.E2BIG
_NOT_A_RULESET = (errno.EBADF, errno.EBADFD)
_SIGKILL = int(signal.SIGKILL)


class Layer:
    """A Landlock ruleset for forks that may write in these places: as of `add_places`.

    No signal scope: a test may stop what a session's fixture has started.
    """

    def __init__(self, places: Iterable[tuple[str, str]]) -> None:
        """Raises KernelCallError."""
        self._places = [(str(place), str(what)) for place, what in places]
        self.fd = self._new()

    def _new(self) -> int:
        ruleset = landlock.create_ruleset(handled_fs=FILES)
        add_places(ruleset, self._places)
        return out_of_the_way(ruleset)

    def enter(self) -> None:
        """Bind this process by it. Raises KernelCallError."""
        try:
            landlock.restrict_self(self.fd)
        except KernelCallError as error:
            if error.errno == _TOO_MANY:
                # Sixteen layers are there already, by sessions inside of sessions. Each only narrows, so those hold.
                return
            if error.errno not in _NOT_A_RULESET:
                raise
            landlock.restrict_self(self._new())  # something has closed all descriptors of the process above


def fork(layer: Layer | None, others: Iterable[Layer | None]) -> int:
    """Fork with every at-fork handler but our own: 0 in the child, its pid here. Raises OSError.

    The child dies with the thread that forked it, and is known to the broker as a process of this session. It keeps
    none of the rulesets, `layer` and `others`, to which it could add rules for the tests after it.
    """
    parent = real.getpid()
    with announced.unannounced():
        pid = _os_fork()
    if pid == 0:
        try:
            _begin(parent, layer)
            for each in others:
                if each is not None:
                    _close(each.fd)
        except BaseException as error:  # whatever it is: there must not be two of this session
            real.write(2, f"fence: the process of a test could not be set up: {error}\n".encode(errors="replace"))
            libc.exit_now(1)
    else:
        doors.knock(doors.of_test(pid))  # here and not in the child, which has no need to wait for it
    return pid


def _begin(parent: int, layer: Layer | None) -> None:
    libc.set_parent_death_signal(_SIGKILL)
    if real.getppid() != parent:  # it ended before the death signal was set
        libc.exit_now(1)
    if layer is not None:
        layer.enter()


def _close(ruleset: int) -> None:
    try:
        # Unless the number is somebody else's by now.
        if b"landlock" in real.readlink(f"/proc/self/fd/{ruleset}".encode()):
            real.close(ruleset)
    except OSError:
        pass


def _os_fork() -> int:
    with real.catch_warnings():
        # Python 3.12 warns of a fork beside threads, in the parent, when the child is there already: -W error would
        # leave it without anybody to wait for it. Nothing of theirs is used in the child.
        real.simplefilter("ignore", DeprecationWarning)
        return real.fork()


def end(status: int = 0) -> NoReturn:
    """Leave the child: nothing that belongs to the parent (atexit handlers, buffers) is run or written twice."""
    libc.exit_now(status)
