"""Descriptors with an owner."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class OwnedFd:
    """Closes its descriptor once and then forgets the number, which the kernel hands out again at once.

    After `close` or `detach` the number is -1, so that a use too late fails with EBADF instead of hitting
    somebody else's file.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = -1  # what __del__ finds when the next line raises
        if fd < 0:
            raise ValueError(f"{fd} is no descriptor")
        self.fd = fd

    def fileno(self) -> int:
        """Return the number, -1 when closed."""
        return self.fd

    @property
    def closed(self) -> bool:
        return self.fd < 0

    def detach(self) -> int:
        """Return the number and own it no longer. Raises `ValueError` when closed."""
        if self.fd < 0:
            raise ValueError("the descriptor is closed")
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor; nothing the second time. Raises `OSError` as os.close does."""
        # Forget first: the descriptor is gone even if close reports an error (close(2)).
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> OwnedFd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except OSError:
            pass  # somebody closed the number behind our back; nobody to tell in a finaliser

    def __repr__(self) -> str:
        return f"OwnedFd({self.fd})"


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
