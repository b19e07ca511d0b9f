"""What the end-to-end tests share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end import loopback as servers
from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import Runs, runs

__all__ = ["runs"]

PROBES = Path(__file__).resolve().parents[1] / "probes"


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


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles one of `tests/probes`; give flags for the linker after its name. Such a test `needs("program:cc")`."""
    directory = tmp_path_factory.mktemp("probes")

    def build(name: str, *flags: str) -> Path:
        program = directory / name
        if not program.exists():
            compiler = shutil.which("cc") or "cc"
            source = PROBES / f"{name}.c"
            command = [compiler, "-std=gnu11", "-Wall", "-Werror", "-O1", "-o", program, source, *flags]
            subprocess.run(command, check=True)
        return program

    return build
