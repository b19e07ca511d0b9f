"""What is kept of very many violations."""

from __future__ import annotations

import pytest

from fence_core.events import ledger as module
from fence_core.events.ledger import Ledger
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
