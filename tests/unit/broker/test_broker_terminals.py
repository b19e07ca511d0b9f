"""Whose terminal is it? Asked of real terminals of this process."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from collections.abc import Iterator

import pytest

from fence_core.broker.paths.terminals import Terminals

_TIOCGPTN = 0x80045430
_TIOCSPTLCK = 0x40045431


class Pair:
    """Both ends of a terminal."""

    def __init__(self) -> None:
        self.master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(self.master, _TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("I", fcntl.ioctl(self.master, _TIOCGPTN, bytes(4)))
        self.handle = os.open(f"/dev/pts/{number}", os.O_PATH)

    def close(self) -> None:
        for fd in (self.master, self.handle):
            os.close(fd)


@pytest.fixture
def given() -> Iterator[Pair]:
    """Open before anybody looks."""
    pair = Pair()
    yield pair
    pair.close()


def test_made_inside() -> None:
    it = Terminals()
    pair = Pair()
    assert not it.is_ours(pair.handle)
    it.note_made(pair.master, "/dev/ptmx")
    assert it.is_ours(pair.handle)
    assert it.was_made(pair.handle)
    assert it.has_number(os.fstat(pair.handle).st_rdev)
    pair.close()


def test_own_ends_at_the_start(given: Pair) -> None:
    """Whoever has the master at the start, or the other end, has what the run was started with."""
    it = Terminals()
    assert it.is_ours(given.handle)
    assert not it.was_made(given.handle)


def test_number_used_again() -> None:
    """By somebody outside, as soon as both ends are closed: the inode number and device are the same ones again."""
    it = Terminals()
    pair = Pair()
    it.note_made(pair.master, "/dev/ptmx")
    first = os.fstat(pair.handle)
    pair.close()
    held: list[Pair] = []
    try:
        for _ in range(64):
            held.append(Pair())
            now = os.fstat(held[-1].handle)
            if now.st_rdev == first.st_rdev:
                break
        assert (now.st_rdev, now.st_ino, now.st_dev) == (first.st_rdev, first.st_ino, first.st_dev)
        assert not it.is_ours(held[-1].handle)
        assert not it.has_number(now.st_rdev)
        it.note_made(held[-1].master, "/dev/ptmx")
        assert it.is_ours(held[-1].handle)
    finally:
        for each in held:
            each.close()


def test_nothing_stays_open() -> None:
    it = Terminals()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        pair = Pair()
        it.note_made(pair.master, "/dev/ptmx")
        pair.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_what_the_run_was_started_with() -> None:
    r, w = os.pipe()
    shared = select.epoll()
    it = Terminals()
    later, end = os.pipe()
    try:
        assert it.was_handed(w)
        assert not it.was_handed(later)
        assert not it.was_handed(shared.fileno())  # its inode is everybody's
    finally:
        shared.close()
        for fd in (r, w, later, end):
            os.close(fd)
