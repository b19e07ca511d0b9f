"""A process for one test: a fork of the pytest process, which the broker takes for that process itself.

Run by fenced pytest processes: `fork` by the one that runs the session, the rest by the fork too.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import warnings
from collections.abc import Iterable
from typing import NoReturn

from fence_core.errors import KernelCallError
from fence_core.kernel import landlock, libc
from fence_core.launcher import join
from fence_core.launcher.child import FILES, add_places
from fence_core.launcher.doors import knock

__all__ = ["end", "fork", "high_pair", "layer"]


def layer(places: Iterable[tuple[str, str]]) -> int:
    """A Landlock ruleset for forks that may write in these places; the number of its descriptor.

    No signal scope: a test may stop what a session's fixture has started. Raises KernelCallError.
    """
    from fence_core.launcher.handle import out_of_the_way

    ruleset = landlock.create_ruleset(handled_fs=FILES)
    add_places(ruleset, ((os.fspath(place), what) for place, what in places))
    return out_of_the_way(ruleset)


def fork(ruleset: int | None) -> int:
    """Fork with every at-fork handler but our own: 0 in the child, its pid here. Raises OSError.

    The child dies with the thread that forked it, and is known to the broker as a process of this session.
    """
    parent = os.getpid()
    with join.unannounced():
        pid = _os_fork()
    if pid == 0:
        try:
            _begin(parent, ruleset)
        except BaseException as error:  # whatever it is: there must not be two of this session
            os.write(2, f"fence: the process of a test could not be set up: {error}\n".encode(errors="replace"))
            libc.exit_now(1)
    else:
        knock(f"test/{pid}")  # here and not in the child, which has no need to wait for it
    return pid


def _begin(parent: int, ruleset: int | None) -> None:
    libc.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the death signal was set
        libc.exit_now(1)
    if ruleset is None:
        return
    try:
        landlock.restrict_self(ruleset)
    except KernelCallError as error:
        # Sixteen layers are there already, by sessions inside of sessions. Each only narrows, so those hold still.
        if error.errno != errno.E2BIG:
            raise


def _os_fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads, in the parent, when the child is there already: -W error would
        # leave it without anybody to wait for it. Nothing of theirs is used in the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def end(status: int = 0) -> NoReturn:
    """Leave the child: nothing that belongs to the parent (atexit handlers, buffers) is run or written twice."""
    libc.exit_now(status)


def high_pair(*, both_ways: bool) -> tuple[int, int]:
    """Two ends. The second can be written to, and has a high number: tests expect the low ones as they know them.

    Closed by exec. Raises OSError.
    """
    from fence_core.launcher.handle import out_of_the_way

    if both_ways:
        ends = [end.detach() for end in socket.socketpair()]
    else:
        ends = list(os.pipe2(os.O_CLOEXEC))
    return ends[0], out_of_the_way(ends[1])
