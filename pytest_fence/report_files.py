"""What the supervisor needs of pytest for report files: before the fork, and when the tests are over.

Imported only in runs that are to leave any. The files themselves are written by the supervisor
(`fence_core/launcher/report_files.py`).
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from fence_core.events.phases import known_as
from pytest_fence import engine

__all__ = ["Outcomes", "order"]

_TOLD_MAX = 20_000
"""Tests of which more than a number is told."""
_GRAVE = ("error", "failed", "xpassed", "xfailed", "skipped", "passed")
"""Of the phases of one test, the first of these is what became of it."""


def order(config: pytest.Config, wanted: tuple[str, ...]) -> engine.Reports:
    """Raises UsageError where one of the files cannot be written."""
    from pytest_fence.verdicts import hidden_directories, runner_file

    problem = engine.unwritable(wanted)
    if problem:
        raise pytest.UsageError(problem)
    chosen = config.known_args_namespace.basetemp
    return engine.Reports(
        wanted=wanted,
        command=("pytest", *map(str, config.invocation_params.args)),
        cwd=os.fspath(config.invocation_params.dir),
        hidden=tuple(hidden_directories()),
        runner=runner_file(),
        version=pytest.__version__,
        temporary=(os.path.abspath(chosen),) if chosen else (),
    )


class Outcomes:
    """What became of the tests, for those that the report speaks of. In the process whose output the user sees."""

    def __init__(self, fence: engine.Fence) -> None:
        self._fence = fence
        self._tests: dict[str, list[Any]] = {}
        """By node id: file, line, outcome, worker."""
        self._workers: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = _outcome(report)
        known = self._tests.get(report.nodeid)
        worker = getattr(report, "worker_id", None)
        if worker:
            self._workers.add(worker)
        if known is None:
            file, line, _ = report.location
            self._tests[report.nodeid] = [file, (line or 0) + 1, outcome, worker]
        elif _GRAVE.index(outcome) < _GRAVE.index(known[2]):
            known[2] = outcome

    def hand_over(self) -> None:
        """When nothing can fail any more. The run counts as incomplete where this is not said."""
        try:
            named = dict.fromkeys(violation.nodeid for violation in self._fence.ledger())
            of = {known_as(nodeid): row for nodeid, row in self._tests.items()}
            rows = [[nodeid, *of[nodeid]] for nodeid in named if nodeid in of][:_TOLD_MAX]
            self._fence.tell({"tests": len(self._tests), "workers": len(self._workers), "of": rows})
        except engine.FenceError:
            pass  # the report says that the run did not come to its end


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    if report.failed:
        return "failed" if report.when == "call" else "error"
    return str(report.outcome)
