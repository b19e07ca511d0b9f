"""The report as one page: opened from disk or as an artefact of CI, it loads nothing and needs no script to be read.

Its content policy lets nothing in but its own style and its own script, each by its hash. What comes from a run is
escaped here; the script puts text into the page as text only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from html import escape as as_html
from string import Template
from typing import Any

from fence_core.report.files.groups import by, plural, whose
from fence_core.text import escape

__all__ = ["render"]

_HERE = os.path.dirname(os.path.abspath(__file__))
_KINDS = {"name": "network", "address": "network", "unix": "socket", "other": "socket", "path": "file"}
"""What a reader calls them."""
_CHAIN = " \N{RIGHTWARDS ARROW} "


def render(report: dict[str, Any], environ: Mapping[str, str]) -> str:
    style, script = _file("page.css"), _file("page.js")
    known = {each["id"]: each for each in report["violations"]}
    summary, run = report["summary"], report["run"]
    return Template(_file("page.html")).substitute(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        project=_text(os.path.basename(run["rootdir"].rstrip("/")) or "tests"),
        verdict=_verdict(report),
        state="bad" if summary["violations"] else "good",
        facts="".join(f"<li>{each}</li>" for each in _facts(report)),
        rows="\n".join(_row(each) for each in report["destinations"]),
        details="\n".join(
            _destination(each, [known[number] for number in each["violations"] if number in known])
            for each in report["destinations"]
        ),
        rules="\n".join(_rule(each) for each in report["rules_used"]),
        used=plural(len(report["rules_used"]), "entry").replace("entrys", "entries"),
    )


def _file(name: str) -> str:
    with open(os.path.join(_HERE, name), encoding="utf-8") as file:
        return file.read()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: object) -> str:
    """A stranger's text: for between tags, and for attributes in quotation marks."""
    return as_html(escape(str(text)), quote=True)


def _verdict(report: Mapping[str, Any]) -> str:
    summary, tests = report["summary"], report["run"]["tests"]
    of = f" of {tests}" if tests is not None else ""
    if not summary["violations"]:
        return f"All{of} tests kept to the policy"
    outside = f", and {summary['outside']} attempts were made outside of tests" if summary["outside"] else ""
    things = plural(summary["destinations"], "thing")
    return f"{summary['tests']}{of} tests reached for {things} that the policy does not allow{outside}"


def _facts(report: Mapping[str, Any]) -> Iterator[str]:
    summary, run, tool = report["summary"], report["run"], report["tool"]
    if not run["complete"]:
        yield "<strong>incomplete: the run did not come to its end, or a part is missing</strong>"
    yield f"mode {_text(run['mode'])}"
    yield f"{summary['attempts']} attempts"
    if run["workers"]:
        yield plural(run["workers"], "worker")
    yield f"{run['duration_s']:.1f} s, {_text(run['started'])}"
    if run["ci"] is not None:
        yield " ".join(_text(run["ci"][name]) for name in ("provider", "branch", "commit") if run["ci"][name])
    if summary["dropped"]:
        yield f"{summary['dropped']} more violations are only counted"
    yield f"{_text(tool['name'])} {_text(tool['version'])}; {_text(', '.join(tool['layers']))}"
    for source in report["policy"]["sources"]:
        yield _text(source["name"]) if source is not None else "no policy"
    for error in report["errors"]:
        yield f"<strong>{_text(error)}</strong>"


def _row(destination: Mapping[str, Any]) -> str:
    return (
        f'<tr data-id="{destination["id"]}"><td class="pick"></td>'
        f'<th scope="row"><a href="#{destination["id"]}">{_text(destination["name"])}</a></th>'
        f"<td>{_text(', '.join(destination['programs']))}</td><td>{_text(destination['verdict'])}</td>"
        f"<td>{destination['tests']}</td><td>{destination['attempts']}</td></tr>"
    )


def _destination(destination: Mapping[str, Any], members: list[Mapping[str, Any]]) -> str:
    remedy = destination["remedy"]
    entries = json.dumps(remedy["entries"]) if remedy is not None and destination["verdict"] == "unlisted" else "[]"
    kind = _KINDS.get(destination["kind"], destination["kind"])
    first = " open" if destination["id"] == "d1" else ""
    return (
        f'<section class="d" id="{destination["id"]}" data-kind="{_text(kind)}" data-entries="{_text(entries)}">'
        f"<details{first}><summary><h3>{_text(destination['name'])}</h3> "
        f"{plural(destination['tests'], 'test')}</summary>\n"
        + "\n".join(_violation(each) for each in members)
        + "</details></section>"
    )


def _violation(violation: Mapping[str, Any]) -> str:
    test, at = violation["test"] or {}, violation["location"]
    data = {
        "test": test.get("nodeid") or "",
        "file": at["file"] if at is not None else test.get("file") or "",
        "program": violation["program"]["name"],
        "state": violation["state"],
        "phase": violation["phase"],
        "rule": violation["rule"]["key"] or violation["rule"]["verdict"],
        "worker": test.get("worker") or "",
        "marker": (violation["remedy"] or {}).get("marker") or "",
    }
    attributes = " ".join(f'data-{name}="{_text(value)}"' for name, value in data.items())
    times = f", {violation['attempts']} times" if violation["attempts"] > 1 else ""
    return (
        f'<details class="v" {attributes}><summary>{_text(whose(violation))} <span>{_text(violation["phase"])}: '
        f"{_text(violation['text'])}{_text(by(violation))}{times}</span></summary>"
        + "".join(_body(violation))
        + "</details>"
    )


def _body(violation: Mapping[str, Any]) -> Iterator[str]:
    program, fixture, during = violation["program"], violation["fixture"], violation["during"]
    lines = []
    for frame in violation["stack"]:
        lines.append(_text(f"{frame['file']}:{frame['line']}: in {frame['function']}"))
        if frame["source"]:
            lines.append(f"    {_text(frame['source'])}")
    if lines:
        yield "<pre>" + "\n".join(lines) + "</pre>"
    yield "<dl>"
    yield _pair("rule", violation["rule"]["text"])
    source = violation["rule"]["source"]
    if source is not None and source["file"]:
        yield _pair("written in", f"{source['file']}:{source['line'] or 1}")
    if not program["is_pytest"]:
        yield _pair("programs", _CHAIN.join(program["chain"]))
        yield _pair("command", " ".join(program["argv"]))
    if fixture is not None:
        yield _pair("fixture", f"{fixture['name']} ({fixture['scope']})")
    if during is not None:
        yield _pair("meanwhile", during["nodeid"])
    if violation["error"]:
        yield _pair("was answered", violation["error"])
    if violation["remedy"] is not None and violation["remedy"]["marker"]:
        yield _pair("to allow it", violation["remedy"]["marker"])
    if violation["hint"]:
        yield _pair("hint", violation["hint"])
    yield "</dl>"


def _pair(name: str, value: str) -> str:
    return f"<dt>{name}</dt><dd><code>{_text(value)}</code></dd>"


def _rule(rule: Mapping[str, Any]) -> str:
    source = rule["source"]
    where = _text(source["name"]) if source is not None else ""
    return (
        f'<tr><th scope="row">{_text(rule["key"])}</th><td>{_text(rule["entry"] or "")}</td><td>{where}</td>'
        f"<td>{rule['uses']}</td><td>{rule['tests']}</td></tr>"
    )
