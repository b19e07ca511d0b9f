"""Rules that cover what every run needs: told before the fence is up, and not by tracebacks behind it.

What is needed, `launcher/needed.py` and the plugin say; here it is held against the policy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.errors import Problem
from fence_core.policy.model import FilesystemRules, Policy
from fence_core.policy.record import Record
from fence_core.policy.requests import Write
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fence_core.policy.model import Entry

__all__ = ["Needed", "over_needs"]


class Needed(Record):
    """One path, absolute and without symbolic links, that has to be read, or to be written."""

    what: str
    """Of which kind it is, for the user: "Python's own modules"."""
    path: str
    shown: str = ""
    """What to call it, where that is not the path itself."""
    write: bool = False
    instead: str = ""
    """Of what is written: how to do without it."""


def over_needs(policy: Policy, needed: Iterable[Needed], source: str) -> list[Problem]:
    """What is wrong with every rule that covers something needed, and what no rule allows to be written.

    `source` is shown with the latter.
    """
    files = policy.filesystem
    found = list(needed)
    return [
        *_unreadable(files, [each for each in found if not each.write]),
        *_unwritable(policy, [each for each in found if each.write and not _plainly_allowed(files, each.path)], source),
    ]


def _unreadable(files: FilesystemRules, needed: Sequence[Needed]) -> list[Problem]:
    if not files.deny_read or not needed:
        return []
    covers = _denying(files.deny_read)
    covered = [each for each in needed if covers(each.path)]
    return _covering("deny_read", files.deny_read, covered, "rules that leave alone what Python and pytest read")


def _unwritable(policy: Policy, needed: Sequence[Needed], source: str) -> list[Problem]:
    if not needed:
        return []
    from fence_core.policy.decide import Judge  # a run with a preset and no denials does without

    files = policy.filesystem
    judge = Judge(Policy(filesystem=FilesystemRules(files.allow_write, files.deny_write)))
    decisions = [(each, judge.decide(Write("open", each.path))) for each in needed]
    unlisted = [each for each, decision in decisions if not decision.allowed and decision.why != "denied"]
    denied = [each for each, decision in decisions if decision.why == "denied"]
    instead = filter(None, (each.instead for each in denied))
    return [
        *_covering("deny_write", files.deny_write, denied, "; or ".join(["rules that leave it alone", *instead])),
        *(_unlisted(each, source) for each in unlisted),
    ]


def _plainly_allowed(files: FilesystemRules, path: str) -> bool:
    """Whether that can be told without compiling the policy, as for the presets: every run would pay for that."""
    ways = (path, os.path.dirname(path) + "/*")
    return not files.deny_write and any((entry.pattern or entry.text) in ways for entry in files.allow_write)


def _unlisted(needed: Needed, source: str) -> Problem:
    return Problem(
        source,
        "filesystem.allow_write",
        f"does not allow {needed.what} ({escape(needed.shown or needed.path)}), which pytest writes at its start",
        "; or ".join(filter(None, ("a rule that allows it", needed.instead))),
    )


def _covering(key: str, entries: Sequence[Entry], needed: Sequence[Needed], accepted: str) -> list[Problem]:
    """One problem for each of the entries that covers some of it."""
    problems = []
    for entry in entries if needed else ():
        covers = _denying((entry,))
        found: dict[str, list[str]] = {}
        for each in needed:
            if covers(each.path):
                found.setdefault(each.what, []).append(each.shown or each.path)
        if found:
            covered = "; ".join(_few(what, paths) for what, paths in found.items())
            from fence_core.policy.sources.lines import problem  # as little as the judge: most runs need neither

            problems.append(problem(entry.source, f"filesystem.{key}", f'"{entry.text}" covers {covered}', accepted))
    return problems


def _denying(entries: Iterable[Entry]) -> Callable[[str], bool]:
    """A test for paths that any of the deny rules covers; of both kinds, since they are compiled alike."""
    from fence_core.policy.decide import Judge

    # Without the rest of the policy: compiling that takes longer.
    return Judge(Policy(filesystem=FilesystemRules(deny_write=tuple(entries)))).shuts


def _few(what: str, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{what} ({escape(paths[0])}{more})"
