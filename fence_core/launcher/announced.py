"""Forks that the broker is told of. Run by any process inside a fence whose guardian can end only what it knows.

On whose account a fork is does not depend on it: see `broker/processes.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fence_core.link import doors
from fence_core.untouched_calls import calls as real

_hooked = False
_silent = False
"""Whether forks of this process are its own business for now: see `unannounced`."""


def bind_forks() -> None:
    """Have the broker know every Python fork of this process from the start, though it may never call anything."""
    global _hooked
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=lambda: _knock(doors.BIND))


@contextmanager
def unannounced() -> Iterator[None]:
    """A fork in this block says nothing of itself to the broker: the child does, and the parent waits for it."""
    global _silent
    _silent = True
    try:
        yield
    finally:
        _silent = False


def _knock(door: bytes) -> None:
    """A call that has no effect but that the broker sees, and with it this process."""
    if _silent:
        return
    fd = doors.knock(door)
    if fd is not None:
        real.close(fd)
