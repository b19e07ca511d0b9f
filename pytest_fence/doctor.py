"""`pytest --fence-doctor`: whether tests can be fenced on this machine. No conftest is imported, and no test run."""

from __future__ import annotations

from typing import NoReturn

import pytest

from fence_core.doctor import examine as doctor
from pytest_fence import elsewhere, engine, options


def examine(config: pytest.Config) -> NoReturn:
    """Raises SystemExit, with 0 where all is ready and 1 where it is not; UsageError on other systems than Linux."""
    if elsewhere.SYSTEM != "linux":
        raise pytest.UsageError(f"the fence needs Linux, and this is {elsewhere.SYSTEM}")
    found: engine.Config | None = None
    try:
        found = options.policy_of(config)
        policy = doctor.named([found.source], found.policy)
    except engine.PolicyError as error:
        policy = "\n".join(["the fence's policy cannot be used:", *(f"  {problem}" for problem in error.problems)])
    status = 0
    for line, so_far in doctor.examine(f"pytest {pytest.__version__}", found, policy):
        print(line, flush=True)
        status = so_far
    raise SystemExit(status)
