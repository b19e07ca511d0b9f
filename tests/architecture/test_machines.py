"""The table of machines in the documentation says what `dev.py machines` asserts."""

from __future__ import annotations

from pathlib import Path

from fence_core.kernel import features
from tests.machines.rows import ROWS, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_the_table() -> None:
    assert page() in (ROOT / "docs" / "reference" / "platforms.md").read_text(encoding="utf-8")


def test_layers_are_those_of_the_reference() -> None:
    assert {layer for row in ROWS for layer in (*row.lacks, *row.perhaps)} <= set(features.NAMES)


def test_every_test_exists() -> None:
    assert [path for row in ROWS for job in row.jobs for path in job.tests if not (ROOT / path).exists()] == []
