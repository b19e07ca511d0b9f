"""What the tests of files share: long fenced runs, in short directories that every user can reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.files.cells import FULL
from tests.end_to_end.loopback import Loopback
from tests.end_to_end.support import Ended, Runs


class Patient(Runs):
    """Runs of many calls, on a machine that does other things besides."""

    def finish(self, process: subprocess.Popen[Any]) -> Ended:
        out, err = process.communicate(timeout=250)
        return Ended(process.returncode, out or "", err or "")


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> str | None:
    """Where the trees of a table lie: tables plant hundreds of thousands of files, which take minutes to remove from a
    disk. CI runs them as root and as an ordinary user, so what is refused to the latter is tried on the disk."""
    on_disk = FULL or (os.geteuid() != 0 and "refused" in request.path.name)
    return None if on_disk or not os.path.ismount("/dev/shm") else "/dev/shm"


@pytest.fixture
def fenced(memory: str | None) -> Iterator[Fenced]:
    """As that of all end-to-end tests, without servers; in a directory with a short name, for UNIX sockets, and not
    among pytest's own, which every start of pytest closes to other users."""
    base = Path(tempfile.mkdtemp(prefix="ff", dir=memory))
    base.chmod(0o755)
    for name in ("in", "o"):
        (base / name).mkdir()
    runs = Patient(base / "in")
    try:
        yield Fenced(runs, Loopback(0, 0, 0, 0, 0), base / "o")
        runs.close()
    finally:
        shutil.rmtree(base)
