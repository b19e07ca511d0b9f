"""The doors of the fence: opens that only a broker of ours answers.

procfs lets nobody create files: unfenced, an open below `DOORS` fails whatever a test or a user has prepared. Fenced
processes knock, the broker compares what was opened with the same constants. Small, since it is how a run finds out
that it is not fenced yet.
"""

from __future__ import annotations

import os

from fence_core.untouched_calls import calls as real

DOORS = b"/proc/fence/"
CONTROL = DOORS + b"control"
"""Answered with one end of a stream socket: see `control`."""
PAGE = DOORS + b"page"
"""Answered with the shared page of this session: see `page`."""
STACK = DOORS + b"stack"
"""Answered with the write end of the pipe for stacks."""
LINES = DOORS + b"lines"
"""Answered with the read end of a pipe: a JSON object a line for what this session is refused."""
BIND = DOORS + b"bind"
"""No answer: that it is knocked at tells the broker of a process that has called nothing else yet."""
_TEST = DOORS + b"test/"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def of_test(pid: int) -> bytes:
    """No answer: says that this child of the process that knocks is a fork for one test."""
    return _TEST + b"%d" % pid


def pid_of_test(door: bytes) -> int | None:
    """The number that `of_test` was given; None where it is another door."""
    number = door.removeprefix(_TEST)
    return int(number) if number != door and number.isdigit() else None


def knock(door: bytes) -> int | None:
    """A descriptor from the broker; None where there is no broker, or it gives none."""
    try:
        return real.open(door, _FLAGS, 0o600)
    except OSError:
        return None


def is_fenced() -> bool:
    """Whether a broker of ours answers this process."""
    line = knock(CONTROL)
    if line is not None:
        real.close(line)
    return line is not None
