"""The same calls where they are allowed: they return what they do without a fence, and leave the same behind.

Inside the session's rules the kernel carries them out; where only a marker allows them, the broker does so for its
caller.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.files import trees
from tests.end_to_end.files.cells import (
    COLUMNS,
    PERFORMERS,
    Cell,
    Ran,
    all_problems,
    cells,
    closed,
    expected,
    name,
    ran,
    until_failure,
)

WIDENED = [name for name, column in COLUMNS.items() if column.outside]


ONCE = pytest.mark.needs("user:root")
"""What one user more would tell nothing new about; CI runs all of this as root and as an ordinary user."""


def problems(cell: Cell, plain: Ran, fenced: Ran) -> Iterator[str]:
    """What is not as it would be without a fence."""
    if told := fenced.told.get(cell.name):
        yield f"blamed for {told}"
    if closed(cell):
        got = fenced.errnos[cell.name][fenced.mains[cell.name]]
        if got != errno.ENOSYS:
            yield f"{name(got)} instead of ENOSYS"
        return
    natives, founds = (until_failure(run.errnos[cell.name]) for run in (plain, fenced))
    if natives != founds:
        yield f"{founds} instead of {natives}"
    for one, other in zip(plain.after[cell.name], fenced.after[cell.name], strict=True):
        yield from trees.differences(one, other)


def compare(fenced: Fenced, program: Path, chosen: list[Cell], *, umask: int, allowed: bool) -> None:
    plain = ran(fenced, chosen, program, with_fence=False, umask=umask)
    other = ran(
        fenced,
        chosen,
        program,
        with_fence=True,
        umask=umask,
        marker={"allow_write": [str(fenced.outside)]} if allowed else None,
    )
    assert sum(not expected(cell, plain) for cell in chosen) > len(chosen) / 8, "the calls are to work without a fence"
    found = all_problems(chosen, lambda cell: problems(cell, plain, other))
    assert not found, f"{len(found)} problems\n" + "\n".join(found)
    assert other.run.status == 0, other.run


@pytest.mark.needs("program:cc")
@pytest.mark.parametrize("umask", [0o022, pytest.param(0, marks=ONCE), 0o027], ids=oct)
def test_inside(fenced: Fenced, probe: Callable[..., Path], umask: int) -> None:
    usual = umask == 0o022
    chosen = cells(COLUMNS["inside"], PERFORMERS, one_each=True, all_rows=usual, users=usual)
    compare(fenced, probe("file_calls"), chosen, umask=umask, allowed=False)


@pytest.mark.needs("program:cc")
@pytest.mark.parametrize("umask", [pytest.param(0, marks=ONCE), 0o027], ids=oct)
def test_widened_with_umask(fenced: Fenced, probe: Callable[..., Path], umask: int) -> None:
    chosen = cells(COLUMNS["outside"], PERFORMERS, one_each=True, users=True)
    compare(fenced, probe("file_calls"), chosen, umask=umask, allowed=True)


@pytest.mark.needs("program:cc")
@pytest.mark.parametrize("column", WIDENED)
def test_widened(fenced: Fenced, probe: Callable[..., Path], column: str) -> None:
    first = column == "outside"
    chosen = cells(COLUMNS[column], PERFORMERS, one_each=True, all_rows=first, users=first)
    compare(fenced, probe("file_calls"), chosen, umask=0o022, allowed=True)
