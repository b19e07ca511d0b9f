"""For `fence explain --test`: says under which policy a collected test would run, and runs none.

Loaded by name (`-p pytest_fence.asked`) in a fenced `pytest --collect-only`, in its fenced process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fence_core.policy.model import Source
from fence_core.policy.sources.lines import located
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.policy.sources.wire import to_wire

if TYPE_CHECKING:
    from pytest_fence.items import TestHooks
    from pytest_fence.reporting import ReportHooks

ANSWER = "fence-asked: "
"""What the line begins with that holds the answer: JSON with `test`, `source`, `file`, `policy` and `marked`."""


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """The answer for the first test, where there is any."""
    hooks: TestHooks | None = config.pluginmanager.get_plugin("fence-tests")
    report: ReportHooks | None = config.pluginmanager.get_plugin("fence-report")
    if hooks is None or report is None or not items:
        return []
    chosen = report.chosen
    package, layers = hooks.said_of(items[0])
    policy = chosen.packages[package - 1].policy if package else chosen.policy
    base = str(config.rootpath)
    policy = merge(policy, *(parse_overlay(raw, source=source, base_dir=base) for raw, source in layers))
    answer = {
        "test": items[0].nodeid,
        "source": chosen.source,
        "file": str(chosen.path or ""),
        "policy": to_wire(_lined(policy)),
        "marked": [to_wire(source) for _, source in layers],
    }
    return [ANSWER + json.dumps(answer)]


def _lined(value: Any) -> Any:
    """With the lines that only the process knows which has read the files."""
    if isinstance(value, Source):
        return located(value)
    if isinstance(value, tuple):
        items = map(_lined, value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
