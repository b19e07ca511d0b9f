"""Copies of sockets that the broker has made: found again, let go in time, and given to nobody else."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fence_core.broker.services import made_sockets
from fence_core.broker.services.made_sockets import Copy, MadeSockets, NotHeldError
from fence_core.errors import KernelCallError

HERE = os.getpid()


class FakeLoop:
    """Calls back when the test says so."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], object]] = {}
        self.timers: list[Callable[[], object]] = []

    def watch(self, fd: int, callback: Callable[[], object], events: int = select.EPOLLIN) -> None:
        assert fd not in self.watched
        self.watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def after(self, seconds: float, callback: Callable[[], object]) -> None:
        self.timers.append(callback)

    def tick(self) -> None:
        due, self.timers = self.timers, []
        for callback in due:
            callback()


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def made(loop: FakeLoop) -> Iterator[MadeSockets]:
    kept = MadeSockets(loop, lambda pid: True)  # type: ignore[arg-type]
    yield kept
    for copy in kept.copies():
        copy.socket.close()


def given(made: MadeSockets, sock: socket.socket, pid: int = HERE) -> Copy:
    """This process is the one inside: it has the socket, and the other a copy."""
    copy = made.keep(sock.fileno(), pid)
    made.arrived(copy, sock.fileno())
    return copy


@contextmanager
def another_process_has(sock: socket.socket) -> Iterator[int]:
    """A child that holds what is open now, until the end of the block."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    os.close(reads)
    try:
        assert os.path.exists(f"/proc/{child}/fd/{sock.fileno()}")
        yield child
    finally:
        os.close(writes)
        os.waitpid(child, 0)


def test_a_copy_is_found_by_what_the_number_stands_for(made: MadeSockets) -> None:
    with socket.socket() as one, socket.socket() as two:
        first, second = given(made, one), given(made, two)
        assert made.find(HERE, one.fileno()) is first
        again = os.dup(one.fileno())
        assert made.find(HERE, again) is first
        os.dup2(two.fileno(), again)
        assert made.find(HERE, again) is second
        os.close(again)


@pytest.mark.parametrize("number", [-1, 1 << 20, -100])
def test_no_descriptor(made: MadeSockets, number: int) -> None:
    with pytest.raises(KernelCallError) as caught:
        made.find(HERE, number)
    assert caught.value.errno == errno.EBADF


def test_no_socket(made: MadeSockets, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file may be called like one."""
    named = tmp_path_factory.mktemp("x") / "socket:[1]"
    named.touch()
    with open(named) as file:
        with pytest.raises(KernelCallError) as caught:
            made.find(HERE, file.fileno())
        assert caught.value.errno == errno.ENOTSOCK
        with pytest.raises(NotHeldError):
            made.borrow(HERE, file.fileno())


def test_no_copy(made: MadeSockets) -> None:
    with socket.socket() as own, pytest.raises(NotHeldError) as caught:
        made.find(HERE, own.fileno())
    assert caught.value.errno == errno.EPERM


def test_a_call_is_made_on_the_socket_itself(made: MadeSockets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        given(made, own)
        lent = made.lend(HERE, own.fileno())
        assert (lent.domain, lent.type, lent.protocol) == (socket.AF_INET, socket.SOCK_DGRAM, 17)
        lent.socket.bind(("127.0.0.1", 0))
        lent.close()
        assert own.getsockname()[1]
        assert made.find(HERE, own.fileno())


def test_a_socket_may_change_its_family(made: MadeSockets) -> None:
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other,
    ):
        other.bind(("::ffff:127.0.0.1", 0))
        own.connect(other.getsockname())
        given(made, own)
        own.setsockopt(socket.IPPROTO_IPV6, 1, struct.pack("@i", socket.AF_INET))  # IPV6_ADDRFORM
        lent = made.lend(HERE, own.fileno())
        assert lent.domain == socket.AF_INET
        lent.close()


