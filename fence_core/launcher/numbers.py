"""Which numbers our descriptors have in a process of tests. Run by fenced processes."""

from __future__ import annotations

import fcntl

from fence_core.untouched_calls import calls as real

_F_DUPFD_CLOEXEC = fcntl.F_DUPFD_CLOEXEC


def out_of_the_way(fd: int) -> int:
    """The same descriptor under a high number: tests expect the low ones as they know them."""
    for lowest in (960, 200):  # below the usual limit of 1024, or a strict one
        try:
            high = real.fcntl(fd, _F_DUPFD_CLOEXEC, lowest)
        except OSError:
            continue
        real.close(fd)
        return high
    return fd
