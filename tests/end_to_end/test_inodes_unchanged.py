"""Calls that change a file itself, where they are allowed: the result, the error and the file are what they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end import inode_calls
from tests.end_to_end.caught import ONLY_HERE, Fenced

TEST = """
import json, threading
from pathlib import Path
import pytest
from here import OUTSIDE
from tests.end_to_end import inode_calls

def make(place):
    Path("said.json").write_text(json.dumps(inode_calls.make_all(Path(place))))

def test_below():
    make(".files")

def test_thread():
    thread = threading.Thread(target=make, args=(".files",))
    thread.start()
    thread.join()

@pytest.mark.fence(allow_write=[OUTSIDE])
def test_beyond():
    make(OUTSIDE + "/.files")
"""


@pytest.mark.parametrize("where", ["below", "thread", "beyond"])
def test_every_call(fenced: Fenced, tmp_path: Path, where: str) -> None:
    """All rows of `inode_calls` inside a fence give what the kernel gives: below the ceiling, in a thread, and where
    only a marker allows it."""
    plain = tmp_path / "files"
    inode_calls.prepare_all(plain)
    said = json.loads(json.dumps(inode_calls.make_all(plain)))
    files = (
        fenced.outside if where == "beyond" else fenced.directory
    ) / ".files"  # where pytest does not look for tests
    inode_calls.prepare_all(files)
    test = f"test_{where}"
    run = fenced.run(TEST, "-k", test, policy=ONLY_HERE)
    run.clean(test)
    said_inside = json.loads((fenced.directory / "said.json").read_text(encoding="utf-8"))
    assert len(said) > 900
    assert said_inside.keys() == said.keys()
    assert not {row: (said[row], said_inside[row]) for row in said if said[row] != said_inside[row]}
    before, after = inode_calls.states(plain), inode_calls.states(files)
    assert not {row: (before[row], after[row]) for row in before if before[row] != after[row]}
