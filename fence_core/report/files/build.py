"""The report as data, version 1: of the ledger of one run. What is in which key: docs/reference/report.md.

What has no place in a run (numbers of violations, who was first) is not in it: the same run twice, with workers or
without, gives the same but for times, pids and workers.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fence_core.events.phases import known_as
from fence_core.report import terminal, words
from fence_core.report.files.arrange import arrange
from fence_core.report.files.told import Told, ToldOf
from fence_core.report.fingerprint import fingerprint
from fence_core.text import encodable

if TYPE_CHECKING:
    from fence_core.events.model import Frame, Program, Target, Use, Violation
    from fence_core.policy.model import Remedy, Source
    from fence_core.report.stack import View

__all__ = ["STACK_MAX", "TEXT_MAX", "About", "build", "rule_source"]

STACK_MAX = 64
TEXT_MAX = 4096
"""Characters of one text."""
_ARGV_MAX = 64


class About(NamedTuple):
    """What is known of the run, beside what it has tried."""

    tool: dict[str, Any]
    run: dict[str, Any]
    policy: dict[str, Any]
    errors: list[str]
    dropped: int
    """Violations of which only the number is known."""
    told: Told
    view: View
    root: str
    home: str
    temporary: tuple[str, ...] = ()


def build(violations: Sequence[Violation], uses: Sequence[Use], about: About) -> dict[str, Any]:
    found = [_violation(each, about) for each in violations]
    rules = [
        {
            "key": use.rule.key,
            "entry": use.rule.entry or None,
            "source": rule_source(use.rule.source, about.root),
            "uses": use.count,
            "tests": len([nodeid for nodeid in use.tests if nodeid]),
        }
        for use in uses
    ]
    parts = {"tool": about.tool, "run": about.run, "policy": about.policy, "rules_used": rules, "errors": about.errors}
    return arrange(parts, found, about.dropped)


def _violation(violation: Violation, about: About) -> dict[str, Any]:
    view, told = about.view, about.told.of.get(known_as(violation.nodeid), ToldOf())
    culprit = view.culprit(violation.stack)
    stack = view.trim(violation.stack)
    chance = violation.started_by is not None  # such a process acts when it likes: see `verdicts`
    known_by = fingerprint(violation, None if chance else culprit, root=about.root, temporary=about.temporary)
    return {
        "id": "",
        "fingerprint": known_by,
        "state": violation.state,
        "test": _test(violation, told),
        "phase": violation.phase,
        "fixture": _fixture(violation, about),
        "during": _during(violation),
        "late": violation.late,
        "operation": violation.operation,
        "target": _target(violation.target, about),
        "text": _cut(words.tried(violation)),
        "attempts": violation.count,
        "first_s": round(violation.first_s, 3),
        "last_s": round(violation.last_s, 3),
        "error": errno.errorcode.get(violation.errno) if violation.errno else None,
        "program": _program(violation.program),
        "stack": [_frame(each, about) for each in stack[-STACK_MAX:]],
        "location": _location(culprit, told, about),
        "rule": {
            "key": violation.rule.key or None,
            "verdict": violation.verdict,
            "entry": _cut(violation.rule.entry) or None,
            "source": rule_source(violation.rule.source, about.root),
            "text": _cut(words.rule(violation.rule, violation.verdict)),
        },
        "remedy": _remedy(violation, violation.remedy),
        "hint": _cut(violation.hint) or None,
    }


def _test(violation: Violation, told: ToldOf) -> dict[str, Any] | None:
    if not terminal.is_in_test(violation):
        return None
    nodeid = encodable(violation.nodeid)
    file, *names = nodeid.partition("[")[0].split("::")
    parameters = nodeid.partition("[")[2].removesuffix("]")
    return {
        "nodeid": _cut(nodeid),
        "file": _cut(told.file or file),
        "line": told.line,
        "function": _cut(names[-1]) if names else None,
        "class": _cut("::".join(names[:-1])) or None,
        "parameters": _cut(parameters) or None,
        "outcome": told.outcome,
        "worker": told.worker,
    }


def _fixture(violation: Violation, about: About) -> dict[str, Any] | None:
    """The one that tried it, or has started the process that did."""
    owner = violation.owner or violation.started_by
    if owner is not None:
        name, scope, path, line = owner
    elif (at_work := about.view.fixture(violation.stack)) is not None:
        name, scope, path, line = at_work
    else:
        return None
    file = _cut(_relative(path, about.root)) or None
    return {"name": _cut(name), "scope": _cut(scope), "file": file, "line": line or None}


def _during(violation: Violation) -> dict[str, Any] | None:
    """What ran at that moment, where that is not what is blamed."""
    if not (violation.late or violation.owner or violation.started_by):
        return None
    others = [each for each in violation.during if each.nodeid and each.nodeid != violation.nodeid]
    if len(others) != 1:
        return None
    return {"nodeid": _cut(others[0].nodeid), "phase": others[0].phase}


def _target(target: Target, about: About) -> dict[str, Any]:
    return {
        "kind": target.kind,
        "name": _cut(_name(target, about)),
        "host": _cut(target.host) or None,
        "port": target.port or None,
        "protocol": _cut(target.protocol) or None,
        "path": _cut(target.path) or None,
        "detail": _cut(target.detail) or None,
    }


def _name(target: Target, about: About) -> str:
    """By which destinations are told apart: of a name whatever port it is, of files as one would type them."""
    if target.kind == "name":
        return target.host
    if target.kind == "address":
        host = f"[{target.host}]" if ":" in target.host else target.host
        return f"{host}:{target.port}/{target.protocol}" if target.protocol else host
    if target.kind in ("path", "unix"):
        path = _relative(target.path, about.root)
        home = about.home.rstrip("/")
        short = f"~{path[len(home) :]}" if home and path.startswith(f"{home}/") else path
        return f"unix:{short}" if target.kind == "unix" else short
    return target.detail or target.protocol or target.kind


def _program(program: Program) -> dict[str, Any]:
    return {
        "name": _cut(program.name),
        "pid": program.pid,
        "path": _cut(program.path) or None,
        "is_pytest": program.is_pytest,
        "thread": _cut(program.thread) or None,
        "chain": [_cut(each) for each in program.chain[:STACK_MAX]],
        "argv": [] if program.is_pytest else [_cut(each) for each in program.argv[:_ARGV_MAX]],
    }


def _frame(frame: Frame, about: About) -> dict[str, Any]:
    return {
        "file": _cut(_relative(frame.path, about.root)),
        "line": frame.line,
        "function": _cut(frame.function),
        "own": about.view.culprit([frame]) is not None,
        "source": _cut(about.view.source(frame)) or None,
    }


def _location(culprit: Frame | None, told: ToldOf, about: About) -> dict[str, Any] | None:
    """The line of the reader's code to look at first, or else the test."""
    if culprit is not None:
        first, last = about.view.columns(culprit)
        file, line, function = _relative(culprit.path, about.root), culprit.line, _cut(culprit.function)
        return {"file": _cut(file), "line": line, "function": function, "column": first, "end_column": last}
    if told.file is None or told.line is None:
        return None
    return {"file": told.file, "line": told.line, "function": None, "column": 1, "end_column": 1}


def rule_source(source: Source | None, root: str) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"name": _cut(source.name), "file": _cut(_relative(source.file, root)) or None, "line": source.line}


def _remedy(violation: Violation, remedy: Remedy | None) -> dict[str, Any] | None:
    if remedy is None:
        return None
    values = [remedy.value] if isinstance(remedy.value, bool) else list(remedy.value)
    entries = [{"key": remedy.key, "value": _cut(each) if isinstance(each, str) else each} for each in values]
    in_test = terminal.is_in_test(violation) and violation.owner is None
    return {"marker": _cut(words.marker(remedy)) if in_test else None, "entries": entries}


def _relative(path: str, root: str) -> str:
    top = root.rstrip("/") + "/"
    return path[len(top) :] if root and path.startswith(top) else path


def _cut(text: str) -> str:
    text = encodable(text)
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}\N{HORIZONTAL ELLIPSIS}"
