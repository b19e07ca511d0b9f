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
def memory() -> str | None:
    """Where the trees of a table lie as root: tables plant hundreds of thousands of files, which take minutes to remove
    from a disk. As an ordinary user, for whom CI runs them too, they lie on the disk."""
    return "/dev/shm" if os.geteuid() == 0 and not FULL and os.path.ismount("/dev/shm") else None


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
