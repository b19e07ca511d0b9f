"""Several reports that are one run (the shards of a CI matrix), and what has changed from one to another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fence_core.report.files.arrange import arrange

__all__ = ["Difference", "diff", "merge"]


def merge(reports: Sequence[Mapping[str, Any]], expected: int | None = None, name: str = "") -> dict[str, Any]:
    """What one run would have said. Incomplete if one of the parts is, or if there are not as many as `expected`."""
    first = reports[0]
    runs = [each["run"] for each in reports]
    tests = [each["tests"] for each in runs]
    run = {
        **first["run"],
        "id": hashlib.sha256("".join(sorted(each["id"] for each in runs)).encode()).hexdigest()[:32],
        "started": min(each["started"] for each in runs),
        "duration_s": round(max(each["duration_s"] for each in runs), 3),
        "workers": sum(each["workers"] for each in runs),
        "exit_status": _worst([each["exit_status"] for each in runs]),
        "tests": None if None in tests else sum(tests),
        "complete": all(each["complete"] for each in runs) and expected in (None, len(reports)),
        "shard": {"name": name, "merged": len(reports), "expected": expected},
    }
    sources = {repr(source): source for each in reports for source in each["policy"]["sources"]}
    digests = sorted({each["policy"]["sha256"] for each in reports})
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    errors = [error for each in reports for error in each["errors"]]
    if len(digests) > 1:
        errors.append("the parts were run under different policies")
    if expected not in (None, len(reports)):
        errors.append(f"{len(reports)} of {expected} parts are there")
    parts = {
        "tool": first["tool"],
        "run": run,
        "policy": {"sources": list(sources.values()), "sha256": digest},
        "rules_used": _rules([rule for each in reports for rule in each["rules_used"]]),
        "errors": errors,
    }
    violations = [dict(violation) for each in reports for violation in each["violations"]]
    return arrange(parts, violations, sum(each["summary"]["dropped"] for each in reports))


def _worst(statuses: Sequence[int]) -> int:
    """Pytest's 5 says that a part had no tests, which is nothing bad where others had some."""
    failed = [each for each in statuses if each not in (0, 5)]
    return max(failed) if failed else min(statuses)


def _rules(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for rule in rules:
        known = found.setdefault((rule["key"], rule["entry"], repr(rule["source"])), {**rule, "uses": 0, "tests": 0})
        known["uses"] += rule["uses"]
        known["tests"] += rule["tests"]
    return list(found.values())


class Difference(NamedTuple):
    """Violations, as data."""

    new: list[dict[str, Any]]
    gone: list[dict[str, Any]]
    same: list[dict[str, Any]]


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    """By fingerprints: a line that has moved is no difference, nor is another number of attempts."""
    before = {each["fingerprint"]: each for each in old["violations"]}
    after = {each["fingerprint"]: each for each in new["violations"]}
    return Difference(
        [each for known_by, each in after.items() if known_by not in before],
        [each for known_by, each in before.items() if known_by not in after],
        [each for known_by, each in after.items() if known_by in before],
    )
