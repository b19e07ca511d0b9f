"""Races: a thread swaps the path, or the descriptor, of a call that changes a file itself. Never an effect outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

ROUNDS = 2_000
SWAPPED = [
    *(("path", call) for call in ("chmod", "chown", "utimensat", "setxattr", "truncate")),
    *(("fd", call) for call in ("chmod", "chown", "utimensat", "setxattr", "chattr")),
]


@pytest.mark.needs("program:cc")
@pytest.mark.parametrize(("way", "call"), SWAPPED)
def test_swapped(fenced: Fenced, probe: Callable[..., Path], way: str, call: str) -> None:
    program = probe("swap_inode", "-pthread")
    old = fenced.outside / "old"
    old.write_text("as it was\n")
    before = old.stat()
    run = fenced.run(
        f"""
        import subprocess
        from here import OUTSIDE

        def test_it(tmp_path):
            (tmp_path / "a").write_text("0123456789")
            (tmp_path / "b").symlink_to(OUTSIDE + "/old")
            words = [{str(program)!r}, {way!r}, {call!r}, tmp_path, "{ROUNDS}"]
            worked = refused = 0
            while not (worked and refused):  # a busy machine may give the other thread no time in so short a run
                said = subprocess.run(words, capture_output=True, text=True)
                assert said.returncode == 0, said
                more_worked, more_refused = map(int, said.stdout.split())
                worked, refused = worked + more_worked, refused + more_refused
        """,
        policy=ONLY_HERE,
    )
    # Not a single change, not even one that puts everything back: the time of the inode's last change would tell.
    assert (old.stat().st_ctime_ns, old.read_text()) == (before.st_ctime_ns, "as it was\n")
    what = f"{'utime' if call == 'utimensat' else call} {old}"
    run.refused("test_it", what, by=["swap_inode"], count=None)
