"""What is recorded and answered where something is refused: by a call, by the name server, by a sink, by a fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fence_core.broker.call import Call
from fence_core.broker.scopes import Binding
from fence_core.broker.services.faults import Faults
from fence_core.broker.services.look_ups import Query
from fence_core.broker.services.recorder import Attempt
from fence_core.broker.services.refusals import Refusals
from fence_core.errors import KernelCallError
from fence_core.policy.requests import Connect, Fault, Resolve, Write
from tests.unit.broker.kit import Sessions, call, sessions

CLOSED: dict[str, Any] = {}
DATA = {"filesystem": {"allow_write": ["/data"]}}
OPEN = {"network": {"allowed_domains": ["198.51.100.7", "api.example.com"]}}


class FakeRecorder:
    def __init__(self) -> None:
        self.noted: list[Attempt] = []
        self.lost_one = False
        self.broken = False

    def note(self, attempt: Attempt) -> Any:
        if self.broken:
            raise RuntimeError("the ledger is full")
        self.noted.append(attempt)
        return SimpleNamespace(made=SimpleNamespace(remedy=f"remedy {len(self.noted)}"))

    def objected(self, process: object, tid: int, objection: Any, number: int) -> None:
        self.note(Attempt(process, tid, objection, number))  # type: ignore[arg-type]

    @property
    def errors(self) -> list[int]:
        return [attempt.errno for attempt in self.noted]


@pytest.fixture
def nested() -> Iterator[Sessions]:
    with sessions() as made:
        yield made


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


def asked(recorder: FakeRecorder, account: Binding) -> Call:
    return call(account, recorder=recorder)


# ---------------------------------------------------------------- calls


REQUEST = Write("open", "/data/x")


@pytest.mark.parametrize(
    ("rules", "answer", "noted"),
    [
        pytest.param([DATA], 0, [], id="allowed"),
        pytest.param([CLOSED], errno.EACCES, [errno.EACCES], id="refused"),
        pytest.param([(CLOSED, "warn")], errno.EACCES, [errno.EACCES], id="a warning refuses too"),
        pytest.param([(CLOSED, "audit")], 0, [0], id="an audit lets it through"),
        pytest.param([DATA, CLOSED], errno.EACCES, [errno.EACCES], id="refused around"),
        pytest.param([(CLOSED, "audit"), CLOSED], errno.EACCES, [0, errno.EACCES], id="noted inside, refused around"),
        pytest.param([CLOSED, (CLOSED, "audit")], errno.EACCES, [errno.EACCES, 0], id="and the other way round"),
        pytest.param([(CLOSED, "audit"), (CLOSED, "audit")], 0, [0, 0], id="noted twice"),
    ],
)
def test_refusals(nested: Sessions, recorder: FakeRecorder, rules: list[Any], answer: int, noted: list[int]) -> None:
    made = asked(recorder, nested.account(*rules))
    assert made.ask(REQUEST, errno.EACCES) == answer
    assert recorder.errors == noted


def test_what_an_audit_refuses_too(nested: Sessions, recorder: FakeRecorder) -> None:
    """Mounts and the like never happen inside: an audit of one would not be one."""
    from fence_core.policy.requests import SystemCall

    made = asked(recorder, nested.account((CLOSED, "audit")))
    assert made.refuse(SystemCall("mount"), errno.EPERM) == errno.EPERM
    assert recorder.errors == [errno.EPERM]


def test_what_is_asked_in_passing_is_refused_and_not_recorded(nested: Sessions, recorder: FakeRecorder) -> None:
    made = asked(recorder, nested.account(CLOSED))
    request = Write("open", "/usr/lib/python3/__pycache__/module.cpython-311.pyc")
    assert made.refuse(request, errno.EACCES) == errno.EACCES
    assert made.refuse(request, errno.EACCES, quietly=errno.ENOENT) == errno.ENOENT
    assert recorder.noted == []


def test_what_a_caller_that_is_gone_has_asked_is_nobodys(nested: Sessions, recorder: FakeRecorder) -> None:
    """Its memory may be somebody else's by then."""
    made = asked(recorder, nested.account(CLOSED))
    made.services.listener.gone.add(made.id)  # type: ignore[attr-defined]
    assert made.refuse(REQUEST, errno.EACCES) == errno.EACCES
    assert recorder.noted == []


