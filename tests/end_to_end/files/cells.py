"""The matrix of file calls: a row of the table, in a column that says where its names are, made by somebody.

A column is run twice, without a fence and with one, each time on trees of its own. The plain run says what the kernel
does: where it refuses a call itself, the fence is to say the same and to blame nobody.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fence_core.kernel import arch
from tests.end_to_end.caught import ONLY_HERE, Attempt, Caught, Fenced, what_of
from tests.end_to_end.files import calls, trees
from tests.end_to_end.files.calls import ANSWERED_AS_MISSING, ROWS, Row

AT_FDCWD = -100
NOBODY = 65534
PERFORMERS = ("process", "thread", "program")
USERS = ("nobody", "nobody-owns") if os.geteuid() == 0 else ()
"""A program that has given up root's rights, on files of root's or of its own: the kernel refuses it more."""
FULL = os.environ.get("FENCE_TABLE") == "full"
"""Every row in every column by every performer, where the usual run has them take turns."""

# Within the fence: each cell is a test, whose calls are made by the test itself, a thread, or a program.
DRIVER = """
import ctypes, errno, json, os, re, subprocess, threading
import pytest
from cell import CELLS, MARKER, NOBODY, PROGRAM, RESULTS, UMASK

LIBC = ctypes.CDLL(None, use_errno=True)
FOUND = {}

if MARKER:
    pytestmark = pytest.mark.fence(**MARKER)

@pytest.fixture(scope="module", autouse=True)
def results():
    before = os.umask(UMASK)
    yield
    os.umask(before)
    with open(RESULTS, "w") as file:
        json.dump(FOUND, file)

