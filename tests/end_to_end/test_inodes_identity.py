"""Calls that change a file itself, by somebody else than the one who runs the tests: with his rights, and his ids."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

_CHILD = """
import errno, os
import pytest
from here import OUTSIDE

NOBODY = 65534

def somebody_else(*acts):
    '''Results of calls made by a child that has become an ordinary user.'''
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            for act in acts:
                try:
                    act()
                    said.append("0")
                except OSError as error:
                    said.append(errno.errorcode[error.errno])
        finally:
            os.write(theirs, " ".join(said).encode())
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    return os.read(ours, 999).decode().split()
"""


@pytest.fixture
def anyone() -> Iterator[Path]:
    """Two directories that every user can get to, as he cannot to those of pytest."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        place = Path(made)
        for each in (place, place / "below", place / "beyond"):
            each.mkdir(exist_ok=True)
            each.chmod(0o777)
        yield place


@pytest.mark.needs("user:root")
def test_rights_given_up(fenced: Fenced, anyone: Path) -> None:
    """What the broker may do as root, a process that is root no longer may not have done for it."""
    run = fenced.run(
        _CHILD
        + f"""
def files(place):
    for name, owner in ("roots", 0), ("own", NOBODY), ("open", 0):
        with open(f"{{place}}/{{name}}", "w") as file:
            file.write("text")
        os.chown(f"{{place}}/{{name}}", owner, owner)
    os.chmod(f"{{place}}/open", 0o666)
    os.mkdir(f"{{place}}/closed", 0o700)
    with open(f"{{place}}/closed/own", "w") as file:
        os.fchown(file.fileno(), NOBODY, NOBODY)

def check(place):
    files(place)
    fd = os.open(f"{{place}}/roots", os.O_RDONLY)
    own = os.open(f"{{place}}/own", os.O_RDONLY)
    os.chdir(place)
    assert somebody_else(
        lambda: os.chmod(f"{{place}}/roots", 0o666),
        lambda: os.fchmod(fd, 0o666),
        lambda: os.chown(f"{{place}}/own", 0, 0),
        lambda: os.utime(f"{{place}}/roots", (1, 2)),
        lambda: os.utime(f"{{place}}/open", (1, 2)),
        lambda: os.setxattr(f"{{place}}/roots", "user.x", b"1"),
        lambda: os.setxattr(f"{{place}}/own", "trusted.x", b"1"),
        lambda: os.truncate(f"{{place}}/roots", 0),
        lambda: os.chmod(f"{{place}}/closed/own", 0o666),
    ) == "EPERM EPERM EPERM EPERM EPERM EACCES EPERM EACCES EACCES".split()
    assert os.stat(f"{{place}}/roots").st_size == 4 and os.stat(f"{{place}}/roots").st_mode & 0o777 != 0o666
    assert somebody_else(
        lambda: os.chmod(f"{{place}}/own", 0o600),
        lambda: os.chmod("own", 0o604),
        lambda: os.chmod(f"/proc/self/fd/{{own}}", 0o606),
        lambda: os.fchmod(own, 0o607),
        lambda: os.chown(f"{{place}}/own", NOBODY, NOBODY),
        lambda: os.utime(f"{{place}}/own", (1, 2)),
        lambda: os.utime(f"{{place}}/open", None),
        lambda: os.setxattr(f"{{place}}/own", "user.x", b"1"),
        lambda: os.truncate(f"{{place}}/open", 0),
    ) == ["0"] * 9
    assert os.stat(f"{{place}}/own").st_mode & 0o777 == 0o607
    os.chmod(f"{{place}}/own", 0o600)  # and we ourselves are still who we were

def test_below_the_ceiling():
    check({str(anyone / "below")!r})

@pytest.mark.fence(allow_write=[{str(anyone / "beyond")!r}])
def test_beyond_the_ceiling():
    check({str(anyone / "beyond")!r})
""",
        policy=ONLY_HERE.replace('"./*"', f'"./*", "{anyone}/below"'),
    )
    run.clean("test_below_the_ceiling", "test_beyond_the_ceiling")


