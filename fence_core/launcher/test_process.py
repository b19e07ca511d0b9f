"""A process for one test: a fork of the pytest process, which the broker takes for that process itself.

Run by fenced pytest processes: `fork` by the one that runs the session, the rest by the fork too.
"""

from __future__ import annotations

import os
import signal
import socket
import warnings
from typing import NoReturn

from fence_core.kernel import libc
from fence_core.launcher import join
from fence_core.launcher.doors import knock

__all__ = ["end", "fork", "high_pair"]


def fork() -> int:
    """Fork with every at-fork handler but our own: 0 in the child, its pid here. Raises OSError.

    The child dies with the thread that forked it, and is known to the broker as a process of this session.
    """
    parent = os.getpid()
    with join.unannounced():
        pid = _os_fork()
    if pid == 0:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the death signal was set
            libc.exit_now(1)
    else:
        knock(f"test/{pid}")  # here and not in the child, which has no need to wait for it
    return pid


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
    """Two ends, the second of which can be written to, with high numbers: tests expect the low ones as they know them.

    Closed by exec. Raises OSError.
    """
    from fence_core.launcher.handle import out_of_the_way

    if both_ways:
        ends = [end.detach() for end in socket.socketpair()]
    else:
        ends = list(os.pipe2(os.O_CLOEXEC))
    ours, theirs = map(out_of_the_way, ends)
    return ours, theirs
