"""What a test is known by between its process and the broker, whatever it is called."""

from __future__ import annotations

import pytest

from fence_core.events.phases import NODEID_MAX, known_as


@pytest.mark.parametrize("nodeid", ["", "test_a.py::test_b[1-x]", "t\xeast.py::test[\u20ac]", "x" * NODEID_MAX])
def test_most_are_known_as_they_are_called(nodeid: str) -> None:
    assert known_as(nodeid) == nodeid


@pytest.mark.parametrize(
    "nodeid", ["a\0b\0module\0c\0007", "\udcff.py::t", "x" * 70_000, "\u20ac" * 70_000, "\0" * 70_000]
)
def test_all_can_be_said(nodeid: str) -> None:
    known = known_as(nodeid)
    assert "\0" not in known
    assert len(known.encode()) <= NODEID_MAX
    assert known_as(known) == known
