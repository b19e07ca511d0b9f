"""What the fence has to say in the file of `--junitxml`.

Registered where there is such a file, in the process that writes it. What is on the tests is there anyway, in their
failures; here are the properties, and what was tried outside of any test, which would fail the run and no test in it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from _pytest.junitxml import xml_key

from fence_core.events.model import Violation
from fence_core.events.wire import from_wire
from fence_core.report import words
from pytest_fence import engine

__all__ = ["JUnitProperties"]

_OUTSIDE = "fence::outside any test"
"""A node id of which pytest makes the class `fence` and this name."""
_OF_ONE_TEST_MAX = 100


class JUnitProperties:
    """For each test, and for the suite."""

    def __init__(self, config: pytest.Config, fence: engine.Fence, digest: str) -> None:
        self._config = config
        self._fence = fence
        self._digest = digest
        self._of: dict[tuple[str, object], list[tuple[str, str]]] = {}
        """Of the test that runs now in each worker, by node id and worker."""
        self._blamed: set[int] = set()
        """Numbers of the violations that some report has."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """pytest writes the properties of the last report of a test."""
        key = (report.nodeid, getattr(report, "worker_id", None))
        plain = getattr(report, "fence", ())
        if plain:
            found = self._of.setdefault(key, [])
            for each in plain:
                violation = _violation(each)
                if violation is not None and len(found) < _OF_ONE_TEST_MAX:
                    found.append(("fence.violation", words.tried(violation)))
                    self._blamed.add(violation.number)
        if key in self._of:
            report.user_properties = [*report.user_properties, *self._of[key]]
            if report.when == "teardown":
                del self._of[key]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Before the file is written."""
        xml = self._config.stash.get(xml_key, None)
        if xml is not None:
            try:
                self._finish(xml, self._fence.ledger())
            except engine.FenceError:
                pass  # said, and made a failure, by `ReportHooks`
        return (yield)

    def _finish(self, xml: Any, ledger: list[Violation]) -> None:
        for name, value in (
            ("mode", self._fence.mode),
            ("policy_sha256", self._digest),
            ("violations", len(ledger)),
            ("attempts", sum(each.count for each in ledger)),
        ):
            xml.add_global_property(f"fence.{name}", value)
        left = [each for each in ledger if each.state == "failing" and each.number not in self._blamed]
        if not left:
            return
        text = "\n".join(words.line(each) for each in left)
        for when, failed in (("call", True), ("teardown", False)):
            outcome: Any = "failed" if failed else "passed"
            longrepr = text if failed else None
            where = ("fence", None, "outside any test")
            report = pytest.TestReport(_OUTSIDE, where, {}, outcome, longrepr, when)  # type: ignore[arg-type]
            xml.pytest_runtest_logreport(report)


def _violation(plain: Any) -> Violation | None:
    try:
        return from_wire(Violation, plain)
    except (KeyError, TypeError, AttributeError):
        return None  # a test has written it
