"""Annotations of GitHub Actions: workflow commands on standard output, within what GitHub shows of one step.

It shows ten errors and ten warnings of a step, and drops the rest without a word: so the tenth says how many there are.
https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fence_core.report.files.groups import Group, groups, plural, suggestion
from fence_core.text import escape

__all__ = ["render"]

_SHOWN = 9
_LEVELS = {"warned": "warning", "listed": "notice"}
_TEXT_MAX = 1000


def render(report: dict[str, Any], environ: Mapping[str, str]) -> str:
    found = groups(report)
    if not found:
        return ""
    lines = [_line(group, _prefix(report, environ)) for group in found[:_SHOWN]]
    more = len(found) - _SHOWN
    if more == 1:
        lines.append(_line(found[_SHOWN], _prefix(report, environ)))
    elif more > 1:
        level = _LEVELS.get(found[_SHOWN].first["state"], "error")
        violations = plural(report["summary"]["violations"], "violation")
        lines.append(f"::{level} title=fence::and {more} more places; {violations} in all: see the step's summary")
    # What the run has printed last may lack its end of line, and a command counts at the beginning of one only.
    return "\n" + "".join(f"{line}\n" for line in lines)


def _prefix(report: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Where the project lies in the repository: GitHub counts from there."""
    top, root = environ.get("GITHUB_WORKSPACE", "").rstrip("/"), report["run"]["rootdir"].rstrip("/")
    return f"{root[len(top) + 1 :]}/" if top and root.startswith(f"{top}/") else ""


def _line(group: Group, prefix: str) -> str:
    level = _LEVELS.get(group.first["state"], "error")
    where = ""
    if group.place is not None:
        where = f"file={_property(prefix + group.place.file)},line={group.place.line},"
    text = group.sentence
    if len(group.tests) > 1:
        text += f", first {escape(group.tests[0])}"
    if group.first["remedy"] is not None:
        allowed = "; ".join(f"{name} = [{', '.join(items)}]" for name, items in suggestion([group.destination]))
        text += f". To allow it: {escape(allowed)}" if allowed else ""
    return f"::{level} {where}title={_property('fence: ' + group.destination['name'])}::{_data(text[:_TEXT_MAX])}"


def _data(text: str) -> str:
    return escape(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
