"""Which descriptors a process of ours goes on with."""

from __future__ import annotations

import os


def keep_only(*wanted: int) -> None:
    """Close every other descriptor; the standard ones lead to /dev/null afterwards. Raises `OSError`.

    For a process of ours that goes on beside the tests: a pipe that it held open would keep its reader waiting.
    """
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    low = 3
    for fd in sorted(wanted):
        os.closerange(low, fd)
        low = fd + 1
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(low, max(low, highest + 1))
