"""What users name in filters and options.

In a module of its own, so that nothing inside imports the package's front door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _pytest.outcomes import Failed  # as `pytest.fail.Exception`, which no type checker knows

if TYPE_CHECKING:
    from fence_core.events.model import Violation

__all__ = ["FenceViolation", "FenceWarning"]


class FenceWarning(pytest.PytestWarning):
    """What the policy does not allow, in mode ``warn``.

    Filter it like any other: ``-W ignore::pytest_fence.FenceWarning``, ``-W error::pytest_fence.FenceWarning``.
    """

    __module__ = "pytest_fence"  # the name that users filter by, and see


class FenceViolation(Failed):
    """What a test fails with that tried what the policy does not allow, and would not have failed otherwise.

    It is nothing that a test can catch: it is made when the test is over. Hooks find it in ``call.excinfo``, with a
    traceback of the lines that led there; its text is all that is said of the violations.
    """

    __module__ = "pytest_fence"

    def __init__(self, msg: str | None = None, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(msg, pytrace=False)
        self.violations = violations
        """Those of this phase of the test, with the fields that the report's data has (`docs/reference/report.md`)."""


SECTION = "fence"
"""Heading of the section in what a test has failed with by itself."""
