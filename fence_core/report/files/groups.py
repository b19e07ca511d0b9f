"""What formats share: the same destination reached from the same place, once; and what would allow it all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fence_core.text import escape

__all__ = ["Group", "Place", "by", "groups", "plural", "severity", "suggestion", "whose"]

_SHOWN_STATES = ("failing", "warned", "listed")
"""Of what is tolerated, ignored or expected nobody is to be alarmed."""


class Place(NamedTuple):
    """A line of the project."""

    file: str
    line: int
    function: str | None
    column: int
    end_column: int
    is_own: bool
    """Whether it is the line that did it, and not that of the test."""


class Group(NamedTuple):
    """One destination and one place."""

    destination: dict[str, Any]
    place: Place | None
    violations: list[dict[str, Any]]

    @property
    def first(self) -> dict[str, Any]:
        return self.violations[0]

    @property
    def tests(self) -> list[str]:
        """Node ids, sorted."""
        return sorted({each["test"]["nodeid"] for each in self.violations if each["test"] is not None})

    @property
    def attempts(self) -> int:
        return sum(each["attempts"] for each in self.violations)

    @property
    def key(self) -> str:
        """Of the rule: a short name for what is wrong."""
        rule = self.first["rule"]
        return rule["key"] if rule["key"] and rule["verdict"] != "protected" else str(rule["verdict"])

    @property
    def sentence(self) -> str:
        """Escaped, in one line: ``12 tests: resolve api.stripe.com by curl, which no rule allows``."""
        who = [whose(self.first)] if len(self.tests) <= 1 else [plural(len(self.tests), "test")]
        times = f", {self.attempts} times" if self.attempts > 1 else ""
        return f"{who[0]}: {escape(self.first['text'])}{by(self.first)}{times}; {escape(self.first['rule']['text'])}"


def groups(report: Mapping[str, Any]) -> list[Group]:
    """Those of most tests first."""
    known = {each["id"]: each for each in report["violations"]}
    found: dict[tuple[str, str, int, str], Group] = {}
    for destination in report["destinations"]:
        for number in destination["violations"]:
            violation = known.get(number)
            if violation is None or violation["state"] not in _SHOWN_STATES:
                continue
            place = _place(violation)
            where = (place.file, place.line) if place is not None else ("", 0)
            group = Group(destination, place, [])
            key = (destination["id"], *where, violation["rule"]["verdict"])
            found.setdefault(key, group).violations.append(violation)
    return sorted(found.values(), key=_order)


def _order(group: Group) -> tuple[object, ...]:
    where = (group.place.file, group.place.line) if group.place is not None else ("", 0)
    return (-len(group.tests), group.destination["kind"], group.destination["name"], *where, group.key)


def _place(violation: Mapping[str, Any]) -> Place | None:
    """In the project: of what lies outside of it, the test."""
    at, test = violation["location"], violation["test"]
    if at is not None and not at["file"].startswith(("/", "<", "..")):
        return Place(at["file"], at["line"], at["function"], at["column"], at["end_column"], at["function"] is not None)
    if test is not None and test["file"] and not test["file"].startswith(("/", "..")):
        return Place(test["file"], test["line"] or 1, None, 1, 1, False)
    return None


def whose(violation: Mapping[str, Any]) -> str:
    """Escaped."""
    test = violation["test"]
    return escape(test["nodeid"]) if test is not None else f"outside any test ({violation['phase']})"


def by(violation: Mapping[str, Any]) -> str:
    program = violation["program"]
    return "" if program["is_pytest"] else f" by {escape(program['name'])}"


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def severity(violation: Mapping[str, Any]) -> str:
    """``critical``, ``major``, ``minor`` or ``info``, in the words of GitLab."""
    if violation["state"] == "warned":
        return "minor"
    if violation["state"] == "listed":
        return "info"
    return "major" if violation["rule"]["verdict"] == "unlisted" else "critical"


def suggestion(destinations: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """What would allow all that can be allowed: each setting, with its value or the items to add, as TOML has them.

    An item that cannot be written in one line is left out.
    """
    found: dict[str, set[str]] = {}
    for destination in destinations:
        for entry in (destination["remedy"] or {"entries": []})["entries"]:
            value = entry["value"]
            if isinstance(value, str) and not value.isprintable():
                continue
            found.setdefault(entry["key"].rpartition(".")[2], set()).add(_toml(value))
    for name in sorted(found):
        yield name, sorted(found[name])


def _toml(value: object) -> str:
    if isinstance(value, str):
        backslashed = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{backslashed}"'
    return str(value).lower()
