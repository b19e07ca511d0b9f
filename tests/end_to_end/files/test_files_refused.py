"""Every call that changes something on a disk, wherever it may not: refused, told of once, and without any effect.

Calls that change nothing, or that the kernel refuses itself, end as they do without a fence, and nobody is blamed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.end_to_end.caught import Attempt, Fenced
from tests.end_to_end.files import trees
from tests.end_to_end.files.calls import OF_INODES, REFUSED_FIRST
from tests.end_to_end.files.cells import (
    COLUMNS,
    PERFORMERS,
    USERS,
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

FIRST = "outside"
"""The column in which every row is tried, by everybody."""


def problems(cell: Cell, plain: Ran, fenced: Ran) -> Iterator[str]:
    """What is not as it should be with one call."""
    told = fenced.told.get(cell.name, [])
    main = plain.mains[cell.name]
    native, got = (run.errnos[cell.name][main] for run in (plain, fenced))
    if any(plain.errnos[cell.name][:main]):  # it has not got what the call is about
        ends = [until_failure(run.errnos[cell.name]) for run in (plain, fenced)]
        if told or ends[0] != ends[1]:
            yield f"{ends[1]} instead of {ends[0]}, and blamed for {told}"
    elif closed(cell):
        if told or got != errno.ENOSYS:
            yield f"{name(got)} instead of ENOSYS, and blamed for {told}"
    elif (native or (cell.who == "nobody" and cell.row.told)) and may_be_refused_first(cell, native):
        if not got or len(told) > 1 or (told and got != errno.EACCES):
            yield f"{name(got)} instead of {name(native)}, and blamed for {told}"
    elif native or not cell.changes_target:
        if told or got != native:
            yield f"{name(got)} instead of {name(native)}, and blamed for {told}"
        for one, other in zip(plain.after[cell.name], fenced.after[cell.name], strict=True):
            yield from trees.differences(one, other)
        return
    else:
        yield from refusal_problems(cell, got, told, fenced)
    for before, after in zip(fenced.before[cell.name], fenced.after[cell.name], strict=True):
        yield from trees.changes(before, after)


def may_be_refused_first(cell: Cell, native: int) -> bool:
    if cell.row.call == "ioctl" and native == errno.ENOTSUP:
        return True  # tmpfs has but a few flags
    by_a_user = os.geteuid() != 0 or cell.who in USERS
    return cell.row_name in REFUSED_FIRST or (by_a_user and cell.row.call in OF_INODES)


def refusal_problems(cell: Cell, got: int, told: Sequence[Attempt], fenced: Ran) -> Iterator[str]:
    """What is not as it should be with a refusal: EACCES, and one line on the test that caused it."""
    what = cell.what(fenced.places[cell.name])
    by = [] if cell.who in ("process", "thread") else ["file_calls"]
    if got != errno.EACCES:
        yield f"{name(got)} instead of EACCES"
    if [(each.what, each.count, each.phase, each.chain[1:]) for each in told] != [(what, 1, "call", by)]:
        yield f"told of as {told}, not as {what} by {by}"
    elif fenced.reported[cell.name] != [what]:
        yield f"its report says {fenced.reported[cell.name]}, not {what}"


@pytest.mark.needs("program:cc")
@pytest.mark.parametrize("column", [name for name in COLUMNS if name != "inside"])
def test_refused(fenced: Fenced, probe: Callable[..., Path], column: str) -> None:
    if column == FIRST:
        chosen = cells(COLUMNS[column], PERFORMERS, all_rows=True, users=True)
    else:
        chosen = cells(COLUMNS[column], PERFORMERS, one_each=True)
    compare(fenced, probe("file_calls"), chosen, config='deny_write = ["denied"]\n')


@pytest.mark.needs("program:cc")
def test_narrowed(fenced: Fenced, probe: Callable[..., Path]) -> None:
    """A marker takes away what the session's rules, and the kernel's floor below them, allow."""
    chosen = cells(COLUMNS["denied"], PERFORMERS, one_each=True)
    compare(fenced, probe("file_calls"), chosen, marker={"deny_write": ["denied"]})


def compare(
    fenced: Fenced,
    program: Path,
    chosen: list[Cell],
    *,
    config: str = "",
    marker: Mapping[str, Sequence[str]] | None = None,
) -> None:
    plain = ran(fenced, chosen, program, with_fence=False, config=config, marker=marker)
    caught = ran(fenced, chosen, program, with_fence=True, config=config, marker=marker)
    refusals = [cell for cell in chosen if cell.changes_target and not expected(cell, plain)]
    assert len(refusals) > len(chosen) / 8, "the calls are to work without a fence"
    found = all_problems(chosen, lambda cell: problems(cell, plain, caught))
    assert not found, f"{len(found)} problems\n" + "\n".join(found)
