"""pytest-fence: a fence around your tests. Public names only; the hooks are in `pytest_fence.plugin`."""

from __future__ import annotations

import pytest

__all__ = ["FenceWarning"]


class FenceWarning(pytest.PytestWarning):
    """What the policy does not allow, in mode ``warn``.

    Filter it like any other: ``-W ignore::pytest_fence.FenceWarning``, ``-W error::pytest_fence.FenceWarning``.
    """
