"""What a handler answers; `loop.py` sends it."""

from __future__ import annotations

from collections.abc import Callable

CONTINUE = 0
"""The kernel carries the call out. Replies are plain ints, since there is one for every trapped call:
0 continues, a positive number is the error the call fails with, `Value` and the rest are objects."""


class Value:
    """The call returns this number, without having been carried out."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class HandOver:
    """The call returns a descriptor, a copy of ours, which is closed afterwards."""

    __slots__ = ("arrived", "cloexec", "fd")

    def __init__(self, fd: int, *, cloexec: bool) -> None:
        self.fd = fd
        self.cloexec = cloexec
        self.arrived: Callable[[int], object] | None = None
        """Told the number that it has got there; -1 where it was not taken."""


class Wait:
    """The answer comes later: `poll` is called until it returns one, when `fd` is ready and every few milliseconds.

    `close` is called once, whatever became of it.
    """

    __slots__ = ("close", "deadline", "fd", "poll", "readable", "so_far")

    def __init__(
        self,
        fd: int,
        poll: Callable[[], int | Value | HandOver | None],
        close: Callable[[], None],
        deadline: float,
        *,
        readable: bool = False,
    ) -> None:
        self.fd = fd
        self.readable = readable
        """What is waited for is something to read, and not room to write."""
        self.poll = poll
        self.close = close
        self.deadline = deadline
        self.so_far = 0
        """What of the call is done: its result, where a signal ends the waiting."""


Reply = int | Value | HandOver | Wait
