"""The same calls made without a fence, carried out by the broker, and refused: what they return and leave behind.

Each call is made by a process of its own, in a directory of its own that was prepared outside of the fence.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.end_to_end.caught import ONLY_HERE, Caught, Fenced

NOBODY = 65534

PROGRAM = """
import ctypes, errno, fcntl, json, os, signal, socket, stat, sys

libc = ctypes.CDLL(None, use_errno=True)
CWD, FOLLOW, EMPTY, REMOVEDIR = -100, 0x400, 0x1000, 0x200
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

def result(value):
    return -ctypes.get_errno() if value < 0 else value

def b(path):
    return path if path is None else os.fsencode(path)

def rename(old, new, flags=0, old_fd=CWD, new_fd=CWD):
    return result(libc.renameat2(old_fd, b(old), new_fd, b(new), flags))

def link(old, new, flags=0, old_fd=CWD, new_fd=CWD):
    return result(libc.linkat(old_fd, b(old), new_fd, b(new), flags))

def symlink(target, name):
    return result(libc.symlink(b(target), b(name)))

def unlink(name, flags=0):
    return result(libc.unlinkat(CWD, b(name), flags))

def mkdir(name, mode=0o777, umask=0o022):
    os.umask(umask)
    return result(libc.mkdir(b(name), mode))

def mknod(name, mode, device=0, umask=0o022):
    os.umask(umask)
    return result(libc.mknod(b(name), mode, ctypes.c_ulong(device)))

def opened(name, flags, mode=0o666, use=lambda fd: 0, umask=0o022):
    os.umask(umask)
    fd = result(libc.open(b(name), flags, mode))
    if fd < 0:
        return fd
    return [fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD), stat.S_IFMT(os.fstat(fd).st_mode), use(fd)]

def each(directory, calls, nobody):
    for number, call in enumerate(calls):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.chdir(f"{directory}/{number}")
            if nobody:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            try:
                said = eval(call)
            except BaseException as error:
                said = repr(error)
            os.write(write, json.dumps(said).encode())
            os._exit(0)
        os.close(write)
        with open(read) as answer:
            yield json.loads(answer.read() or "null")
        os.waitpid(pid, 0)
"""

INSIDE = """
import json, os
import pytest
from calls import each

CASES = json.load(open("cases.json"))

@pytest.mark.fence(allow_write=[CASES["performed"] + "/*"])
def test_performed(capsys):
    with capsys.disabled():
        json.dump(list(each(CASES["performed"], CASES["calls"], CASES["nobody"])), open("performed.json", "w"))

def test_refused():
    json.dump(list(each(CASES["refused"], CASES["calls"], CASES["nobody"])), open("refused.json", "w"))
"""


class Compared(NamedTuple):
    """What became of each call: its result (an error number is negative), and the tree afterwards."""

    plain: dict[str, tuple[Any, Any]]
    performed: dict[str, tuple[Any, Any]]
    refused: dict[str, tuple[Any, Any]]
    before: Any
    run: Caught


def compare(fenced: Fenced, calls: Mapping[str, str], prepare: Callable[[Path], object], *, nobody: bool) -> Compared:
    """`calls` are expressions of `PROGRAM`, by name."""
    places = {name: fenced.outside / name for name in ("plain", "performed", "refused")}
    for place in places.values():
        for number in range(len(calls)):
            (place / str(number)).mkdir(parents=True)
            prepare(place / str(number))
    before = tree(places["plain"] / "0")
    fenced.write("calls.py", PROGRAM)
    given = {"calls": list(calls.values()), "nobody": nobody, **{name: str(place) for name, place in places.items()}}
    fenced.write("cases.json", json.dumps(given))
    program = f"from calls import *\nprint(json.dumps(list(each({given['plain']!r}, {given['calls']!r}, {nobody}))))"
    said = subprocess.run([sys.executable, "-c", program], cwd=fenced.directory, capture_output=True, check=True)
    run = fenced.run(INSIDE, policy=ONLY_HERE)
    results = {"plain": json.loads(said.stdout)}
    for name in "performed", "refused":
        results[name] = json.loads((fenced.directory / f"{name}.json").read_text())
    found = [
        {
            call: (result, tree(place / str(number)))
            for number, (call, result) in enumerate(zip(calls, results[name], strict=True))
        }
        for name, place in places.items()
    ]
    return Compared(*found, before=before, run=run)


def tree(directory: Path) -> list[tuple[object, ...]]:
    """Every name with what can be said of it; files with several names by the first of them."""
    found: list[tuple[object, ...]] = []
    first: dict[int, str] = {}
    below = (Path(top, name) for top, *names in os.walk(directory) for name in itertools.chain(*names))
    for path in sorted([directory, *below]):
        status = path.lstat()
        name = str(path.relative_to(directory))
        inside = os.readlink(path) if path.is_symlink() else ""
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            inside = path.read_text()
        found.append(
            (
                name,
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                first.setdefault(status.st_ino, name),
                inside,
                _lists(path),
            )
        )
    return found


def _lists(path: Path) -> dict[str, str]:
    """Its access control lists."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names if "posix_acl" in name}


def check(result: Compared) -> None:
    """What is carried out is as without a fence; what is refused fails as it would have, or with EACCES."""
    wrong = {}
    for call, plain in result.plain.items():
        said, after = plain
        natural = (isinstance(said, int) and said < 0) or after == result.before
        refused = (said if natural else -errno.EACCES, result.before)
        for what, expected, found in ("performed", plain, result.performed), ("refused", refused, result.refused):
            if found[call] != expected:
                wrong[f"{call}, {what}"] = found[call], expected
    assert not wrong, wrong
    result.run.clean("test_performed")
