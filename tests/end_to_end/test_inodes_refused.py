"""Calls that change a file itself, where no rule allows it: refused, without effect, one report for each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.end_to_end.caught import ONLY_HERE, Fenced

CALLS = {
    "chmod": ("chmod", "call('fchmodat', at, path, 0o600)"),
    "fchmodat2": ("chmod", "call('fchmodat2', at, path, 0o600, 0)"),
    "chown": ("chown", "call('fchownat', at, path, UID, GID, 0)"),
    "utimensat": ("utime", "call('utimensat', at, path, times(5, 1, 6, 2), 0)"),
    "utimensat_now": ("utime", "call('utimensat', at, path, None, 0)"),
    "setxattrat": ("setxattr", "setxattrat(at, path, 0, b'user.new', b'new', 3, 0)"),
    "removexattrat": ("removexattr", "call('removexattrat', at, path, 0, b'user.old')"),
    "setxattr": ("setxattr", "call('setxattr', whole, b'user.new', b'new', 3, 0)"),
    "removexattr": ("removexattr", "call('removexattr', whole, b'user.old')"),
    "file_setattr": ("chattr", "call('file_setattr', at, path, file_attr(), 24, 0)"),
    "truncate": ("truncate", "call('truncate', whole, 1)"),
}
"""By name: what reports call it, and the call on ``path``, relative to ``at``, or as a ``whole``."""

BY_DESCRIPTOR = {
    "fchmod": ("chmod", "call('fchmod', fd, 0o600)"),
    "fchmod_empty_path": ("chmod", "call('fchmodat2', fd, b'', 0o600, EMPTY)"),
    "fchmod_proc": ("chmod", "call('fchmodat', AT_FDCWD, b'/proc/self/fd/%d' % fd, 0o600)"),
    "fchmod_dev": ("chmod", "call('fchmodat', AT_FDCWD, b'/dev/fd/%d' % fd, 0o600)"),
    "fchown": ("chown", "call('fchown', fd, UID, GID)"),
    "fchown_empty_path": ("chown", "call('fchownat', fd, b'', UID, GID, EMPTY)"),
    "futimens": ("utime", "call('utimensat', fd, None, times(5, 1, 6, 2), 0)"),
    "futimens_empty_path": ("utime", "call('utimensat', fd, b'', times(5, 1, 6, 2), EMPTY)"),
    "fsetxattr": ("setxattr", "call('fsetxattr', fd, b'user.new', b'new', 3, 0)"),
    "fsetxattr_empty_path": ("setxattr", "setxattrat(fd, b'', EMPTY, b'user.new', b'new', 3, 0)"),
    "fremovexattr": ("removexattr", "call('fremovexattr', fd, b'user.old')"),
    "FS_IOC_SETFLAGS": ("chattr", "set_flags(fd)"),
    "FS_IOC_FSSETXATTR": ("chattr", "call('ioctl', fd, 0x401C5820, file_attr() + bytes(4))"),
    "fsetattr": ("chattr", "call('file_setattr', fd, b'', file_attr(), 24, EMPTY)"),
}

_HEAD = """
import errno, os, threading
import pytest
from here import OUTSIDE
from tests.end_to_end.inode_calls import AT_FDCWD, EMPTY, call, file_attr, set_flags, setxattrat, times

UID, GID = os.getuid(), os.getgid()
REFUSED = (-1, errno.EACCES)
"""


def _outside(fenced: Fenced) -> os.stat_result:
    old = fenced.outside / "old"
    old.write_text("as it was\n")
    old.chmod(0o640)
    os.setxattr(old, "user.old", b"old")
    os.utime(old, (1000, 2000))
    return old.stat()


def _as_it_was(fenced: Fenced, before: os.stat_result) -> None:
    old = fenced.outside / "old"
    after = old.stat()
    # The time of the last change of the inode (ctime) tells of any change, whatever it was.
    assert (after.st_mode, after.st_uid, after.st_mtime, after.st_ctime_ns) == (
        before.st_mode, before.st_uid, before.st_mtime, before.st_ctime_ns,
    )  # fmt: skip
    assert (old.read_text(), os.listxattr(old)) == ("as it was\n", ["user.old"])


def test_by_path(fenced: Fenced) -> None:
    before = _outside(fenced)
    named = "\n".join(f"    {name!r}: lambda at, path, whole: {text}," for name, (_, text) in CALLS.items())
    text = f"""
CALLS = {{
{named}
}}

def ways(place, tmp_path):
    os.symlink(place + "/old", tmp_path / "link")
    os.symlink(place, tmp_path / "directory")
    away = os.path.relpath(place, tmp_path)
    return [
        ("direct", place + "/old"),
        ("link", str(tmp_path / "link")),
        ("linked directory", str(tmp_path / "directory" / "old")),
        ("dots", str(tmp_path) + "/" + away + "/old"),
        ("proc", "/proc/self/root" + place + "/old"),
    ]

@pytest.mark.parametrize("name", CALLS)
def test_outside(name, tmp_path):
    for _, path in ways(OUTSIDE, tmp_path):
        assert CALLS[name](AT_FDCWD, os.fsencode(path), os.fsencode(path)) == REFUSED

