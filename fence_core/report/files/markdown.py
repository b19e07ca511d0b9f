"""For comments and step summaries: verdict, a table of destinations, what led to each, and what would allow them.

All that comes from a run stands in ``<code>``, with whatever Markdown or HTML would act upon as a reference to a
character: there a stranger's text makes no heading, no link and no mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fence_core.report.files.groups import Group, by, groups, plural, suggestion, whose
from fence_core.text import escape

__all__ = ["code", "render"]

_ROWS_MAX = 50
_DETAILS_MAX = 50
_TESTS_MAX = 20
_SUGGESTED_MAX = 100
_BYTES_MAX = 900 << 10
"""GitHub drops a summary of more than 1 MiB whole."""
_SPECIAL = re.compile(r"[^A-Za-z0-9 ./-]|www\.|(?<=[A-Za-z])\.(?=[A-Za-z])|//")
_CUT = 300


def render(report: dict[str, Any], environ: Mapping[str, str]) -> str:
    lines: list[str] = []
    size = 0
    for line in _lines(report, environ):
        size += len(line.encode()) + 1
        if size > _BYTES_MAX:
            lines.append("\nThe rest is left out: see the JSON report.\n")
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def code(text: str, limit: int = _CUT) -> str:
    """A stranger's text."""
    text = escape(text)
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    return f"<code>{_SPECIAL.sub(_referred, text)}</code>" if text else ""


def _referred(found: re.Match[str]) -> str:
    return "".join(char if char.isalnum() and char.isascii() else f"&#{ord(char)};" for char in found[0])


def _lines(report: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    summary, run = report["summary"], report["run"]
    yield f"## fence: {_verdict(report)}"
    yield ""
    facts = [run["mode"], plural(run["tests"], "test") if run["tests"] is not None else "number of tests unknown"]
    facts.append(f"{run['duration_s']:.1f} s")
    yield "; ".join(facts)
    if not run["complete"]:
        yield ""
        yield "**The run did not come to its end, or a part of it is missing: more may have been tried.**"
    if not summary["violations"]:
        return
    yield ""
    yield from _table(report)
    yield ""
    yield from _details(groups(report))
    yield from _diff(report)
    url = environ.get("FENCE_REPORT_URL", "")
    if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&'*+,;=%-]+", url):
        yield f"[The whole report]({url})"


def _verdict(report: Mapping[str, Any]) -> str:
    summary, used = report["summary"], report["rules_used"]
    if not summary["violations"]:
        tests = report["run"]["tests"]
        who = plural(tests, "test") if tests is not None else "the run"
        return f"{who} kept to the policy ({plural(len(used), 'rule')} used)"
    who = plural(summary["tests"], "test") if summary["tests"] else "what happened outside of tests"
    return f"{who} reached for {plural(summary['destinations'], 'thing')} that the policy does not allow"


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    yield "| destination | by | verdict | tests | tries |"
    yield "|---|---|---|--:|--:|"
    for each in report["destinations"][:_ROWS_MAX]:
        programs = ", ".join(map(code, each["programs"][:5]))
        yield f"| {code(each['name'])} | {programs} | {each['verdict']} | {each['tests']} | {each['attempts']} |"
    more = len(report["destinations"]) - _ROWS_MAX
    if more > 0:
        yield f"| and {more} more | | | | |"


def _details(found: list[Group]) -> Iterator[str]:
    for group in found[:_DETAILS_MAX]:
        where = code(f"{group.place.file}:{group.place.line}") if group.place is not None else "no line"
        yield f"<details><summary>{code(group.destination['name'])} from {where}</summary>"
        yield ""
        yield f"{code(group.first['text'])}{code(by(group.first))}: {code(group.first['rule']['text'])}"
        argv = group.first["program"]["argv"]
        if argv:
            yield f"<br>command: {code(' '.join(argv))}"
        yield ""
        tests = sorted({whose(each) for each in group.violations})
        for each in tests[:_TESTS_MAX]:
            yield f"- {code(each)}"
        if len(tests) > _TESTS_MAX:
            yield f"- and {len(tests) - _TESTS_MAX} more"
        yield ""
        yield "</details>"
        yield ""
    if len(found) > _DETAILS_MAX:
        yield f"And {len(found) - _DETAILS_MAX} more: see the JSON report."
        yield ""


def _diff(report: Mapping[str, Any]) -> Iterator[str]:
    suggested = list(suggestion(report["destinations"]))
    if not suggested:
        return
    yield "What would allow all that can be allowed:"
    yield ""
    yield "```diff"
    yield " [tool.fence]"
    for name, items in suggested:
        if items == ["true"]:
            yield f"+{name} = true"
            continue
        yield f"+{name} = ["
        yield from (f"+    {item}," for item in items[:_SUGGESTED_MAX])
        if len(items) > _SUGGESTED_MAX:
            yield f"+    # and {len(items) - _SUGGESTED_MAX} more"
        yield "+]"
    yield "```"
    yield ""
