"""What the kernel would have said to a refused call: held against what it does say, and by rights against tables."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fence_core.broker.call import Call
from fence_core.broker.paths import native_errno as module
from fence_core.broker.paths.identity import Identities
from fence_core.broker.paths.native_errno import NO_CHANGE, native_errno
from fence_core.broker.paths.resolve import ASK_KERNEL, AT_FDCWD, Located, Resolver
from fence_core.kernel import links
from fence_core.kernel.credentials import CAP_DAC_OVERRIDE, Credentials
from tests.unit.broker.kit import call, who


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    return Resolver(lambda pid: True, Identities())


@pytest.fixture
def asked() -> Iterator[Call]:
    made = call()
    yield made
    made.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path.resolve()
    for name in ("empty", "full/below", "other"):
        (root / name).mkdir(parents=True)
    (root / "file").write_text("file")
    (root / "second").write_text("second")
    os.link(root / "file", root / "same")
    (root / "link").symlink_to("file")
    (root / "dangling").symlink_to("missing")
    os.mkfifo(root / "pipe")
    return root


def answer(act: Callable[[], Any]) -> int:
    """The kernel's own."""
    try:
        done = act()
    except OSError as error:
        return error.errno or 0
    if isinstance(done, int) and done > 2:
        os.close(done)
    return 0


PLACES = (
    "file", "empty", "full", "missing", "link", "dangling", "pipe", "missing/x", "file/x", "full/below", "full/new",
    "file/", "empty/", "missing/", "link/", "dangling/",
)  # fmt: skip

CALLS: dict[str, Callable[[str], Any]] = {
    "mkdir": os.mkdir,
    "mknod": lambda path: os.mknod(path, stat.S_IFIFO | 0o600),
    "symlink": lambda path: os.symlink("target", path),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "truncate": lambda path: os.truncate(path, 0),
}
FOLLOWING = {"truncate"}


@pytest.mark.parametrize(
    ("op", "place"),
    [
        (op, place)
        for op in CALLS
        for place in PLACES
        if op != "truncate" or place not in ("pipe", "link/", "file/")  # there the kernel is asked before
    ],
)
def test_it_says_what_the_kernel_says(resolver: Resolver, asked: Call, tree: Path, op: str, place: str) -> None:
    path = f"{tree}/{place}"
    located = resolver.locate(asked, AT_FDCWD, path.encode(), follow=op in FOLLOWING)
    told = native_errno(op, located, os.getpid())
    assert told == answer(lambda: CALLS[op](path)), errno.errorcode.get(told, told)


FLAGS = {
    "write": os.O_WRONLY,
    "create": os.O_WRONLY | os.O_CREAT,
    "create anew": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "create, no link": os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW,
    "truncate": os.O_WRONLY | os.O_TRUNC,
    "unnamed": os.O_WRONLY | os.O_TMPFILE,
}


@pytest.mark.parametrize(
    ("how", "place"),
    [
        (how, place)
        for how in FLAGS
        for place in ("file", "empty", "missing", "link", "dangling", "missing/x", "file/x", "missing/")
        if how != "unnamed" or place == "empty"  # what is no directory the kernel refuses by itself
    ],
)
def test_opens(resolver: Resolver, asked: Call, tree: Path, how: str, place: str) -> None:
    path, flags = f"{tree}/{place}", FLAGS[how]
    follow = not flags & os.O_NOFOLLOW and not flags & os.O_EXCL
    located = resolver.locate(asked, AT_FDCWD, path.encode(), follow=follow)
    if how == "unnamed":
        located.parent = located.path
    told = native_errno("open", located, os.getpid(), flags=flags)
    assert told == answer(lambda: os.open(path, flags, 0o600)), errno.errorcode.get(told, told)


MOVED = ("file", "second", "same", "empty", "full", "missing", "link", "full/below", "file/", "empty/", "missing/")
RENAMES = {"plain": 0, "no replace": links.RENAME_NOREPLACE, "exchange": links.RENAME_EXCHANGE}


