"""What the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import loopback as servers
from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import Runs, runs

__all__ = ["runs"]


@pytest.fixture(scope="session")
def loopback() -> Iterator[servers.Loopback]:
    """Servers on this machine, outside of the fence."""
    with servers.serve() as ports:
        yield ports


@pytest.fixture
def fenced(runs: Runs, loopback: servers.Loopback, tmp_path_factory: pytest.TempPathFactory) -> Fenced:
    """Runs `pytest --fence`, and knows afterwards what was refused."""
    outside: Path = tmp_path_factory.mktemp("outside")
    return Fenced(runs, loopback, outside)
