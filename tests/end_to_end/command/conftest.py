"""Running `fence` from outside, as its users do."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.support import Ended, Runs

ROOT = Path(__file__).resolve().parents[3]


class Command:
    """`fence` in a directory of its own."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.directory = runs.directory

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "fence_core", *words]

    def __call__(self, *words: str, **options: Any) -> Ended:
        return self.runs.command(*self.argv(*words), **options)

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    def refusals(self, ended: Ended) -> list[str]:
        """Our lines on stderr, without the time of day and numbers of processes.

        Each is written at once, but a program that writes its own in pieces may have begun one.
        """
        return [_plain(line) for line in re.findall(r"\[fence[^\n]*", ended.err)]


def _plain(line: str) -> str:
    kind, _, rest = line.partition("] ")
    clock, _, rest = rest.partition(" ")
    assert clock.replace(":", "").isdigit(), line
    return f"{kind}] {rest.partition(', pid=')[0]}"


@pytest.fixture
def fence(runs: Runs) -> Command:
    return Command(runs)


@pytest.fixture(params=["temporary", "of its own"])
def project(request: pytest.FixtureRequest) -> Iterator[Command]:
    """`fence` in a directory below those for temporary files, and in one that is not."""
    if request.param == "temporary":
        yield request.getfixturevalue("fence")
        return
    if ROOT.is_relative_to("/tmp") or ROOT.is_relative_to("/var/tmp"):
        pytest.skip("elsewhere: this checkout lies in a temporary directory")
    (ROOT / ".pytest_cache").mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="command-", dir=ROOT / ".pytest_cache"))
    runs = Runs(directory)
    yield Command(runs)
    runs.close()
    shutil.rmtree(directory)


def has(lines: Sequence[str], *wanted: str) -> None:
    """These and no others, in any order."""
    assert sorted(lines) == sorted(wanted)