@pytest.mark.parametrize(
    ("path", "inside", "judged"),
    [
        ("/data/x", False, "/data/x"),
        ("/proc/{own}/mem", False, "/proc/self/mem"),
        ("/proc/4321/mem", True, "/proc/self/mem"),
        ("/proc/4321/mem", False, "/proc/4321/mem"),
        ("/proc/sys/x", True, "/proc/sys/x"),
        ("/proc/{own}", False, "/proc/self/"),
    ],
)
def test_rules_speak_of_proc_self(nested: Sessions, path: str, inside: bool, judged: str) -> None:
    made = call(nested.account(CLOSED), processes=SimpleNamespace(is_inside=lambda pid: inside))
    assert made.judged(path.format(own=made.process.pid)) == judged


# ---------------------------------------------------------------- names


PROCESS_ID = 4321


def process(account: Binding) -> Any:
    return SimpleNamespace(pid=PROCESS_ID, account=lambda: account)


def query(number: int, rtype: int = 1) -> Query:
    return Query("api.example.com", rtype, number, "udp", "192.0.2.53", 40_000)


def test_a_look_up_is_one_however_often_it_is_asked(nested: Sessions, recorder: FakeRecorder) -> None:
    refusals = Refusals(recorder, lambda host, port: False)  # type: ignore[arg-type]
    asking = process(nested.account(CLOSED))
    request = Resolve("api.example.com")
    for one in (query(1), query(2, 28), query(3), query(4, 28)):
        refusals.of_query(asking, 1, request, one)
    assert [attempt.again for attempt in recorder.noted] == [False, True, False, True]
    assert set(recorder.errors) == {errno.ENOENT}


def test_of_two_accounts_each_has_its_own_look_up(nested: Sessions, recorder: FakeRecorder) -> None:
    refusals = Refusals(recorder, lambda host, port: False)  # type: ignore[arg-type]
    account = nested.account(CLOSED)
    request = Resolve("api.example.com")
    refusals.of_query(process(account), 1, request, query(1))
    refusals.of_query(process(Binding(account.worker, "test_it.py::other", 0, 0)), 1, request, query(1))
    assert [attempt.again for attempt in recorder.noted] == [False, False]


def test_that_names_are_used_up_is_told(nested: Sessions, recorder: FakeRecorder) -> None:
    refusals = Refusals(recorder, lambda host, port: False)  # type: ignore[arg-type]
    refusals.of_query(process(nested.account(OPEN)), 1, Resolve("api.example.com", True), query(1))
    assert recorder.errors == [errno.EAGAIN]


def test_what_is_no_query_is_refused_even_where_the_port_is_open(nested: Sessions, recorder: FakeRecorder) -> None:
    refusals = Refusals(recorder, lambda host, port: False)  # type: ignore[arg-type]
    refusals.of_no_query(process(nested.account(OPEN)), 1, "198.51.100.7", "udp")
    (attempt,) = recorder.noted
    assert attempt.objection.request.kind == "connect"


def test_a_route_is_told_with_what_would_allow_it(nested: Sessions, recorder: FakeRecorder) -> None:
    refusals = Refusals(recorder, lambda host, port: False)  # type: ignore[arg-type]
    found = refusals.route(process(nested.account((CLOSED, "audit"), CLOSED)), 1, "api.example.com", 443)
    assert found.refusal is not None
    assert found.remedy == "remedy 2", "of the session that refuses, not of the one that only notes"
    assert len(recorder.noted) == 2
    allowed = refusals.route(process(nested.account(OPEN)), 1, "api.example.com", 443)
    assert (allowed.refusal, allowed.remedy) == (None, None)


def test_a_datagram_that_is_allowed_by_now_came_late(nested: Sessions, recorder: FakeRecorder) -> None:
    refusals = Refusals(recorder, lambda host, port: False)  # type: ignore[arg-type]
    request = Connect("198.51.100.7", 9, "udp")
    sunk: Any = SimpleNamespace(request=request, process=None, tid=1)
    refusals.of_sent(sunk, nested.account(CLOSED))
    refusals.of_sent(sunk, nested.account(OPEN))
    first, second = recorder.noted
    assert first.objection.request is request
    assert second.objection.request.way == "late"  # type: ignore[union-attr]
    assert first.place is second.place is sunk


