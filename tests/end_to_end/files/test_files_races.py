"""A thread swaps what a call is given, while the broker looks at it: nothing outside changes, whatever comes of it.

The race is run until both ends of it are seen: the call done inside, and refused outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.files import trees

_ROUNDS = int(os.environ.get("FENCE_RACE_ROUNDS", "20000"))
"""Enough to break an engine that is open to any of them; with 100,000 they take two minutes."""
ROUNDS = {"session": _ROUNDS, "marker": _ROUNDS // 5}
"""What a marker allows the broker does itself, which takes longer."""


@pytest.fixture
def memory() -> None:
    """On a disk: in memory some calls are over too soon for both sides of the race to come up."""


TEST = """
import subprocess
import pytest
from race import ARGV, ALLOWED

if ALLOWED:
    pytestmark = pytest.mark.fence(allow_write=ALLOWED)

def test_race():
    with open("counted", "w") as counted:
        subprocess.run(ARGV, stdout=counted, check=True)
"""


@pytest.mark.needs("program:cc")
@pytest.mark.timeout(300)  # a quarter of a minute where nothing else runs
@pytest.mark.parametrize("by", ["session", "marker"])
@pytest.mark.parametrize("swap", ["string", "link", "parent", "descriptor"])
def test_race(fenced: Fenced, probe: Callable[..., Path], swap: str, by: str) -> None:
    """`by`: what allows the writable half, which is under the kernel's floor or left to the broker."""
    writable, outside = (fenced.directory.parent / letter for letter in "wx")
    for directory, names in ((writable, "tuw"), (outside, "tu")):
        (directory / "d").mkdir(parents=True)
        for name in names:
            (directory / "d" / name).write_text("as it was\n", encoding="ascii")
    argv = [str(probe("races", "-pthread")), swap, str(ROUNDS[by]), str(writable), str(outside)]
    before = trees.account(outside)
    allowed = [str(writable)]
    run = fenced.run(
        TEST,
        files={"race.py": f"ARGV = {argv!r}\nALLOWED = {allowed if by == 'marker' else []!r}\n"},
        policy=ONLY_HERE.replace('"./*"', f'"./*", "{writable}"') if by == "session" else ONLY_HERE,
    )
    assert not trees.changes(before, trees.account(outside))
    text = (fenced.directory / "counted").read_text(encoding="ascii")
    counted = {name: tuple(map(int, rest)) for name, *rest in map(str.split, text.splitlines())}
    assert sum(sum(counts[:3]) for counts in counted.values()) >= ROUNDS[by], run
    one_sided = {name: counts for name, counts in counted.items() if not (counts[0] and counts[1])}
    assert not one_sided, counted
    blamed = {attempt.what.partition(" ")[2] for attempt in run.attempts("test_race")}
    assert blamed, run
    assert all(Path(path).is_relative_to(outside) for path in blamed), blamed
