"""What a process says of itself goes into the record or is left out; it keeps nothing from being recorded."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fence_core.broker import judging
from fence_core.broker.processes import Process
from fence_core.broker.scopes import Binding
from fence_core.broker.services import control
from fence_core.broker.services.recorder import Attempt, Recorder
from fence_core.events.model import Owner
from fence_core.kernel import signals
from fence_core.policy.requests import Write
from tests.unit.broker.kit import Sessions, sessions


@pytest.fixture
def nested() -> Iterator[Sessions]:
    with sessions() as made:
        yield made


class Table:
    """The processes that a test has made."""

    def __init__(self) -> None:
        self.by_pid: dict[int, Process] = {}

    def add(self, pid: int, account: Binding, parent: Process | None = None) -> Process:
        process = Process(pid, -1, parent, account)
        process.stacks = parent.stacks if parent is not None else None
        self.by_pid[pid] = process
        return process

    def chain(self, process: Process, worker: object) -> tuple[str, ...]:
        return ()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def recorder(table: Table) -> Recorder:
    return Recorder(table, stacks_work=True)  # type: ignore[arg-type]


# ---------------------------------------------------------------- owners


def recorded_owner(recorder: Recorder, table: Table, worker: Any) -> Owner | None:
    process = table.add(os.getpid(), worker.now())
    (objection,) = judging.objections(worker.now(), Write("open", "/etc/passwd"))
    record = recorder.note(Attempt(process, process.pid, objection, errno.EACCES))
    assert worker.page.count() == 1
    assert worker.scope.ledger.take(worker.number, "test_it.py::test") == [record]
    return record.made.owner


def test_the_fixture_at_work_is_recorded(recorder: Recorder, table: Table, nested: Sessions) -> None:
    worker = nested.worker()
    worker.page.write(b"test_it.py::test\0server\0module\0/shop/conftest.py\0" + b"12", 2, 0)
    assert recorded_owner(recorder, table, worker) == Owner("server", "module", "/shop/conftest.py", 12)


@pytest.mark.parametrize(
    "said", [b"", b"x", b"a\0b\0c\0", b"a\0b\0c\0-1", b"a\0b\0c\0x", b"a\0b\0c\0" + b"9" * 5000, b"\0" * 50]
)
def test_what_names_no_fixture_keeps_nothing_from_being_recorded(
    recorder: Recorder, table: Table, nested: Sessions, said: bytes
) -> None:
    worker = nested.worker()
    worker.page.write(b"test_it.py::test\0" + said, 2, 0)
    assert recorded_owner(recorder, table, worker) is None


# ---------------------------------------------------------------- pipes for stacks


def says(process: Process, signal: int, fd: int = 3) -> bool:
    """Whether it is taken that the handler of this signal stands."""
    return "error" not in control._stacks(SimpleNamespace(), process, {"signal": signal, "fd": fd, "inquiry": 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("signal", [0, -1, 2, 9, signals.SIGRTMAX + 1, 1 << 40, 10**100])
def test_what_is_no_signal_for_stacks(recorder: Recorder, table: Table, nested: Sessions, signal: int) -> None:
    process = table.add(1, nested.account({}))
    os.close(recorder.open_pipe(process))
    assert not says(process, signal)
    assert process.stacks is not None
    assert process.stacks.signal == 0


def test_a_fork_does_not_say_how_those_with_the_same_pipe_are_asked(
    recorder: Recorder, table: Table, nested: Sessions
) -> None:
    process = table.add(1, nested.account({}))
    os.close(recorder.open_pipe(process))
    assert says(process, signals.SIGRTMAX - 3)
    fork = table.add(2, nested.account({}), process)
    assert not says(fork, signals.SIGRTMAX - 4, 7)
    assert process.stacks is not None
    assert (process.stacks.signal, process.stacks.target_fd) == (signals.SIGRTMAX - 3, 3)


def test_a_pipe_stays_open_while_anybody_has_it(recorder: Recorder, table: Table, nested: Sessions) -> None:
    process = table.add(1, nested.account({}))
    os.close(recorder.open_pipe(process))
    fork = table.add(2, nested.account({}), process)
    shared = process.stacks
    assert shared is not None
    os.close(recorder.open_pipe(fork))  # as a nested session does
    os.fstat(shared.read_fd)
    del table.by_pid[1]
    recorder.ended(process)
    with pytest.raises(OSError):
        os.fstat(shared.read_fd)


def test_pipes_do_not_add_up(recorder: Recorder, table: Table, nested: Sessions) -> None:
    """Whoever tries to execute a program has no pipe any more, and may ask for another one."""
    process = table.add(1, nested.account({}))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        os.close(recorder.open_pipe(process))
        process.stacks = None
    assert len(os.listdir("/proc/self/fd")) <= before + 1
