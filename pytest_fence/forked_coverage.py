"""Coverage of a test in a process of its own: collected in memory there, merged by the process that measures.

Coverage has no public way to give a running measurement another place to collect into, so this touches attributes of
its own: looked for first, and where a version has them no more, that is said once, and the tests' lines are missing.
"""

from __future__ import annotations

import base64
import sys
import threading
from typing import Any

import pytest

from pytest_fence.categories import FenceWarning

_OF_COLLECTOR = ("covdata", "use_data", "flush_data", "_clear_data", "static_context")


def _collector() -> Any:
    """The collector of the measurement that is going on, if any."""
    module = sys.modules.get("coverage")
    current = module.Coverage.current() if module is not None and hasattr(module, "Coverage") else None
    if current is None or not getattr(current, "_started", True):
        return None
    return getattr(current, "_collector", None)


def fits(config: pytest.Config) -> bool:
    """Whether there is a measurement, and it can be split. Says so where it cannot be."""
    collector = _collector()
    if collector is None:
        return False
    missing = [name for name in _OF_COLLECTOR if not hasattr(collector, name)]
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
        if getattr(self._collector, "data_lock", None) is not None:
            self._collector.data_lock = threading.Lock()  # a thread that is not there may have held it
        self._collector._clear_data()
        self._data = coverage.CoverageData(no_disk=True)
        self._collector.use_data(self._data, self._collector.static_context)
        current = coverage.Coverage.current()
        if hasattr(current, "_data"):
            current._data = self._data  # type: ignore[union-attr]

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
    try:
        data.close(force=True)
    except TypeError:  # older versions close what is in memory too
        data.close()
