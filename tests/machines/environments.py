"""Virtual environments with other packages than the tests' own: old pytests, and plugins kept apart.

On this machine and by this Python. Packages come from the index that pip is configured for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "oldest"  # in the place of a requirement: the oldest of everything that this package asks for
RUNNER = ("pytest-timeout", "pytest-xdist")  # what a run of these tests needs
WITHOUT_WHEEL = {"PyYAML"} if sys.version_info >= (3, 13) else set()  # of its oldest, for this Python


def lower_bounds() -> list[str]:
    """The requirements of this package, each at its oldest."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    bounds = [line.strip().strip('",').replace(">=", "==") for line in listed.splitlines() if ">=" in line]
    return [bound for bound in bounds if bound.partition("==")[0] not in WITHOUT_WHEEL]


@contextmanager
def environment(needs: str, log: IO[str]) -> Iterator[Path]:
    """The interpreter of a new environment with this checkout and these requirements (words) in it."""
    words = [bound for word in needs.split() for bound in (lower_bounds() if word == OLDEST else [word])]
    with tempfile.TemporaryDirectory(prefix="fence-env-") as directory:
        python = Path(directory, "bin", "python")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        for command in [
            [sys.executable, "-m", "venv", directory],
            [*pip, *words, *RUNNER, "--editable", str(ROOT)],
        ]:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        yield python
