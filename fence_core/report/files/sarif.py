"""SARIF 2.1.0, with what GitHub's code scanning asks for.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/ and GitHub's "SARIF support for code scanning": regions whole, empty
strings nowhere, `primaryLocationLineHash` the only fingerprint that is used, `suppressions` not looked at. No results
are an empty list, which closes alerts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fence_core.report.files.groups import Group, groups, plural, suggestion
from fence_core.text import escape

__all__ = ["render"]

_HOME = "https://pytest-fence.readthedocs.io"
_RESULTS_MAX = 5000
_MESSAGE_MAX = 1000
_NAMES = {
    "network": ("UnlistedDestination", "A test reached for a name, an address or a socket that no rule allows"),
    "filesystem": ("UnlistedFile", "A test tried to change or to read a file that the policy does not give it"),
    "command": ("DeniedCommand", "A test tried to run a command that the policy forbids"),
    "protected": ("Protected", "A test reached for what is refused whatever the policy says"),
    "error": ("FenceError", "The fence could not judge what a test did, and refused it"),
}
_PAGES = {"network": "how-to/allow-a-domain.html", "filesystem": "how-to/allow-a-write.html"}


def render(report: dict[str, Any], environ: Mapping[str, str]) -> str:
    found = [each for each in groups(report) if each.place is not None][:_RESULTS_MAX]
    keys = sorted({group.key for group in found})
    shard = report["run"]["shard"]
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "pytest-fence",
                "version": report["tool"]["version"],
                "informationUri": _HOME,
                "rules": [_rule(key) for key in keys],
            }
        },
        "automationDetails": {"id": f"pytest-fence/{quote(str(shard['name'])) if shard else ''}"},
        "originalUriBaseIds": {"SRCROOT": {"uri": f"file://{quote(report['run']['rootdir'].rstrip('/'))}/"}},
        "results": _results(found, keys),
        "columnKind": "unicodeCodePoints",
    }
    whole = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(whole, indent=1) + "\n"


def _rule(key: str) -> dict[str, Any]:
    section = key.partition(".")[0]
    name, short = _NAMES.get(section, ("NotAllowed", "A test did what the policy does not allow"))
    advice = "Take the call out of the test, stub its destination, or allow it in [tool.fence]."
    return {
        "id": key,
        "name": name,
        "shortDescription": {"text": short},
        "fullDescription": {"text": f"{short}. The kernel refused the call; {key} decided."},
        "help": {"text": advice, "markdown": advice},
        "helpUri": f"{_HOME}/en/stable/{_PAGES.get(section, 'reference/configuration.html')}",
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["test", section], "precision": "very-high", "problem.severity": "error"},
    }


def _results(found: list[Group], keys: list[str]) -> list[dict[str, Any]]:
    used: dict[str, int] = {}
    results = []
    for group in found:
        known_by = group.first["fingerprint"]
        used[known_by] = used.get(known_by, 0) + 1
        result: dict[str, Any] = {
            "ruleId": group.key,
            "ruleIndex": keys.index(group.key),
            "level": {"warned": "warning", "listed": "note"}.get(group.first["state"], "error"),
            "message": {"text": _message(group)},
            "locations": [_location(group)],
            "partialFingerprints": {
                "primaryLocationLineHash": f"{known_by[:16]}:{used[known_by]}",
                "fence/v1": known_by,
            },
            "occurrenceCount": group.attempts,
            "properties": {
                "fence/destination": escape(group.destination["name"]),
                "fence/tests": len(group.tests),
            },
        }
        flow = _flow(group)
        if len(flow) > 1:
            result["codeFlows"] = [{"threadFlows": [{"locations": flow}]}]
        results.append(result)
    return results


def _message(group: Group) -> str:
    text = group.sentence
    if len(group.tests) > 1:
        text += f". First: {escape(group.tests[0])}"
    allowed = "; ".join(f"{name} = [{', '.join(items)}]" for name, items in suggestion([group.destination]))
    if allowed and group.first["remedy"] is not None:
        text += f". To allow it: {escape(allowed)}"
    return text[:_MESSAGE_MAX] or plural(len(group.tests), "test")


def _location(group: Group) -> dict[str, Any]:
    place = group.place
    assert place is not None  # see `render`
    region = {
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.line,
        "endColumn": max(place.end_column, place.column),
    }
    found = {"physicalLocation": {"artifactLocation": _artifact(place.file), "region": region}}
    tests = group.tests
    if tests:
        return {**found, "logicalLocations": [{"fullyQualifiedName": escape(tests[0]), "kind": "function"}]}
    return found


def _flow(group: Group) -> list[dict[str, Any]]:
    frames = [each for each in group.first["stack"] if each["own"] and not each["file"].startswith(("/", "<", ".."))]
    return [
        {
            "location": {
                "physicalLocation": {
                    "artifactLocation": _artifact(frame["file"]),
                    "region": {"startLine": max(frame["line"], 1)},
                },
                "message": {"text": f"in {escape(frame['function']) or '?'}"},
            }
        }
        for frame in frames
    ]


def _artifact(path: str) -> dict[str, str]:
    return {"uri": quote(path.encode("utf-8", "backslashreplace")), "uriBaseId": "SRCROOT"}
