"""The table of machines in the documentation has every row that `dev.py machines` knows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.machines.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "platforms.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    assert {name for cell in cells for name in re.findall("`([^`]+)`", cell)} == {row.name for row in ROWS}


def test_every_test_exists() -> None:
    assert [path for row in ROWS for job in row.jobs for path in job.tests if not (ROOT / path).exists()] == []
