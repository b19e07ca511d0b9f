"""Calls that are made again because a signal came before our answer: recognised, so that nothing is done twice.

Only before Linux 5.19, or without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: there any signal with a handler takes a call
back from the broker, also one that the broker has carried out by then. The thread gets EINTR, or with SA_RESTART makes
the call again itself (seccomp_do_user_notification, kernel/seccomp.c).

A repetition is told by its thread, its place in the program and what its arguments stand for: the text of paths, the
files behind descriptors, the bytes of addresses and data. A pointer says nothing, since Python encodes a path afresh
for each attempt, and the same buffer is filled with the next message. What a mistake costs decides the rest:

* a repetition that is not recognised is done twice: EEXIST, ENOENT or EINVAL after a success, a message sent twice;
* a new call taken for a repetition is not done at all, and says that it was.

So an answer is kept for a second, for one thread, and no longer than until that thread makes another call that may have
undone it: mkdir, rmdir and mkdir once more are three calls. What else it does (a handler of signals that writes a log)
does not count.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from fence_core.broker.calls.arguments import AT_FDCWD, InvalidMessageError, signed
from fence_core.broker.reply import HandOver, Value
from fence_core.errors import KernelCallError
from fence_core.kernel import memory

KEPT_S = 1.0
"""How long an answer is kept. The next attempt comes as soon as the handlers of the signal are done."""
_DATA_MAX = 1 << 17

Answer = Value | HandOver | int
"""What the thread has not got; an int: the errno of a call that had an effect all the same."""


class Key(NamedTuple):
    """What a call is."""

    call: int
    at: int
    """Where in the program it is made."""
    contents: tuple[object, ...]


class Shape(NamedTuple):
    """What a call is about, and what its arguments are."""

    about: str
    arguments: str
    """As the rows of `table.py` have them."""


NAMES, OPENS, SOCKETS = "names", "opens", "sockets"
_UNDOES = {NAMES: {NAMES, OPENS}, OPENS: set[str](), SOCKETS: {SOCKETS}}
"""What calls of each kind may have undone."""


class _Kept(NamedTuple):
    answer: Answer
    until: float


class Repeats:
    """Answers that did not arrive, by thread and call: while one is kept, a handler's own calls may be interrupted."""

    def __init__(self, shapes: Mapping[int, Shape]) -> None:
        """`shapes`: of calls that the broker may carry out itself, and whose second time is not as the first."""
        self._shapes = shapes
        self._kept: dict[tuple[int, Key], _Kept] = {}

    def key(self, tid: int, notification: tuple[int, ...]) -> Key | None:
        """What this call is, to be asked before it is carried out: afterwards the thread may have gone on.

        None where a second time does no harm, or where it cannot be told.
        """
        shape = self._shapes.get(notification[3])
        if shape is None:
            return None
        try:
            return Key(notification[3], notification[4], tuple(_contents(tid, shape.arguments, notification[5:])))
        except (KernelCallError, OSError, InvalidMessageError):
            return None  # the handler says what is wrong

    def take(self, tid: int, call: int, key: Key | None) -> Answer | None:
        """The answer to the call that is made again; None for another one, which may be the end of what is kept."""
        shape = self._shapes.get(call) if self._kept else None
        if shape is None:
            return None
        kept = self._kept.pop((tid, key), None) if key is not None else None
        if kept is not None:
            if time.monotonic() <= kept.until:
                return kept.answer
            _close(kept.answer)
        undone = _UNDOES[shape.about]
        self._forget([place for place in self._kept if place[0] == tid and self._shapes[place[1].call].about in undone])
        return None

    def keep(self, tid: int, key: Key, answer: Answer) -> None:
        """This answer has not arrived, as far as one can tell."""
        self.expire()
        self._forget([(tid, key)])
        self._kept[tid, key] = _Kept(answer, time.monotonic() + KEPT_S)

    def arrived(self, tid: int, key: Key) -> None:
        """It has, after all."""
        self._kept.pop((tid, key), None)

    def expire(self) -> None:
        """Forget what is too old, and close its descriptors."""
        now = time.monotonic()
        self._forget([place for place, kept in self._kept.items() if kept.until < now])

    def _forget(self, places: list[tuple[int, Key]]) -> None:
        for place in places:
            kept = self._kept.pop(place, None)
            if kept is not None:
                _close(kept.answer)


def _close(answer: Answer) -> None:
    if isinstance(answer, HandOver):
        os.close(answer.fd)


def has_an_effect(number: int) -> bool:
    """Whether this error says that something was done: a connection has begun."""
    return number == errno.EINPROGRESS


def _contents(tid: int, kinds: str, args: tuple[int, ...]) -> list[object]:
    """What arguments stand for. Raises KernelCallError where one cannot be read."""
    found: list[object] = []
    place = 0
    relative = False
    for kind in kinds:
        value = args[place]
        place += 1
        if kind == "v":
            found.append(signed(value))
        elif kind == "s":
            text = memory.read_string(tid, value)
            relative = relative or not text.startswith(b"/")
            found.append(text)
        elif kind == "f":
            fd = signed(value)
            # A socket made since then in place of the first has the same number, and another inode.
            found.append(None if fd == AT_FDCWD else os.readlink(f"/proc/{tid}/fd/{fd}"))
        elif kind == "b":
            size = args[place]
            place += 1
            found.append(memory.read(tid, value, min(size, _DATA_MAX)) if value else None)
        elif kind == "m":
            found.extend(_of_messages(tid, value, None))
        else:
            found.extend(_of_messages(tid, value, args[place]))
            place += 1
    if relative:
        found.append(os.readlink(f"/proc/{tid}/cwd"))
    return found


def _of_messages(tid: int, address: int, count: int | None) -> list[object]:
    """`count`: of a vector; None: of one message. Raises KernelCallError, InvalidMessageError."""
    from fence_core.broker.calls.messages import Message, headers_of_many
    from fence_core.kernel.structs import MSGHDR

    headers = [memory.read(tid, address, MSGHDR.size)] if count is None else headers_of_many(tid, address, count)
    return [Message.read(tid, header).contents(tid, _DATA_MAX) for header in headers]
