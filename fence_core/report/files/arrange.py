"""Violations as data put in order, counted and grouped: of one run, or of several that are one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fence_core.events.phases import PHASES

__all__ = ["SCHEMA", "VERSION", "VIOLATIONS_MAX", "arrange", "as_text"]

VERSION = 1
SCHEMA = f"https://pytest-fence.readthedocs.io/schemas/report-{VERSION}.json"
VIOLATIONS_MAX = 10_000
"""Those with detail."""
_ORDER = {"name": 0, "address": 0, "unix": 1, "other": 1, "path": 2, "command": 3}
_VERDICTS = ("error", "protected", "denied", "unlisted")
"""The gravest first."""
_PHASES = {name: number for number, name in enumerate(PHASES)}


def arrange(parts: Mapping[str, Any], violations: Iterable[dict[str, Any]], dropped: int) -> dict[str, Any]:
    """A report. `parts`: its `tool`, `run`, `policy`, `rules_used` and `errors`. The violations are changed in place.

    `dropped`: violations of which nothing is known but that there were so many.
    """
    every = sorted(_joined(violations), key=_place)
    for number, each in enumerate(every, 1):
        each["id"] = f"v{number}"
    destinations = _destinations(every)
    tests = {each["test"]["nodeid"] for each in every if each["test"] is not None}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "tool": parts["tool"],
        "run": parts["run"],
        "policy": parts["policy"],
        "summary": {
            "violations": len(every) + dropped,
            "attempts": sum(each["attempts"] for each in every) + dropped,
            "tests": len(tests),
            "outside": sum(each["test"] is None for each in every),
            "destinations": len(destinations),
            "dropped": dropped + max(len(every) - VIOLATIONS_MAX, 0),
            "by_state": _counts(each["state"] for each in every),
            "by_operation": _counts(each["operation"] for each in every),
        },
        "destinations": destinations,
        "violations": every[:VIOLATIONS_MAX],
        "rules_used": sorted(parts["rules_used"], key=lambda each: (each["key"], each["entry"] or "")),
        "baseline": None,
        "errors": list(parts["errors"]),
    }


def as_text(report: dict[str, Any]) -> str:
    import json

    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _joined(violations: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """What is the same but for times, pids and workers is one, with the sum of the attempts."""
    first: dict[tuple[object, ...], dict[str, Any]] = {}
    for each in violations:
        known = first.setdefault(_identity(each), each)
        if known is not each:
            known["attempts"] += each["attempts"]
            known["first_s"] = min(known["first_s"], each["first_s"])
            known["last_s"] = max(known["last_s"], each["last_s"])
    return first.values()


def _identity(violation: Mapping[str, Any]) -> tuple[object, ...]:
    # Of what a fixture of many tests does, which of them needed it first is chance.
    shared = violation["fixture"] is not None and violation["fixture"]["scope"] != "function"
    return (
        shared and violation["phase"] == "setup" and repr(violation["fixture"]),
        violation["fingerprint"],
        *_place(violation),
        violation["late"],
        violation["state"],
        tuple((each["file"], each["line"]) for each in violation["stack"]),
    )


def _place(violation: Mapping[str, Any]) -> tuple[Any, ...]:
    test = violation["test"]
    return (
        test["nodeid"] if test is not None else "",
        _PHASES.get(violation["phase"], len(_PHASES)),
        violation["text"],
        violation["program"]["name"],
        violation["fingerprint"],
    )


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _destinations(violations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in violations:
        groups.setdefault((each["target"]["kind"], each["target"]["name"]), []).append(each)
    found = [_destination(kind, name, members) for (kind, name), members in groups.items()]
    found.sort(key=lambda each: (_ORDER.get(each["kind"], len(_ORDER)), -each["tests"], each["name"]))
    for number, each in enumerate(found, 1):
        each["id"] = f"d{number}"
    return found


def _destination(kind: str, name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = {each["rule"]["verdict"] for each in members}
    programs = {each["program"]["name"] for each in members if not each["program"]["is_pytest"]}
    entries = {
        (entry["key"], repr(entry["value"])): entry
        for each in members
        if each["remedy"] is not None
        for entry in each["remedy"]["entries"]
    }
    return {
        "id": "",
        "kind": kind,
        "name": name,
        "tests": len({each["test"]["nodeid"] for each in members if each["test"] is not None}),
        "attempts": sum(each["attempts"] for each in members),
        "verdict": next((each for each in _VERDICTS if each in verdicts), "unlisted"),
        "programs": sorted(programs),
        "violations": [each["id"] for each in members],
        "remedy": {"entries": [entries[key] for key in sorted(entries)]} if entries else None,
    }
