"""Whom the guardian ends: what it knows and all their children, and nobody who has their number by now."""

from __future__ import annotations

import os
import signal

import pytest

from fence_core.kernel import process
from fence_core.launcher import guardian


class Machine:
    """Processes that are imagined: pid -> parent, state, threads, start time."""

    def __init__(self) -> None:
        self.there: dict[int, tuple[int, str, int, int]] = {}
        self.killed: list[tuple[int, int]] = []

    def add(self, pid: int, parent: int, state: str = "S", threads: int = 1, started: int = 1) -> None:
        self.there[pid] = (parent, state, threads, started)

    def stat_fields(self, pid: int, last: int = -1) -> list[bytes]:
        if pid not in self.there:
            raise ProcessLookupError
        parent, state, threads, started = self.there[pid]
        fields = [b"0"] * 53
        fields[process.STATE], fields[process.PPID] = state.encode(), b"%d" % parent
        fields[process.NUM_THREADS], fields[process.STARTTIME] = b"%d" % threads, b"%d" % started
        return fields

    def kill(self, pid: int, number: int) -> None:
        if pid not in self.there:
            raise ProcessLookupError
        self.killed.append((pid, number))
        if number == signal.SIGKILL:
            del self.there[pid]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(process, "stat_fields", found.stat_fields)
    monkeypatch.setattr(os, "listdir", lambda path: ["self", "meminfo", *map(str, found.there)])
    monkeypatch.setattr(os, "kill", found.kill)
    return found


@pytest.mark.parametrize(
    ("state", "threads", "alive"), [("S", 1, True), ("R", 2, True), ("Z", 1, False), ("X", 1, False), ("Z", 3, True)]
)
def test_who_is_alive(machine: Machine, state: str, threads: int, alive: bool) -> None:
    """A process lives on in its other threads when the first one has ended."""
    machine.add(7, 1, state, threads)
    assert guardian._is_alive(7) is alive


def test_children_of_what_is_known_belong_to_it(machine: Machine) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 11), (20, 1), (21, 20)):
        machine.add(pid, parent)
    assert guardian._members(False, {10: 1}) == [10, 11, 12, 13]


def test_an_orphan_belongs_to_it_if_it_is_known(machine: Machine) -> None:
    machine.add(12, 1)
    assert guardian._members(False, {12: 1}) == [12]
    assert guardian._members(False, {10: 1}) == []


def test_a_number_that_somebody_else_has_by_now_is_forgotten(machine: Machine) -> None:
    machine.add(10, 1, started=500)
    machine.add(11, 10)
    known = {10: 499}
    assert guardian._members(False, known) == []
    assert known == {}


def test_what_has_ended_has_no_children(machine: Machine) -> None:
    machine.add(10, 1, "Z")
    assert guardian._members(False, {10: 1}) == []
    assert not guardian._any(False, {10: 1})


def test_all_are_ended_until_nobody_is_left(machine: Machine) -> None:
    for pid, parent in ((10, 1), (11, 10), (20, 1)):
        machine.add(pid, parent)
    guardian._end_all(False, {10: 1}, signal.SIGKILL, until_gone=True)
    assert sorted(machine.killed) == [(10, signal.SIGKILL), (11, signal.SIGKILL)]
    assert 20 in machine.there


def test_ending_politely_is_tried_once(machine: Machine) -> None:
    machine.add(10, 1)
    guardian._end_all(False, {10: 1}, signal.SIGTERM, until_gone=False)
    assert machine.killed == [(10, signal.SIGTERM)]


def test_with_a_scope_the_kernel_knows_them(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    guardian._end_all(True, {}, signal.SIGTERM, until_gone=False)
    assert sent == [(-1, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("answer", "refused"), [(None, False), (PermissionError(), True), (ProcessLookupError(), True)]
)
def test_a_scope_is_proven_before_anything_is_sent_to_all(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, refused: bool
) -> None:
    def kill(pid: int, number: int) -> None:
        assert number == 0
        if answer is not None:
            raise answer

    monkeypatch.setattr(os, "kill", kill)
    assert guardian._is_refused(1) is refused
