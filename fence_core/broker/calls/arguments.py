"""The registers of a trapped call, and the flags that calls about paths share."""

from __future__ import annotations

Arguments = tuple[int, int, int, int, int, int]

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000


def signed(value: int) -> int:
    """An int argument: the kernel looks at the lower half of the register only."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value
