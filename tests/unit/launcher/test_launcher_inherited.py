"""Which descriptors of the caller's the tests get: those that lead nowhere, and those that were chosen."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fence_core.launcher import inherited
from fence_core.launcher.inherited import Left, close_all, left_open

Opened = Callable[[int], int]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Descriptors as a caller leaves them open: not closed by an exec."""
    found: list[int] = []

    def leave_open(fd: int) -> int:
        os.set_inheritable(fd, True)
        found.append(fd)
        return fd

    yield leave_open
    for fd in found:
        try:
            os.close(fd)
        except OSError:
            pass  # by the test


def left(fd: int, *, watch_reads: bool = False) -> str:
    """What it leads to, if the tests do not get it; the process that runs this may have others."""
    return next((each.what for each in left_open(watch_reads=watch_reads) if each.fd == fd), "")


@pytest.mark.parametrize(
    ("flags", "watch_reads", "kept"),
    [
        (os.O_WRONLY, False, False),
        (os.O_RDWR, False, False),
        (os.O_RDONLY, False, True),
        (os.O_RDONLY, True, False),  # nobody would judge what is read from it
        (os.O_PATH, True, True),
    ],
)
def test_files(opened: Opened, tmp_path: Path, flags: int, watch_reads: bool, kept: bool) -> None:
    path = tmp_path / "run.log"
    path.write_text("")
    fd = opened(os.open(path, flags))
    assert left(fd, watch_reads=watch_reads) == ("" if kept else str(path))


@pytest.mark.parametrize("path", ["/proc/self/mem", "/proc/self/ns/net"])
def test_what_is_read_of_processes_is_no_file(opened: Opened, path: str) -> None:
    assert left(opened(os.open(path, os.O_RDONLY)))


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/urandom"])
def test_devices_that_lead_nowhere(opened: Opened, path: str) -> None:
    assert not left(opened(os.open(path, os.O_RDWR)), watch_reads=True)


def test_pipes_directories_and_events(opened: Opened, tmp_path: Path) -> None:
    for fd in (*os.pipe(), os.open(tmp_path, os.O_RDONLY), select.epoll().fileno()):
        if os.path.exists(f"/proc/self/fd/{fd}"):
            assert not left(opened(fd), watch_reads=True)


def test_what_a_process_can_do_outside_is_known_of_few(opened: Opened) -> None:
    assert left(opened(os.pidfd_open(os.getpid()))).startswith("anon_inode:")


def test_what_was_opened_since_stays(tmp_path: Path) -> None:
    """Python closes on exec what it opens: so it was not inherited."""
    with open(tmp_path / "x", "w") as file:
        assert not left(file.fileno())


def test_sockets_are_named(opened: Opened, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        with socket.create_connection((host, port)) as client:
            assert left(opened(os.dup(client.fileno()))) == f"socket to {host}:{port}"
        assert left(opened(os.dup(server.fileno()))) == f"socket at {host}:{port}"
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        assert left(opened(os.dup(local.fileno()))) == f"socket at {tmp_path / 's'}"
    with socket.socket() as fresh:
        assert left(opened(os.dup(fresh.fileno()))) == "socket"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("::1", 80, 0, 0), "[::1]:80"),
        (("192.0.2.7", 22), "192.0.2.7:22"),
        (("0.0.0.0", 0), ""),
        (b"\0name", "@name"),
        ("/run/x", "/run/x"),
        ("", ""),
        (None, ""),
        ((16, 0), ""),
    ],
)
def test_addresses(address: object, text: str) -> None:
    assert inherited._address(address) == text


def test_those_to_keep_are_kept(opened: Opened, tmp_path: Path) -> None:
    two = [opened(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT)) for name in "ab"]
    found = [each.fd for each in left_open(two[:1])]
    assert two[0] not in found
    assert two[1] in found
    assert not {0, 1, 2} & set(found)


def test_they_are_closed(opened: Opened, tmp_path: Path) -> None:
    fd = opened(os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT))
    close_all([Left(fd, "a")])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
