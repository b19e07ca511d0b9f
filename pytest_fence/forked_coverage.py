"""Coverage of a test in a process of its own: collected in memory there, merged by the process that measures.

Coverage has no public way to give a running measurement another place to collect into: a second `Coverage` in the fork
would read the configuration anew for each test, and pytest-cov would go on telling the first of its contexts. So this
uses the collector of the running one, of that only what coverage's own front uses and what its versions have in common
(7.10 to 7.17): it is looked for first, and where a version has it no more, that is said once, and the tests' lines are
missing.
"""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

import pytest

from pytest_fence.categories import FenceWarning

_OF_COLLECTOR = ("covdata", "use_data", "flush_data", "static_context")


def _running() -> Any:
    """The measurement that is going on, if any."""
    module = sys.modules.get("coverage")
    current = module.Coverage.current() if module is not None and hasattr(module, "Coverage") else None
    return current if getattr(current, "_started", True) else None


def _collector() -> Any:
    return getattr(_running(), "_collector", None)


def fits(config: pytest.Config) -> bool:
    """Whether there is a measurement, and it can be split. Says so where it cannot be."""
    current = _running()
    if current is None:
        return False
    collector = _collector()
    missing = ["_collector"] if collector is None else [name for name in _OF_COLLECTOR if not hasattr(collector, name)]
    if missing:
        text = (
            f"this version of coverage has no {', '.join(missing)}: what tests run in processes of their own "
            '(scope = "test") is not measured'
        )
        config.issue_config_time_warning(FenceWarning(text), stacklevel=2)
    return not missing


class Recording:
    """What one process covers, apart from what its parent had covered."""

    def __init__(self) -> None:
        """In the fork, before the test."""
        import coverage

        self._collector = _collector()
        if self._collector is None:
            return
        lock = getattr(self._collector, "data_lock", None)
        if lock is not None and lock.locked():
            # By a thread that is not here. Tracers hold on to this very lock, so another one would not do.
            lock.release()
        context = self._collector.static_context
        self._of_parent = self._collector.covdata
        # What other threads of the parent have covered since it was written down is the parent's to tell.
        aside = coverage.CoverageData(no_disk=True)
        self._collector.use_data(aside, context)
        self._collector.flush_data()
        self._data = coverage.CoverageData(no_disk=True)
        self._collector.use_data(self._data, context)
        _close(aside)
        self._saved_by_coverage(self._data)
        os.register_at_fork(after_in_child=self._forked_again)

    def _forked_again(self) -> None:
        """In a fork that the test makes: whoever has coverage save there (`patch = _exit`) means a file of its own."""
        self._collector.use_data(self._of_parent, self._collector.static_context)
        self._saved_by_coverage(self._of_parent)

    @staticmethod
    def _saved_by_coverage(data: Any) -> None:
        current = _running()
        if hasattr(current, "_data"):
            current._data = data

    def result(self) -> str:
        """In the fork, after the test; empty if nothing was covered."""
        if self._collector is None:
            return ""
        self._collector.flush_data()
        return base64.b85encode(self._data.dumps()).decode() if self._data else ""


def merge(result: str) -> None:
    """In the process that measures."""
    import coverage

    collector = _collector()
    if collector is None:
        return
    data = coverage.CoverageData(no_disk=True)
    data.loads(base64.b85decode(result))
    collector.covdata.update(data)
    _close(data)


def _close(data: Any) -> None:
    """Python 3.13 warns of a database that is left to the garbage collector."""
    if hasattr(data, "close"):  # since 7.10.3
        data.close(force=True)
