"""On whose account a process acts: bindings, what workers say, marks, and the table of processes."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker import scopes
from fence_core.broker.marks import Marks
from fence_core.broker.processes import Process, ProcessTable
from fence_core.broker.scopes import Binding
from fence_core.errors import PolicyError
from fence_core.link.page import Note
from fence_core.policy.model import Source
from fence_core.policy.requests import Write
from tests.unit.broker.kit import Sessions, scope, sessions


@pytest.fixture
def nested() -> Iterator[Sessions]:
    with sessions() as made:
        yield made


# ---------------------------------------------------------------- scopes and workers


def test_a_binding_has_the_judges_of_all_sessions_around_it(nested: Sessions) -> None:
    outer = Binding(nested.worker(), "outer", 0, 0)
    middle = Binding(nested.worker(around=outer), "middle", 0, 0)
    inner = Binding(nested.worker(around=middle), "inner", 0, 0)
    assert [binding for binding, _ in inner.judges] == [inner, middle, outer]
    assert [judge for _, judge in inner.judges] == [each.worker.judge(0) for each in (inner, middle, outer)]


def test_a_marker_adds_to_the_policy_for_its_tests(nested: Sessions, tmp_path: Path) -> None:
    worker = nested.worker()
    first = worker.scope.register([({"allow_write": ["/data"]}, Source("marker"))])
    second = worker.scope.register(
        [({"allow_write": ["/data"]}, Source("marker")), ({"deny_write": ["/data/x"]}, Source("marker"))]
    )
    assert (first, second) == (1, 2)
    request, below = Write("open", "/data/file"), Write("open", "/data/x")
    allowed = {number: worker.judge(number).decide(request).allowed for number in (0, first, second)}
    assert allowed == {0: False, first: True, second: True}
    assert worker.judge(first).decide(below).allowed
    assert not worker.judge(second).decide(below).allowed


@pytest.mark.parametrize("number", [1, 7, 1 << 63])
def test_a_policy_that_was_never_registered_is_the_base_policy(nested: Sessions, number: int) -> None:
    worker = nested.worker()
    assert worker.judge(number) is worker.judge(0)
    assert Binding(worker, "test", 0, number).rules() is worker.scope.base


def test_policies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "POLICIES_MAX", 2)
    made = scope()
    layers = [({"allow_write": ["/data"]}, Source("marker"))]
    assert made.register(layers) == 1
    with pytest.raises(PolicyError, match="more than 2 different policies"):
        made.register(layers)


def test_a_phase_that_is_none_is_the_first(nested: Sessions) -> None:
    worker = nested.worker()
    assert Binding(worker, "test", 3, 0).phase == 3
    assert Binding(worker, "test", 1 << 40, 0).phase == 0


def test_what_a_worker_does_is_what_its_page_says(nested: Sessions) -> None:
    worker = nested.worker()
    worker.page.write(b"test_it.py::test_a", 2, 0)
    now = worker.now()
    assert (now.nodeid, now.phase, now.policy) == ("test_it.py::test_a", 2, 0)
    assert worker.now() is now, "one object for all of a test's"
    worker.page.write_phase(3)
    assert worker.now().phase == 3
    worker.page.write(b"test_it.py::test_b", 3, 0)
    assert worker.now().nodeid == "test_it.py::test_b"
    assert now.nodeid == "test_it.py::test_a", "for good"


def test_what_was_said_last_stays_when_a_session_is_over(nested: Sessions) -> None:
    worker = nested.worker()
    worker.page.write(b"last", 1, 0)
    worker.close()
    worker.close()
    assert worker.now().nodeid == "last"


def test_of_what_nobody_knows_any_more_little_is_allowed(nested: Sessions) -> None:
    worker = nested.worker({"filesystem": {"allow_write": ["/data"]}})
    number = worker.scope.register([({"allow_write": ["/more"]}, Source("marker"))])
    worker.page.write(b"test", 0, number)
    for path, now, no_test, over in (("/data/x", True, True, False), ("/more/x", True, False, False)):
        request = Write("open", path)
        for binding, may in ((worker.now(), now), (worker.of_no_test(), no_test)):
            assert binding.judges[0][1].decide(request).allowed == may
        assert worker.of_a_session_that_is_over().judges[0][1].decide(request).allowed == over
    assert worker.of_no_test().nodeid == ""


def test_the_test_runs_here_again_when_its_fork_has_ended(nested: Sessions) -> None:
    worker = nested.worker()
    worker.test_pid = 4321
    worker.left_by(1234)
    assert worker.test_pid == 4321
    worker.left_by(4321)
    assert worker.test_pid == worker.tgid


# ---------------------------------------------------------------- marks


class FakeLimits:
    """RLIMIT_LOCKS of processes, by prlimit(2)."""

    def __init__(self) -> None:
        self.soft: dict[int, int] = {}
        self.sets = 0

    def prlimit(self, pid: int, which: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
        assert which == 10
        if pid < 0:
            raise ProcessLookupError
        before = self.soft.get(pid, -1)
        if limits is not None:
            self.sets += 1
            self.soft[pid] = limits[0]
        return before, -1

    def fork(self, parent: int, child: int) -> None:
        self.soft[child] = self.soft.get(parent, -1)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> FakeLimits:
    made = FakeLimits()
    monkeypatch.setattr(resource, "prlimit", made.prlimit)
    return made


def test_a_mark_is_found_again_in_all_descendants(nested: Sessions, limits: FakeLimits) -> None:
    marks = Marks()
    worker = nested.worker()
    binding = Binding(worker, "test_a", 1, 0)
    marks.put(1, worker)
    marks.put(2, binding)
    limits.fork(1, 10)
    limits.fork(2, 20)
    limits.fork(20, 21)
    assert marks.find(10) is worker
    assert marks.find(20) is marks.find(21) is binding
    assert marks.find(99) is None, "a limit that nobody has set"


def test_who_has_the_mark_already_is_not_marked_again(nested: Sessions, limits: FakeLimits) -> None:
    marks = Marks()
    worker = nested.worker()
    marks.put(1, Binding(worker, "test_a", 1, 0))
    marks.put(1, Binding(worker, "test_a", 1, 0))
    assert limits.sets == 1
    marks.put(2, Binding(worker, "test_a", 1, 0))
    assert limits.soft[1] == limits.soft[2], "the same meaning is the same number"
    marks.put(2, Binding(worker, "test_a", 2, 0))
    assert limits.soft[1] != limits.soft[2]


def test_a_process_that_is_gone_goes_without(nested: Sessions, limits: FakeLimits) -> None:
    Marks().put(-1, nested.worker())
    assert not limits.soft


def test_a_limit_of_the_users_own_is_no_mark(limits: FakeLimits) -> None:
    limits.soft[1] = 1024
    assert Marks().find(1) is None


def test_marks_of_sessions_that_are_over_are_kept_for_a_while(nested: Sessions, limits: FakeLimits) -> None:
    marks = Marks()
    nested.worker()  # the first one is never over
    workers = [nested.worker() for _ in range(3)]
    for pid, worker in enumerate(workers, start=1):
        marks.put(pid, worker)
        marks.put(pid + 10, Binding(worker, "test", 0, 0))
    marks.over(workers[0])
    assert marks.find(1) is workers[0], "forks that have not been seen yet"
    for worker in workers[1:2] * Marks._OVER_MAX:
        marks.over(worker)
    for pid in (1, 11):
        with pytest.raises(LookupError):
            marks.find(pid)
    assert marks.find(3) is workers[2]


def test_the_first_session_is_never_over(nested: Sessions, limits: FakeLimits) -> None:
    marks = Marks()
    root = nested.worker()
    marks.put(1, root)
    for _ in range(Marks._OVER_MAX + 2):
        marks.over(root)
    assert marks.find(1) is root


def test_marks_are_bounded_and_sessions_outlast_tests(
    nested: Sessions, limits: FakeLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Marks, "_KEPT_MAX", 10)
    marks = Marks()
    worker = nested.worker()
    marks.put(1, worker)
    for number in range(30):
        marks.put(100 + number, Binding(worker, f"test_{number}", 0, 0))
    assert marks.find(1) is worker
    assert len(marks._meanings) == len(marks._numbers) == 10
    with pytest.raises(LookupError):
        marks.find(100)
    assert marks.find(129) is not None


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 2)), max_size=40))
def test_whatever_happens_a_mark_means_what_it_was_put_for(steps: list[tuple[int, int, int]]) -> None:
    with sessions() as nested, pytest.MonkeyPatch.context() as patch:
        limits = FakeLimits()
        patch.setattr(resource, "prlimit", limits.prlimit)
        marks, worker = Marks(), nested.worker()
        meant: dict[int, tuple[str, int]] = {}
        for pid, test, phase in steps:
            marks.put(pid, Binding(worker, f"test_{test}", phase, 0))
            meant[pid] = (f"test_{test}", phase)
            for each, expected in meant.items():
                found = marks.find(each)
                assert isinstance(found, Binding)
                assert (found.nodeid, found.phase) == expected


# ---------------------------------------------------------------- processes


class Table:
    """A table whose root is the session of this very process."""

    def __init__(self, nested: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = nested.worker()
        self.root.scope.host = "pytest"
        self.watched: list[int] = []
        self.processes = ProcessTable(self.root, watch=lambda pidfd, pid: self.watched.append(pid), supervisor=1)
        # No filter is in force here: whoever descends from this process counts as fenced.
        monkeypatch.setattr(self.processes, "is_fenced", lambda pid: True)
        self.limits = FakeLimits()
        monkeypatch.setattr(resource, "prlimit", self.limits.prlimit)
        self.first = self.processes.adopt(os.getpid(), self.root.now())
        self.first.workers.append(self.root)


@pytest.fixture
def table(nested: Sessions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    made = Table(nested, monkeypatch)
    yield made
    for process in list(made.processes.by_pid.values()):
        os.close(process.pidfd)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.communicate()


def test_first_sight_binds_for_good(table: Table, child: subprocess.Popen[bytes]) -> None:
    table.root.page.write(b"test_a", 2, 0)
    process = table.processes.find(child.pid)
    assert process.parent is table.first
    assert table.watched == [os.getpid(), child.pid]
    assert process.proven
    table.root.page.write(b"test_b", 2, 0)
    assert table.processes.find(child.pid) is process
    assert table.first.account().nodeid == "test_b"


def test_who_cannot_be_watched_is_not_known(
    table: Table, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its number would mean it when it has long been somebody else's."""

    def no_more(pidfd: int, pid: int) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(table.processes, "_watch", no_more)
        with pytest.raises(OSError, match="no more watches"):
            table.processes.find(child.pid)
    assert os.listdir("/proc/self/fd") == before
    assert list(table.processes.by_pid) == [os.getpid()]
    assert table.processes.find(child.pid).pid == child.pid


