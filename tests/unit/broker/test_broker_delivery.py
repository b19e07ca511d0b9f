"""Answers on their way, by a kernel that does what the test says: delivered, taken back, kept, parked, handed over."""

from __future__ import annotations

import errno
import itertools
import math
import os
import select
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fence_core.broker import delivery, loop
from fence_core.broker.call import Call
from fence_core.broker.delivery import Delivery
from fence_core.broker.dispatch import Dispatch
from fence_core.broker.loop import Loop
from fence_core.broker.repeats import KEPT_S, Key
from fence_core.broker.reply import HandOver, Value, Wait
from fence_core.errors import KernelCallError
from fence_core.kernel import seccomp

KEY = Key(83, 0x1000, ("/a",))


class FakeKernel:
    """The listener of seccomp: who waits for an answer, and what it was."""

    fd = -1

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.taken_back: set[int] = set()
        self.answers: list[tuple[int, str, object]] = []
        self.add_fd_errors: list[int] = []

    def receive(self) -> tuple[int, ...] | None:
        return self.calls.pop(0) if self.calls else None

    def is_valid(self, id_: int) -> bool:
        return id_ not in self.taken_back

    def _answer(self, id_: int, how: str, what: object) -> bool:
        if id_ in self.taken_back:
            return False
        self.answers.append((id_, how, what))
        return True

    def reply_continue(self, id_: int) -> bool:
        return self._answer(id_, "continue", None)

    def reply_value(self, id_: int, value: int) -> bool:
        return self._answer(id_, "value", value)

    def reply_error(self, id_: int, number: int) -> bool:
        return self._answer(id_, "error", number)

    def add_fd(self, id_: int, fd: int, *, cloexec: bool, send: bool = False) -> int:
        if self.add_fd_errors:
            raise KernelCallError("ioctl", self.add_fd_errors.pop(0))
        if id_ in self.taken_back:
            raise KernelCallError("ioctl", errno.ENOENT)
        if send:
            self.answers.append((id_, "descriptor", (os.fstat(fd).st_ino, cloexec)))
        return 77


class FakeRepeats:
    def __init__(self) -> None:
        self.kept: dict[tuple[int, Key], object] = {}
        self.arrivals: list[tuple[int, Key]] = []
        self.expired = 0

    def key(self, tid: int, notification: tuple[int, ...]) -> Key:
        return KEY

    def take(self, tid: int, number: int, key: Key) -> Any:
        return self.kept.pop((tid, key), None)

    def keep(self, tid: int, key: Key, answer: object) -> None:
        self.kept[tid, key] = answer

    def arrived(self, tid: int, key: Key) -> None:
        self.arrivals.append((tid, key))
        self.kept.pop((tid, key), None)

    def expire(self) -> None:
        self.expired += 1


class World:
    """A loop with a clock of its own, and threads that have the signals they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.signals: set[int] = set()
        self.kernel = FakeKernel()
        self.repeats = FakeRepeats()
        self.faults: list[Exception] = []
        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(delivery, "_has_signal", lambda tid, *, main_thread: tid in self.signals)
        self.loop = Loop(self.faults.append)
        self.services: Any = SimpleNamespace(
            listener=self.kernel,
            unix=SimpleNamespace(pending=[], settle=lambda: None),
            drafts=SimpleNamespace(open=[]),
            processes=SimpleNamespace(find=lambda tid: SimpleNamespace(pid=tid, executing=set())),
        )

    def delivery(self, *, repeats: bool = True) -> Delivery:
        return Delivery(
            self.kernel,  # type: ignore[arg-type]
            self.loop,
            self.repeats if repeats else None,  # type: ignore[arg-type]
            lambda call, error: self.faults.append(error) or errno.EACCES,  # type: ignore[func-returns-value]
        )

    def call(self, id_: int = 1, tid: int = 10) -> Call:
        made = Call(self.services, (id_, tid, 0, 83, 0x1000, 0, 0, 0, 0, 0, 0))
        made.process = SimpleNamespace(pid=tid)  # type: ignore[assignment]
        return made

    def passes(self, seconds: float) -> None:
        """The loop's timers, in steps of a tick."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + delivery.WAIT_TICK_S, until)
            self.loop._tick()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            pass


# ---------------------------------------------------------------- sending