def argument(word, returned):
    kind, text = word[0], word[1:]
    def path():
        return os.fsencode(re.sub("%([0-9]+)%", lambda found: str(returned[int(found[1])]), text))
    if kind == "i":
        return ctypes.c_long(int(text))
    if kind == "r":
        return ctypes.c_long(returned[int(text)])
    if kind == "s":
        return ctypes.c_char_p(path())
    if kind == "b":
        return ctypes.create_string_buffer(bytes.fromhex(text))
    if kind == "u":
        name = path()
        return ctypes.create_string_buffer((1).to_bytes(2, "little") + name, 110)
    if kind == "x":
        value = ctypes.create_string_buffer(bytes.fromhex(text))
        made = (ctypes.c_uint64 * 2)(ctypes.addressof(value), len(text) // 2)
        made.value = value
        return made
    return ctypes.c_void_p(None)

def make_calls(script, found, opened):
    returned = []
    for number, *words in script:
        ctypes.set_errno(0)
        result = LIBC.syscall(ctypes.c_long(number), *[argument(word, returned) for word in words])
        returned.append(result)
        found.append(ctypes.get_errno() if result < 0 else 0)
    for number in opened:
        if returned[number] >= 0:
            os.close(returned[number])

@pytest.mark.parametrize("cell", CELLS)
def test(cell):
    script, opened, who = CELLS[cell]
    found = FOUND[cell] = []
    if who == "process":
        make_calls(script, found, opened)
    elif who == "thread":
        thread = threading.Thread(target=make_calls, args=(script, found, opened))
        thread.start()
        thread.join()
    else:
        text = "".join("\\t".join(map(str, line)) + "\\n" for line in script)
        user = [str(NOBODY)] if who.startswith("nobody") else []
        done = subprocess.run([PROGRAM, *user], input=text, capture_output=True, text=True, check=True)
        found += map(int, done.stdout.split())
    assert len(found) == len(script)
"""


class Place(NamedTuple):
    """Where the names of a cell are, in one of the two runs."""

    target: Path
    own: Path


class Column(NamedTuple):
    """How a row's names are spelt. `spell` makes the words of its path, given the place and what precedes the call."""

    name: str
    outside: bool = True
    directory: str = ""
    """Where the target is in the caller's own directory."""
    needs_name: bool = False
    """Only for calls that follow a link at the end of a name that exists."""
    at_end: bool = False
    """The name is a link of the caller's own: what does not follow it changes only that."""


COLUMNS = {
    column.name: column
    for column in (
        Column("inside", outside=False, directory="d"),
        Column("denied", outside=False, directory="denied"),
        Column("protected", outside=False, directory=".vscode"),
        Column("outside"),
        Column("symlink"),
        Column("link-at-end", at_end=True),
        Column("dots"),
        Column("descriptor"),
        Column("proc-directory"),
        Column("proc-file", needs_name=True),
        Column("dev-fd", needs_name=True),
        Column("root-link"),
    )
}


class Script:
    """Lines of calls being put together; what was opened on the way is closed at the end."""

    def __init__(self, numbers: Mapping[str, int], column: Column, place: Place) -> None:
        self.lines: list[list[object]] = []
        self.opened: list[int] = []
        self.main = -1
        self._numbers = numbers
        self._column = column
        self._place = place
        self._before: list[int] = []
        self._directory = -1

    def call(self, name: str, *words: str) -> int:
        self.lines.append([self._numbers[name], *words])
        if name in ("open", "openat", "openat2", "creat", "socket"):
            self.opened.append(len(self.lines) - 1)
        return len(self.lines) - 1

    def _open(self, path: str, flags: int, directory: str = f"i{AT_FDCWD}") -> int:
        return self.call("openat", directory, f"s{path}", f"i{flags}", "i0")

    def _held_directory(self) -> int:
        if self._directory < 0:
            self._directory = self._open(str(self._place.target), os.O_RDONLY | os.O_DIRECTORY)
        return self._directory

    def path(self, name: str, *, mine: bool) -> str:
        """The spelling of a name in this column, from anywhere."""
        place, column = self._place, self._column.name
        direct = f"{place.target}/{name}"
        if mine:
            return f"{place.own}/{name}"
        if column == "symlink":
            return f"{place.own}/to-target/{name}"
        if column == "link-at-end":
            plain = name.rstrip("/")
            return f"{place.own}/{plain.replace('/', '-').replace('.', 'dot')}-link{name[len(plain) :]}"
        if column == "dots":
            here = place.own / "tree"
            return f"{here}/{os.path.relpath(place.target, here)}/./directory/../{name}"
        if column == "proc-directory":
            return f"/proc/self/fd/%{self._held_directory()}%/{name}"
        if column in ("proc-file", "dev-fd"):
            held = self._open(direct, os.O_PATH | os.O_NOFOLLOW)
            return f"{'/dev' if column == 'dev-fd' else '/proc/self'}/fd/%{held}%"
        if column == "root-link":
            return f"/proc/self/root{direct}"
        return direct

    def words(self, each: calls.Argument) -> list[str]:
        """The words of one argument, after the calls that it needs beforehand."""
        match each:
            case None:
                return ["n"]
            case int():
                return [f"i{each}"]
            case bytes():
                return [f"b{each.hex()}"]
            case str():
                return [f"s{each}".replace(calls.MADE, str(self.main)) if each != calls.MADE else f"r{self.main}"]
            case calls.Before():
                return [f"r{self._before[each.number]}"]
            case calls.Through():
                return [f"s/proc/self/fd/%{self._before[each.number]}%"]
            case calls.Attribute():
                return [f"x{each.value.hex()}"]
            case calls.At() if self._column.name == "descriptor" and not each.mine:
                return [f"r{self._held_directory()}", f"s{each.name}"]
            case calls.At():
                return [f"i{AT_FDCWD}", f"s{self.path(each.name, mine=each.mine)}"]
            case calls.Path() if self._column.name == "descriptor" and not each.mine:
                return [f"s{each.name}"]
            case calls.Path():
                return [f"s{self.path(each.name, mine=each.mine)}"]
            case calls.Socket() if self._column.name == "descriptor":
                return [f"u{each.name}"]
            case calls.Socket():
                return [f"u{self.path(each.name, mine=False)}"]
            case calls.Held() if self._column.name == "descriptor":
                return [f"r{self._open(each.name, each.flags, f'r{self._held_directory()}')}"]
            case calls.Held():
                return [f"r{self._open(self.path(each.name, mine=False), each.flags)}"]

    def row(self, row: Row) -> None:
        self._before = [self._one(call, arguments) for call, arguments in row.before]
        every = (*row.arguments, *(each for _, arguments in row.after for each in arguments))
        relative = self._column.name == "descriptor" and any(isinstance(e, calls.Path | calls.Socket) for e in every)
        back = 0
        if relative:  # these calls have no descriptor to be relative to but the working directory
            back = self._open(".", os.O_PATH | os.O_DIRECTORY)
            self.call("fchdir", f"r{self._held_directory()}")
        self.main = self._one(row.call, row.arguments)
        for call, arguments in row.after:
            self._one(call, arguments)
        if relative:
            self.call("fchdir", f"r{back}")

    def _one(self, call: str, arguments: Sequence[calls.Argument]) -> int:
        words = [word for each in arguments for word in self.words(each)]
        return self.call(call, *words)


class Cell(NamedTuple):
    name: str
    row: Row
    column: Column
    who: str

    @property
    def row_name(self) -> str:
        return self.name.removesuffix(f"-{self.who}")

    def what(self, place: Place) -> str:
        """How a refusal of it is reported."""
        op, _, name = self.row.told.partition(" ")
        return f"{op} {place.target}/{name}"

    @property
    def changes_target(self) -> bool:
        """Whether, unless the kernel refuses it, it changes something in the target directory."""
        return bool(self.row.told) and (self.row.follows or not self.column.at_end)


def cells(
    column: Column, performers: Sequence[str], *, one_each: bool = False, all_rows: bool = False, users: bool = False
) -> list[Cell]:
    """The cells of a column.

    `one_each`: each row by one of the performers, in turns that differ from column to column, unless `FENCE_TABLE=full`
    asks for the whole table. `all_rows`: those too of which the kernel makes nothing, or which change nothing, by one
    each. `users`: by a program without root's rights besides.
    """
    numbers = arch.current().calls
    found = []
    for number, (name, row) in enumerate(ROWS.items(), list(COLUMNS).index(column.name)):
        if row.call not in numbers or any(call not in numbers for call, _ in (*row.before, *row.after)):
            continue
        if column.needs_name and not (row.follows and _names_are_there(row)):
            continue
        if not (row.told or all_rows):
            continue
        one = (one_each and not FULL) or not row.told
        chosen = [performers[number % len(performers)]] if one else [*performers]
        if users and USERS:
            chosen.append(USERS[number % len(USERS)])
        found += [Cell(f"{name}-{who}", row, column, who) for who in chosen]
    return found


def _names_are_there(row: Row) -> bool:
    named = [each.name for each in row.arguments if isinstance(each, calls.At | calls.Path | calls.Held)]
    return all(name in ("file", "directory", "pipe", "program") for name in named) and bool(named)


def place(cell: Cell, number: int, outside: Path, inside: Path) -> Place:
    own = inside / str(number)
    return Place(outside / str(number) if cell.column.outside else own / cell.column.directory, own)


def prepare(cell: Cell, where: Place) -> None:
    trees.plant_own(where.own)
    trees.plant(where.target)
    if cell.column.name == "symlink":
        (where.own / "to-target").symlink_to(where.target)
    if cell.column.at_end:
        for each in (*cell.row.arguments, *(each for _, arguments in cell.row.after for each in arguments)):
            if isinstance(each, calls.At | calls.Path | calls.Socket | calls.Held) and not getattr(each, "mine", False):
                plain = each.name.rstrip("/")
                link = where.own / f"{plain.replace('/', '-').replace('.', 'dot')}-link"
                if len(plain) < 200 and not link.is_symlink():
                    link.symlink_to(where.target / plain)
    if cell.who == "nobody-owns":
        # New entries take the group of a directory with this bit.
        for path in (*trees.walk(where.own), *trees.walk(where.target)):
            os.chown(path, NOBODY, 2345, follow_symlinks=False)
        for path in (where.own, where.target):
            path.chmod(0o2775)
    trees.age(where.own)
    trees.age(where.target)


class Ran(NamedTuple):
    """One of the two runs: what each call returned, whom the fence blamed, and the trees before and after."""

    run: Caught
    told: Mapping[str, Sequence[Attempt]]
    reported: Mapping[str, Sequence[str]]
    errnos: Mapping[str, Sequence[int]]
    places: Mapping[str, Place]
    mains: Mapping[str, int]
    before: Mapping[str, tuple[trees.Account, trees.Account]]
    after: Mapping[str, tuple[trees.Account, trees.Account]]


def ran(
    fenced: Fenced,
    chosen: Sequence[Cell],
    program: Path,
    *,
    with_fence: bool,
    umask: int = 0o022,
    config: str = "",
    marker: Mapping[str, Sequence[str]] | None = None,
) -> Ran:
    """All these cells in one run of pytest. `config` is added to what allows the run's own directory."""
    side = "f" if with_fence else "p"
    outside, inside = fenced.outside / side, fenced.directory / side
    outside.mkdir()
    numbers = arch.current().calls
    places, scripts, mains = {}, {}, {}
    for number, cell in enumerate(chosen):
        where = places[cell.name] = place(cell, number, outside, inside)
        prepare(cell, where)
        script = Script(numbers, cell.column, where)
        script.row(cell.row)
        scripts[cell.name] = (script.lines, script.opened, cell.who)
        mains[cell.name] = script.main
    facts = {
        "CELLS": scripts,
        "MARKER": dict(marker or {}),
        "NOBODY": NOBODY,
        "PROGRAM": str(program),
        "RESULTS": f"{side}.json",
        "UMASK": umask,
    }
    text = "".join(f"{name} = {fact!r}\n" for name, fact in facts.items())
    before = accounts(places, side)
    run = fenced.run(
        DRIVER,
        "-q",
        "--tb=no",
        "--no-summary",
        files={"cell.py": text},
        policy=ONLY_HERE + config,
        flags=("--fence",) if with_fence else (),
    )
    results = fenced.directory / f"{side}.json"
    assert results.exists(), run
    errnos = json.loads(results.read_text(encoding="utf-8"))
    told: dict[str, list[Attempt]] = {}
    for attempt in run.ledger:
        told.setdefault(cell_of(attempt.nodeid), []).append(attempt)
    reported = {
        cell_of(report["nodeid"]): [what_of(violation) for violation in report["fence"]]
        for report in run.reports
        if report["phase"] == "call"
    }
    return Ran(run, told, reported, errnos, places, mains, before, accounts(places, side))


def cell_of(nodeid: str) -> str:
    return nodeid.partition("[")[2].rstrip("]")


def accounts(places: Mapping[str, Place], side: str) -> dict[str, tuple[trees.Account, trees.Account]]:
    renamed = {f"/{side}/": "/*/"}
    return {
        name: (trees.account(where.target, renamed), trees.account(where.own, renamed))
        for name, where in places.items()
    }


def expected(cell: Cell, plain: Ran) -> int:
    """The error number, or that of success, which the kernel or the fence has for a call that nothing forbids."""
    return plain.errnos[cell.name][plain.mains[cell.name]]


def closed(cell: Cell) -> bool:
    return cell.row.call in ANSWERED_AS_MISSING


def until_failure(errnos: Sequence[int]) -> list[str]:
    """The names of the error numbers up to the first: later calls may work on what was not made."""
    found: list[str] = []
    for number in errnos:
        found.append(name(number))
        if number:
            break
    return found


def name(number: int) -> str:
    return errno.errorcode.get(number, "success")


Problems = list[str]
Check = Callable[[Cell], Iterator[str]]


def all_problems(chosen: Sequence[Cell], check: Check) -> Problems:
    return [f"{cell.name}: {problem}" for cell in chosen for problem in check(cell)]
