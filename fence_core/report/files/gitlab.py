"""GitLab's code quality report: one entry for each destination and place.

https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format. Equal fingerprints are shown once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fence_core.report.files.groups import groups, severity

__all__ = ["render"]

_DESCRIPTION_MAX = 1000


def render(report: dict[str, Any], environ: Mapping[str, str]) -> str:
    found: list[dict[str, Any]] = []
    used: set[str] = set()
    for group in groups(report):
        path = group.place.file if group.place is not None else "pyproject.toml"
        line = group.place.line if group.place is not None else 1
        # Without the number of the line, so that what has only moved is not new.
        function = (group.place.function or "") if group.place is not None else ""
        told_by = [
            group.destination["kind"],
            group.destination["name"],
            path,
            function,
            group.key,
            *_tests(group.tests),
        ]
        fingerprint = _unused("\0".join(told_by), used)
        found.append(
            {
                "description": f"fence: {group.sentence}"[:_DESCRIPTION_MAX],
                "check_name": group.key,
                "fingerprint": fingerprint,
                "severity": severity(group.first),
                "location": {"path": path.removeprefix("./"), "lines": {"begin": line}},
            }
        )
    return json.dumps(found, indent=2) + "\n"


def _tests(nodeids: list[str]) -> list[str]:
    """Without their parameters."""
    return sorted({nodeid.partition("[")[0] for nodeid in nodeids})


def _unused(text: str, used: set[str]) -> str:
    """Two lines of one function may lead to the same place."""
    number = 0
    while True:
        digest = hashlib.sha256(f"{text}\0{number}".encode("utf-8", "backslashreplace")).hexdigest()[:32]
        if digest not in used:
            used.add(digest)
            return digest
        number += 1
