"""UNIX sockets that were made inside: by their files, and by the kernel's list of names."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fence_core.broker.paths.resolve import Located
from fence_core.broker.services import unix_sockets
from fence_core.broker.services.unix_sockets import UnixSockets, _holders, _listed

LIST = b"""Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/listening
0000000000000000: 00000003 00000000 00000000 0001 03 12 /run/listening
0000000000000000: 00000002 00000000 00000000 0002 01 13 @abstract
0000000000000000: 00000002 00000000 00010000 0001 01 14 @abstract
0000000000000000: 00000002 00000000 00000000 0001 01 15
0000000000000000: 00000002 00000000 00010000 0001 01 16 @with space
0000000000000000: 00000002 00000000 00010000 0005 01 17 @nul@inside
0000000000000000: 00000002 00000000 0001zz00 0001 01 18 /not/a/number
garbage
0000000000000000: 00000002 00000000 00000000 0001 01 19 @bound
"""
STREAM, DATAGRAM, PACKETS = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def test_the_kernels_list_is_read() -> None:
    found = {inode: (kind, listens, connected, name) for inode, kind, listens, connected, name in _listed(LIST)}
    assert set(found) == {11, 12, 13, 14, 15, 16, 17, 19}
    assert found[11] == (STREAM, True, False, b"/run/listening")
    assert found[12] == (STREAM, False, True, b"/run/listening")
    assert found[13] == (DATAGRAM, False, False, b"@abstract")
    assert found[15] == (STREAM, False, False, b"")
    assert found[16][3] == b"@with space"


@pytest.mark.parametrize(
    ("name", "kind", "holders"),
    [
        (b"\0abstract", STREAM, [14]),
        (b"\0abstract", DATAGRAM, [13]),
        (b"\0abstract", PACKETS, []),
        (b"\0missing", STREAM, []),
        (b"\0nul\0inside", PACKETS, [17]),
        (b"\0with space", STREAM, [16]),
        (b"\0bound", STREAM, [19]),
        (b"/run/listening", STREAM, [11]),
    ],
)
def test_who_may_have_a_name(name: bytes, kind: int, holders: list[int]) -> None:
    """Accepted sockets show the name of the listening one."""
    assert _holders(_listed(LIST), name, kind) == holders


def test_our_own_kernel_writes_it_so() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        name = b"\0fence-unit-%d" % os.getpid()
        sock.bind(name)
        sock.listen()
        with open("/proc/self/net/unix", "rb") as lines:
            assert _holders(_listed(lines.read()), name, STREAM) == [os.fstat(sock.fileno()).st_ino]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def known() -> UnixSockets:
    return UnixSockets(lambda seconds, callback: None)


def bound(stack: ExitStack, path: Path | bytes) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(path if isinstance(path, bytes) else str(path))
    sock.listen()
    return sock


def located(stack: ExitStack, path: Path) -> Located:
    directory = os.open(path.parent, os.O_PATH)
    stack.callback(os.close, directory)
    return Located(str(path), parent=str(path.parent), directory=directory, name=os.fsencode(path.name))


def has(known: UnixSockets, path: Path) -> bool | None:
    handle = os.open(path, os.O_PATH)
    try:
        return known.has_file(handle, os.fstat(handle), str(path))
    finally:
        os.close(handle)


def test_one_that_was_bound_inside_is_known_by_its_file(stack: ExitStack, known: UnixSockets, tmp_path: Path) -> None:
    path = tmp_path / "ours"
    sock = bound(stack, path)
    known.bound(sock.fileno(), located(stack, path))
    assert has(known, path)
    path.rename(tmp_path / "renamed")
    os.link(tmp_path / "renamed", tmp_path / "linked")
    assert has(known, tmp_path / "renamed")
    assert has(known, tmp_path / "linked")


def test_one_that_was_bound_outside_is_not(stack: ExitStack, known: UnixSockets, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    bound(stack, path)
    assert has(known, path) is False
    assert known.is_of_others(os.stat(path), str(path))


def test_nobodys_socket_may_be_removed(stack: ExitStack, known: UnixSockets, tmp_path: Path) -> None:
    path = tmp_path / "left behind"
    bound(stack, path).close()
    assert not known.is_of_others(os.stat(path), str(path))
    assert has(known, path) is False, "it may live in another network"


def test_one_that_the_kernel_binds_is_looked_for_later(stack: ExitStack, known: UnixSockets, tmp_path: Path) -> None:
    path = tmp_path / "ours"
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    known.expect(sock.fileno(), located(stack, path))
    assert len(known.pending) == 1
    known.settle()
    assert len(known.pending) == 1, "it is on its way"
    sock.bind(str(path))
    sock.listen()
    known.settle()
    assert known.pending == []
    assert has(known, path)


def test_what_never_comes_is_not_waited_for(
    stack: ExitStack, known: UnixSockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    known.expect(sock.fileno(), located(stack, tmp_path / "never"))
    later = unix_sockets.time.monotonic() + unix_sockets._PENDING_S + 1
    monkeypatch.setattr(unix_sockets.time, "monotonic", lambda: later)
    known.settle()
    assert known.pending == []


def test_where_something_is_the_kernel_binds_nothing(stack: ExitStack, known: UnixSockets, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    known.expect(sock.fileno(), located(stack, tmp_path / "file"))
    assert known.pending == []


def test_abstract_names(stack: ExitStack, known: UnixSockets) -> None:
    ours, theirs = (b"\0fence-%d-%s" % (os.getpid(), who) for who in (b"ours", b"theirs"))
    known.add(bound(stack, ours).fileno())
    bound(stack, theirs)
    asking = stack.enter_context(socket.socket(socket.AF_UNIX))
    assert known.has_abstract(asking, ours, STREAM, os.getpid()) is True
    assert known.has_abstract(asking, theirs, STREAM, os.getpid()) is False
    assert known.has_abstract(asking, b"\0fence-nobody", STREAM, os.getpid()) is None
    assert known.has_abstract(asking, ours, DATAGRAM, os.getpid()) is None


def test_files_are_kept_within_bounds(
    stack: ExitStack, known: UnixSockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_most", 3)
    for number in range(5):
        path = tmp_path / str(number)
        known.bound(bound(stack, path).fileno(), located(stack, path))
    assert len(known._files) == 3
    assert has(known, tmp_path / "4")
    (tmp_path / "3").unlink()
    path = tmp_path / "5"
    known.bound(bound(stack, path).fileno(), located(stack, path))
    assert has(known, tmp_path / "2"), "what has no name any more goes first"
