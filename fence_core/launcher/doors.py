"""The doors of the fence: opens that only a broker of ours answers.

Run by any process. Small, since it is how a run finds out that it is not fenced yet.
"""

from __future__ import annotations

import os

from fence_core.untouched import real

DOORS = "/proc/fence/"
"""procfs lets nobody create files: unfenced, an open below this fails whatever a test or a user has prepared."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def knock(door: str) -> int | None:
    """A descriptor from the broker (``control``, ``page``, ``stack``); None where there is no broker."""
    try:
        return real.open(DOORS + door, _FLAGS, 0o600)
    except OSError:
        return None


def is_fenced() -> bool:
    """Whether a broker of ours answers this process."""
    line = knock("control")
    if line is not None:
        real.close(line)
    return line is not None