@pytest.mark.parametrize(
    ("answer", "told"), [(Value(5), ("value", 5)), (errno.EEXIST, ("error", errno.EEXIST)), (Value(0), ("value", 0))]
)
@pytest.mark.parametrize("key", [None, KEY])
def test_an_answer_that_arrives_is_over(world: World, answer: Any, told: tuple[str, int], key: Key | None) -> None:
    world.delivery().deliver(world.call(), key, answer)
    assert world.kernel.answers == [(1, *told)]
    assert world.repeats.kept == {}


def test_one_that_does_not_is_kept_for_when_the_call_is_made_again(world: World) -> None:
    world.kernel.taken_back.add(1)
    answer = Value(5)
    world.delivery().deliver(world.call(), KEY, answer)
    assert world.repeats.kept == {(10, KEY): answer}
    assert world.repeats.expired == 0
    world.passes(KEPT_S + 0.1)
    assert world.repeats.expired == 1


@pytest.mark.parametrize("repeats", [True, False])
def test_nothing_is_kept_of_what_may_be_done_twice(world: World, repeats: bool) -> None:
    world.kernel.taken_back.add(1)
    world.delivery(repeats=repeats).deliver(world.call(), None if repeats else KEY, Value(5))
    assert world.repeats.kept == {}


def test_an_answer_waits_for_a_signal_that_is_about_to_be_taken(world: World) -> None:
    world.signals.add(10)
    world.delivery().deliver(world.call(), KEY, Value(5))
    assert world.kernel.answers == []
    assert (10, KEY) in world.repeats.kept, "the signal may take the call back any moment"
    world.signals.clear()
    world.passes(delivery.WAIT_TICK_S)
    assert world.kernel.answers == [(1, "value", 5)]
    assert world.repeats.kept == {}


def test_but_not_for_ever(world: World) -> None:
    world.signals.add(10)
    world.delivery().deliver(world.call(), KEY, Value(5))
    world.passes((delivery._TICKS_FOR_A_SIGNAL - 1) * delivery.WAIT_TICK_S)
    assert world.kernel.answers == []
    world.passes(delivery.WAIT_TICK_S)
    assert world.kernel.answers == [(1, "value", 5)]


def test_the_signal_has_come_and_the_call_is_made_again(world: World) -> None:
    world.signals.add(10)
    world.delivery().deliver(world.call(), KEY, Value(5))
    world.kernel.taken_back.add(1)
    world.passes(1)
    assert world.kernel.answers == []
    assert (10, KEY) in world.repeats.kept


# ---------------------------------------------------------------- descriptors


@pytest.mark.parametrize("cloexec", [True, False])
def test_a_descriptor_is_handed_over_and_closed(world: World, pipe: tuple[int, int], cloexec: bool) -> None:
    inode = os.fstat(pipe[0]).st_ino
    world.delivery().deliver(world.call(), KEY, HandOver(pipe[0], cloexec=cloexec))
    assert world.kernel.answers == [(1, "descriptor", (inode, cloexec))]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


def test_before_linux_5_14_in_two_steps(world: World, pipe: tuple[int, int]) -> None:
    world.kernel.add_fd_errors = [errno.EINVAL]
    world.delivery().deliver(world.call(), KEY, HandOver(pipe[0], cloexec=True))
    assert world.kernel.answers == [(1, "value", 77)]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH])
def test_one_that_nobody_has_taken_stays_open_for_the_next_time(
    world: World, pipe: tuple[int, int], number: int
) -> None:
    world.kernel.add_fd_errors = [number]
    answer = HandOver(pipe[0], cloexec=True)
    world.delivery().deliver(world.call(), KEY, answer)
    assert world.repeats.kept == {(10, KEY): answer}
    os.fstat(pipe[0])