def test_user_namespace(fenced: Fenced, anyone: Path) -> None:
    """In a user namespace of its own a program has other ids: they are translated, and those that do not exist there
    are refused as the kernel does it."""
    test = f"""
import ctypes, errno, os, struct
import pytest

NOBODY = 65534
CLONE_NEWUSER, PR_SET_DUMPABLE = 0x10000000, 4
libc = ctypes.CDLL(None, use_errno=True)

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

def said(act):
    try:
        act()
        return "0"
    except OSError as error:
        return errno.errorcode[error.errno]

def in_a_namespace(path, line, mapped):
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if libc.unshare(CLONE_NEWUSER):
        return ["no namespace"]
    os.write(line, b"?")
    os.read(mapped, 1)
    fd = os.open(path, os.O_RDONLY)
    return [str(os.getuid()), *map(said, [
        lambda: os.chmod(path, 0o604),
        lambda: os.fchmod(fd, 0o606),
        lambda: os.utime(path, ns=(1_000_000_001, 2)),
        lambda: os.chown(path, 0, 0),
        lambda: os.fchown(fd, 0, -1),
        lambda: os.lchown(path, 1, 1),
        lambda: os.chown(path, -1, 77),
        lambda: os.setxattr(path, "user.x", b"1"),
        lambda: os.chmod(path + "-of-roots", 0o600),
        lambda: os.setxattr(path + "-listed", "system.posix_acl_access", access_list(0)),
        lambda: os.setxattr(path + "-listed", "system.posix_acl_access", access_list(5)),
    ])]

def access_list(uid):
    # A user beside the owner, who may read.
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 4, uid), (4, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody)]
    return struct.pack("=I", 2) + b"".join(struct.pack("=HHI", *entry) for entry in entries)

def check(path):
    write(path, "mine")
    write(path + "-of-roots", "not mine")
    owner = (os.getuid() or NOBODY, os.getgid() or NOBODY)
    write(path + "-listed", "mine")
    for each in path, path + "-listed":
        os.chown(each, *owner)
    ours, theirs = os.pipe()
    mapped, map_made = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, " ".join(in_a_namespace(path, theirs, mapped)).encode())
        except BaseException as error:
            os.write(theirs, repr(error).encode())
        os._exit(0)
    os.close(theirs)
    found = os.read(ours, 999).decode()
    if found == "?":
        write(f"/proc/{{child}}/setgroups", "deny")
        write(f"/proc/{{child}}/uid_map", f"0 {{owner[0]}} 1")
        write(f"/proc/{{child}}/gid_map", f"0 {{owner[1]}} 1")
        os.write(map_made, b"!")
        found = os.read(ours, 999).decode()
    os.waitpid(child, 0)
    if found == "no namespace":
        pytest.skip("this machine lets nobody make user namespaces")
    of_roots = "EPERM" if os.getuid() == 0 else "0"
    assert found == f"0 0 0 0 0 0 EINVAL EINVAL 0 {{of_roots}} 0 EINVAL"
    assert os.getxattr(path + "-listed", "system.posix_acl_access") == access_list(owner[0])
    status = os.stat(path)
    assert (status.st_uid, status.st_gid) == owner
    assert (status.st_mode & 0o777, status.st_atime_ns) == (0o606, 1_000_000_001)

def test_below_the_ceiling():
    check({str(anyone / "below")!r} + "/file")

@pytest.mark.fence(allow_write=[{str(anyone / "beyond")!r}])
def test_beyond_the_ceiling():
    check({str(anyone / "beyond")!r} + "/file")
"""
    own = ", ".join(f'"/proc/self/{name}"' for name in ("uid_map", "gid_map", "setgroups"))
    run = fenced.run(files={"test_it.py": test}, policy=ONLY_HERE.replace('"./*"', f'"{anyone}/below", {own}, "./*"'))
    outcomes = {run.report(test)["outcome"] for test in ("test_below_the_ceiling", "test_beyond_the_ceiling")}
    if outcomes == {"skipped"}:
        pytest.skip("no user namespaces here")
    run.clean("test_below_the_ceiling", "test_beyond_the_ceiling")
