"""Names changed where a marker allows it, by the broker: the same result, owner and error as without a fence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end import compared
from tests.end_to_end.caught import Fenced

AS = pytest.mark.parametrize("nobody", [False, True] if os.geteuid() == 0 else [False])


def prepare(here: Path) -> None:
    for name in "d/f", "full/f", "f", "g":
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(name)
    (here / "e").mkdir()
    (here / "s").symlink_to("f")
    (here / "sd").symlink_to("d")
    (here / "dangling").symlink_to("nowhere")
    os.link(here / "f", here / "h")
    for name, mode in ("sticky", 0o1777), ("closed", 0o555), ("theirs", 0o755):
        (here / name).mkdir()
        (here / name / "x").write_text("x")
        (here / name).chmod(mode)
    if os.geteuid() == 0:
        for path in here, *here.rglob("*"):
            if not path.is_relative_to(here / "theirs") and path != here / "sticky" and path.parent != here / "sticky":
                os.lchown(path, compared.NOBODY, compared.NOBODY)


LONG, LONGER = "n" * 256, "long/" * 900
RENAMES = [
    ("f", "new"), ("f", "g"), ("f", "d"), ("d", "f"), ("d", "e"), ("d", "full"), ("d", "d/sub"), ("d", "d/sub/deeper"),
    ("d/f", "d"), ("f", "h"), ("f", "f"), ("d", "d"), ("missing", "new"), ("missing", "g"), ("f", "missing/new"),
    ("f/", "new"), ("f", "new/"), ("d/", "new/"), ("d", "new/"), ("d/", "new"), ("f", "e/"), ("d", "e/"), ("s", "new"),
    ("s/", "new"), ("sd/", "new"), ("sd", "new"), ("s", "f"), ("dangling", "new"), ("f", "dangling"), (".", "new"),
    ("..", "new"), ("f", "."), ("f", ".."), ("d/.", "new"), ("f", "d/.."), ("/", "new"), ("f", "/"), ("", "new"),
    ("f", ""), (LONG, "new"), ("f", LONG), (LONGER, "new"), ("f", LONGER), ("sticky/x", "new"), ("f", "sticky/x"),
    ("f", "sticky/new"), ("closed/x", "new"), ("f", "closed/x"), ("f", "closed/new"), ("f", "closed/x/y"),
    ("theirs", "new"), ("theirs", "d/theirs"), ("theirs/x", "new"), ("f", "theirs/x"), ("missing", "theirs/x"),
    ("f", "/proc/new"), ("f", "/proc/self/comm"), ("/proc/self/comm", "new"), ("sd/f", "new"), ("f", "sd/new"),
    ("d/../f", "./new"), ("f", "f/new"),
]  # fmt: skip
FLAGS = [
    ("f", "new", "NOREPLACE"), ("f", "g", "NOREPLACE"), ("f", "h", "NOREPLACE"), ("f", "f", "NOREPLACE"),
    ("f", ".", "NOREPLACE"), ("f", "g", "EXCHANGE"), ("f", "d", "EXCHANGE"), ("d", "full", "EXCHANGE"),
    ("f", "h", "EXCHANGE"), ("f", "missing", "EXCHANGE"), ("d", "d/f", "EXCHANGE"), ("d/f", "d", "EXCHANGE"),
    ("f/", "g", "EXCHANGE"), ("f", "g/", "EXCHANGE"), ("f", "d/", "EXCHANGE"), ("d/", "f", "EXCHANGE"),
    ("f", "sticky/x", "EXCHANGE"), ("f", "closed/x", "EXCHANGE"), ("d", "theirs", "EXCHANGE"),
    ("d/f", "theirs", "EXCHANGE"), ("s", "sd", "EXCHANGE"), ("f", "new", "WHITEOUT"), ("f", "g", "WHITEOUT"),
    ("f", "new", "WHITEOUT | EXCHANGE"), ("f", "new", "NOREPLACE | EXCHANGE"), ("f", "new", "NOREPLACE | WHITEOUT"),
    ("f", "new", "8"), ("", "", "EXCHANGE"),
]  # fmt: skip
LINKS = [
    ("f", "new"), ("f", "g"), ("f", "h"), ("missing", "g"), ("missing", "new"), ("d", "new"), ("d", "g"), ("s", "new"),
    ("sd", "new"), ("dangling", "new"), ("f", "new/"), ("f", "g/"), ("f", "d/"), ("f/", "new"), ("sd/", "new"),
    ("s/", "new"), ("f", "missing/new"), ("f", "."), ("f", ".."), ("f", "/"), (".", "new"), ("/", "new"), ("", "new"),
    ("f", ""), ("f", "/proc/new"), ("/proc/self/comm", "new"), ("f", LONG), (LONG, "new"), ("f", "closed/new"),
    ("sticky/x", "new"), ("theirs/x", "new"), ("f", "theirs/new"), ("theirs", "theirs/new"), ("f", "dangling"),
    ("f", "s"), ("sd/f", "sd/new"), ("d", "closed/new"),
]  # fmt: skip
LINK_FLAGS = [
    ("s", "new", "FOLLOW"), ("sd", "new", "FOLLOW"), ("dangling", "new", "FOLLOW"), ("f", "new", "FOLLOW"),
    ("f", "new", "EMPTY"), ("", "new", "EMPTY"), ("f", "new", "0x200"), ("f", "new", "0x100"),
]  # fmt: skip
BY_DESCRIPTOR = {
    "descriptor": "link('', 'new', EMPTY, os.open('f', os.O_RDONLY))",
    "descriptor and name": "link('', 'new', EMPTY, os.open('f', os.O_RDONLY), os.open('d', os.O_RDONLY))",
    "descriptor of a directory": "link('', 'new', EMPTY, os.open('d', os.O_RDONLY))",
    "descriptor of a symlink": "link('', 'new', EMPTY, os.open('s', os.O_PATH | os.O_NOFOLLOW))",
    "descriptor by its link": "link(f'/proc/self/fd/{os.open(\"f\", os.O_RDONLY)}', 'new', FOLLOW)",
    "link of a descriptor": "link(f'/proc/self/fd/{os.open(\"f\", os.O_RDONLY)}', 'new')",
    "pipe": "link(f'/proc/self/fd/{os.pipe()[0]}', 'new', FOLLOW)",
    "no descriptor": "link('', 'new', EMPTY, 99)",
    "below no directory": "link('f', 'new', 0, os.open('g', os.O_RDONLY))",
    "below a directory": "link('f', 'new', 0, os.open('d', os.O_RDONLY), os.open('e', os.O_RDONLY))",
    "rename below directories": "rename('f', 'new', 0, os.open('d', os.O_RDONLY), os.open('e', os.O_RDONLY))",
    "rename below no directory": "rename('f', 'new', 0, 99)",
    "absolute": "rename(os.getcwd() + '/f', 'new')",
    "to an absolute name": "link('f', os.getcwd() + '/new')",
    "no memory": "result(libc.renameat2(CWD, ctypes.c_void_p(8), CWD, b'new', 0))",
    "no memory for the new name": "result(libc.renameat2(CWD, b'missing', CWD, ctypes.c_void_p(8), 0))",
}
UNNAMED = {
    "to its link": "link(f'/proc/self/fd/{os.open(\".\", os.O_TMPFILE | os.O_RDWR, 0o640)}', 'new', FOLLOW)",
    "by descriptor": "link('', 'new', EMPTY, os.open('.', os.O_TMPFILE | os.O_RDWR, 0o640))",
    "to an existing name": "link(f'/proc/self/fd/{os.open(\".\", os.O_TMPFILE | os.O_RDWR)}', 'f', FOLLOW)",
    "never to be named": "link(f'/proc/self/fd/{os.open(\".\", os.O_TMPFILE | os.O_EXCL | os.O_RDWR)}', 'new', FOLLOW)",
    "descriptor of what is gone": "[fd := os.open('g', os.O_RDONLY), os.unlink('g'), link('', 'new', EMPTY, fd)][2]",
    "closed directory": "link(f'/proc/self/fd/{os.open(\".\", os.O_TMPFILE | os.O_RDWR)}', 'closed/new', FOLLOW)",
}


@AS
def test_renames(fenced: Fenced, nobody: bool) -> None:
    calls = {f"{old} to {new}": f"rename({old!r}, {new!r})" for old, new in RENAMES}
    calls |= {f"{old} to {new}: {flags}": f"rename({old!r}, {new!r}, {flags})" for old, new, flags in FLAGS}
    compared.check(compared.compare(fenced, calls, prepare, nobody=nobody))


@AS
def test_links(fenced: Fenced, nobody: bool) -> None:
    calls = {f"{old} to {new}": f"link({old!r}, {new!r})" for old, new in LINKS}
    calls |= {f"{old} to {new}: {flags}": f"link({old!r}, {new!r}, {flags})" for old, new, flags in LINK_FLAGS}
    compared.check(compared.compare(fenced, calls, prepare, nobody=nobody))


@AS
def test_by_descriptor(fenced: Fenced, nobody: bool) -> None:
    compared.check(compared.compare(fenced, BY_DESCRIPTOR, prepare, nobody=nobody))


@AS
def test_unnamed_files(fenced: Fenced, nobody: bool) -> None:
    """Where they may not be made, there is nothing to link."""
    result = compared.compare(fenced, UNNAMED, prepare, nobody=nobody)
    assert result.performed == result.plain
    result.run.clean("test_performed")
