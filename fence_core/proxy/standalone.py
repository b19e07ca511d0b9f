"""The filter alone: proxy.py's server in this process, a thread for each connection, with our plugin.

For what cannot be fenced from here: service containers, remote browsers, another machine of the CI's network. It
refuses what its policy does not allow to whoever goes by it; nothing makes anybody go by it but their network.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from fence_core.proxy import library
from fence_core.proxy.desk import Desk
from fence_core.proxy.relay import reset

if TYPE_CHECKING:
    import argparse

__all__ = ["Server", "listen"]

CONNECTION_LIMIT = 1000
"""Threads at once; more clients wait in the queue of the kernel."""
_BACKLOG = 1024
_IDLE_S = 3600
"""How long a tunnel may say nothing: databases and event streams are quiet for long."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. `port` 0: any. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class Server:
    """Serves on a listening socket until it is stopped. One in a process: proxy.py keeps its flags in a module."""

    def __init__(self, listener: socket.socket, desk: Desk) -> None:
        self._listener = listener
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._threads: list[threading.Thread] = []
        host, port = listener.getsockname()[:2]
        desk.own = ("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)
        # proxy.py wants directories for what we do not use, and would make them in the user's home.
        self._directory = tempfile.TemporaryDirectory(prefix="fence-proxy-")
        self._flags = _flags(self._directory.name, desk)

    def run(self) -> None:
        """Until `stop`. Open connections end with the process."""
        from proxy.core.work.threaded import start_threaded_work

        self._listener.setblocking(False)
        try:
            while True:
                ready, _, _ = select.select([self._listener.fileno(), self._wake[0]], [], [])
                if self._wake[0] in ready:
                    return
                self._accept(start_threaded_work)
        finally:
            self._listener.close()
            self._directory.cleanup()

    def _accept(self, start: Any) -> None:
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors or memory: the next ones wait in the queue
            select.select([self._wake[0]], [], [], 0.1)
            return
        try:
            self._threads.append(start(self._flags, sock, address[:2])[1])
        except RuntimeError:  # no thread can be started
            reset(sock)
        while len(self._threads) >= CONNECTION_LIMIT:
            self._threads = [each for each in self._threads if each.is_alive()]
            if len(self._threads) >= CONNECTION_LIMIT:
                self._threads[0].join(0.1)  # there is no way to wait for whichever ends first

    def stop(self) -> None:
        """From any thread or signal handler."""
        try:
            os.write(self._wake[1], b"x")
        except OSError:
            pass  # it is full: it has been told


def _flags(directory: str, desk: Desk) -> argparse.Namespace:
    library.load()
    from proxy.common.flag import FlagParser

    from fence_core.proxy.plugin import FenceFilter

    root = logging.getLogger()
    quiet = logging.NullHandler()
    root.addHandler(quiet)  # else proxy.py writes its log to stderr
    try:
        flags = FlagParser.initialize(
            ["--threaded", "--timeout", str(_IDLE_S), "--data-dir", directory, "--cache-dir", directory,
             "--num-acceptors", "1", "--num-workers", "1"],
            plugins=[FenceFilter],
            fence_desk=desk,
        )  # fmt: skip
    finally:
        root.removeHandler(quiet)
    logging.disable(logging.CRITICAL)  # proxy.py logs a traceback for each client that resets
    flags.fence_desk = desk
    return flags
