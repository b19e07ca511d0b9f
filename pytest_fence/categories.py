"""Warning categories. In a module of their own, so that nothing inside imports the package's front door."""

from __future__ import annotations

import pytest

__all__ = ["FenceWarning"]


class FenceWarning(pytest.PytestWarning):
    """What the policy does not allow, in mode ``warn``.

    Filter it like any other: ``-W ignore::pytest_fence.FenceWarning``, ``-W error::pytest_fence.FenceWarning``.
    """

    __module__ = "pytest_fence"  # the name that users filter by, and see


SECTION = "fence"
"""Heading of the section in the report of a test that failed anyway."""
