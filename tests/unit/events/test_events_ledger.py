"""What is kept of very many violations."""

from __future__ import annotations

import pytest

from fence_core.events import ledger as module
from fence_core.events.ledger import Ledger
from fence_core.events.model import Frame, Owner, Program, Target, Use
from fence_core.policy.model import Rule
from fence_core.report.words import tried
from tests.unit.plugin.fakes import violation


def attempt(ledger: Ledger, nodeid: str, what: str) -> bool:
    return ledger.add(0, violation(f"write {what}", nodeid=nodeid))[1]


def test_a_noisy_test_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OF_ONE_TEST_MAX", 3)
    ledger = Ledger()
    assert [attempt(ledger, "noisy", str(n)) for n in range(5)] == [True, True, True, False, False]
    assert attempt(ledger, "quiet", "0")
    assert ledger.dropped == 2
    assert [tried(record.violation()) for record in ledger.take(0, "noisy")] == ["write 0", "write 1", "write 2"]


def test_the_first_of_each_test_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_MAX", 3)
    ledger = Ledger()
    for n in range(4):
        assert attempt(ledger, f"test {n}", "first")
    assert not attempt(ledger, "test 3", "second")
    assert [len(ledger.take(0, f"test {n}")) for n in range(4)] == [1, 1, 1, 1]
    assert ledger.dropped == 1


def test_the_same_again_is_counted() -> None:
    ledger = Ledger()
    assert [attempt(ledger, "test", "x") for _ in range(3)] == [True, False, False]
    assert [record.count for record in ledger.records] == [3]


def test_equal_is_what_was_tried_by_the_same_program_in_the_same_phase() -> None:
    ledger = Ledger()
    base = violation("write /x", nodeid="test")
    others = [
        base._replace(nodeid="other"),
        base._replace(phase="teardown"),
        base._replace(owner=Owner("db", "session", "c.py", 1)),
        base._replace(operation="mkdir"),
        base._replace(target=Target("path", path="/y")),
        base._replace(program=Program("sh")),
    ]
    assert [ledger.add(0, each)[1] for each in (base, *others)] == [True] * 7
    assert not any(ledger.add(0, each)[1] for each in (base, *others))
    assert ledger.add(1, base)[1]
    assert [record.made.number for record in ledger.records] == list(range(8))


def test_times_and_stacks_are_those_of_the_record() -> None:
    ledger = Ledger()
    record, _ = ledger.add(0, violation(first_s=1.0, last_s=1.0))
    ledger.add(0, violation(first_s=3.0, last_s=3.0))
    record.stack = (Frame("x.py", 1, "f"),)
    found = record.violation()
    assert (found.first_s, found.last_s, found.count, found.stack) == (1.0, 3.0, 2, record.stack)


def test_what_a_resolver_asks_again_is_not_counted() -> None:
    ledger = Ledger()
    ledger.add(0, violation())
    ledger.add(0, violation(), again=True)
    assert ledger.records[0].count == 1


def test_what_was_told_begins_anew() -> None:
    """A test that is run again is to be reported again."""
    ledger = Ledger()
    attempt(ledger, "test", "x")
    assert len(ledger.take(0, "test")) == 1
    assert ledger.take(0, "test") == []
    assert attempt(ledger, "test", "x")
    ledger.settle(2)
    assert ledger.unsettled() == []
    assert attempt(ledger, "test", "x")
    assert len(ledger.unsettled()) == 1


def test_what_a_fork_has_taken_is_kept_for_its_parent() -> None:
    ledger = Ledger()
    attempt(ledger, "test", "x")
    taken = ledger.take(0, "test", keep=True)
    assert ledger.kept(0, "test") == taken
    assert ledger.kept(0, "test") == []


def test_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_MAX", 2)
    ledger = Ledger()
    rule, other = (Rule("network.allowed_domains", entry) for entry in ("a.example", "b.example"))
    for nodeid in ("one", "two", "one", "three", "four"):
        ledger.used(rule, nodeid)
    ledger.used(other, "one")
    assert ledger.uses() == [Use(rule, 5, ("", "one", "two")), Use(other, 1, ("one",))]


def test_what_another_fence_tells_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_MAX", 3)
    ledger = Ledger()
    attempt(ledger, "here", "x")
    there = violation("write /y", nodeid="there")
    for number, count in (1_000_000, 1), (2_000_000, 1), (1_000_000, 4), (3_000_000, 1), (3_000_000, 2):
        ledger.adopt(there._replace(number=number, count=count))
    found = [(record.violation().number, record.violation().count) for record in ledger.records]
    assert found == [(0, 1), (1_000_000, 4), (2_000_000, 1)]
    assert ledger.dropped == 1
    assert not ledger.take(0, "there")
    ledger.settle(3)
    ledger.adopt(there._replace(number=2_000_000, count=2))
    assert [record.made.number for record in ledger.unsettled()] == [2_000_000]


def test_a_fence_elsewhere_has_numbers_of_its_own() -> None:
    ledger = Ledger()
    ledger.first = 2_000_000
    attempt(ledger, "there", "x")
    attempt(ledger, "there", "y")
    assert [record.made.number for record in ledger.records] == [2_000_000, 2_000_001]