def test_a_stream_goes_when_it_listens(made: MadeSockets) -> None:
    with socket.socket() as own:
        copy = given(made, own)
        lent = made.lend(HERE, own.fileno())
        lent.socket.bind(("127.0.0.1", 0))
        lent.close()
        assert made.find(HERE, own.fileno()) is copy
        lent = made.lend(HERE, own.fileno())
        lent.socket.listen()
        lent.close()
        with pytest.raises(NotHeldError) as caught:
            made.find(HERE, own.fileno())
        assert made.listens(caught.value.inode)
        place = own.getsockname()
    with socket.socket() as client:
        assert client.connect_ex(place) == errno.ECONNREFUSED  # closed is closed


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_stream_goes_when_it_is_connected(made: MadeSockets, family: socket.AddressFamily) -> None:
    with socket.socket(family) as server, socket.socket(family) as own:
        server.bind(("127.0.0.1", 0) if family == socket.AF_INET else b"\0fence-test-%d" % HERE)
        server.listen()
        given(made, own)
        lent = made.lend(HERE, own.fileno())
        lent.socket.connect(server.getsockname())
        lent.close()
        with pytest.raises(NotHeldError) as caught:
            made.find(HERE, own.fileno())
        assert not made.take_begun(caught.value.inode)
        accepted, _ = server.accept()
        with accepted:
            own.close()
            assert accepted.recv(1) == b""


def test_a_connect_that_was_refused_may_be_tried_again(made: MadeSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
    with socket.socket() as own:
        copy = given(made, own)
        lent = made.lend(HERE, own.fileno())
        assert lent.socket.connect_ex(place) == errno.ECONNREFUSED
        lent.close()
        assert made.find(HERE, own.fileno()) is copy


def test_a_stream_is_watched_while_it_is_being_connected(made: MadeSockets, loop: FakeLoop) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.create_connection(server.getsockname())]
        with socket.socket() as own:
            own.setblocking(False)
            copy = given(made, own)
            for _ in range(3):  # until the queue is full
                more = socket.socket()
                more.setblocking(False)
                waiting.append(more)
                more.connect_ex(server.getsockname())
            lent = made.lend(HERE, own.fileno())
            assert lent.socket.connect_ex(server.getsockname()) == errno.EINPROGRESS
            copy.begun = True
            lent.close()
            assert made.find(HERE, own.fileno()) is copy
            (settle,) = loop.watched.values()
            for each in waiting:
                each.close()
            for _ in waiting[:1]:
                server.accept()[0].close()
            assert select.select([], [own], [], 60)[1]
            settle()
            assert not loop.watched
            with pytest.raises(NotHeldError) as caught:
                made.find(HERE, own.fileno())
            assert made.take_begun(caught.value.inode)
            assert not made.take_begun(caught.value.inode)


def test_a_copy_in_use_outlives_its_entry(made: MadeSockets) -> None:
    with socket.socket() as own:
        copy = given(made, own)
        lent = made.lend(HERE, own.fileno())
        made.hand_over(copy)
        assert lent.socket.getsockname() == ("0.0.0.0", 0)
        lent.close()
        lent.close()


@pytest.mark.parametrize("how", ["asked", "by time"])
def test_what_nobody_has_goes(made: MadeSockets, loop: FakeLoop, how: str) -> None:
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("127.0.0.1", 0))
    place = own.getsockname()
    given(made, own)
    loop.tick()
    assert made.copies()
    assert not made.drop_closed()
    own.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(place)
        if how == "asked":
            assert made.drop_closed()
        else:
            loop.tick()
        assert not made.copies()
        other.bind(place)
    assert not loop.timers or how == "asked"


