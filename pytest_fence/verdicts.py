"""What a violation does to the report of its test. Loaded at the first violation."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from _pytest import runner as _runner
from _pytest._code.code import ExceptionRepr
from _pytest.skipping import xfailed_key

from fence_core.events.wire import to_wire
from fence_core.report import terminal, words
from fence_core.report.fingerprint import fingerprint
from fence_core.report.stack import View
from fence_core.text import escape
from fence_core.untouched import real
from pytest_fence import engine
from pytest_fence.categories import SECTION, FenceViolation, FenceWarning
from pytest_fence.failures import Failures

_RUNNERS = ("_pytest", "execnet", "fence_core", "pluggy", "pytest", "pytest_fence", "xdist")


def view_of(config: pytest.Config) -> View:
    """How a stack is shown in this run: without pytest's own frames, with paths as pytest prints them."""
    return View(
        root=os.fspath(config.rootpath),
        cwd=os.fspath(config.invocation_params.dir),
        hidden=hidden_directories(),
        runner=runner_file(),
    )


def hidden_directories() -> list[str]:
    """Where pytest, its runners and the fence are: no line of theirs says anything to a reader."""
    modules = [sys.modules.get(name) for name in _RUNNERS]
    return sorted({os.path.dirname(module.__file__) for module in modules if module is not None and module.__file__})


def runner_file() -> str:
    """Where the function lies that calls tests."""
    return _runner.__file__


class Verdict:
    """What the violations of one phase do to its report; known before there is one."""

    def __init__(self, found: Sequence[engine.Violation], error: Exception | None = None) -> None:
        self.found = found
        self.error = error
        """Why what there is cannot be told."""
        self.failing = [v for v in found if v.state == "failing"]
        self.longrepr: ExceptionRepr | None = None
        """What the report is to show: of a test that fails by itself, when it has said what."""
        self._item: pytest.Item | None = None
        self._before: dict[str, Any] = {}
        self._expected: Any = None

    def put(self, item: pytest.Item, call: pytest.CallInfo[None], raised: pytest.ExceptionInfo[FenceViolation]) -> None:
        """Have the call look as if the test had raised this, and nothing else, until `taken_back`.

        pytest makes no text of it: what that takes, the test may have replaced.
        """
        own = _pending(item)
        if own:
            own[0] = raised
        else:
            call.excinfo = raised
        self._item = item
        self._expected = item.stash.get(xfailed_key, None)
        item.stash[xfailed_key] = None
        for name in ("repr_failure", "_repr_failure_py"):  # pytest asks the first in a call, the second around it
            if name in item.__dict__:
                self._before[name] = item.__dict__[name]
            item.__dict__[name] = self._repr_failure

    def _repr_failure(self, *_: object, **__: object) -> Any:
        return self.longrepr

    def taken_back(self) -> None:
        """The item is as it was: the next phase may be one that is expected to fail."""
        item = self._item
        if item is None:
            return
        item.stash[xfailed_key] = self._expected
        for name in ("repr_failure", "_repr_failure_py"):
            del item.__dict__[name]
        item.__dict__.update(self._before)


class Verdicts:
    """Turns violations into failures, warnings or notes, as the mode of each says."""

    def __init__(self, config: pytest.Config) -> None:
        self._view = view_of(config)
        self._root = os.fspath(config.rootpath)
        self._failures = Failures(config, self._view)
        chosen = config.getoption("basetemp", None)
        self._temporary = (os.path.abspath(chosen),) if chosen else ()

    def before(self, item: pytest.Item, call: pytest.CallInfo[None], found: Sequence[engine.Violation]) -> Verdict:
        """Called when a phase is over and nobody has made a report of it: hooks that look at the call are to see what
        those see that look at the report."""
        verdict = Verdict([self._judged(item, violation) for violation in found])
        note = _note(item, call) if verdict.failing else None
        if note is not None:
            verdict.longrepr = self._failures.shown(item, verdict.failing, _notes(note, call.when))
            verdict.put(item, call, self._failures.raised(item, verdict.failing))
        return verdict

    def write(self, item: pytest.Item, report: pytest.TestReport, verdict: Verdict) -> None:
        """Change `report` in place."""
        report.fence = [*getattr(report, "fence", ()), *map(self._plain, verdict.found)]  # type: ignore[attr-defined]
        if not verdict.failing:
            return
        if verdict.longrepr is None and _has_failed(report):
            verdict.longrepr = report.longrepr = self._failures.beside(item, report.longrepr, verdict.failing)
            return
        if verdict.longrepr is None:
            verdict.longrepr = self._failures.shown(item, verdict.failing, _notes(_excuse(report), report.when))
        _fail(report, verdict.longrepr)

    def insist(self, item: pytest.Item, report: pytest.TestReport, verdict: Verdict) -> None:
        """The same, where another plugin has made something else of what was written, or another report."""
        if not hasattr(report, "fence"):
            self.write(item, report, verdict)
        elif not verdict.failing:
            return
        elif not _has_failed(report):
            _fail(report, self._failures.shown(item, verdict.failing, _notes(_excuse(report), report.when)))
        elif report.longrepr is not verdict.longrepr and terminal.what(verdict.failing[0]) not in str(report.longrepr):
            report.longrepr = self._failures.beside(item, report.longrepr, verdict.failing)

    def apply(self, item: pytest.Item, report: pytest.TestReport, found: Sequence[engine.Violation]) -> None:
        """For a report that is there already: change it in place."""
        self.write(item, report, Verdict([self._judged(item, violation) for violation in found]))

    def _plain(self, violation: engine.Violation) -> dict[str, Any]:
        """With the reader's own lines only: those of pytest, fifty of them, are the same in every report."""
        place = self._view.culprit(violation.stack)
        if violation.started_by is not None:
            place = None  # such a process acts when it likes: whether the test waits for it just then is chance
        known_by = fingerprint(violation, place, root=self._root, temporary=self._temporary)
        own = tuple(self._view.trim(violation.stack))
        return {**to_wire(violation._replace(stack=own)), "fingerprint": known_by}

    def _judged(self, item: pytest.Item, violation: engine.Violation) -> engine.Violation:
        """A filter that makes errors of warnings makes a failure of it."""
        if violation.state == "warned" and not self._warn(item, violation):
            return violation._replace(state="failing")
        return violation

    def _warn(self, item: pytest.Item, violation: engine.Violation) -> bool:
        """Whether it remained a warning. Not by `item.warn`, which knows no line but the first of the test."""
        place = self._failures.place(item, [violation], "")
        try:
            real.warn_explicit(FenceWarning(warning_text(violation, self._view)), None, place.path, place.lineno)
        except FenceWarning:
            return False
        return True

    def unread(self, item: pytest.Item, report: pytest.TestReport, error: Exception) -> None:
        """There are violations, and what they are cannot be told here: the test fails for them all the same."""
        text = f"fence: there are violations, and they could not be read in this test: {type(error).__name__}: {error}"
        if not _has_failed(report):
            _fail(report, self._failures.text(item, text))
        elif isinstance(report.longrepr, ExceptionRepr):
            report.longrepr.addsection(SECTION, text)
        else:
            report.sections.append((SECTION, text))


