"""Names made and removed, and files opened, where a marker allows it: mode, owner and error as without a fence."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.end_to_end import compared
from tests.end_to_end.caught import Fenced

AS = pytest.mark.parametrize("nobody", [False, True] if os.geteuid() == 0 else [False])


def prepare(here: Path) -> None:
    for name in "d/f", "f", "unreadable":
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(name)
    for name in "e", "setgid", "sticky", "closed", "theirs", "listed":
        (here / name).mkdir()
    (here / "s").symlink_to("f")
    (here / "sd").symlink_to("d")
    (here / "dangling").symlink_to("nowhere")
    (here / "to closed").symlink_to("closed/new")
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    for name in "sticky", "theirs":
        (here / name / "x").write_text("x")
        (here / name / "empty").mkdir()
    if os.geteuid() == 0:
        for path in here, *here.rglob("*"):
            if not {"sticky", "theirs"} & set(path.relative_to(here).parts):
                os.lchown(path, compared.NOBODY, compared.NOBODY)
        os.chown(here / "setgid", -1, 12)
    for name, mode in ("setgid", 0o2775), ("sticky", 0o1777), ("closed", 0o555), ("unreadable", 0o200):
        (here / name).chmod(mode)
    # u::rwx,u:12:rwx,g::r-x,m::rwx,o::--- as linux/posix_acl_xattr.h has it: tag, permissions, id
    entries = (1, 7, -1), (2, 7, 12), (4, 5, -1), (0x10, 7, -1), (0x20, 0, -1)
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    with contextlib.suppress(OSError):  # a file system that has none
        os.setxattr(here / "listed", "system.posix_acl_default", packed)


LONG, LONGER = "n" * 256, "long/" * 900
PATHS = (
    "new", "new/", "new//", "new/.", "f", "f/", "d", "d/", "s", "s/", "sd", "sd/", "dangling", "dangling/",
    "loop", "loop/", "missing/new", "f/new", "", ".", "..", "/", "d/.", "d/..", LONG, LONG + "/", LONGER,
    "closed/new", "sticky/new",
    "theirs/new", "theirs/x", "closed/", "sd/new", "setgid/new", "listed/new", "/proc/new", "/proc/self/new",
    "missing/", "e", "e/", "e/.", "e/..", "sticky/x", "sticky/empty", "theirs/empty", "pipe", "to closed",
)  # fmt: skip
"""Each call is tried on each of them."""


def on_each(call: str) -> dict[str, str]:
    return {f"{path[:30]}: {call}": call.format(repr(path)) for path in PATHS}


MADE = {
    "mkdir": [
        "mkdir({})", "mkdir({}, 0o777, 0o077)",
    ],
    "mknod": [
        "mknod({}, stat.S_IFREG | 0o666)", "mknod({}, stat.S_IFIFO | 0o666)", "mknod({}, stat.S_IFSOCK | 0o666)",
    ],
    "symlink": ["symlink('anywhere', {})"],
    "remove": ["unlink({})", "unlink({}, REMOVEDIR)"],
}  # fmt: skip
SINGLE = {
    "modes": "[mkdir(f'{mode:o}', mode, 0) for mode in (0, 0o1777, 0o2755, 0o4711, 0o7777, 0o100755, 0xffffffff)]",
    "modes of files": "[mknod(f'{mode:o}', mode, 0) for mode in (0, 0o1666, 0o2755, 0o4711, 0o7777, 0o100755)]",
    "types": "[mknod(f'{kind:o}', kind << 12 | 0o600) for kind in (0, 3, 4, 5, 7, 8, 9, 10, 11, 12, 15, 16)]",
    "below setgid": "[mkdir('setgid/d'), mkdir('setgid/e', 0o2700), mkdir('setgid/d/d'), mknod('setgid/f', 0o2775)]",
    "below an access list": "[mkdir('listed/d'), mkdir('listed/d/d', 0o700, 0o077), mknod('listed/f', 0o666, 0, 0o77)]",
    "umask": "[mkdir(f'd{mask:o}', 0o777, mask) or mknod(f'f{mask:o}', 0o666, 0, mask) for mask in (0, 2, 63)]",
    "empty target": "symlink('', 'new')",
    "empty target and no directory": "symlink('', 'missing/new')",
    "target of 4095": "symlink('x' * 4095, 'new')",
    "target of 4096": "symlink('x' * 4096, 'new')",
    "target with odd bytes": "symlink(b'\\\\xff\\\\n\\\\x1b[m', b'\\\\xfe\\\\n')",
    "unknown flags": "[unlink('f', 0x400), unlink('missing', 1), unlink('', 0x100), unlink('f', 0x1000)]",
    "no memory": "[result(libc.mkdir(ctypes.c_void_p(8), 0)), result(libc.unlink(ctypes.c_void_p(8)))]",
    "no descriptor": "[result(libc.mkdirat(99, b'x', 0)), result(libc.unlinkat(99, b'x', 0))]",
    "absolute and no descriptor": "result(libc.mkdirat(99, os.fsencode(os.getcwd()) + b'/new', 0o755))",
    "no directory": "[result(libc.mkdirat(os.open('f', os.O_RDONLY), b'x', 0))]",
    "descriptor": "[fd := os.open('d', os.O_PATH), libc.mkdirat(fd, b'x', 0o751), libc.unlinkat(fd, b'f', 0)][1:]",
    "removed directory": "[os.chdir('e'), os.rmdir('../e'), mkdir('n'), mknod('x', 0o644), symlink('a', 'b')][2:]",
}  # fmt: skip


@AS
@pytest.mark.parametrize("kind", MADE)
def test_on_each_path(fenced: Fenced, kind: str, nobody: bool) -> None:
    calls: Mapping[str, str] = {name: text for call in MADE[kind] for name, text in on_each(call).items()}
    compared.check(compared.compare(fenced, calls, prepare, nobody=nobody))


@AS
def test_modes_and_other_arguments(fenced: Fenced, nobody: bool) -> None:
    result = compared.compare(fenced, SINGLE, prepare, nobody=nobody)
    for name, plain in result.plain.items():
        assert result.performed[name] == plain, name
    result.run.clean("test_performed")
