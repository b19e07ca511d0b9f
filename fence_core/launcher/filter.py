"""Starting the filter: a process of its own beside the supervisor, forked when the first name is connected to.

It is not fenced, since it is the one that goes outside. What it keeps of the supervisor are its own sockets.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from fence_core.kernel import fds, libc, pidfd, process

if TYPE_CHECKING:
    from fence_core.broker.services.tunnels import FilterEnd

_BACKLOG = 1024
_HOST = "127.0.0.1"


def listen(port: int = 0) -> socket.socket:
    """A socket for the filter. `port`: on loopback; 0 for any. Raises OSError."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def start_filter(listener: socket.socket, blocked: str = "") -> FilterEnd:
    """Fork the filter. `blocked`: see `Host.blocked`. Raises OSError, KernelCallError."""
    from fence_core.broker.services.tunnels import FilterEnd  # `listen` is for a process that needs no broker

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = os.getpid()
    child = process.fork_unnoticed()
    if child == 0:
        _serve(listener, theirs, supervisor, blocked)
    theirs.close()
    return FilterEnd(ours, _HOST, listener.getsockname()[1], pidfd.open_pidfd(child))


def _serve(listener: socket.socket, control: socket.socket, supervisor: int, blocked: str) -> None:
    """Never returns."""
    try:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == supervisor:  # else it ended before the death signal was set
            fds.keep_only(listener.fileno(), control.fileno())  # above all no copy of the seccomp listener
            libc.set_name("fence-filter")
            from fence_core.proxy.server import serve

            serve([listener], control, blocked)
    finally:
        libc.exit_now(0)
