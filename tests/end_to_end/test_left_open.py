"""What whoever starts pytest has left open: the tests get what leads nowhere, and nothing else."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs

TEST = """
    import json, os

    LEFT = json.load(open("left.json"))

    def is_open(fd):
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    def test_it():
        with open("found.json", "w") as file:
            json.dump({name: is_open(fd) for name, fd in LEFT.items()}, file)

    def test_write():
        try:
            os.write(LEFT["appended"], b"written outside")
        except OSError as error:
            assert error.errno == 9
"""
CLOSED = {
    "written", "both", "appended", "connected", "listening", "datagram", "pair", "memory", "process", "namespace",
    "proc",
}  # fmt: skip
KEPT = {"read", "directory", "pipe", "written pipe", "named pipe", "terminal", "null", "event", "poll", "name"}


class Left:
    """Descriptors of each kind, open here."""

    def __init__(self, directory: Path) -> None:
        self.outside = directory / "outside.txt"
        self.outside.write_text("")
        self.read, self.written_pipe = os.pipe()
        self.peer = socket.create_server(("127.0.0.1", 0))
        self.terminals = pty.openpty()
        os.mkfifo(directory / "fifo")
        connected = socket.create_connection(self.peer.getsockname())
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.connect(("127.0.0.1", 9))
        pair = socket.socketpair()
        self.objects = [self.peer.accept()[0], pair[1], select.epoll()]
        self.fds = {
            "written": os.open(self.outside, os.O_WRONLY),
            "both": os.open(self.outside, os.O_RDWR),
            "appended": os.open(self.outside, os.O_WRONLY | os.O_APPEND),
            "connected": connected.detach(),
            "listening": os.dup(self.peer.fileno()),
            "datagram": datagram.detach(),
            "pair": pair[0].detach(),
            "memory": os.memfd_create("x"),
            "process": os.pidfd_open(os.getpid()),
            "namespace": os.open("/proc/self/ns/net", os.O_RDONLY),
            "proc": os.open("/proc/self/environ", os.O_RDONLY),
            "read": os.open(self.outside, os.O_RDONLY),
            "directory": os.open(directory, os.O_RDONLY),
            "pipe": self.read,
            "written pipe": self.written_pipe,
            "named pipe": os.open(directory / "fifo", os.O_RDWR),
            "terminal": self.terminals[1],
            "null": os.open("/dev/null", os.O_WRONLY),
            "event": os.eventfd(0) if hasattr(os, "eventfd") else os.open("/dev/null", os.O_RDONLY),
            "poll": os.dup(self.objects[2].fileno()),
            "name": os.open(self.outside, os.O_PATH),
        }

    def close(self) -> None:
        for fd in {*self.fds.values(), self.terminals[0]}:
            os.close(fd)
        for each in (*self.objects, self.peer):
            each.close()


@pytest.fixture
def left(runs: Runs) -> Iterator[Left]:
    found = Left(runs.directory)
    yield found
    found.close()


def run(runs: Runs, left: Left, *args: str, fenced: bool = True, more: str = "") -> tuple[Ended, set[str]]:
    """How it ended, and the names of what the test had."""
    (runs.directory / "test_it.py").write_text("\n".join(line[4:] for line in (TEST + more).splitlines()))
    (runs.directory / "left.json").write_text(json.dumps(left.fds))
    ended = runs.pytest("-p", "no:cacheprovider", *args, fenced=fenced, pass_fds=tuple(left.fds.values()))
    found = json.loads((runs.directory / "found.json").read_text())
    return ended, {name for name, is_open in found.items() if is_open}


def test_control(runs: Runs, left: Left) -> None:
    """Without a fence all of it is there."""
    ended, found = run(runs, left, fenced=False)
    assert ended.status == 0, ended
    assert found == CLOSED | KEPT
    assert left.outside.read_text() == "written outside"


def test_closed_and_named(runs: Runs, left: Left) -> None:
    ended, found = run(runs, left)
    assert ended.status == 0, ended
    assert found == KEPT
    assert left.outside.read_text() == ""
    port = left.peer.getsockname()[1]
    ended.has(
        rf"^fence: closed what was left open: .*\b{left.fds['written']} \({left.outside}\)",
        rf"\b{left.fds['connected']} \(socket to 127\.0\.0\.1:{port}\)",
        rf"\b{left.fds['listening']} \(socket at 127\.0\.0\.1:{port}\)",
        "and 1 more; --fence-keep-fd=N keeps one",
    )


def test_keep(runs: Runs, left: Left) -> None:
    """By the command line and the configuration, which add up."""
    (runs.directory / "pyproject.toml").write_text(
        f"[tool.pytest.ini_options]\n[tool.fence]\nkeep_fds = [{left.fds['appended']}, 999]\n"
    )
    ended, found = run(runs, left, f"--fence-keep-fd={left.fds['connected']}")
    assert ended.status == 0, ended
    assert found == KEPT | {"appended", "connected"}
    assert left.outside.read_text() == "written outside"


def test_where_reads_are_watched(runs: Runs, left: Left) -> None:
    (runs.directory / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\n[tool.fence]\ndeny_read = ["/nowhere"]\n'
    )
    ended, found = run(runs, left)
    assert ended.status == 0, ended
    assert found == KEPT - {"read"}


def test_audit_closes_nothing(runs: Runs, left: Left) -> None:
    ended, found = run(runs, left, "--fence-mode=audit")
    assert ended.status == 0, ended
    assert found == CLOSED | KEPT
    assert "left open" not in ended.out


def test_after_a_new_start(runs: Runs, left: Left) -> None:
    """Threads are running: the command is started once more, from a clean process."""
    (runs.directory / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    keep = f"--fence-keep-fd={left.fds['both']}"
    (runs.directory / "left.json").write_text(json.dumps(left.fds))
    ended, found = run(runs, left, "-p", "threaded", keep)
    assert ended.status == 0, ended
    assert found == KEPT | {"both"}
    ended.has("^fence: closed what was left open: ")


def test_what_a_plugin_opens_is_its_own(runs: Runs, left: Left) -> None:
    """Before the fence, on this side of the exec: log files, lines to an editor."""
    (runs.directory / "opener.py").write_text("import socket\nlog = open('log.txt', 'w')\npair = socket.socketpair()\n")
    more = """
    def test_plugin():
        import opener
        opener.log.write("x")
        opener.log.flush()
        opener.pair[0].send(b"x")
    """
    ended, found = run(runs, left, "-p", "opener", more=more)
    assert ended.status == 0, ended
    assert found == KEPT


def test_nothing_left_open(runs: Runs) -> None:
    (runs.directory / "test_it.py").write_text("def test_it(): pass")
    ended = runs.pytest("-p", "no:cacheprovider")
    assert ended.status == 0, ended
    assert "left open" not in ended.out


@pytest.mark.parametrize("wrong", ["2", "-1"])
def test_wrong_number(runs: Runs, wrong: str) -> None:
    ended = runs.pytest(f"--fence-keep-fd={wrong}")
    assert ended.status == 4, ended
    assert f"keep_fds[0]: is {wrong} (a number)" in ended.err
    assert "the number of a descriptor above 2" in ended.err
