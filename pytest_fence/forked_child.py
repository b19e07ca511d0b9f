"""The process of one test, from the fork to its end. Run by the fork only.

What belongs to the whole run (printing, counting, writing report files) is the parent's: of the hooks that tell of
results only our own is called here, which passes on what it is told.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from typing import Any

import pytest

from pytest_fence import engine, forked_wire
from pytest_fence.forked_wire import Line

TOLD = ("pytest_runtest_logreport", "pytest_warning_recorded")
SILENT = ("pytest_runtest_logstart", "pytest_runtest_logfinish")


class Messenger:
    """Registered in every process, of use in the forks only: there these are the only hooks of their names."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.line: Line | None = None
        self.known: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.line is None:
            return
        # As the terminal asks of every report: there pytest fails a test for its subtests, which it has counted here.
        self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self.line.send("report", forked_wire.slim(data, self.known), forked_wire.is_shown_only(report, data))

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        if self.line is not None:
            self.line.send("warning", forked_wire.plain_warning(warning_message), when, nodeid, location)

    def take_over(self, line: Line, known: dict[str, Any]) -> None:
        """In a fork: from now on results are told to the parent and to nobody else here."""
        self.line = line
        self.known = known
        for name in (*TOLD, *SILENT):
            hooks = getattr(self._config.hook, name)
            # pluggy can only take plugins out as a whole, with their fixtures and all.
            hooks._hookimpls[:] = [each for each in hooks.get_hookimpls() if each.plugin is self]


class Child:
    """This process, which ends with its test."""

    def __init__(self, item: pytest.Item, line: Line, *, measured: bool) -> None:
        self._pid = os.getpid()
        self._item = item
        self._line = line
        self._session = item.session
        self._wishes = (self._session.shouldstop, self._session.shouldfail)
        self._keep_wider_fixtures()
        self._inherited = _started_by_multiprocessing()
        self._recording = None
        if measured:
            from pytest_fence.forked_coverage import Recording

            self._recording = Recording()

    def _keep_wider_fixtures(self) -> None:
        """What lies above the test is torn down by the parent; here only what was set up here."""
        state: Any = self._session._setupstate
        parent = self._item.parent
        exact = state.teardown_exact
        inherited = {node: len(finalizers) for node, (finalizers, _) in state.stack.items()}

        def teardown_exact(nextitem: pytest.Item | None) -> None:
            errors: list[BaseException] = []
            try:
                exact(parent)
            except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
                errors.append(error)
            # Wider fixtures that the test itself asked for, by request.getfixturevalue.
            for node, (finalizers, _) in reversed(state.stack.items()):
                while len(finalizers) > inherited.get(node, 0):
                    try:
                        finalizers.pop()()
                    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
                        errors.append(error)
            if errors:
                raise errors[0]

        state.teardown_exact = teardown_exact

    def end(self, error: BaseException | None) -> None:
        """Tell the parent how the test's protocol ended, and leave. Never returns."""
        if os.getpid() != self._pid:
            engine.end_test()  # a fork that the test made and that came back into pytest
        try:
            if error is not None:
                self._tell_error(error)
                self._abandon()
            if self._recording is not None:
                covered = self._recording.result()
                if covered:
                    self._line.send("coverage", covered)
            wishes = (self._session.shouldstop, self._session.shouldfail)
            if wishes != self._wishes:
                self._line.send("wishes", *wishes)
            for process in _started_by_multiprocessing() - self._inherited:
                if process.daemon:
                    process.terminate()  # as at the end of an interpreter
            for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
                try:
                    stream.flush()  # type: ignore[union-attr]
                except Exception:
                    pass  # it is the test's: closed, or of another kind
            self._line.send("end")
        except BaseException:
            traceback.print_exc()
        finally:
            engine.end_test()

    def _tell_error(self, error: BaseException) -> None:
        if isinstance(error, pytest.exit.Exception):
            self._line.send("exit", error.msg, error.returncode)
        elif isinstance(error, KeyboardInterrupt):
            frames = traceback.extract_tb(error.__traceback__)
            self._line.send("interrupt", *((frames[-1].filename, frames[-1].lineno) if frames else ("", 0)))
        else:
            self._line.send("fault", "".join(traceback.format_exception(error)))

    def _abandon(self) -> None:
        """The test was left in the middle: what it has set up is torn down as at the end of a session."""
        try:
            self._session._setupstate.teardown_exact(None)
        except BaseException:
            traceback.print_exc()


def _started_by_multiprocessing() -> set[Any]:
    module = sys.modules.get("multiprocessing")
    return set(module.active_children()) if module is not None else set()


def take_the_timer(delay: float, interval: float) -> None:
    """An alarm that was set for the test (pytest-timeout) rings in its process; fork(2) does not hand it down."""
    if delay:
        signal.setitimer(signal.ITIMER_REAL, delay, interval)
