"""A suite that does little but change small files; copied into a scratch suite by run.py and run there by plain pytest
and by the fence.

Each test writes, reads, renames, changes the mode of and deletes its share of the files, as a suite does in `tmp_path`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FILES = int(os.environ.get("FENCE_BENCH_FILES", "10000"))
TESTS = 200


@pytest.mark.parametrize("number", range(TESTS))
def test_files(number: int, tmp_path: Path) -> None:
    for name in range(FILES // TESTS):
        path = tmp_path / f"{name}.txt"
        path.write_bytes(b"some bytes, as a test writes them\n")
        assert path.read_bytes()
        moved = path.rename(tmp_path / f"{name}.moved")
        moved.chmod(0o600)
        moved.unlink()