# ---------------------------------------------------------------- faults


@pytest.fixture
def faults(nested: Sessions, recorder: FakeRecorder) -> Faults:
    root = process(nested.account(OPEN))
    other = SimpleNamespace(pid=1, account=root.account)
    return Faults(recorder, SimpleNamespace(by_pid={1: other}), root)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.EFAULT, errno.ENAMETOOLONG, errno.EBADF, errno.EMSGSIZE])
def test_what_the_kernel_says_of_an_argument_is_the_answer(
    faults: Faults, recorder: FakeRecorder, nested: Sessions, number: int
) -> None:
    assert faults.failed(call(nested.account(OPEN)), KernelCallError("process_vm_readv", number)) == number
    assert recorder.noted == []


@pytest.mark.parametrize(
    "error", [ProcessLookupError(errno.ESRCH, "gone"), FileNotFoundError(2, "gone"), ValueError("no such field")]
)
@pytest.mark.parametrize("gone", [True, False])
def test_what_goes_when_a_caller_dies_is_nobodys_fault(
    faults: Faults, recorder: FakeRecorder, nested: Sessions, error: Exception, gone: bool
) -> None:
    made = call(nested.account(OPEN))
    if gone:
        made.services.listener.gone.add(made.id)  # type: ignore[attr-defined]
    assert faults.failed(made, error) == errno.EACCES
    assert len(recorder.noted) == (not gone)


def test_a_bug_is_one_whether_the_caller_is_there_or_not(
    faults: Faults, recorder: FakeRecorder, nested: Sessions
) -> None:
    made = call(nested.account(OPEN))
    made.services.listener.gone.add(made.id)  # type: ignore[attr-defined]
    assert faults.failed(made, AttributeError("x")) == errno.EACCES
    (attempt,) = recorder.noted
    request = attempt.objection.request
    assert isinstance(request, Fault)
    assert "AttributeError: x" in request.what
    assert "please report it" in (attempt.objection.decision.rule.reason or "")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (KernelCallError("process_vm_readv", errno.EPERM), False),
        (PermissionError(errno.EACCES, "x", "/proc/12/ns/net"), False),
        (PermissionError(errno.EACCES, "x", "/home/kim"), True),
        (PermissionError(errno.EACCES, "x"), True),
        (KernelCallError("process_vm_readv", errno.EIO), True),
    ],
)
def test_a_process_that_cannot_be_inspected_is_no_fault_of_ours(
    faults: Faults, recorder: FakeRecorder, error: OSError, ours: bool
) -> None:
    assert faults.fault(1, -1, error) == errno.EACCES
    (attempt,) = recorder.noted
    assert ("please report it" in (attempt.objection.decision.rule.reason or "")) is ours


@pytest.mark.parametrize(("tid", "pid"), [(1, 1), (99, PROCESS_ID)])
def test_whose_account_it_is_on(faults: Faults, recorder: FakeRecorder, tid: int, pid: int) -> None:
    faults.fault(tid, -1, RuntimeError("x"))
    assert recorder.noted[0].process.pid == pid


def test_faults_of_the_filter_are_those_of_whoever_had_the_connection(
    faults: Faults, recorder: FakeRecorder, nested: Sessions
) -> None:
    opener = process(nested.account(OPEN))
    faults.in_the_filter((opener, 7), "KeyError", "hub.py:1", "the connection was closed")
    faults.in_the_filter(None, "it has ended", "", "its connections were closed")
    first, second = recorder.noted
    assert (first.process, first.tid) == (opener, 7)
    assert second.process.pid == PROCESS_ID


def test_a_fault_that_cannot_be_written_down_fails_the_run_all_the_same(
    faults: Faults, recorder: FakeRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.broken = True
    assert faults.fault(1, -1, RuntimeError("x")) == errno.EACCES
    assert recorder.lost_one
    assert "the ledger is full" in capsys.readouterr().err
