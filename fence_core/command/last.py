"""`fence explain last`: what the last run of `pytest --fence` here was refused, and what would allow it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from fence_core.command.options import UsageError
from fence_core.events.kept import CACHED, read
from fence_core.report import words
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fence_core.events.model import Violation

__all__ = ["last"]

_TESTS_MAX = 5


def last(*, as_json: bool) -> int:
    """1 where something was refused, 0 where nothing was. Raises UsageError where there was no such run."""
    path = _newest(os.getcwd())
    if path is None:
        raise UsageError("no run of pytest --fence has been refused anything here, as far as .pytest_cache tells")
    try:
        with open(path, encoding="utf-8") as file:
            violations = read(json.load(file))
    except (OSError, ValueError) as error:
        raise UsageError(f"{escape(path)} cannot be read: {escape(str(error))}") from None
    if as_json:
        print(json.dumps([_plain(each) for each in violations], indent=2))
    else:
        print("\n".join(_lines(violations)))
    return 1 if violations else 0


def _newest(directory: str) -> str | None:
    """The file of the closest directory, from this one upward, that has one."""
    while True:
        path = os.path.join(directory, ".pytest_cache", "v", *CACHED.split("/"))
        if os.path.isfile(path):
            return path
        above = os.path.dirname(directory)
        if above == directory:
            return None
        directory = above


def _lines(violations: Iterable[Violation]) -> Iterator[str]:
    """What was tried, why it was refused, by which tests, and what would allow it: once for each thing and rule."""
    merged: dict[tuple[str, str], list[Violation]] = {}
    for each in violations:
        merged.setdefault((words.tried(each), words.rule(each.rule, each.verdict)), []).append(each)
    if not merged:
        yield "the last run was refused nothing"
    for (what, why), found in merged.items():
        refused = "refused" if found[0].errno else "let through"
        yield f"{refused}: {what}"
        yield f"  {why}"
        tests = list(dict.fromkeys(each.nodeid or f"outside any test ({each.phase})" for each in found))
        for test in tests[:_TESTS_MAX]:
            yield f"  in {escape(test)}{_at(found[0]) if len(tests) == 1 else ''}"
        if len(tests) > _TESTS_MAX:
            yield f"  and {len(tests) - _TESTS_MAX} more tests"
        change = found[0].remedy
        if change is None:
            yield "  nothing can allow this"
        else:
            yield f"  to allow it: {words.marker(change)}"
            yield from (f"    {line}" for line in words.config(change).splitlines())
        if found[0].hint:
            yield f"  {escape(found[0].hint)}"


def _at(violation: Violation) -> str:
    if not violation.stack:
        return ""
    frame = violation.stack[-1]
    return f" ({escape(os.path.relpath(frame.path))}:{frame.line})"


def _plain(violation: Violation) -> dict[str, Any]:
    change = violation.remedy
    return {
        "what": words.tried(violation),
        "test": violation.nodeid,
        "phase": violation.phase,
        "count": violation.count,
        "verdict": violation.verdict,
        "rule": words.rule(violation.rule, violation.verdict),
        "remedy": None if change is None else words.marker(change),
    }
