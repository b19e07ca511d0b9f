"""Calls that change a file itself, where they are allowed: the result, the error and the file are what they were."""

from __future__ import annotations

import json
from pathlib import Path

from tests.end_to_end import inode_calls
from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_every_call(fenced: Fenced, tmp_path: Path) -> None:
    """All rows of `inode_calls` inside a fence give what the kernel gives: below the ceiling, and where only a marker
    allows it, in a test process and in a thread of it."""
    expected = inode_calls.everything(tmp_path)
    run = fenced.run(
        """
        import json, threading
        from pathlib import Path
        import pytest
        from here import OUTSIDE
        from tests.end_to_end import inode_calls

        def write(name, place):
            place.mkdir()
            Path(name).write_text(json.dumps(inode_calls.everything(place)))

        def test_below_the_ceiling(tmp_path):
            write("below.json", tmp_path / "all")

        def test_in_a_thread(tmp_path):
            thread = threading.Thread(target=write, args=("thread.json", tmp_path / "all"))
            thread.start()
            thread.join()

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_beyond_the_ceiling():
            write("beyond.json", Path(OUTSIDE) / "all")
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_below_the_ceiling", "test_in_a_thread", "test_beyond_the_ceiling")
    for name in "below", "thread", "beyond":
        found = json.loads((fenced.directory / f"{name}.json").read_text(encoding="utf-8"))
        assert len(found) == len(expected) > 500
        different = {row: (expected[row], found[row]) for row in expected if _plain(expected[row]) != found[row]}
        assert not different, name


def _plain(row: object) -> object:
    return json.loads(json.dumps(row))
