"""What pytest says of its tests for a report. It comes from inside, where a test can say it too: so it is checked."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["OUTCOMES", "Told", "ToldOf", "read"]

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
_TESTS_MAX = 20_000
_TEXT_MAX = 1 << 12
_LINE_MAX = 10_000_000


class ToldOf(NamedTuple):
    """Of one test."""

    file: str | None = None
    """Relative to the root directory."""
    line: int | None = None
    outcome: str | None = None
    worker: str | None = None


class Told(NamedTuple):
    """Of the session; with nothing in it where pytest did not come to its end."""

    is_whole: bool = False
    tests: int | None = None
    workers: int = 0
    of: dict[str, ToldOf] = {}  # noqa: RUF012 - never changed
    """By node ids as violations have them."""


def read(plain: Any) -> Told:
    """What fits; the rest is left out."""
    if not isinstance(plain, dict):
        return Told()
    rows = plain.get("of")
    found = {}
    for row in rows[:_TESTS_MAX] if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 5 and isinstance(row[0], str):
            nodeid, file, line, outcome, worker = row
            found[nodeid] = ToldOf(
                _text(file),
                line if type(line) is int and 0 < line < _LINE_MAX else None,
                outcome if isinstance(outcome, str) and outcome in OUTCOMES else None,
                _text(worker),
            )
    return Told(True, _count(plain.get("tests")), _count(plain.get("workers")) or 0, found)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _TEXT_MAX else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 31 else None
