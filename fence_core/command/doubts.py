"""Rules of a file that say something, and probably not what was meant. For `fence check`."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

from fence_core.policy import domains, paths
from fence_core.policy.decide import Judge
from fence_core.policy.kinds import quote
from fence_core.policy.requests import Connect, Write
from fence_core.policy.sources.lines import problem
from fence_core.report.rule import camel, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fence_core.errors import Problem
    from fence_core.policy.model import Config, Entry

__all__ = ["doubts"]


def doubts(config: Config) -> tuple[Problem, ...]:
    """What whoever wrote the files of this policy may want to look at, in the order of its lists. Opens no file."""
    judge = Judge(config.policy)
    return (
        *_places(judge, config.policy.filesystem.allow_write),
        *_names(judge, config.policy.network.allowed_domains),
    )


def _places(judge: Judge, entries: tuple[Entry, ...]) -> Iterator[Problem]:
    for entry in entries:
        path = paths.literal_of(entry.pattern or entry.text)
        if not entry.source.file or path is None:
            continue
        decision = judge.decide(Write("open", path))
        if decision.why in ("denied", "protected"):
            yield _doubt(entry, camel("filesystem.allow_write"), f"has no effect: {sentence(decision)}")
        elif not os.path.lexists(path):
            yield _doubt(entry, camel("filesystem.allow_write"), f"does not exist{_meant(path)}")


def _names(judge: Judge, entries: tuple[Entry, ...]) -> Iterator[Problem]:
    for entry in entries:
        pattern = domains.parse_pattern(entry.text)
        if entry.source.file and pattern.name:
            decision = judge.decide(Connect(pattern.name, pattern.port or 443))
            if decision.why == "denied":
                yield _doubt(entry, camel("network.allowed_domains"), f"has no effect: {sentence(decision)}")


def _doubt(entry: Entry, key: str, found: str) -> Problem:
    return problem(entry.source, f"{key} {quote(entry.text)}", found, "")


def _meant(path: str) -> str:
    """What lies beside it and is called nearly the same."""
    directory, _, name = path.rpartition("/")
    try:
        beside = os.listdir(directory or "/")
    except OSError:
        beside = []
    close = difflib.get_close_matches(name, beside, n=1, cutoff=0.7)
    return f"; did you mean {quote(close[0])}?" if close else " (yet)"
