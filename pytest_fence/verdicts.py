"""What a violation does to the report of its test. Loaded at the first violation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from _pytest import runner as _runner
from _pytest._code.code import ReprEntry, ReprExceptionInfo, ReprFileLocation, ReprTraceback

from fence_core.events.wire import to_wire
from fence_core.report import terminal, words
from fence_core.report.fingerprint import fingerprint
from fence_core.report.stack import View
from fence_core.text import escape
from fence_core.untouched import real
from pytest_fence import engine
from pytest_fence.categories import SECTION, FenceWarning

_RUNNERS = ("_pytest", "execnet", "fence_core", "pluggy", "pytest", "pytest_fence", "xdist")


def view_of(config: pytest.Config) -> View:
    """How a stack is shown in this run: without pytest's own frames, with paths as pytest prints them."""
    modules = [sys.modules.get(name) for name in _RUNNERS]
    hidden = {os.path.dirname(module.__file__) for module in modules if module is not None and module.__file__}
    return View(
        root=os.fspath(config.rootpath),
        cwd=os.fspath(config.invocation_params.dir),
        hidden=sorted(hidden),
        runner=_runner.__file__,
    )


class Verdicts:
    """Turns violations into failures, warnings or notes, as the mode of each says."""

    def __init__(self, config: pytest.Config) -> None:
        self._view = view_of(config)
        self._config = config
        self._root = os.fspath(config.rootpath)
        chosen = config.getoption("basetemp", None)
        self._temporary = (os.path.abspath(chosen),) if chosen else ()

    def apply(self, item: pytest.Item, report: pytest.TestReport, found: Sequence[engine.Violation]) -> None:
        """Change `report` in place."""
        found = [self._judged(item, violation) for violation in found]
        report.fence = [*getattr(report, "fence", ()), *map(self._plain, found)]  # type: ignore[attr-defined]
        failing = [v for v in found if v.state == "failing"]
        if failing:
            self._fail(item, report, failing)

    def _plain(self, violation: engine.Violation) -> dict[str, Any]:
        place = self._view.culprit(violation.stack)
        known_by = fingerprint(violation, place, root=self._root, temporary=self._temporary)
        return {**to_wire(violation), "fingerprint": known_by}

    def _judged(self, item: pytest.Item, violation: engine.Violation) -> engine.Violation:
        """A filter that makes errors of warnings makes a failure of it."""
        if violation.state == "warned" and not self._warn(item, violation):
            return violation._replace(state="failing")
        return violation

    def _warn(self, item: pytest.Item, violation: engine.Violation) -> bool:
        """Whether it remained a warning. Not by `item.warn`, which knows no line but the first of the test."""
        crash = self._crash(item, [violation], "")
        try:
            real.warn_explicit(FenceWarning(warning_text(violation, self._view)), None, crash.path, crash.lineno)
        except FenceWarning:
            return False
        return True

    def _fail(self, item: pytest.Item, report: pytest.TestReport, failing: Sequence[engine.Violation]) -> None:
        excuse = _excuse(report)
        if report.failed and not excuse:
            lines = terminal.block(failing, self._view)
            report.sections.append((SECTION, "\n".join(line.text for line in lines)))
            return
        report.outcome = "failed"
        report.longrepr = self._failure(item, report, failing, excuse)
        if hasattr(report, "wasxfail"):
            del report.wasxfail

    def _failure(
        self, item: pytest.Item, report: pytest.TestReport, failing: Sequence[engine.Violation], excuse: str
    ) -> ReprExceptionInfo:
        message = terminal.headline(failing)
        crash = self._crash(item, failing, message)
        # There pytest 9 prints the whole of each failure as well. The option belongs to the terminal plugin.
        if self._config.getoption("tbstyle", "auto") == "line":
            return ReprExceptionInfo(reprtraceback=ReprTraceback([], None, "short"), reprcrash=crash)
        entries = [entry for v in failing[: terminal.PER_PLACE_MAX] for entry in self._entries(v)]
        notes = []
        if len(failing) > terminal.PER_PLACE_MAX:
            notes.append(f"... and {len(failing) - terminal.PER_PLACE_MAX} more in this test")
        if excuse:
            notes.append(f"({excuse}; that excuses nothing)")
        elif report.when == "setup":
            notes.append("(the test was not run; --fence-mode=warn shows in one run what would come next)")
        if notes:
            entries.append(_entry([f"E   {note}" for note in notes]))
        return ReprExceptionInfo(reprtraceback=ReprTraceback(entries, None, "short"), reprcrash=crash)

    def _crash(self, item: pytest.Item, failing: Sequence[engine.Violation], message: str) -> ReprFileLocation:
        """The line to look at first; that of the test itself where no stack is known, as of a subprocess."""
        for violation in failing:
            frame = self._view.culprit(violation.stack)
            if frame is not None:
                return ReprFileLocation(frame.path, frame.line, message)
        path, line, _ = item.location
        return ReprFileLocation(path, (line or 0) + 1, message)

    def _entries(self, violation: engine.Violation) -> Iterator[ReprEntry]:
        """As pytest shows a traceback in its short style: the calls, then what went wrong behind an E."""
        lines: list[str] = []
        where: ReprFileLocation | None = None
        for call in terminal.calls(violation, self._view):
            if not call.line:
                lines.append(f"    {call.function}")
                continue
            if where is not None:
                yield _entry(lines, where)
            where = ReprFileLocation(call.path, call.line, f"in {call.function}")
            lines = [f"    {call.source}"] if call.source else []
        lines += [f"E   {line.text}" for line in terminal.explanation(violation, self._view)]
        yield _entry([*lines, ""], where)


def fail_unread(item: pytest.Item, report: pytest.TestReport, error: Exception) -> None:
    """There are violations, and what they are cannot be told here: the test fails for them all the same."""
    text = f"fence: there are violations, and they could not be read in this test: {type(error).__name__}: {error}"
    if report.failed:
        report.sections.append((SECTION, text))
        return
    path, line, _ = item.location
    report.outcome = "failed"
    report.longrepr = ReprExceptionInfo(
        reprtraceback=ReprTraceback([_entry([f"E   {text}"])], None, "short"),
        reprcrash=ReprFileLocation(path, (line or 0) + 1, text),
    )
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def warning_text(violation: engine.Violation, view: View) -> str:
    """One violation as a warning: what, why, and the smallest change."""
    text = f"{terminal.what(violation)}: {words.rule(violation.rule, violation.verdict)}"
    lines = next(iter(terminal.remedies(violation, view)), "").splitlines()
    return f"{text}\n  to allow it: " + "\n               ".join(map(escape, lines)) if lines else text


def _excuse(report: pytest.TestReport) -> str:
    """What the report says instead of plain passed or failed; it is lost when the report is made a failure."""
    if hasattr(report, "wasxfail"):
        outcome = "xpassed" if report.passed else "xfailed"
        reason = report.wasxfail.removeprefix("reason: ")
        return f"the test {outcome}" + (f": {reason}" if reason else "")
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return "the test was skipped" + (f": {reason.removeprefix('Skipped: ')}" if reason else "")
    return ""


def _entry(lines: Sequence[str], where: ReprFileLocation | None = None) -> ReprEntry:
    return ReprEntry(lines, None, None, where, "short")
