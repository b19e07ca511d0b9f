"""What stands in for a fence here is used as the real one is."""

from __future__ import annotations

import inspect

from fence_core.launcher.handle import Fence
from tests.unit.plugin.fakes import FakeFence

OF_TESTS = {"add"}


def test_methods_of_the_fake_are_those_of_the_fence() -> None:
    for name, method in inspect.getmembers(FakeFence, inspect.isfunction):
        if not name.startswith("_") and name not in OF_TESTS:
            assert inspect.signature(method) == inspect.signature(getattr(Fence, name)), name
