"""Which signals are passed on, what becomes of what a session left behind, and what the run ends with."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fence_core.kernel import signals
from fence_core.kernel.signals import SignalInfo
from fence_core.launcher import session_report, supervisor
from fence_core.launcher.plan import Host, Plan
from fence_core.launcher.session_report import SessionReport, exit_status
from fence_core.launcher.supervisor import GRACE_S, TERM_S, Supervisor
from fence_core.link import start
from fence_core.link.start import Walls

HOST = Host("it", passing=(0, 5), failed=1)
CHILD, WITNESS, SENDER = 1 << 22, (1 << 22) + 1, 77
"""No process has such numbers: PID_MAX_LIMIT."""


class FakeBroker:
    """The loop, whose time goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.finished = False
        self.loop = self
        self.others = None
        self.processes = SimpleNamespace(started_by=lambda pid: "t.py::test_a" if pid == 8 else "")

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, callback))

    def run_for(self, seconds: float) -> None:
        until = self.now + seconds
        while not self.finished:
            due = min(self.timers, key=lambda timer: timer[0], default=None)
            if due is None or due[0] > until:
                break
            self.timers.remove(due)
            self.now = due[0]
            due[1]()
        self.now = until


class Case:
    """A supervisor whose processes are imagined."""

    def __init__(self, leftovers: str) -> None:
        self.broker = FakeBroker()
        self.ours, self.guardian = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        walls = Walls(True, True, True, True)
        plan = Plan("enforce", (), walls, False, False, leftovers, HOST, (), True, ())  # type: ignore[arg-type]
        self.members: list[int] = []
        self.asked: list[bytes] = []
        self.killed: list[tuple[int, int]] = []
        broker: Any = self.broker
        self.it = Supervisor(CHILD, self.ours, plan, SessionReport(HOST))
        self.it._broker = broker

    def ask(self, command: bytes) -> list[int]:
        """As the guardian would."""
        if command in (start.TERMINATE, start.KILL):
            self.asked.append(command)
            return []
        return self.members

    def arrives(self, *found: tuple[int, int, int]) -> None:
        """Signals: number, who sent it (si_code), its pid."""
        infos = [SignalInfo(number, code, pid, 0) for number, code, pid in found]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(signals, "read_signalfd", lambda fd: infos)
            self.it._signalled()

    def ends(self, status: int = 0) -> None:
        self.it._status = status
        self.it._child_ended()


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Case]]:
    made: list[Case] = []

    def make(leftovers: str = "end") -> Case:
        case = Case(leftovers)
        made.append(case)
        monkeypatch.setattr(os, "kill", lambda pid, number: case.killed.append((pid, number)))
        monkeypatch.setattr(supervisor.time, "monotonic", lambda: case.broker.now)
        monkeypatch.setattr(case.it, "_ask", case.ask)
        return case

    yield make
    for each in made:
        os.close(each.it._signals)
        each.ours.close()
        each.guardian.close()


# ---------------------------------------------------------------- what the run ends with


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("code", [0, 1, 2, 5, 255])
def test_a_broken_run_claims_nothing(code: int, broken: bool) -> None:
    assert exit_status(code, HOST, broken=broken) == (1 if broken and code in (0, 5) else code)


def test_another_host_has_other_numbers() -> None:
    assert exit_status(5, Host("make"), broken=True) == 5
    assert exit_status(0, Host("make", failed=9), broken=True) == 9


# ---------------------------------------------------------------- signals


def test_what_the_terminal_sends_is_not_passed_on(case: Callable[..., Case]) -> None:
    """The kernel has sent it to the whole group."""
    found = case()
    found.arrives(*((number, signals.SI_KERNEL, 0) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)))
    assert found.killed == []


def test_what_the_kernel_sends_to_one_process_is(case: Callable[..., Case]) -> None:
    found = case()
    found.arrives((signal.SIGALRM, signals.SI_KERNEL, 0))
    assert found.killed == [(CHILD, signal.SIGALRM)]


def test_without_a_witness_everything_is_passed_on(case: Callable[..., Case]) -> None:
    found = case()
    found.arrives((signal.SIGINT, signals.SI_USER, SENDER), (signal.SIGUSR1, signals.SI_USER, SENDER))
    assert found.killed == [(CHILD, signal.SIGINT), (CHILD, signal.SIGUSR1)]


