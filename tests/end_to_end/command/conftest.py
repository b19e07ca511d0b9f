"""Running `fence` from outside, as its users do."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.end_to_end.support import Ended, Runs


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


def has(lines: Sequence[str], *wanted: str) -> None:
    """These and no others, in any order."""
    assert sorted(lines) == sorted(wanted)
