"""What the calls of the table work on, and a full account of what became of it."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LONG_AGO = 1_000_000_000
"""The time of everything before the calls, in seconds."""
_FS_IOC_GETFLAGS = 0x80086601

Account = dict[str, dict[str, Any]]


def plant(directory: Path) -> None:
    """The names that rows of the table speak of; `new`, `missing` and `mine` are not among them."""
    directory.mkdir(parents=True)
    (directory / "file").write_text("as it was\n", encoding="ascii")
    (directory / "file").chmod(0o644)
    try:
        os.setxattr(directory / "file", "user.old", b"as it was")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # then the calls get that as well
            raise
    (directory / "directory").mkdir()
    (directory / "full").mkdir()
    (directory / "full" / "x").write_text("x", encoding="ascii")
    (directory / "link").symlink_to("file")
    os.mkfifo(directory / "pipe", 0o644)
    (directory / "program").write_text("#!/bin/true\n", encoding="ascii")
    (directory / "program").chmod(0o4755)


def plant_own(directory: Path) -> None:
    """What the caller has in its own directory."""
    directory.mkdir(parents=True)
    (directory / "mine").write_text("mine", encoding="ascii")
    (directory / "tree").mkdir()
    (directory / "tree" / "x").write_text("x", encoding="ascii")


def age(directory: Path) -> None:
    """All of it was last changed long ago."""
    for path in walk(directory):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def walk(directory: Path) -> Iterator[str]:
    """Everything in the directory, then itself."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from walk(Path(entry.path))
            else:
                yield entry.path
    yield str(directory)


def account(directory: Path, renamed: Mapping[str, str] | None = None) -> Account:
    """Everything that a call could have changed; times of access too, as they were before this looked.

    `renamed`: text to be replaced in files and in what symbolic links say.
    """
    found = {}
    for path in walk(directory):
        status = os.lstat(path)
        entry: dict[str, Any] = {
            name: getattr(status, f"st_{name}")
            for name in ("mode", "uid", "gid", "nlink", "mtime_ns", "ctime_ns", "atime_ns", "ino")
        }
        entry["mode"] = f"{stat.filemode(status.st_mode)} {status.st_mode:o}"
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)
            for old, new in (renamed or {}).items():
                target = target.replace(old, new)
            entry["target"] = target
        elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            entry["xattrs"] = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            entry.update(_contents(path, status))
            for old, new in (renamed or {}).items():
                if "content" in entry:
                    entry["content"] = entry["content"].replace(old.encode(), new.encode())
        found[os.path.relpath(path, directory)] = entry
    return found


def _contents(path: str, status: os.stat_result) -> dict[str, Any]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:  # its mode is closed to us
        return {"size": status.st_size}
    try:
        flags = array.array("i", [0])
        try:
            fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
        except OSError:
            pass
        if stat.S_ISDIR(status.st_mode):
            return {"flags": flags[0]}
        return {"flags": flags[0], "content": os.read(descriptor, 65536)}
    finally:
        os.close(descriptor)


_ALWAYS_NEW = ("ctime_ns", "ino")


def differences(plain: Account, fenced: Account) -> list[str]:
    """What two runs of the same calls left differently. A time counts as the same where both runs have set it to
    their present."""
    found = [f"{name}: only in the plain run" for name in plain.keys() - fenced.keys()]
    found += [f"{name}: only in the fenced run" for name in fenced.keys() - plain.keys()]
    for name in plain.keys() & fenced.keys():
        one, other = plain[name], fenced[name]
        for key in one.keys() | other.keys():
            if key in _ALWAYS_NEW or one.get(key) == other.get(key):
                continue
            recent = LONG_AGO * 1_000_000_000 * 1.5
            if key in ("mtime_ns", "atime_ns") and min(one[key], other[key]) > recent:
                continue
            found.append(f"{name}: {key} is {other.get(key)!r} instead of {one.get(key)!r}")
    return found


def changes(before: Account, after: Account) -> list[str]:
    """What has changed at all. That something was read is no change."""
    found = [f"{name}: gone" for name in before.keys() - after.keys()]
    found += [f"{name}: new" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        found += [
            f"{name}: {key} was {one.get(key)!r}, is {other.get(key)!r}"
            for key in one.keys() | other.keys()
            if key != "atime_ns" and one.get(key) != other.get(key)
        ]
    return found
