"""Where paths lead: the resolver says what the kernel does, over trees with links of all kinds."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fence_core.broker.call import Call
from fence_core.broker.paths.identity import Identities
from fence_core.broker.paths.resolve import ASK_KERNEL, AT_FDCWD, Resolver, own_links, plain_text
from tests.unit.broker.kit import call


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    return Resolver(lambda pid: pid == os.getpid(), Identities())


@pytest.fixture
def asked() -> Iterator[Call]:
    made = call()
    yield made
    made.close()


# ---------------------------------------------------------------- one tree


LINKS = {
    "to-file": "file",
    "to-directory": "directory",
    "to-nothing": "missing",
    "deep/up": "../file",
    "loop-a": "loop-b",
    "loop-b": "loop-a",
    "chain": "to-directory",
    "directory/around": "../directory/around-again",
    "directory/around-again": "inner",
    "dangling-below": "directory/new",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree").resolve()
    (root / "directory" / "inner").mkdir(parents=True)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "file").write_text("file")
    (root / "directory" / "inside").write_text("inside")
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    (root / "absolute").symlink_to(root / "directory" / "inside")
    return root


PATHS = (
    "file", "directory", "directory/", "directory/inside", "missing", "missing/below", "file/below", "file/",
    "to-file", "to-file/", "to-directory", "to-directory/inside", "to-directory/new", "to-nothing", "to-nothing/x",
    "deep/up", "deep/er/../up", "deep/../deep/./up", "loop-a", "loop-a/x", "chain/inside", "chain/../file", "absolute",
    "directory/around", "directory/around/../inside", "dangling-below", "./file", "directory//inside",
    "directory/new", "directory/new/", "deep/er/../../file", "x" * 255, "x" * 256, "directory/" + "x" * 256,
)  # fmt: skip


def kernel_follows(path: str) -> tuple[int, str]:
    """Error number and real path of an existing file; of a missing one, where it would be made."""
    made = False
    try:
        handle = os.open(path, os.O_PATH)
    except OSError as error:
        if error.errno != errno.ENOENT:
            return error.errno or 0, ""
        try:
            handle = os.open(path.rstrip("/"), os.O_WRONLY | os.O_CREAT)
            made = True
        except OSError as again:
            return again.errno or 0, ""
    try:
        real = os.readlink(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    if made:
        os.unlink(real)
    return 0, real


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("relative", [False, True])
def test_followed(
    resolver: Resolver, asked: Call, tree: Path, path: str, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    expected, real = kernel_follows(f"{tree}/{path}")
    found = resolver.locate(asked, AT_FDCWD, os.fsencode(path if relative else f"{tree}/{path}"), follow=True)
    assert found.errno == expected
    if not expected:
        assert found.path == real
        assert (found.handle >= 0) == os.path.exists(real)
        if found.handle >= 0:
            assert os.path.samestat(os.fstat(found.handle), os.stat(real))
        else:
            assert os.path.samestat(os.fstat(found.directory), os.stat(os.path.dirname(real)))
            assert found.name.rstrip(b"/") == os.fsencode(os.path.basename(real))


@pytest.mark.parametrize("path", PATHS)
def test_not_followed(resolver: Resolver, asked: Call, tree: Path, path: str) -> None:
    """The directory is that of the name itself, and what is asked of both is what the kernel says of the path."""
    found = resolver.locate(asked, AT_FDCWD, os.fsencode(f"{tree}/{path}"), follow=False)
    try:
        os.lstat(f"{tree}/{path}")
    except OSError as error:
        expected = error.errno
    else:
        expected = 0
    if expected in (0, errno.ENOENT) and found.errno == 0:
        head, _, name = path.rstrip("/").rpartition("/")
        assert os.path.samestat(os.fstat(found.directory), os.stat(f"{tree}/{head}"))
        assert found.parent == os.path.realpath(f"{tree}/{head}")
        assert found.name == os.fsencode(name) + b"/" * path.endswith("/")
        assert found.path == f"{found.parent}/{name}"
        assert found.handle < 0
    elif expected != errno.ENOTDIR or not path.endswith("/"):  # whether it is a directory, the call itself finds
        assert found.errno == expected


@pytest.mark.parametrize("path", ["/", "//", "/.", "/..", ".", "..", "directory/.", "directory/..", "directory/../"])
def test_names_that_no_call_can_change(resolver: Resolver, asked: Call, path: str) -> None:
    assert resolver.locate(asked, AT_FDCWD, os.fsencode(path), follow=False).errno == ASK_KERNEL


def test_the_empty_path_is_missing(resolver: Resolver, asked: Call) -> None:
    assert resolver.locate(asked, AT_FDCWD, b"", follow=True).errno == errno.ENOENT


def test_relative_to_a_descriptor(resolver: Resolver, asked: Call, tree: Path) -> None:
    with open(tree / "file", "rb") as file:
        directory = os.open(tree / "directory", os.O_RDONLY)
        try:
            found = resolver.locate(asked, directory, b"inside", follow=True)
            assert found.path == f"{tree}/directory/inside"
            assert resolver.locate(asked, directory, b"new", follow=False).parent == f"{tree}/directory"
            assert resolver.locate(asked, file.fileno(), b"x", follow=True).errno == errno.ENOTDIR
        finally:
            os.close(directory)
        assert resolver.locate(asked, directory, b"x", follow=True).errno == errno.EBADF
        assert resolver.locate(asked, 999_999, b"/etc", follow=True).path == "/etc", "nobody looks at it"


def test_a_descriptor_itself(resolver: Resolver, asked: Call, tree: Path) -> None:
    reading, writing = os.pipe()
    try:
        pipe = resolver.descriptor(asked, reading)
        assert not pipe.is_file
        assert pipe.path.startswith("pipe:[")
    finally:
        os.close(reading)
        os.close(writing)
    assert resolver.descriptor(asked, reading).errno == errno.EBADF
    with open(tree / "file", "rb") as file:
        assert resolver.descriptor(asked, file.fileno()).path == f"{tree}/file"


def test_what_was_removed_has_no_place(resolver: Resolver, asked: Call, tmp_path: Path) -> None:
    place = tmp_path.resolve() / "gone"
    with open(place, "wb") as file:
        place.unlink()
        assert not resolver.descriptor(asked, file.fileno()).is_file
    named = tmp_path.resolve() / "kept (deleted)"
    named.touch()
    with open(named, "rb") as file:
        assert resolver.descriptor(asked, file.fileno()).is_file, "only its name says so"


def test_a_removed_directory_is_still_where_the_caller_is(
    resolver: Resolver, asked: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    found = resolver.locate(asked, AT_FDCWD, b"x", follow=True)
    with pytest.raises(FileNotFoundError):
        os.mkdir(found.name, dir_fd=found.directory)
    assert os.path.samestat(os.fstat(found.directory), os.stat("."))


def test_all_that_is_kept_is_closed_with_the_call(resolver: Resolver, tree: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for path in PATHS:
        for follow in (True, False):
            made = call()
            resolver.locate(made, AT_FDCWD, os.fsencode(f"{tree}/{path}"), follow=follow)
            made.close()
    assert set(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- random trees


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.sampled_from(["a", "b", "c", "..", "."])
ENTRIES = st.lists(
    st.tuples(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join),
        st.one_of(st.just("file"), st.just("directory"), st.lists(STEPS, min_size=1, max_size=3).map("/".join)),
    ),
    max_size=8,
)


@settings(max_examples=100)
@given(ENTRIES, st.lists(STEPS, min_size=1, max_size=5).map("/".join))
def test_random_trees(entries: list[tuple[str, str]], path: str) -> None:
    root = os.path.realpath(tempfile.mkdtemp())
    try:
        for name, what in entries:
            place = f"{root}/{name}"
            try:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                if what == "file":
                    open(place, "x").close()
                elif what == "directory":
                    os.mkdir(place)
                else:
                    os.symlink(what, place)
            except OSError:
                continue
        made = call()
        resolver = Resolver(lambda pid: True, Identities())
        expected, real = kernel_follows(f"{root}/{path}")
        found = resolver.locate(made, AT_FDCWD, os.fsencode(f"{root}/{path}"), follow=True)
        if found.errno == ASK_KERNEL:
            assert not os.path.exists(f"{root}/{path}")
        else:
            assert found.errno == expected
            assert expected or found.path == real
        straight = resolver.is_straight(os.fsencode(f"{root}/{path}"))
        if straight and plain_text(os.fsencode(f"{root}/{path}")):
            assert real == f"{root}/{path}" or expected == errno.ENOENT
        made.close()
        os.close(resolver._fds)
    finally:
        shutil.rmtree(root, ignore_errors=True)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"/a/b", True),
        (b"/", False),
        (b"/a/", False),
        (b"a/b", False),
        (b"/a//b", False),
        (b"/a/./b", False),
        (b"/a/../b", False),
        (b"/a/..", False),
        (b"/a/.", False),
        (b"/a/...", True),
        (b"/a/.b", True),
        (b"/a/b..", True),
        (b"/proc/self", False),
        (b"/dev/null", False),
        (b"/dev/shm/x", True),
        (b"/device", True),
        (b"/\xff\xfe", True),
        (b"", False),
    ],
)
def test_what_is_the_kernels_own_name_for_it(raw: bytes, plain: bool) -> None:
    assert plain_text(raw) == (os.fsdecode(raw) if plain else None)


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        (b"/proc/self", b"/proc/%(pid)d"),
        (b"/proc/self/status", b"/proc/%(pid)d/status"),
        (b"/proc/selfish", b"/proc/selfish"),
        (b"/proc/thread-self/comm", b"/proc/%(pid)d/task/%(tid)d/comm"),
        (b"/proc/net/tcp", b"/proc/%(pid)d/net/tcp"),
        (b"/proc/mounts", b"/proc/%(pid)d/mounts"),
        (b"/dev/fd/3", b"/proc/%(pid)d/fd/3"),
        (b"/dev/fd", b"/proc/%(pid)d/fd"),
        (b"/dev/stdin", b"/proc/%(pid)d/fd/0"),
        (b"/dev/stderr", b"/proc/%(pid)d/fd/2"),
        (b"/dev/stdinx", b"/dev/stdinx"),
        (b"/etc/passwd", b"/etc/passwd"),
        (b"/proc/1/status", b"/proc/1/status"),
    ],
)
def test_whoever_asks_is_the_caller(raw: bytes, meant: bytes) -> None:
    asked = call()
    asked.tid = asked.process.pid + 1
    assert own_links(raw, asked) == (meant % {b"pid": asked.process.pid, b"tid": asked.tid})


@pytest.mark.parametrize("link", ["/proc/self/cwd", "/dev/fd/{fd}", "/proc/thread-self/cwd", "/proc/self/fd/{fd}"])
def test_links_of_the_asker_lead_where_it_is(resolver: Resolver, asked: Call, tree: Path, link: str) -> None:
    fd = os.open(tree / "directory", os.O_RDONLY)
    before = os.getcwd()
    os.chdir(tree / "directory")
    try:
        path = link.format(fd=fd)
        assert resolver.locate(asked, AT_FDCWD, path.encode(), follow=True).path == f"{tree}/directory"
        assert (
            resolver.locate(asked, AT_FDCWD, f"{path}/inside".encode(), follow=True).path == f"{tree}/directory/inside"
        )
    finally:
        os.chdir(before)
        os.close(fd)


def test_links_hidden_behind_links_lead_there_too(resolver: Resolver, asked: Call, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/cwd")
    before = os.getcwd()
    os.chdir(tree)
    try:
        found = resolver.locate(asked, AT_FDCWD, os.fsencode(tmp_path / "link" / "file"), follow=True)
        assert found.path == f"{tree}/file"
    finally:
        os.chdir(before)


def test_nobody_goes_through_a_process_outside(asked: Call, tmp_path: Path) -> None:
    """What lies behind it is found all the same, to say what would happen without a fence."""
    strict = Resolver(lambda pid: False, Identities())
    (tmp_path / "link").symlink_to(f"/proc/{os.getpid()}/cwd")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        (tmp_path / "file").touch()
        found = strict.locate(asked, AT_FDCWD, os.fsencode(tmp_path / "link" / "file"), follow=True)
    finally:
        os.chdir(before)
    assert found.errno == errno.EACCES
    assert found.outside == f"{tmp_path}/link/file"
    assert found.path == f"{tmp_path.resolve()}/file"
