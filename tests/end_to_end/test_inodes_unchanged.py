"""Calls that change a file itself, where they are allowed: the result, the error and the file are what they were."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import pidfd
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


@pytest.mark.parametrize("where", ["below", pytest.param("thread", marks=pytest.mark.needs("user:root")), "beyond"])
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
    inode_calls.open_all(plain)
    inode_calls.open_all(files)
    assert not {row: (before[row], after[row]) for row in before if before[row] != after[row]}


def test_thread_with_descriptors_of_its_own(fenced: Fenced) -> None:
    """A number means what it means to the thread that makes the call, which may have left its process's table."""
    try:
        os.close(pidfd.open_pidfd(threading.get_native_id(), pidfd.PIDFD_THREAD))
    except KernelCallError:
        pytest.skip("before Linux 6.9 nobody can borrow descriptors of a thread")
    run = fenced.run(
        """
        import ctypes, os, threading

        CLONE_FILES = 0x400
        NUMBER = 200

        def test_it(tmp_path):
            files = []
            for name in "theirs", "ours":
                (tmp_path / name).touch(0o600)
                files.append(os.open(tmp_path / name, os.O_RDONLY))
            unshared, replaced = threading.Event(), threading.Event()

            def change():
                os.dup2(files[0], NUMBER)
                assert ctypes.CDLL(None).unshare(CLONE_FILES) == 0
                unshared.set()
                replaced.wait(10)
                os.fchmod(NUMBER, 0o640)

            thread = threading.Thread(target=change)
            thread.start()
            assert unshared.wait(10)
            os.dup2(files[1], NUMBER)
            replaced.set()
            thread.join()
            assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("theirs", "ours")] == ["0o640", "0o600"]
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_it")
