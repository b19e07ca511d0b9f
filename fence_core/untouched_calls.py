"""The system's calls, and JSON, out of the reach of tests: what of `untouched` is cheap to import. Any process.

What a fence is started with (the child, doors, pages, the line to the broker) takes it from here: a command is started
without the rest.
"""

from __future__ import annotations

import _thread
import fcntl
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

if sys.platform == "linux":
    import posix
else:  # so that importing this never fails
    posix = os

__all__ = ["calls"]


def _encoder(default: Callable[[object], Any] | None) -> Callable[[object], str]:
    encoder = json.JSONEncoder(default=default, separators=(",", ":"), skipkeys=default is not None)
    # On the object itself, where what is put in the class in their place does not reach.
    encoder.iterencode = encoder.iterencode  # type: ignore[method-assign]
    return encoder.encode


def _decoder() -> Callable[[str], Any]:
    decoder = json.JSONDecoder()
    decoder.raw_decode = decoder.raw_decode  # type: ignore[method-assign]
    return decoder.decode


class calls:  # noqa: N801 - as `real`, of which it is a part
    """The functions as they were when this process started. All are called as in Python's library."""

    # os
    open = staticmethod(posix.open)
    read = staticmethod(posix.read)
    write = staticmethod(posix.write)
    close = staticmethod(posix.close)
    dup2 = staticmethod(posix.dup2)
    fstat = staticmethod(posix.fstat)
    getpid = staticmethod(posix.getpid)
    getppid = staticmethod(posix.getppid)
    kill = staticmethod(posix.kill)
    waitpid = staticmethod(posix.waitpid)
    listdir = staticmethod(posix.listdir)
    readlink = staticmethod(posix.readlink)
    pidfd_open: Callable[[int], int] = staticmethod(getattr(posix, "pidfd_open", os.strerror))
    fspath: Callable[[Any], str] = staticmethod(posix.fspath)
    fork = staticmethod(posix.fork)
    strerror = staticmethod(posix.strerror)
    PathLike = os.PathLike

    # other modules of the system's calls
    fcntl = staticmethod(fcntl.fcntl)
    poll = staticmethod(select.poll)
    setitimer = staticmethod(signal.setitimer)
    getsignal = staticmethod(signal.getsignal)
    handle_signal = staticmethod(signal.signal)
    valid_signals = staticmethod(signal.valid_signals)
    strsignal = staticmethod(signal.strsignal)
    Signals = signal.Signals
    getrlimit = staticmethod(resource.getrlimit)
    setrlimit = staticmethod(resource.setrlimit)
    Lock = staticmethod(_thread.allocate_lock)

    # json: plain data only; `dumps_any` makes text of what is none
    dumps = staticmethod(_encoder(None))
    dumps_any = staticmethod(_encoder(str))
    loads = staticmethod(_decoder())
