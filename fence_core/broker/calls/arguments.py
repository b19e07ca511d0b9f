"""The registers of a trapped call, the flags that calls about paths share, and what a message may not be."""

from __future__ import annotations

import os

Arguments = tuple[int, int, int, int, int, int]

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000


class InvalidMessageError(Exception):
    """A message that the kernel refuses, whatever any policy says: with the error number `errno`."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


def signed(value: int) -> int:
    """An int argument: the kernel looks at the lower half of the register only."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value
