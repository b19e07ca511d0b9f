"""A plugin for the inner pytest (`-p tests.end_to_end.witness`): notes the outcome of a fenced run as JSON.

Run by the fenced pytest process; with pytest-xdist by the controller. It notes what other plugins would see, the
reports with their ``fence`` attribute, and the ledger behind the summary.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

FILE = "FENCE_TEST_WITNESS"
"""Environment variable: where to write."""

_reports: list[dict[str, Any]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report, report.when or "")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report, "collect")


def _note(report: pytest.TestReport | pytest.CollectReport, phase: str) -> None:
    _reports.append(
        {
            "nodeid": report.nodeid,
            "phase": phase,
            "outcome": report.outcome,
            "wasxfail": hasattr(report, "wasxfail"),
            "text": str(report.longrepr or ""),
            "sections": [list(section) for section in (*report.sections, *_shown(report.longrepr))],
            "fence": getattr(report, "fence", []),
        }
    )


def _shown(longrepr: Any) -> list[tuple[str, str]]:
    """Sections of what a test has failed with."""
    return [(name, text) for name, text, _ in getattr(longrepr, "sections", ())]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    hooks: Any = config.pluginmanager.get_plugin("fence-report")
    if hooks is None:
        return  # a worker, whose controller speaks for it; or not fenced
    from fence_core.events.wire import to_wire

    found = {"reports": _reports, "ledger": [to_wire(violation) for violation in hooks._fence.ledger()]}
    with open(os.environ[FILE], "w", encoding="utf-8") as file:
        json.dump(found, file)
