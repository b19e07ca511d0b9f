"""Starting the filter: a process of its own beside the supervisor, forked when the first name is connected to.

It is not fenced, since it is the one that goes outside. What it keeps of the supervisor are its own sockets.
"""

from __future__ import annotations

import os
import signal
import socket

from fence_core.broker.services.tunnels import FilterEnd
from fence_core.kernel import fds, libc, pidfd, process

_BACKLOG = 1024
_HOST = "127.0.0.1"


def start_filter(port: int = 0) -> FilterEnd:
    """Fork the filter. `port`: the one it listens on; 0 for any. Raises OSError, KernelCallError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(_BACKLOG)
        supervisor = os.getpid()
        child = process.fork_unnoticed()
        if child == 0:
            _serve(listener, theirs, supervisor)
        theirs.close()
        return FilterEnd(ours, _HOST, listener.getsockname()[1], pidfd.open_pidfd(child))


def _serve(listener: socket.socket, control: socket.socket, supervisor: int) -> None:
    """Never returns."""
    try:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == supervisor:  # else it ended before the death signal was set
            fds.keep_only(listener.fileno(), control.fileno())  # above all no copy of the seccomp listener
            libc.set_name("fence-filter")
            from fence_core.proxy.server import serve

            serve([listener], control)
    finally:
        libc.exit_now(0)