def test_a_table_that_is_full_is_the_callers_error(world: World, pipe: tuple[int, int]) -> None:
    world.kernel.add_fd_errors = [errno.EMFILE]
    world.delivery().deliver(world.call(), KEY, HandOver(pipe[0], cloexec=True))
    assert world.kernel.answers == [(1, "error", errno.EMFILE)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


# ---------------------------------------------------------------- calls that wait


class Waiting:
    def __init__(self, fd: int, *, deadline: float = math.inf) -> None:
        self.result: Any = None
        self.closed = 0
        self.wait = Wait(fd, self._poll, self._close, deadline)

    def _poll(self) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def _close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (Value(3), ("value", 3)),
        (errno.ECONNREFUSED, ("error", errno.ECONNREFUSED)),
        (OSError(errno.EPIPE, "broken"), ("error", errno.EPIPE)),
        (ValueError("a fault of ours"), ("error", errno.EACCES)),
    ],
)
def test_a_parked_call_is_answered_when_it_is_time(
    world: World, pipe: tuple[int, int], result: object, told: tuple[str, int]
) -> None:
    parked, kept = Waiting(pipe[1]), os.dup(pipe[0])
    made = world.call()
    made.keep(kept)
    world.delivery().park(made, KEY, parked.wait)
    world.passes(1)
    assert world.kernel.answers == []
    os.fstat(kept)
    parked.result = result
    world.passes(delivery.WAIT_TICK_S)
    assert world.kernel.answers == [(1, *told)]
    assert parked.closed == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)
    assert [type(error) for error in world.faults] == ([ValueError] if isinstance(result, ValueError) else [])


def test_what_cannot_be_waited_for_is_answered_at_once(
    world: World, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(fd: int, events: int) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    monkeypatch.setattr(world.loop, "_epoll", SimpleNamespace(register=no_more))
    parked, kept = Waiting(pipe[1]), os.dup(pipe[0])
    made = world.call()
    made.keep(kept)
    world.delivery().park(made, KEY, parked.wait)
    assert world.kernel.answers == [(1, "error", errno.EACCES)]
    assert parked.closed == 1
    assert not world.loop._watched
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)


def test_it_is_answered_as_soon_as_its_descriptor_is_ready(world: World, pipe: tuple[int, int]) -> None:
    parked = Waiting(pipe[1])
    world.delivery().park(world.call(), KEY, parked.wait)
    parked.result = Value(1)
    world.loop._look_around()
    assert world.kernel.answers == [(1, "value", 1)]
    assert not world.loop._watched


@pytest.mark.parametrize(
    ("deadline", "so_far", "told"),
    [
        (math.inf, 0, ("error", seccomp.ERESTARTSYS)),
        (2000.0, 0, ("error", errno.EINTR)),
        (math.inf, 4, ("value", 4)),
        (2000.0, 4, ("value", 4)),
    ],
)
def test_a_signal_ends_the_waiting(
    world: World, pipe: tuple[int, int], deadline: float, so_far: int, told: tuple[str, int]
) -> None:
    parked = Waiting(pipe[1], deadline=deadline)
    parked.wait.so_far = so_far
    world.delivery(repeats=False).park(world.call(), KEY, parked.wait)
    world.signals.add(10)
    world.passes(delivery.WAIT_TICK_S)
    assert world.kernel.answers == [(1, *told)]


def test_nobody_is_interrupted_whose_answer_is_there(world: World, pipe: tuple[int, int]) -> None:
    parked = Waiting(pipe[1])
    world.delivery(repeats=False).park(world.call(), KEY, parked.wait)
    world.signals.add(10)
    parked.result = Value(9)
    world.passes(delivery.WAIT_TICK_S)
    assert world.kernel.answers == [(1, "value", 9)]


def test_who_has_gone_leaves_nothing_behind(world: World, pipe: tuple[int, int]) -> None:
    parked = Waiting(pipe[1])
    world.delivery().park(world.call(), KEY, parked.wait)
    world.kernel.taken_back.add(1)
    world.passes(delivery.WAIT_TICK_S)
    assert (world.kernel.answers, parked.closed, world.loop._watched) == ([], 1, {})
    assert world.loop._timers == [], "with the last of them the ticking ends"


# ---------------------------------------------------------------- from the listener to the handler


class Faults:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def failed(self, call: Call, error: Exception) -> int:
        self.seen.append(str(error))
        return errno.EACCES

    def fault(self, tid: int, number: int, error: Exception) -> int:
        self.seen.append(str(error))
        return errno.EACCES


Step = Callable[[Any], list[tuple[int, str, object]]]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def step(world: World, faults: Faults) -> Step:
    def run(handler: Any) -> list[tuple[int, str, object]]:
        dispatch = Dispatch(
            world.services, world.loop, {83: handler}, world.repeats, faults  # type: ignore[arg-type]
        )  # fmt: skip
        world.kernel.calls.append((1, 10, 0, 83, 0x1000, 0, 0, 0, 0, 0, 0))
        dispatch.step()
        return world.kernel.answers

    return run


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (0, ("continue", None)),
        (errno.EPERM, ("error", errno.EPERM)),
        (Value(7), ("value", 7)),
        (4095, ("error", 4095)),
    ],
)
def test_what_a_handler_answers(step: Step, faults: Faults, reply: object, told: tuple[str, object]) -> None:
    assert step(lambda call: reply) == [(1, *told)]
    assert faults.seen == []


