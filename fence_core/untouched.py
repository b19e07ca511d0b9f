"""What our code uses of Python's library in a process that runs tests, out of their reach. Any process.

Tests replace what they need to: `os.write`, `builtins.open`, `json.dumps`, clocks, and with pyfakefs the modules `os`,
`io`, `pathlib` in every module there is. pytest reports on a test while its patches stand, and so do we. Whoever
replaces something replaces a *name in a module*: in the module that it belongs to, or in all modules that have imported
it. So what is needed after collection has begun is bound here, once, before any conftest is imported, as attributes of
a class, which nobody looks through (default arguments are: pyfakefs has an option for that).
`tests/architecture/test_untouched.py` enforces it.

Taken from the C modules where there are any, since libraries that patch a whole process (gevent) replace the names in
`os`. One library goes deeper: time-machine changes the C functions themselves, `time.time` and others, but for clocks
that it does not know. So there is one clock here, which nobody sets.
"""

from __future__ import annotations

import ast
import builtins
import faulthandler
import gc
import hashlib
import linecache
import os
import shlex
import sys
import threading
import time
import tokenize
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from fence_core.untouched_calls import calls

if sys.platform == "linux":
    import posix
else:  # so that importing this never fails
    posix = os

__all__ = ["real"]


def _clocks() -> tuple[Callable[[], float], Callable[[], float]]:
    """A clock that goes on whatever a test has frozen; the same in seconds since 1970."""
    read, which = time.clock_gettime, time.CLOCK_MONOTONIC
    epoch = time.time() - read(which)
    return (lambda: read(which)), (lambda: epoch + read(which))


def _parser() -> Callable[[str], ast.AST]:
    compile_: Callable[..., Any] = builtins.compile
    flags = ast.PyCF_ONLY_AST
    return lambda source: compile_(source, "<source>", "exec", flags, dont_inherit=True)


def _reader() -> Callable[[str], bytes]:
    open_, read, close, flags = posix.open, posix.read, posix.close, os.O_RDONLY | os.O_CLOEXEC

    def read_file(path: str) -> bytes:
        fd = open_(path, flags)
        try:
            parts = []
            while chunk := read(fd, 1 << 16):
                parts.append(chunk)
            return b"".join(parts)
        finally:
            close(fd)

    return read_file


class real(calls):  # noqa: N801 - read as the module that it stands for: real.write(fd, data)
    """The functions as they were when this process started. All are called as in Python's library."""

    # faulthandler
    cancel_dump_traceback_later = staticmethod(faulthandler.cancel_dump_traceback_later)
    register_stack_signal = staticmethod(faulthandler.register)
    dump_traceback_later = staticmethod(faulthandler.dump_traceback_later)

    # text
    compile: Callable[..., Any] = staticmethod(builtins.compile)
    exec: Callable[..., None] = staticmethod(builtins.exec)
    format_exception: Callable[..., list[str]] = staticmethod(traceback.format_exception)
    quote = staticmethod(shlex.quote)
    walk = staticmethod(ast.walk)
    parse = staticmethod(_parser())
    """The syntax tree of a module's source. Raises SyntaxError, ValueError, RecursionError."""
    detect_encoding = staticmethod(tokenize.detect_encoding)
    warn_explicit: Callable[..., None] = staticmethod(warnings.warn_explicit)
    catch_warnings = warnings.catch_warnings
    simplefilter = staticmethod(warnings.simplefilter)
    warned = warnings.WarningMessage
    cached_lines = linecache.cache
    """Sources that are in no file: of doctests, of what a program has compiled."""

    sha256 = staticmethod(hashlib.sha256)

    modules = sys.modules
    current_frames = staticmethod(sys._current_frames)
    threads: dict[int, threading.Thread] = getattr(threading, "_active", {})
    """By the number that Python gives them; what `threading.enumerate` goes by."""
    referents = staticmethod(gc.get_referents)

    # our own
    _clock, _wall_time = _clocks()
    clock = staticmethod(_clock)
    """Seconds since some moment, going on whatever a test has frozen."""
    wall_time = staticmethod(_wall_time)
    """Seconds since 1970, by that clock."""
    read_file = staticmethod(_reader())
    """The bytes of the file at a path. Raises OSError."""
