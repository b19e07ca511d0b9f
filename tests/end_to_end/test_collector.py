"""What a program learns from the garbage collector about what was there before the fence, once it has asked for a
collection: the same as without a fence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs

EARLY = """
import gc, weakref

class Thing:
    pass

held = Thing()                  # held by this module alone, as a generator of random numbers that a library keeps
cycle = Thing()
cycle.itself = cycle
garbage = weakref.ref(cycle)
gc.collect()                    # so that the collector has it among what is old
del cycle
"""

APART = int(
    subprocess.check_output([sys.executable, "-c", "import gc; gc.collect(); print(gc.get_freeze_count())"], text=True)
)
"""How many objects Python itself keeps from the collector: 3.12 does that with those that live for ever."""


@pytest.fixture
def early(runs: Runs) -> Path:
    """A plugin that is imported before the fence is up."""
    (runs.directory / "early.py").write_text(EARLY, encoding="utf-8")
    runs.load("early")
    return runs.directory


def same(runs: Runs, *args: str) -> None:
    plain, fenced = runs.both("-q", *args, env={"PYTHONPATH": "."})
    assert plain.status == 0, plain
    assert (fenced.status, fenced.outcomes()) == (plain.status, plain.outcomes()), fenced


@pytest.mark.parametrize("options", [(), ("--fence-scope=test",)])
def test_questions_after_a_collection(early: Path, runs: Runs, options: tuple[str, ...]) -> None:
    (early / "test_it.py").write_text(
        f"APART = {APART}"
        """
import gc
import early

def test_referrers():
    gc.collect()
    assert vars(early) in gc.get_referrers(early.held)

def test_objects():
    gc.collect()
    assert any(each is early.held for each in gc.get_objects())
    assert gc.get_freeze_count() == APART

def test_garbage():
    gc.collect()
    assert early.garbage() is None
""",
        encoding="utf-8",
    )
    fenced = runs.pytest("-q", "-rA", *options, env={"PYTHONPATH": "."})
    plain = runs.pytest("-q", "-rA", fenced=False, env={"PYTHONPATH": "."})
    assert plain.status == 0, plain
    assert (fenced.status, fenced.outcomes()) == (plain.status, plain.outcomes()), fenced


def test_library_that_warns_in_the_summary(early: Path, runs: Runs) -> None:
    """As hypothesis, which anyio's tests import in the summary, complained of trio's generator: the run ended with
    status 1."""
    (early / "conftest.py").write_text(
        """
import gc
import early

def pytest_terminal_summary():
    gc.collect()
    if not gc.get_referrers(early.held):
        raise RuntimeError("nobody holds it")
""",
        encoding="utf-8",
    )
    (early / "test_it.py").write_text("def test_it():\n    pass\n", encoding="utf-8")
    same(runs)


def test_collections_of_its_own_accord(early: Path, runs: Runs) -> None:
    """Of these pytest starts some itself. They leave alone what was set aside, which the start of a run is faster for;
    and a program that has switched the collector off, or its threshold, and asks, is answered all the same."""
    (early / "test_it.py").write_text(
        f"APART = {APART}"
        """
import gc
import pytest
import early

def test_of_its_own_accord(pytestconfig):
    full = gc.get_stats()[2]["collections"]
    kept = []
    while gc.get_stats()[2]["collections"] == full:
        kept.append([])
    assert (gc.get_freeze_count() > APART) == pytestconfig.getoption("--fence")

@pytest.mark.parametrize("way", ["disabled", "threshold"])
def test_switched_off(way):
    thresholds = gc.get_threshold()
    if way == "disabled":
        gc.disable()
    else:
        gc.set_threshold(0)
    try:
        kept = [[] for _ in range(10_000)]
        gc.collect()
        assert vars(early) in gc.get_referrers(early.held)
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)
""",
        encoding="utf-8",
    )
    same(runs)
