"""What lies in a directory that is given another name: all of it gets another name, and rules go by name.

The tree is looked through only where some policy could mind (`Judge.minds_move`); under the presets that is a move
between the directories for temporary files and anywhere else. A thread that adds to the tree in the time between this
look and the move is not seen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fence_core.broker.paths import repositories
from fence_core.policy.requests import Move, Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located
    from fence_core.policy.decide import Judge

ENTRIES_MAX = 50_000
"""Looked at for one move; 0.2 to 0.4 seconds, in which the broker answers nobody else."""
SECONDS_MAX = 2.0
"""For slow file systems."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def objections(call: Call, op: str, old: Located, new: Located) -> Iterator[Move | Write]:
    """What the policies in force refuse, one at the most for each."""
    found: list[Move | Write] = []
    for _, judge in call.process.account().judges:
        if not (old.is_file and judge.minds_move(old.path, new.path)):
            continue
        if any(not judge.decide(move).allowed for move in found):
            continue  # reported with the other one's
        move = _first_refused(judge, op, old, new)
        if move is not None:
            found.append(move)
            yield move


def _first_refused(judge: Judge, op: str, old: Located, new: Located) -> Move | Write | None:
    itself = Move(op, old.path, new.path)
    if not judge.decide(itself).allowed:
        return itself
    if op == "link":
        return None  # never of a directory
    try:
        root = os.open(old.name.rstrip(b"/"), _DIRECTORY, dir_fd=old.directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Move(op, old.path, new.path, unseen=f"it cannot be opened ({error.strerror})")
    try:
        return _first_inside(judge, Move(op, old.path, new.path, directory=True), root)
    except OSError as error:
        return Move(op, old.path, new.path, unseen=f"part of it cannot be opened ({error.strerror})")
    finally:
        os.close(root)


def _first_inside(judge: Judge, whole: Move, root: int) -> Move | Write | None:
    """The first thing in the directory behind `root` that the judge would not have moved."""
    until = time.monotonic() + SECONDS_MAX
    frees, decide = judge.frees, judge.decide
    todo = [""]
    seen = 0
    while todo:
        start = todo.pop()
        try:
            directory = os.open(start or ".", _DIRECTORY, dir_fd=root)
        except FileNotFoundError:
            continue
        prefix = f"{start}/" if start else ""
        old, new = f"{whole.old}/{prefix}", f"{whole.new}/{prefix}"
        try:
            whole_repository = repositories.objection_inside(judge, whole.op, directory, new.rstrip("/"))
            if whole_repository is not None:
                return whole_repository
            with os.scandir(directory) as entries:
                for entry in entries:
                    seen += 1
                    if seen > ENTRIES_MAX:
                        return _unseen(whole, f"it has more than {ENTRIES_MAX:,} entries")
                    is_directory = entry.is_dir(follow_symlinks=False)
                    name = entry.name
                    if not frees(old + name, new + name):
                        move = Move(whole.op, whole.old, whole.new, prefix + name, is_directory)
                        if not decide(move).allowed:
                            return move
                    if is_directory:
                        todo.append(prefix + name)
        finally:
            os.close(directory)
        if time.monotonic() > until:
            return _unseen(whole, f"that takes longer than {SECONDS_MAX:g} seconds")
    return None


def _unseen(whole: Move, why: str) -> Move:
    return Move(whole.op, whole.old, whole.new, unseen=why)