def test_an_unmarked_process_without_a_note_gets_what_every_test_may(
    table: Table, child: subprocess.Popen[bytes]
) -> None:
    table.root.page.write(b"test_a", 2, table.root.scope.register([({"allow_write": ["/x"]}, Source("marker"))]))
    account = table.processes.find(child.pid).account()
    assert (account.nodeid, account.policy) == ("", 0)


def test_a_mark_tells_what_a_process_belongs_to(table: Table, child: subprocess.Popen[bytes]) -> None:
    binding = Binding(table.root, "test_before", 2, 0)
    table.processes._marks.put(child.pid, binding)
    assert table.processes.find(child.pid).account() is binding
    assert table.processes.started_by(child.pid) == "test_before"


def test_what_executes_a_program_is_no_pytest_any_more(table: Table, child: subprocess.Popen[bytes]) -> None:
    process = table.processes.find(child.pid)
    assert process.same_program, "a fork, as far as is known"
    process.workers = [table.root]
    table.root.page.write(b"test_a", 2, 0)
    table.processes.executes(process)
    table.root.page.write(b"test_b", 2, 0)
    assert (process.workers, process.same_program, process.stacks) == ([], False, None)
    assert process.account().nodeid == "test_a"
    assert table.processes._marks.find(child.pid) is not None


