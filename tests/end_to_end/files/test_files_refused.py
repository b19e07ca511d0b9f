"""Every call that changes something on a disk, wherever it may not: refused, told of once, and without any effect.

Calls that change nothing, or that the kernel refuses itself, end as they do without a fence, and nobody is blamed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.files import trees
from tests.end_to_end.files.cells import COLUMNS, PERFORMERS, Cell, Ran, all_problems, cells, closed, expected, ran

FIRST = "outside"
"""The column in which every row is tried, by everybody."""


def name(number: int) -> str:
    return errno.errorcode.get(number, "success")


def problems(cell: Cell, plain: Ran, fenced: Ran) -> Iterator[str]:
    """What is not as it should be with one call."""
    native, got = expected(cell, plain), fenced.errnos[cell.name][fenced.mains[cell.name]]
    told = fenced.told.get(cell.name, [])
    refused = not native and cell.changes_target and not closed(cell)
    wanted = errno.ENOSYS if closed(cell) else errno.EACCES if refused else native
    if got != wanted:
        yield f"{name(got)} instead of {name(wanted)}"
    if not refused:
        if told:
            yield f"blamed for {told}"
        if not closed(cell):
            for one, other in zip(plain.after[cell.name], fenced.after[cell.name], strict=True):
                yield from trees.differences(one, other)
            return
    else:
        what = cell.what(fenced.places[cell.name])
        by = [] if cell.who in ("process", "thread") else ["file_calls"]
        if [(each.what, each.count, each.phase, each.chain[1:]) for each in told] != [(what, 1, "call", by)]:
            yield f"told of as {told}, not as {what} by {by}"
        elif fenced.reported[cell.name] != [what]:
            yield f"its report says {fenced.reported[cell.name]}, not {what}"
    for before, after in zip(fenced.before[cell.name], fenced.after[cell.name], strict=True):
        yield from trees.changes(before, after)


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