def warning_text(violation: engine.Violation, view: View) -> str:
    """One violation as a warning: what, why, and the smallest change."""
    text = f"{terminal.what(violation)}: {words.rule(violation.rule, violation.verdict)}"
    lines = next(iter(terminal.remedies(violation, view)), "").splitlines()
    return f"{text}\n  to allow it: " + "\n               ".join(map(escape, lines)) if lines else text


def _has_failed(report: pytest.TestReport) -> bool:
    return report.failed and not hasattr(report, "wasxfail")


def _fail(report: pytest.TestReport, longrepr: ExceptionRepr) -> None:
    report.outcome = "failed"
    report.longrepr = longrepr
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def _pending(item: pytest.Item) -> list[Any]:
    """What a test of unittest's has raised, and pytest puts into the call when it is asked for the report."""
    found = getattr(item, "_excinfo", None)
    return found if isinstance(found, list) else []


def _note(item: pytest.Item, call: pytest.CallInfo[None]) -> str | None:
    """What the phase is without violations, if that is plainly passed (empty) or an excuse; None: it fails by itself.

    As pytest judges it (`_pytest/skipping.py`), which it does too late for those who look at the call.
    """
    excinfo = (_pending(item) or [call.excinfo])[0]
    error = excinfo.value if excinfo is not None else None
    expected = None if item.config.option.runxfail else item.stash.get(xfailed_key, None)
    if error is None:
        if expected is None or call.when != "call":
            return ""
        if expected.strict:
            return f"([XPASS(strict)] {expected.reason})"
        return _excused("the test xpassed", expected.reason)
    if isinstance(error, pytest.skip.Exception):
        return _excused("the test was skipped", error.msg)
    unittest = real.modules.get("unittest")
    if unittest is not None and isinstance(error, unittest.SkipTest):
        return _excused("the test was skipped", str(error))
    if isinstance(error, pytest.xfail.Exception) and not item.config.option.runxfail:
        return _excused("the test xfailed", error.msg)
    if expected is not None and _is_expected(error, expected.raises):
        return _excused("the test xfailed", expected.reason)
    return None


def _is_expected(error: BaseException, raises: Any) -> bool:
    if raises is None or isinstance(raises, type | tuple):
        return raises is None or isinstance(error, raises)
    return bool(raises.matches(error))  # pytest.RaisesExc, RaisesGroup


def _excuse(report: pytest.TestReport) -> str:
    """What a report says instead of plain passed or failed; it is lost when the report is made a failure."""
    if hasattr(report, "wasxfail"):
        return _excused("the test xpassed" if report.passed else "the test xfailed", report.wasxfail)
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return _excused("the test was skipped", reason.removeprefix("Skipped: "))
    return ""


def _excused(outcome: str, reason: str | None) -> str:
    reason = (reason or "").removeprefix("reason: ")
    return f"({outcome}{f': {reason}' if reason else ''}; that excuses nothing)"


def _notes(note: str, when: str | None) -> list[str]:
    if note or when != "setup":
        return [note] if note else []
    return ["(the test was not run; --fence-mode=warn shows in one run what would come next)"]