def test_a_process_that_says_hello_itself_stays_what_it_is(table: Table) -> None:
    table.processes.executes(table.first)
    assert table.first.workers == [table.root]


def test_a_fork_for_one_test_is_that_pytest_process(table: Table, child: subprocess.Popen[bytes]) -> None:
    table.processes.expect_test(table.first, child.pid)
    process = table.processes.find(child.pid)
    assert process.workers == [table.root]
    assert table.root.test_pid == child.pid
    table.processes.forget(process.pidfd)
    os.close(process.pidfd)
    assert table.root.test_pid == table.root.tgid
    assert child.pid not in table.processes.by_pid


def test_also_where_it_was_seen_before_it_was_announced(table: Table, child: subprocess.Popen[bytes]) -> None:
    process = table.processes.find(child.pid)
    assert process.workers == []
    table.processes.expect_test(table.first, child.pid)
    assert process.workers == [table.root]


def test_a_call_before_it_is_announced_is_that_pytest_process_too(table: Table) -> None:
    """A test can be refused something before its parent gets to say so: its copy of the note says it."""
    note = Note()
    table.root.note = (note.address, note.token)
    goes_on, its_fork = os.pipe(), os.pipe()
    with note.forking_for_a_test():
        test = os.fork()
        if test == 0:
            os.close(goes_on[1])
            below = os.fork()
            if below:
                os.write(its_fork[1], b"%d" % below)
            os.read(goes_on[0], 1)
            os._exit(0)
    below = int(os.read(its_fork[0], 16))
    try:
        process = table.processes.find(test)
        assert process.workers == [table.root]
        assert (table.first.test, table.root.test_pid) == (test, test)
        assert table.processes.find(below).workers == [], "what it forks has a copy of that note, too"
        table.processes.expect_test(table.first, test)
        assert process.workers == [table.root], "once"
    finally:
        for fd in (*goes_on, *its_fork):
            os.close(fd)
        os.waitpid(test, 0)
        note.release()


