"""pytest-fence: a fence around your tests. Public names only; the hooks are in `pytest_fence.plugin`.

To pytest: PYTEST_DONT_REWRITE, as in `fence_core`.
"""

from __future__ import annotations

from pytest_fence.categories import FenceViolation, FenceWarning

__all__ = ["FenceViolation", "FenceWarning"]