@pytest.mark.parametrize("name", CALLS)
def test_relative(name, tmp_path, monkeypatch):
    monkeypatch.chdir(OUTSIDE)
    at = os.open(OUTSIDE, os.O_PATH)
    assert CALLS[name](at, b"old", b"old") == REFUSED

@pytest.mark.parametrize("name", CALLS)
def test_in_a_thread(name):
    said = []
    path = os.fsencode(OUTSIDE) + b"/old"
    thread = threading.Thread(target=lambda: said.append(CALLS[name](AT_FDCWD, path, path)))
    thread.start()
    thread.join()
    assert said == [REFUSED]

@pytest.mark.parametrize("name", CALLS)
def test_inside(name, tmp_path):
    path = tmp_path / "old"
    path.write_text("mine")
    os.setxattr(path, "user.old", b"old")
    before = path.stat().st_ctime_ns
    whole = os.fsencode(path)
    assert CALLS[name](AT_FDCWD, whole, whole) == (0, 0)
    assert path.stat().st_ctime_ns > before
"""
    run = fenced.run(files={"test_it.py": _HEAD + text}, policy=ONLY_HERE)
    for name, (op, _) in CALLS.items():
        run.refused(f"test_outside[{name}]", f"{op} {fenced.outside}/old", count=5)
        run.refused(f"test_relative[{name}]", f"{op} {fenced.outside}/old")
        run.refused(f"test_in_a_thread[{name}]", f"{op} {fenced.outside}/old")
        run.clean(f"test_inside[{name}]")
    _as_it_was(fenced, before)


def test_by_descriptor(fenced: Fenced) -> None:
    """Open for reading is enough for these, so what is refused by path must be by descriptor, too."""
    before = _outside(fenced)
    named = "\n".join(f"    {name!r}: lambda fd: {text}," for name, (_, text) in BY_DESCRIPTOR.items())
    text = f"""
CALLS = {{
{named}
}}

@pytest.mark.parametrize("name", CALLS)
def test_outside(name):
    assert CALLS[name](os.open(OUTSIDE + "/old", os.O_RDONLY)) == REFUSED

@pytest.mark.parametrize("name", CALLS)
def test_inherited_by_a_child(name):
    fd = os.open(OUTSIDE + "/old", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        os._exit(0 if CALLS[name](fd) == REFUSED else 1)
    assert os.waitpid(child, 0)[1] == 0

@pytest.mark.parametrize("name", CALLS)
def test_inside(name, tmp_path):
    path = tmp_path / "old"
    path.write_text("mine")
    os.setxattr(path, "user.old", b"old")
    before = path.stat().st_ctime_ns
    assert CALLS[name](os.open(path, os.O_RDONLY)) == (0, 0)
    assert path.stat().st_ctime_ns > before

def test_what_cannot_be_changed_so_is_no_violation():
    fd = os.open(OUTSIDE + "/old", os.O_PATH)
    assert call("fchmod", fd, 0o600) == (-1, errno.EBADF)
    assert call("removexattr", os.fsencode(OUTSIDE) + b"/old", b"user.none") == (-1, errno.ENODATA)
    assert call("setxattr", os.fsencode(OUTSIDE) + b"/old", b"user.old", b"", 0, 1) == (-1, errno.EEXIST)
    assert call("fchmodat", AT_FDCWD, os.fsencode(OUTSIDE) + b"/none", 0o600) == (-1, errno.ENOENT)
    assert call("truncate", os.fsencode(OUTSIDE), 0) == (-1, errno.EISDIR)
"""
    run = fenced.run(files={"test_it.py": _HEAD + text}, policy=ONLY_HERE)
    for name, (op, _) in BY_DESCRIPTOR.items():
        run.refused(f"test_outside[{name}]", f"{op} {fenced.outside}/old")
        run.refused(f"test_inherited_by_a_child[{name}]", f"{op} {fenced.outside}/old", by=[Path(sys.executable).name])
        run.clean(f"test_inside[{name}]")
    run.clean("test_what_cannot_be_changed_so_is_no_violation")
    _as_it_was(fenced, before)


def test_audit_lets_it_happen(fenced: Fenced) -> None:
    """In `audit` mode what no rule allows is carried out and listed: the broker does it, there as well."""
    _outside(fenced)
    run = fenced.run(
        files={
            "test_it.py": _HEAD
            + """
def test_it():
    path = os.fsencode(OUTSIDE) + b"/old"
    fd = os.open(path, os.O_RDONLY)
    assert call("fchmodat", AT_FDCWD, path, 0o604) == (0, 0)
    assert call("fsetxattr", fd, b"user.new", b"new", 3, 0) == (0, 0)
    assert call("utimensat", fd, None, times(5, 1, 6, 2), 0) == (0, 0)
    assert call("truncate", path, 2) == (0, 0)
"""
        },
        policy=ONLY_HERE,
        flags=("--fence", "--fence-mode=audit"),
    )
    old = fenced.outside / "old"
    assert [attempt.what for attempt in run.attempts("test_it")] == [
        f"{op} {old}" for op in ("chmod", "setxattr", "utime", "truncate")
    ]
    assert run.report("test_it")["outcome"] == "passed"
    assert (old.stat().st_mode & 0o777, old.stat().st_atime_ns, old.read_text()) == (0o604, 5_000_000_001, "as")
    assert os.getxattr(old, "user.new") == b"new"
