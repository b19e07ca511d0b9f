"""The report of a test whose process ended before it had said how the test went. Loaded when that happens."""

from __future__ import annotations

import signal
from typing import Any, Literal

import pytest
from _pytest._code.code import ReprEntry, ReprExceptionInfo, ReprFileLocation, ReprTraceback
from _pytest.skipping import evaluate_xfail_marks

from fence_core.untouched import real

Phase = Literal["setup", "call", "teardown"]

_HINTS = {
    signal.SIGKILL: "the kernel's out-of-memory killer uses this signal",
    signal.SIGABRT: "as by abort() and failed assertions of C code",
    signal.SIGXCPU: "its limit of processor time (RLIMIT_CPU) was used up",
    signal.SIGSYS: "a system call that a filter answers so",
}


def describe(status: int | None) -> str:
    """How a process ended, in words; `status` as of waitpid(2), None: somebody else has waited for it."""
    if status is None:
        return "the test's process ended before its report was complete, and something else has waited for it"
    number, code = status & 0x7F, status >> 8  # waitpid(2); Linux has no other form of it
    if not number:
        return (
            f"the test's process ended by itself with status {code} before its report was complete "
            "(os._exit, or an exec)"
        )
    try:
        name = real.Signals(number).name
    except ValueError:
        name = f"signal {number}"  # one of the real-time signals
    meaning = real.strsignal(number)
    hint = _HINTS.get(number)  # type: ignore[call-overload]
    return (
        f"the test's process was ended by {name}" + (f" ({meaning})" if meaning else "") + (f": {hint}" if hint else "")
    )


def phase_of(name: str) -> Phase:
    """One of the phases that a report can be about."""
    return "call" if name == "call" else "teardown" if name == "teardown" else "setup"


def report(item: pytest.Item, when: Phase, text: str, started: float) -> pytest.TestReport:
    """A failure; one that the test expects (xfail) is no more than that here too.

    Not by the hooks that make reports: what other plugins look for there was set up in the process that is gone.
    """
    now = real.wall_time()
    try:
        pytest.fail(text, pytrace=False)
    except pytest.fail.Exception:
        excinfo: pytest.ExceptionInfo[BaseException] = pytest.ExceptionInfo.from_current()
    call: Any = pytest.CallInfo(
        None, excinfo, start=started, stop=now, duration=now - started, when=when, _ispytest=True
    )
    found = pytest.TestReport.from_item_and_call(item, call)
    path, line, _ = item.location
    crash = ReprFileLocation(path, (line or 0) + 1, text)
    entry = ReprEntry([f"E   {text}"], None, None, ReprFileLocation(path, (line or 0) + 1, f"in {item.name}"), "short")
    found.longrepr = ReprExceptionInfo(reprtraceback=ReprTraceback([entry], None, "short"), reprcrash=crash)
    expected = None if item.config.option.runxfail else evaluate_xfail_marks(item)
    if expected is not None and expected.raises is None:
        found.outcome, found.wasxfail = "skipped", expected.reason
    return found


def silent_teardown(item: pytest.Item) -> pytest.TestReport:
    """The report that ends a test for those who wait for all three phases."""
    now = real.wall_time()
    call: Any = pytest.CallInfo(None, None, start=now, stop=now, duration=0.0, when="teardown", _ispytest=True)
    return pytest.TestReport.from_item_and_call(item, call)
