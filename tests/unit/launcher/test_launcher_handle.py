"""What a process inside the fence holds: what it asks, what it makes of the answers, what it does without asking."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fence_core.errors import BrokerError
from fence_core.launcher import handle
from fence_core.launcher.handle import Fence
from fence_core.link import control, doors, page
from fence_core.link.operations import Operation
from fence_core.link.page import Page
from fence_core.untouched import real

WELCOME = {
    "role": "nested",
    "mode": "warn",
    "layers": ["seccomp"],
    "source": "here",
    "withheld": ["TOKEN"],
    "closed": [[7, "/x"]],
    "stacks": False,
    "watches_reads": True,
    "announces_forks": False,
    "packages": [["/p/a", "session"]],
}


class Broker:
    """Behind the doors: answers what it was told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Operation, dict[str, Any]]] = []
        self.answers: dict[Operation, Callable[[], bytes]] = {
            control.HELLO: lambda: control.answer(WELCOME),
            control.SETTLE: lambda: control.answer({}),
            control.BYE: lambda: control.answer({}),
            control.FORK_SERVER: lambda: control.answer({}),
        }
        self.page = page.create()
        self.own = Page(self.page)
        self.closed: set[bytes] = set()
        self._threads: list[threading.Thread] = []

    def knock(self, door: bytes) -> int | None:
        if door in self.closed:
            return None
        if door == doors.PAGE:
            return os.dup(self.page)
        assert door == doors.CONTROL
        ours, theirs = socket.socketpair()
        self._threads.append(threading.Thread(target=self._serve, args=(ours,)))
        self._threads[-1].start()
        return theirs.detach()

    def _serve(self, line: socket.socket) -> None:
        with line:
            received = b""
            while not received.endswith(b"\n"):
                received += line.recv(1 << 16)
            operation, request = control.read_request(received)
            self.asked.append((operation, request))
            answer = self.answers[operation]()
            for start in range(0, len(answer), 3):  # in pieces
                line.sendall(answer[start : start + 3])

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self.own.release()
        os.close(self.page)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    found = Broker()
    monkeypatch.setattr(doors, "knock", found.knock)
    yield found
    found.close()


def test_it_says_who_it_is_and_is_told_where(broker: Broker) -> None:
    fence = Fence("nested", {"policy": {}})
    ((operation, greeting),) = broker.asked
    assert operation is control.HELLO
    assert (greeting["role"], greeting["config"]) == ("nested", {"policy": {}})
    assert (fence.role, fence.mode, fence.layers, fence.source) == ("nested", "warn", ("seccomp",), "here")
    assert (fence.withheld, fence.closed, fence.watches_reads) == (("TOKEN",), ((7, "/x"),), True)
    address, token = greeting["note"]
    fence.enter("t.py::test_a", "call", 2)
    assert page.read_note(os.getpid(), address, token) == ("t.py::test_a", 3, 2)
    fence.close()


def test_a_phase_is_written_and_asks_nobody(broker: Broker) -> None:
    fence = Fence("nested", None)
    for nodeid, phase, policy in (("a", "setup", 0), ("a", "call", 0), ("a", "call", 4), ("b", "teardown", 4)):
        fence.enter(nodeid, phase, policy)
        found, number, chosen = broker.own.read()
        assert (found, chosen, fence.phase()) == (nodeid, policy, phase)
        assert number == broker.own.phase()
    assert len(broker.asked) == 1
    assert fence.violation_count() == 0
    broker.own.add_violation()
    assert fence.violation_count() == 1
    fence.close()


def test_a_nested_session_says_goodbye(broker: Broker) -> None:
    fence = Fence("nested", None)
    fence.close()
    assert broker.asked[-1][0] is control.BYE
    fence.enter("later", "call")  # goes nowhere
    assert broker.own.read()[0] != "later"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "has closed the line"),
        (b"{\n", "not understood"),
        (b'{"role": "worker"}\n', "not understood: mode"),
        (b'{"error": "no"}\n', "refused 'hello': no"),
    ],
)
def test_an_answer_that_is_none(broker: Broker, answer: bytes, why: str) -> None:
    broker.answers[control.HELLO] = lambda: answer
    with pytest.raises(BrokerError, match=why):
        Fence("worker", None)


def test_violations_that_are_none(broker: Broker) -> None:
    fence = Fence("nested", None)
    broker.answers[control.TAKE] = lambda: control.answer({"violations": [{"what": 3}]})
    with pytest.raises(BrokerError, match="not understood"):
        fence.take("t.py::test_a")
    assert broker.asked[-1][1]["by_fork"] is False
    fence.close()


@pytest.mark.parametrize("door", [doors.CONTROL, doors.PAGE])
def test_a_door_that_nobody_opens(broker: Broker, door: bytes) -> None:
    broker.closed.add(door)
    with pytest.raises(BrokerError):
        Fence("nested", None)


def test_the_limit_of_descriptors_is_raised_for_a_moment(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may have used all up, or lowered their limit."""
    limits: list[tuple[int, int]] = []
    knocks = iter((None, 5))
    monkeypatch.setattr(doors, "knock", lambda door: next(knocks))
    monkeypatch.setattr(real, "getrlimit", lambda which: (3, 100))
    monkeypatch.setattr(real, "setrlimit", lambda which, to: limits.append(to))
    assert handle._line() == 5
    assert limits == [(100, 100), (3, 100)]


def test_a_fork_server_is_told_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        class _forkserver:  # noqa: N801 - as multiprocessing has it
            _forkserver_pid = 4711

    monkeypatch.setitem(real.modules, "multiprocessing.forkserver", Module)  # type: ignore[arg-type]
    fence = Fence("nested", None)
    fence.enter("a", "call")
    fence.enter("a", "teardown")
    told = [request["pid"] for operation, request in broker.asked if operation is control.FORK_SERVER]
    assert told == [4711]
    fence.close()