@pytest.fixture
def witnessed(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> Case:
    """With a witness that has spoken."""
    found = case()
    found.it._witness = WITNESS
    monkeypatch.setattr(found.it, "_witness_has_spoken", lambda number: True)
    monkeypatch.setattr(found.it, "_read_notes", lambda: None)
    return found


def test_what_the_witness_has_not_got_is_passed_on(witnessed: Case) -> None:
    witnessed.arrives((signal.SIGINT, signals.SI_USER, SENDER))
    assert witnessed.killed == []  # its sender may be about to signal the group
    witnessed.broker.run_for(1)
    assert witnessed.killed == [(CHILD, signal.SIGINT)]


def test_what_the_whole_group_has_got_is_not(witnessed: Case) -> None:
    witnessed.it._noted[(signal.SIGINT, SENDER)] = witnessed.broker.now
    witnessed.arrives((signal.SIGINT, signals.SI_USER, SENDER))
    witnessed.broker.run_for(1)
    assert witnessed.killed == []
    witnessed.arrives((signal.SIGINT, signals.SI_USER, SENDER))  # and then to this process alone
    witnessed.broker.run_for(1)
    assert witnessed.killed == [(CHILD, signal.SIGINT)]


def test_twice_at_once_is_once(witnessed: Case) -> None:
    """As `timeout` does: to the process, and to its group."""
    witnessed.arrives((signal.SIGTERM, signals.SI_USER, SENDER))
    witnessed.arrives((signal.SIGTERM, signals.SI_USER, SENDER))
    witnessed.broker.run_for(1)
    assert witnessed.killed == [(CHILD, signal.SIGTERM)]


def test_a_witness_that_has_not_spoken_is_waited_for(witnessed: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnessed.it, "_witness_has_spoken", lambda number: False)
    witnessed.arrives((signal.SIGTERM, signals.SI_USER, SENDER))
    witnessed.broker.run_for(0.1)
    assert witnessed.killed == []
    witnessed.broker.run_for(60)
    assert witnessed.killed == [(CHILD, signal.SIGTERM)], "it is gone, or hangs"


def test_going_on_takes_a_stop_away(witnessed: Case) -> None:
    witnessed.arrives((signal.SIGTSTP, signals.SI_USER, SENDER))
    witnessed.arrives((signal.SIGCONT, signals.SI_USER, SENDER))
    witnessed.broker.run_for(1)
    assert {number for pid, number in witnessed.killed if pid == CHILD} == {signal.SIGCONT}


# ---------------------------------------------------------------- what was left behind


def test_nothing_was_left(case: Callable[..., Case]) -> None:
    found = case()
    found.ends()
    assert found.broker.finished
    assert found.asked == []


def test_helpers_have_a_moment_to_see_that_it_is_over(case: Callable[..., Case]) -> None:
    found = case()
    found.members = [8]
    found.ends()
    found.broker.run_for(GRACE_S / 2)
    assert not found.broker.finished
    found.members = []
    found.broker.run_for(GRACE_S / 4)
    assert found.broker.finished
    assert found.asked == []


def test_leftovers_are_named_and_ended(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> None:
    found = case()
    monkeypatch.setattr(supervisor.process, "argv", lambda pid: ("sleep", "9\n"))
    found.members = [8, 9]
    found.ends()
    found.broker.run_for(GRACE_S * 1.5)
    assert found.it._left == [r"sleep 9\n (pid 8, started by t.py::test_a)", r"sleep 9\n (pid 9)"]
    assert found.asked == [start.TERMINATE]
    found.members = []
    found.broker.run_for(TERM_S / 2)
    assert found.broker.finished


def test_who_does_not_end_is_killed_and_then_left_alone(case: Callable[..., Case]) -> None:
    found = case()
    found.members = [8]
    found.ends()
    found.broker.run_for(GRACE_S + TERM_S * 1.2)
    assert found.asked == [start.TERMINATE, start.KILL]
    assert not found.broker.finished
    found.broker.run_for(TERM_S * 1.2)
    assert found.broker.finished


def test_leftovers_are_waited_for(case: Callable[..., Case]) -> None:
    found = case("wait")
    found.members = [8]
    found.ends()
    found.broker.run_for(3600)
    assert not found.broker.finished
    assert found.asked == []
    found.members = []
    found.broker.run_for(1)
    assert found.broker.finished


def test_a_pipe_of_its_own_that_is_broken_is_nobody_elses(case: Callable[..., Case]) -> None:
    found = case()
    found.arrives((signal.SIGPIPE, signals.SI_USER, os.getpid()))
    assert found.killed == []
    found.arrives((signal.SIGPIPE, signals.SI_USER, SENDER))
    found.broker.run_for(1)
    assert found.killed == [(CHILD, signal.SIGPIPE)]


def test_a_signal_ends_the_waiting(case: Callable[..., Case]) -> None:
    found = case("wait")
    found.members = [8]
    found.ends()
    found.arrives((signal.SIGUSR1, signals.SI_USER, SENDER))
    found.broker.run_for(10)
    assert found.asked == []
    found.arrives((signal.SIGINT, signals.SI_USER, SENDER))
    found.broker.run_for(1)
    assert found.asked == [start.TERMINATE]
    assert found.it._status == signal.SIGINT
    assert found.killed == [], "the child has ended"


# ---------------------------------------------------------------- what it says in the end


class Told:
    """A ledger, and what was said of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: list[Any] = []
        self.dropped = 0
        self.shown = 0
        self.lines: list[str] = []
        self.recorder = SimpleNamespace(lost_one=False)
        self._broker: Any = SimpleNamespace(recorder=self.recorder, scope=SimpleNamespace(ledger=self), others=None)
        monkeypatch.setattr(session_report, "say", self.lines.append)
        monkeypatch.setattr(session_report, "_line", lambda record: record.text)

    def unsettled(self) -> list[Any]:
        return self.records[self.shown :]

    def add(self, text: str, state: str = "failing") -> None:
        self.records.append(SimpleNamespace(text=text, made=SimpleNamespace(state=state)))

    def is_broken(self, status: int = 0) -> bool:
        return SessionReport(HOST)._report(self._broker, status, [])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_of_a_clean_run_nothing_is_said(told: Told) -> None:
    assert not told.is_broken()
    assert told.lines == []


def test_what_came_too_late_for_the_report(told: Told) -> None:
    for number in range(53):
        told.add(f"number {number}")
    told.shown = 1
    assert told.is_broken(1 << 8)
    assert told.lines[1] == "  number 1"
    assert told.lines[-1] == "  and 2 more"


def test_warnings_break_nothing(told: Told) -> None:
    told.add("warned", state="warning")
    assert not told.is_broken()
    assert "  warned" in told.lines


@pytest.mark.parametrize(("status", "said"), [(0, True), (5 << 8, True), (1 << 8, False), (signal.SIGKILL, False)])
def test_a_script_that_claims_success_although_violations_were_shown(told: Told, status: int, said: bool) -> None:
    told.add("first")
    told.add("second")
    told.shown = 2
    assert told.is_broken(status)
    assert any("the script ended with" in line and "(first; and 1 more)" in line for line in told.lines) is said


def test_what_was_not_kept_breaks_the_run(told: Told) -> None:
    told.dropped = 7
    assert told.is_broken()
    assert "7 further violations" in told.lines[0]


def test_what_was_lost_breaks_the_run(told: Told) -> None:
    told.recorder.lost_one = True
    assert told.is_broken()
    assert "please report it" in told.lines[0]


# ---------------------------------------------------------------- a guardian that has to be told


def test_the_guardian_is_told_of_each_process(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.process, "start_time", lambda pid: pid * 10)
    found = case()
    found.it.tell(8)
    assert start.PACKET.unpack(found.guardian.recv(start.PACKET.size)) == (start.KNOW, 8, 80)


def test_a_guardian_that_is_busy_is_told_later(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.process, "start_time", lambda pid: 1)
    found = case()
    for pid in range(2000):
        found.it.tell(pid)
    assert found.it._untold, "more than the socket holds"
    known = 0
    while found.it._untold:
        known += bool(found.guardian.recv(start.PACKET.size))
        found.it._tell_all(socket.MSG_DONTWAIT)
    found.ours.shutdown(socket.SHUT_WR)
    while found.guardian.recv(start.PACKET.size):
        known += 1
    assert known == 2000