def rename(old: str, new: str, flags: int) -> None:
    links.rename(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


@pytest.mark.parametrize("new", [*MOVED, "new", "new/", "full/new", "empty/new", "missing/new"])
@pytest.mark.parametrize("old", MOVED)
@pytest.mark.parametrize("how", RENAMES)
def test_renames(resolver: Resolver, asked: Call, tree: Path, how: str, old: str, new: str) -> None:
    flags = RENAMES[how]
    found = [resolver.locate(asked, AT_FDCWD, f"{tree}/{name}".encode(), follow=False) for name in (old, new)]
    told = (
        found[0].errno or found[1].errno or native_errno("rename", found[0], os.getpid(), flags=flags, other=found[1])
    )
    before = sorted(os.listdir(tree))
    assert max(told, 0) == answer(lambda: rename(f"{tree}/{old}", f"{tree}/{new}", flags))
    if told == NO_CHANGE:
        assert sorted(os.listdir(tree)) == before


@pytest.mark.parametrize("new", ["second", "new", "new/", "full/new", "missing/new", "empty"])
@pytest.mark.parametrize("old", ["file", "link", "dangling", "pipe", "empty"])
def test_links(resolver: Resolver, asked: Call, tree: Path, old: str, new: str) -> None:
    handle = os.open(tree / old, os.O_PATH | os.O_NOFOLLOW)
    try:
        target = resolver.locate(asked, AT_FDCWD, f"{tree}/{new}".encode(), follow=False)
        told = target.errno or native_errno("link", Located(f"{tree}/{old}", handle=handle), os.getpid(), other=target)
        assert told == answer(lambda: os.link(tree / old, f"{tree}/{new}", follow_symlinks=False))
    finally:
        os.close(handle)


def test_what_is_known_already_is_not_asked_for(tree: Path) -> None:
    assert native_errno("mkdir", Located("/x", errno=errno.ENAMETOOLONG), 0) == errno.ENAMETOOLONG
    assert native_errno("rmdir", Located("/", errno=ASK_KERNEL), 0) == ASK_KERNEL


# ---------------------------------------------------------------- rights


@pytest.fixture
def as_(monkeypatch: pytest.MonkeyPatch) -> Callable[[Credentials], None]:
    return lambda somebody: monkeypatch.setattr(module.credentials, "of", lambda tid: somebody)


OWNER, STRANGER = os.getuid(), os.getuid() + 1
ROOT = who(uid=0, capabilities=1 << CAP_DAC_OVERRIDE)


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "may"),
    [
        (0o755, OWNER, (), True),
        (0o555, OWNER, (), False),
        (0o577, OWNER, (), False),
        (0o755, STRANGER, (), False),
        (0o757, STRANGER, (), True),
        (0o775, STRANGER, (os.getgid(),), True),
        (0o757, STRANGER, (os.getgid(),), False),
    ],
)
def test_by_the_modes(
    resolver: Resolver, asked: Call, tree: Path, as_: Callable[[Credentials], None], mode: int, uid: int,
    groups: tuple[int, ...], may: bool,
) -> None:  # fmt: skip
    somebody = who(uid=uid, gid=uid + 1000, groups=groups)
    (tree / "empty").chmod(mode)
    (tree / "second").chmod(mode & 0o666)
    located = {
        op: resolver.locate(asked, AT_FDCWD, f"{tree}/{path}".encode(), follow=op == "truncate")
        for op, path in {"mkdir": "empty/new", "truncate": "second", "open": "empty/new"}.items()
    }
    as_(somebody)
    for op, found in located.items():
        told = native_errno(op, found, 0, flags=os.O_CREAT | os.O_WRONLY)
        assert told == (0 if may else errno.EACCES), op
    as_(ROOT)
    assert not any(native_errno(op, found, 0, flags=os.O_CREAT | os.O_WRONLY) for op, found in located.items())
    (tree / "empty").chmod(0o755)


@pytest.mark.parametrize(
    ("of_directory", "of_entry", "uid", "told"),
    [
        (OWNER, OWNER, OWNER, 0),
        (OWNER, OWNER, STRANGER, errno.EPERM),
    ],
)
def test_where_only_owners_remove(
    resolver: Resolver, asked: Call, tree: Path, as_: Callable[[Credentials], None], of_directory: int, of_entry: int,
    uid: int, told: int,
) -> None:  # fmt: skip
    """The sticky bit."""
    (tree / "full").chmod(0o1777)
    located = resolver.locate(asked, AT_FDCWD, f"{tree}/full/below".encode(), follow=False)
    as_(who(uid=uid))
    assert native_errno("rmdir", located, 0) == told
    as_(ROOT)
    assert native_errno("rmdir", located, 0) == 0
    (tree / "full").chmod(0o777)
    as_(who(uid=uid))
    assert native_errno("rmdir", located, 0) == 0


@pytest.mark.parametrize(
    ("mode", "uid", "told"),
    [
        (0o644, OWNER, 0),
        (0o644, STRANGER, errno.EPERM),
        (0o646, STRANGER, 0),
        (0o4646, STRANGER, errno.EPERM),
        (0o2656, STRANGER, errno.EPERM),
    ],
)
def test_who_may_link(
    resolver: Resolver, asked: Call, tree: Path, as_: Callable[[Credentials], None], mode: int, uid: int, told: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """fs.protected_hardlinks."""
    monkeypatch.setattr(module, "_protects_links", lambda: True)
    (tree / "second").chmod(mode)
    (tree / "other").chmod(0o777)
    handle = os.open(tree / "second", os.O_PATH)
    try:
        target = resolver.locate(asked, AT_FDCWD, f"{tree}/other/new".encode(), follow=False)
        old = Located(f"{tree}/second", handle=handle)
        as_(who(uid=uid, gid=uid + 1000))
        assert native_errno("link", old, 0, other=target) == told
        monkeypatch.setattr(module, "_protects_links", lambda: False)
        assert native_errno("link", old, 0, other=target) == 0
    finally:
        os.close(handle)


@pytest.mark.parametrize("op", ["chmod", "chattr"])
def test_who_may_change_a_mode(
    resolver: Resolver, asked: Call, tree: Path, as_: Callable[[Credentials], None], op: str
) -> None:
    located = resolver.locate(asked, AT_FDCWD, f"{tree}/file".encode(), follow=True)
    for somebody, told in ((who(uid=OWNER), 0), (who(uid=STRANGER), errno.EPERM), (ROOT, 0)):
        as_(somebody)
        assert native_errno(op, located, 0) == told


def test_where_no_names_are_made(as_: Callable[[Credentials], None]) -> None:
    """procfs: looking for a missing name fails, whatever for."""
    as_(ROOT)
    missing = Located("/proc/sys/missing", parent="/proc/sys", name=b"missing")
    for op in ("mkdir", "symlink", "mknod"):
        assert native_errno(op, missing, 0) == errno.ENOENT
    assert native_errno("open", missing, 0, flags=os.O_CREAT) == errno.ENOENT
    there = Located("/proc/self/status", parent="/proc/self", name=b"status")
    assert native_errno("unlink", there, 0) == errno.EPERM
    assert native_errno("chmod", there, 0) == errno.EPERM
    assert native_errno("mkdir", there, 0) == errno.EEXIST
    assert native_errno("bind", there, 0) == errno.EADDRINUSE