@pytest.mark.parametrize("nonsense", [4096, -1, None, True, "yes", b"", 1.0])
def test_what_is_no_answer_is_refused(step: Step, faults: Faults, nonsense: object) -> None:
    assert step(lambda call: nonsense) == [(1, "error", errno.EACCES)]
    assert faults.seen == [f"the handler answered {nonsense!r}"]


def test_a_handler_that_raises_has_refused_it(step: Step, faults: Faults) -> None:
    def raises(call: Call) -> int:
        raise RuntimeError("oops")

    assert step(raises) == [(1, "error", errno.EACCES)]
    assert faults.seen == ["oops"]


def test_what_was_kept_open_is_closed_with_the_answer(step: Step, pipe: tuple[int, int]) -> None:
    def keeps(call: Call) -> int:
        call.keep(pipe[0])
        os.fstat(pipe[0])
        return 0

    step(keeps)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


def test_a_call_that_is_made_again_is_answered_and_not_carried_out(world: World, step: Step) -> None:
    world.repeats.kept[10, KEY] = Value(3)
    assert step(lambda call: pytest.fail("carried out twice")) == [(1, "value", 3)]


def test_a_refusal_without_effect_is_not_kept(world: World, step: Step) -> None:
    world.kernel.taken_back.add(1)
    step(lambda call: errno.EEXIST)
    assert world.repeats.kept == {}
    step(lambda call: errno.EINPROGRESS)
    assert world.repeats.kept == {(10, KEY): errno.EINPROGRESS}


# ---------------------------------------------------------------- the loop


def test_timers_come_in_time_and_once(world: World) -> None:
    rung: list[str] = []
    world.loop.after(1.0, lambda: rung.append("one"))
    world.loop.after(0.5, lambda: rung.append("half"))
    assert world.loop._timeout_ms() == pytest.approx(501)
    world.passes(0.4)
    assert rung == []
    world.passes(0.7)
    assert rung == ["half", "one"]
    world.passes(5)
    assert len(rung) == 2
    assert world.loop._timeout_ms() is None


def test_a_timer_may_set_the_next(world: World) -> None:
    rung: list[float] = []

    def ring() -> None:
        rung.append(world.now)
        if len(rung) < 3:
            world.loop.after(0.1, ring)

    world.loop.after(0.1, ring)
    world.passes(1)
    assert len(rung) == 3
    assert all(0.1 <= after - before < 0.13 for before, after in itertools.pairwise([1000.0, *rung]))


def test_a_callback_that_fails_is_reported_and_the_loop_goes_on(world: World) -> None:
    rung: list[int] = []
    world.loop.after(0.1, lambda: 1 // 0)
    world.loop.after(0.1, lambda: rung.append(1))
    world.passes(0.2)
    assert [type(error) for error in world.faults] == [ZeroDivisionError]
    assert rung == [1]


def test_it_runs_until_it_is_finished(pipe: tuple[int, int]) -> None:
    """Over real descriptors: ends of processes come before calls."""
    order: list[str] = []
    running = Loop(lambda error: pytest.fail(str(error)))
    other, told = os.pipe()
    os.write(told, b"x")
    os.write(pipe[1], b"x")

    def watched() -> None:
        order.append("watched")
        os.read(other, 1)

    def step() -> None:
        order.append("call")
        os.read(pipe[0], 1)
        running.finished = True

    running.watch(other, watched)
    running.run(pipe[0], step)
    assert order == ["watched", "call"]
    running.unwatch(other)
    running.unwatch(other)
    os.close(other)
    os.close(told)


def test_it_goes_on_when_no_fenced_process_is_left(pipe: tuple[int, int]) -> None:
    """POLLHUP of the listener, as a pipe has it."""
    running = Loop(lambda error: pytest.fail(str(error)))
    os.close(pipe[1])
    running.after(0.0, lambda: setattr(running, "finished", True))
    running.run(pipe[0], lambda: pytest.fail("nobody has called"))
    assert select.select([pipe[0]], [], [], 0)[0]