def test_nobody_else_is_taken_in(table: Table, child: subprocess.Popen[bytes]) -> None:
    process = table.processes.find(child.pid)
    table.processes.executes(process)
    table.processes.expect_test(table.first, child.pid)
    assert process.workers == []
    stranger = Process(4321, -1, None, table.root.now())
    table.processes.expect_test(stranger, child.pid)
    assert stranger.test == 0


def test_a_fork_server_works_for_whoever_asks_it(table: Table, child: subprocess.Popen[bytes]) -> None:
    server = table.processes.find(child.pid)
    table.processes.serves_forks(table.first, child.pid)
    assert table.first.fork_servers == [], "it runs the program of pytest still"
    table.processes.executes(server)
    table.processes.serves_forks(table.first, child.pid)
    table.processes.serves_forks(table.first, child.pid)
    assert table.first.fork_servers == [server]
    table.root.page.write(b"test_later", 2, 0)
    table.processes.asks_fork_servers(table.first)
    marked = table.processes._marks.find(child.pid)
    assert isinstance(marked, Binding)
    assert marked.nodeid == "test_later"


def test_nobody_names_a_fork_server_of_others(table: Table, child: subprocess.Popen[bytes]) -> None:
    server = table.processes.find(child.pid)
    table.processes.executes(server)
    table.processes.serves_forks(server, child.pid)
    assert server.fork_servers == []
    table.processes.serves_forks(table.first, 999_999)
    assert table.first.fork_servers == []


def test_who_is_in_the_fence(table: Table, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert table.processes.is_ours(os.getpid())
    assert table.processes.is_ours(child.pid), "born of one that is"
    assert table.processes.is_inside(child.pid)
    assert not table.processes.is_ours(os.getppid())
    assert not table.processes.is_ours(999_999)
    assert not table.processes.is_inside(999_999)
    monkeypatch.setattr(table.processes, "is_fenced", lambda pid: False)
    assert not table.processes.is_inside(child.pid), "not all that a fenced process starts is known to be fenced"


def test_who_is_gone_is_an_error(table: Table) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    with pytest.raises(ProcessLookupError):
        table.processes.find(ended.pid)
    assert table.processes.started_by(ended.pid) == ""


def test_the_chain_of_programs_begins_at_pytest(table: Table, child: subprocess.Popen[bytes]) -> None:
    process = table.processes.find(child.pid)
    name = Path(f"/proc/{child.pid}/comm").read_text().strip()
    assert table.processes.chain(table.first, table.root)[0] == "pytest"
    chain = table.processes.chain(process, table.root)
    assert chain[0] == "pytest"
    assert chain[1].startswith(name[:6])


def test_sessions_are_counted_once_for_all_their_processes(table: Table, child: subprocess.Popen[bytes]) -> None:
    assert table.processes.sessions_open() == 1
    table.processes.expect_test(table.first, child.pid)
    table.processes.find(child.pid)
    assert table.processes.sessions_open() == 1


def test_may_write_asks_all_sessions(nested: Sessions) -> None:
    both = {"filesystem": {"allow_write": ["/both", "/inner"]}}
    account = nested.account(both, {"filesystem": {"allow_write": ["/both"]}})
    process = Process(4321, -1, None, account)
    assert process.may_write("/both/x")
    assert not process.may_write("/inner/x")
    assert not process.may_write("/neither/x")
    assert process.may_rename("/both/x", "/both/y")
    assert not process.may_rename("/both/x", "/inner/y")


def test_the_policy_that_the_page_names_is_the_one_that_counts(nested: Sessions) -> None:
    worker = nested.worker()
    number = worker.scope.register([({"allow_write": ["/data"]}, Source("marker"))])
    process = Process(4321, -1, None, worker.now())
    process.workers.append(worker)
    assert not process.may_write("/data/x")
    worker.page.write(b"test", 0, number)
    assert process.may_write("/data/x")
    worker.page.write(b"test", 0, 1 << 40)
    assert not process.may_write("/data/x")