def test_what_somebody_else_has_stays(made: MadeSockets) -> None:
    """Forked, or passed on: only when the last has closed it is it closed."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    copy = given(made, own)
    with another_process_has(own) as child:
        own.close()
        assert not made.drop_closed()
        assert made.copies() == [copy]
        assert copy.pid == child
    assert made.drop_closed()


FIRST_THREAD_ENDS = """
import ctypes, os, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2): of this thread
"""


def test_what_a_process_has_whose_first_thread_has_ended(loop: FakeLoop) -> None:
    """The kernel says of that one that it has nothing, and no filter."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fd = own.fileno()
    child = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdin=subprocess.PIPE, pass_fds=[fd])
    made = MadeSockets(loop, lambda pid: pid not in (HERE, child.pid))  # type: ignore[arg-type]
    with child:
        copy = given(made, own, child.pid)
        assert copy.is_where_it_was()
        own.close()
        deadline = time.monotonic() + 60
        while os.listdir(f"/proc/{child.pid}/fd"):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert not copy.is_where_it_was()
        assert not made.drop_closed()
        assert copy.is_where_it_was()
        assert made.find(copy.pid, fd) is copy
        child.communicate()
    assert made.drop_closed()


def test_processes_outside_are_not_looked_at(loop: FakeLoop) -> None:
    asked: list[int] = []
    made = MadeSockets(loop, lambda pid: bool(asked.append(pid)))  # type: ignore[arg-type]
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with another_process_has(own) as child:
        given(made, own)
        own.close()
        assert made.drop_closed()
        assert child in asked
        assert HERE not in asked
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as more:
            given(made, more)
        assert made.drop_closed()
        assert asked.count(child) == 1


@pytest.mark.parametrize("ours", [True, False])
def test_a_process_that_shows_nobody_its_table(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    """One of ours may have anything; one of another run that is fenced beside this one has nothing of ours."""

    def closed(pid: str) -> tuple[str, list[str]]:
        raise PermissionError(errno.EACCES, "Permission denied", f"/proc/{pid}/fd")

    monkeypatch.setattr(made_sockets, "_table", closed)
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with another_process_has(own) as child:
        made = MadeSockets(loop, lambda pid: pid == child, lambda pid: ours)  # type: ignore[arg-type]
        copy = given(made, own)
        own.close()
        assert made.drop_closed() is not ours
        assert made.copies() == ([copy] if ours else [])
    for copy in made.copies():
        copy.socket.close()


def test_before_somebody_sends_there_it_goes(made: MadeSockets) -> None:
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    given(made, own)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        sender = given(made, client)
        own.close()
        made.look_at_receivers(sender)
        assert made.copies() == [sender]


def test_what_is_in_a_message_stays(made: MadeSockets, loop: FakeLoop) -> None:
    """But where its name is asked for: then it may have been received, and closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind(("127.0.0.1", 0))
        copy, sender = given(made, own), given(made, other)
        closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        given(made, closed)
        made.passing(HERE, [0, -1, own.fileno()])
        socket.send_fds(ours, [b"x"], [own.fileno()])
        place = own.getsockname()
        own.close()
        closed.close()
        loop.tick()
        made.look_at_receivers(sender)
        assert not made.drop_closed()
        assert not made.drop_closed(b"\0another")
        assert made.copies() == [copy, sender]
        assert copy.name() == place[1]
        assert made.drop_closed(place[1])
        assert made.copies() == [sender]


def test_what_was_not_taken_goes(made: MadeSockets) -> None:
    with socket.socket() as own:
        copy = made.keep(own.fileno(), HERE)
        assert not made.drop_closed()  # it is on its way
        made.arrived(copy, -1)
        assert not made.copies()


def test_no_more_than_the_broker_may_have(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (128, 128))
    made = MadeSockets(loop, lambda pid: True)  # type: ignore[arg-type]
    kept = [socket.socket() for _ in range(64)]
    for each in kept:
        given(made, each)
    with socket.socket() as more:
        with pytest.raises(OSError, match="Too many open files in system"):
            made.keep(more.fileno(), HERE)
        kept.pop().close()
        given(made, more)
    for each in kept:
        each.close()
    assert made.drop_closed()


def test_what_was_open_before_is_adopted(made: MadeSockets) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        another_process_has(datagrams) as child,
    ):
        made.adopt(child)
        assert made.find(child, datagrams.fileno())
        for sock in server, client:
            with pytest.raises(NotHeldError):
                made.find(child, sock.fileno())
        assert made.listens(os.fstat(server.fileno()).st_ino)
