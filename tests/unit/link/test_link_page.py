"""The page and the note: what a process says is what the broker reads, and what is torn or forged does no harm."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fence_core.link import page
from fence_core.link.page import Note, Page, read_fork, read_note


@pytest.fixture
def ends() -> Iterator[tuple[Page, Page]]:
    """The process's, and the broker's."""
    fd = page.create()
    two = Page(fd), Page(fd)
    os.close(fd)
    yield two
    for each in two:
        each.release()


@pytest.mark.parametrize("nodeid", ["", "test_a.py::test_b", "t\xeast.py::test[\u20ac]", "x" * 3000])
def test_what_is_written_is_read(ends: tuple[Page, Page], nodeid: str) -> None:
    own, broker = ends
    own.write(nodeid.encode(), 3, 12)
    assert broker.read() == (nodeid, 3, 12)
    assert (broker.policy(), own.phase()) == (12, 3)


def test_a_phase_is_a_word_of_its_own(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    own.write(b"t", 2, 1)
    before = broker.stamp()
    own.write_phase(3)
    assert broker.stamp() != before
    assert broker.read() == ("t", 3, 1)


def test_violations_are_counted_by_the_broker(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    for count in range(3):
        assert own.count() == count
        broker.add_violation()
    own.write(b"another", 1, 0)
    assert own.count() == 3


def test_a_node_id_longer_than_the_page(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    own.write(b"x" * (page.PAGE_BYTES + 5), 1, 1)
    assert len(broker.read()[0]) == page.PAGE_BYTES - 64


def test_a_forged_length_reads_no_further(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    own._words[3] = (1 << 64) - 1
    assert len(broker.read()[0]) <= page.PAGE_BYTES


def test_what_is_torn_for_ever_is_given_up(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    own.write(b"t", 1, 1)
    own._words[0] |= 1  # a process that was ended in the middle
    assert broker.read() == ("", 0, 0) or broker.read()[0] == "t"


def test_what_was_said_last_outlives_the_page(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    own.write(b"last", 4, 2)
    broker.release()
    own.write(b"later", 1, 1)
    assert broker.read() == ("last", 4, 2)


def test_an_answer_is_that_to_the_question(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    broker.ask(7, 4711)
    assert own.asked() == (7, 4711)
    assert broker.told(7) is None
    own.tell(6, b"late")
    assert broker.told(7) is None
    own.tell(7, b"now")
    own.write(b"x" * page.PAGE_BYTES, 1, 1)
    assert broker.told(7) == b"now"
    own.tell(8, b"x" * (page.ANSWER_MAX + 1))
    assert broker.told(8) is None
    own._words[7] = (1 << 64) - 1
    assert len(broker.told(7) or b"") == page.ANSWER_MAX


def test_nobody_is_told_anything_by_a_page_that_is_given_back(ends: tuple[Page, Page]) -> None:
    own, broker = ends
    own.write(b"last", 4, 2)
    for each in own, broker:
        each.release()
        assert each.asked() == (0, 0)
        each.ask(1, 1)
        each.tell(1, b"x")
        assert each.told(1) is None


def test_the_size_of_a_page_is_sealed() -> None:
    fd = page.create()
    try:
        for size in (0, page.PAGE_BYTES * 2):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- the note


def test_a_note_is_read_out_of_memory() -> None:
    note = Note()
    note.write(b"test_a.py::test_b", 2, 7)
    assert read_note(os.getpid(), note.address, note.token) == ("test_a.py::test_b", 2, 7)
    note.write_phase(4)
    assert read_note(os.getpid(), note.address, note.token) == ("test_a.py::test_b", 4, 7)
    note.write(b"t", 1, 0)
    assert read_note(os.getpid(), note.address, note.token) == ("t", 1, 0)
    note.release()


def test_no_note() -> None:
    note = Note()
    assert read_note(os.getpid(), note.address, note.token ^ 1) is None
    assert read_note(os.getpid(), 4096, note.token) is None
    assert read_note(os.getpid(), (1 << 64) + 1, note.token) is None
    note.release()
    assert read_note(os.getpid(), note.address, note.token) is None


def test_a_fork_has_a_copy_that_stands_still() -> None:
    note = Note()
    note.write(b"at the fork", 2, 1)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    note.write(b"later", 3, 2)
    try:
        assert read_note(child, note.address, note.token) == ("at the fork", 2, 1)
    finally:
        os.write(go[1], b"1")
        os.waitpid(child, 0)
        for fd in (*ready, *go):
            os.close(fd)
        note.release()


def test_a_fork_for_a_test_is_known_by_its_number() -> None:
    note = Note()
    read, write = os.pipe()
    with note.forking_for_a_test():
        assert read_fork(os.getpid(), note.address, note.token) == 1
    assert read_fork(os.getpid(), note.address, note.token) == 0
    with note.forking_for_a_test():
        child = os.fork()
        if child == 0:
            os.close(write)
    if child == 0:  # the block is left there as well
        os.read(read, 1)
        os._exit(0)
    try:
        assert read_fork(os.getpid(), note.address, note.token) == 0
        assert read_fork(child, note.address, note.token) == 2
        assert read_fork(child, note.address, note.token ^ 1) == 0
        assert read_fork(child, (1 << 64) + 1, note.token) == 0
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)
        note.release()
