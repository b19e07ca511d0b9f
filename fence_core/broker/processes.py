"""pid -> on whose account: the table of processes the broker has seen.

A process is identified by its thread-group id and held by a pidfd, whose readiness tells that it is gone before its
number can mean anybody else. The number of a thread that is not its group's leader may be reused without such a
sign; what is known of those is looked up anew after `THREAD_TRUST_S`: thread ids are handed out in a cycle, and no
machine goes through all of them (32,768 at the least) in that time.

Nothing tells of a fork: the filter could stop it, but a signal in that moment would end it with EINTR, and shells do
not try again. So what a fork belongs to must be found in itself, however late it is first seen, and whoever made it:

* Every process carries a mark that its descendants inherit through fork and exec: the soft limit RLIMIT_LOCKS, which
  Linux has not looked at since 2.4. The filter lets nobody change it. It leads to the binding of the process. A daemon
  that forks twice is first seen when its parents are gone, and is known all the same.
* A pytest process does one thing after the other, so its mark leads to its `Worker` only. What it was doing at the
  moment of the fork stands in its note (`page.py`), of which the fork has a copy in its memory. A fork that is seen for
  the first time has not executed a program, since that stops at the broker: its memory is still that copy.
* The fork server of `multiprocessing` works for whoever asks it. The pytest process that started it says so, and from
  then on the server carries the mark of what that process was doing when it last connected to anybody.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker.marks import Marks
from fence_core.broker.scopes import Binding, Worker
from fence_core.broker.services.stacks import StackPipe
from fence_core.errors import KernelCallError
from fence_core.kernel import pidfd as pidfds
from fence_core.kernel import process as kernel_process
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.policy.decide import Judge

_GENERATIONS_MAX = 64
_MAIN_THREAD = "MainThread"  # what Node.js calls itself, from version 23 on
THREAD_TRUST_S = 0.1
BORN = 0
"""In place of a thread's number."""
_threads_have_pidfds = True


class Process:
    """One fenced process, from when it was first seen until it is gone."""

    __slots__ = (
        "_image",
        "binding",
        "executing",
        "fork_servers",
        "lines_open",
        "memory",
        "parent",
        "pid",
        "pidfd",
        "proven",
        "same_program",
        "stacks",
        "test",
        "tests_forked",
        "verified",
        "wanted",
        "workers",
    )

    def __init__(self, pid: int, pidfd: int, parent: Process | None, binding: Binding) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.parent = parent
        self.binding = binding
        self.workers: list[Worker] = []
        """Sessions running in this process, innermost last; empty for everything that is no pytest process."""
        self.lines_open = 0
        """Control lines to the broker."""
        self.memory = -1
        """A descriptor on its memory, if it is kept open: see `remember_memory`."""
        self._image = b""
        self.proven = False
        """Whether it has made a trapped call itself, which only a fenced process can."""
        self.stacks: StackPipe | None = None
        """The pipe that this process (or the one it was forked from) registered; None after an exec."""
        self.same_program = False
        """Whether it runs the program of a pytest process that forked it: nothing was executed since."""
        self.wanted = ""
        """The directory that it wanted to make last, where those above it are missing."""
        self.test = 0
        """Of a pytest process: the fork that it has made to run the current test in."""
        self.tests_forked = 0
        """The number of the last of those. A fork that runs a test has its own: what it forks itself has a copy."""
        self.executing: set[int] = set()
        """Threads whose execve was let through, so that the program is to be looked at, where there are rules for
        commands: see `CommandWatch`. `BORN`: it was not looked at when the process was first seen."""
        self.verified = b""
        """The image that has been looked at."""
        self.fork_servers: list[Process] = []
        """Of a pytest process: those that it has started, which work for its later tests, too."""

    def account(self) -> Binding:
        """On whose account a call of this process is, now."""
        if self.workers:
            return self.workers[-1].now()
        binding = self.binding
        return binding.running() if binding.follows else binding

    def started_for(self) -> Binding:
        """On whose account it is for good, whatever runs now: for what is to outlast this moment."""
        return self.workers[-1].now() if self.workers else self.binding

    def borrow(self, tid: int, fd: int) -> int:
        """A copy of a descriptor of this thread, whose table need not be its process's (CLONE_FILES, unshare(2)).

        Raises KernelCallError.
        """
        global _threads_have_pidfds
        if tid != self.pid and _threads_have_pidfds:
            try:
                thread = pidfds.open_pidfd(tid, pidfds.PIDFD_THREAD)
            except KernelCallError as error:
                if error.errno != errno.EINVAL:
                    raise
                _threads_have_pidfds = False  # before Linux 6.9
            else:
                try:
                    return pidfds.get_fd(thread, fd)
                finally:
                    os.close(thread)
        return pidfds.get_fd(self.pidfd, fd)

    def identify(self, tid: int, fd: int) -> tuple[int, bool]:
        """A descriptor of ours for what a thread has open, and whether it is a copy of its own; if not, one with
        O_PATH. Raises KernelCallError, OSError.
        """
        return self.borrow(tid, fd), True

    def remember_memory(self) -> None:
        """Called when a pytest process says hello: it makes most of the calls, and a descriptor on its memory is read
        in half the time of process_vm_readv.

        The descriptor stays with the memory that it was opened on, so it must not outlive an exec: `forget_memory`
        closes it when one is tried, and it is opened again only if the program has really changed since.
        """
        if self.memory < 0 and (not self._image or self._image != self.image()):
            try:
                self.memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self.memory = -1

    def forget_memory(self, *, for_exec: bool = False) -> None:
        if for_exec:
            self._image = self.image()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1

    def programs(self) -> frozenset[str]:
        """The names that the rules for commands begin with, of all policies in force."""
        innermost, around = self._judges()
        names = innermost.programs
        for _, judge in around:
            names |= judge.programs
        return names

    def image(self) -> bytes:
        """What an exec changes: where code, stack and arguments lie (fields 26 to 28, 45 to 51 of proc(5) stat)."""
        fields = kernel_process.stat_fields(self.pid)
        code = fields[kernel_process.STARTCODE : kernel_process.STARTSTACK + 1]
        return b" ".join(code + fields[kernel_process.START_DATA : kernel_process.ENV_END + 1])

    def may_write(self, path: str, op: str = "open") -> bool:
        """The hot path: whether every policy in force lets this process change `path`."""
        innermost, around = self._judges()
        if not innermost.may_write(path, op):
            return False
        for _, judge in around:
            if not judge.may_write(path, op):
                return False
        return True

    def may_rename(self, old: str, new: str) -> bool:
        """Whether surely every policy in force lets this process rename a file: see `Judge.may_rename`."""
        innermost, around = self._judges()
        return innermost.may_rename(old, new) and all(judge.may_rename(old, new) for _, judge in around)

    def _judges(self) -> tuple[Judge, tuple[tuple[Binding, Judge], ...]]:
        """The judge of the session that it belongs to, and those of the sessions around that. Makes no binding."""
        if self.workers:
            worker = self.workers[-1]
            return worker.judge(worker.page.policy()), worker.outer_judges
        binding = self.binding
        if binding.follows:
            binding = binding.running()
        return binding.judges[0][1], binding.worker.outer_judges


def program(pid: int) -> str:
    """The program's name for showing."""
    try:
        name = kernel_process.program_name(pid)
        if name == _MAIN_THREAD:
            name = os.path.basename(next(iter(kernel_process.argv(pid)), "")) or name
        return escape(name)
    except OSError:
        return "?"


class ProcessTable:
    """All processes inside the fence that have made a trapped call."""

    def __init__(
        self,
        root: Worker,
        *,
        watch: Callable[[int, int], None],
        supervisor: int,
        process: Callable[[int, int, Process | None, Binding], Process] = Process,
    ) -> None:
        """`process`: makes the record of one."""
        self._root = root
        self._new = process
        self._marks = Marks()
        self._watch = watch
        self._supervisor = supervisor
        self._own_filters = kernel_process.filter_count(os.getpid())
        self.by_pid: dict[int, Process] = {}
        self._threads: dict[int, tuple[Process, float]] = {}
        self._by_pidfd: dict[int, Process] = {}

    def find(self, tid: int) -> Process:
        """The process that this thread belongs to. Raises ProcessLookupError where it is gone already."""
        process = self.by_pid.get(tid)
        if process is not None:
            return process
        known = self._threads.get(tid)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        status = kernel_process.status_fields(tid)
        process = self.by_pid.get(status.tgid) or self._meet(status.tgid, status.ppid)
        process.proven = True
        if tid != status.tgid:
            if len(self._threads) > 4096:
                self._threads.clear()
            self._threads[tid] = (process, time.monotonic() + THREAD_TRUST_S)
        return process

    def started_by(self, pid: int) -> str:
        """The test that a fenced process belongs to; empty where there is none, or nobody knows."""
        try:
            process = self.by_pid.get(pid) or self._meet(pid, kernel_process.status_fields(pid).ppid)
        except OSError:
            return ""
        return process.binding.nodeid

    def is_ours(self, pid: int) -> bool:
        """Whether this process, or that of this thread, is in the fence: known, or born of one that is."""
        for _ in range(_GENERATIONS_MAX):
            process = self.by_pid.get(pid)
            if process is not None:
                return True
            try:
                status = kernel_process.status_fields(pid)
            except (OSError, ValueError):
                return False
            pid = status.ppid if status.tgid == pid else status.tgid
            if pid <= 1 or pid == self._supervisor:
                return False
        return False

    def _meet(self, pid: int, ppid: int) -> Process:
        """First sight: bind to what the nearest known ancestor is doing now, registering those in between."""
        parent: Process | None = None
        if ppid > 1 and ppid != self._supervisor:
            parent = self.by_pid.get(ppid)
            if parent is None and pid != ppid:
                try:
                    status = kernel_process.status_fields(ppid)
                    # Only a child of ours can have fenced children: a stranger here means an orphan whose new
                    # parent is a subreaper outside (systemd --user).
                    if self.is_fenced(ppid):
                        parent = self._meet(ppid, status.ppid)
                except OSError:
                    parent = None
        pidfd = pidfds.open_pidfd(pid)
        try:
            binding = self._binding_of(pid, parent)
            # Before it is known: nobody would hear of its end, and its number would go on meaning it.
            self._watch(pidfd, pid)
        except BaseException:
            os.close(pidfd)
            raise
        process = self._new(pid, pidfd, parent, binding)
        if parent is not None and parent.stacks is not None:
            # A fork carries the handler and the pipe; an exec, which is trapped, takes both away.
            process.stacks = parent.stacks
        if parent is not None:
            process.verified = parent.verified
        if parent is None or parent.executing:
            process.executing.add(BORN)
        process.same_program = parent is not None and bool(parent.workers)
        if parent is not None and self._runs_a_test(process, parent):
            self._adopt_test(process, parent)
        else:
            self._marks.put(pid, binding)
        self.by_pid[pid] = process
        self._by_pidfd[pidfd] = process
        return process

    def _binding_of(self, pid: int, parent: Process | None) -> Binding:
        try:
            marked = self._marks.find(pid)
        except LookupError:
            if parent is not None and not parent.workers:
                return parent.binding
            return self._root.of_a_session_that_is_over()
        if isinstance(marked, Binding):
            return marked
        worker = marked or (parent.workers[-1] if parent is not None and parent.workers else None)
        noted = worker.noted(pid) if worker is not None else None
        if noted is not None:
            return noted
        if parent is not None and not parent.workers:
            return parent.binding
        # It has hidden what it was forked for: it gets nothing that only a marker allows.
        return (worker or self._root).of_no_test()

    def sessions_open(self) -> int:
        """How many processes of sessions there are; one that has several sessions open counts as many times."""
        return len({worker.number for process in self.by_pid.values() for worker in process.workers})

    def is_over(self, worker: Worker) -> None:
        """A session, or one of its processes: nobody asks for it any more."""
        worker.close()
        self._marks.over(worker)

    def registered(self, process: Process) -> None:
        """It has become the process of a session, or that of a nested one again."""
        self._marks.put(process.pid, process.workers[-1])

    def executes(self, process: Process) -> None:
        """An exec was tried: what runs here next is not pytest. A process that says hello itself stays what it is."""
        process.stacks = None
        if process.same_program:
            process.same_program = False
            for worker in process.workers:
                worker.left_by(process.pid)
            process.binding = process.started_for()
            process.workers = []
            self._marks.put(process.pid, process.binding)
        process.forget_memory(for_exec=True)

    def serves_forks(self, process: Process, pid: int) -> None:
        """A pytest process says that it has started a fork server: a program of its own, and nobody else's."""
        server = self.by_pid.get(pid)
        if server is None or server.workers or server.same_program or server in process.fork_servers:
            return
        starter = server.parent
        if process.workers and starter is not None and starter.workers[-1:] == process.workers[-1:]:
            process.fork_servers[:] = [known for known in process.fork_servers if self.by_pid.get(known.pid) is known]
            process.fork_servers.append(server)

    def asks_fork_servers(self, process: Process) -> None:
        """A pytest process connects to something: what its fork servers fork from now on is for what it does now.

        `multiprocessing` waits until the server has forked before it goes on.
        """
        for server in process.fork_servers:
            if self.by_pid.get(server.pid) is server:
                self._marks.put(server.pid, process.account())

    def _runs_a_test(self, process: Process, parent: Process) -> bool:
        """Whether it was forked to run one test: its parent has said so, or is about to."""
        if parent.test == process.pid:
            return True
        number = parent.workers[-1].fork_for_a_test(process.pid) if parent.workers else 0
        if number <= parent.tests_forked:
            return False
        parent.test = process.pid
        parent.tests_forked = process.tests_forked = number
        return True

    def expect_test(self, process: Process, pid: int) -> None:
        """A pytest process has forked to run one test; the fork may have made a call of its own already."""
        if process.workers:
            process.test = pid
            known = self.by_pid.get(pid)
            if known is not None and known.parent is process:
                self._adopt_test(known, process)

    def _adopt_test(self, process: Process, parent: Process) -> None:
        """It is that pytest process for as long as it lives, or until it executes a program.

        It shares the page, so that the phase and the policy which it writes there are the ones that count. A program
        that a test starts is not taken in, nor what the fork forks on: only the fork itself.
        """
        if process.same_program and not process.workers:
            process.workers = list(parent.workers)
            process.fork_servers = parent.fork_servers
            process.workers[-1].test_pid = process.pid
            process.remember_memory()
            self._marks.put(process.pid, process.workers[-1])

    def is_fenced(self, pid: int) -> bool:
        """Whether more filters are in force there than here: in a container, everybody has one."""
        return kernel_process.filter_count(pid) > self._own_filters

    def is_inside(self, pid: int) -> bool:
        """Whether this process is fenced, also where it has made no call yet that stopped at the broker."""
        process = self.by_pid.get(pid)
        if process is not None and process.proven:
            return True
        # A process outside can have a fenced child, and be known for that; and a number can have been handed on.
        try:
            return self.is_ours(pid) and self.is_fenced(pid)
        except OSError:  # it has ended
            return False

    def adopt(self, pid: int, binding: Binding) -> Process:
        """Register the first process of a session, before it makes any call."""
        pidfd = pidfds.open_pidfd(pid)
        process = self._new(pid, pidfd, None, binding)
        process.proven = True  # it is the broker's own child, and nobody is known by its number before
        process.verified = process.image()
        self.by_pid[pid] = process
        self._by_pidfd[pidfd] = process
        self._watch(pidfd, pid)
        return process

    def is_no_session(self, process: Process) -> None:
        """What was adopted is a program like any other: what it forks is on the same account for good."""
        process.workers.clear()
        self._marks.put(process.pid, process.binding)

    def forget(self, pidfd: int) -> Process | None:
        """Called when a pidfd is readable: the process has ended."""
        process = self._by_pidfd.pop(pidfd, None)
        if process is None:
            return None
        process.forget_memory()
        for worker in process.workers:
            worker.left_by(process.pid)
            if worker.tgid == process.pid and worker is not self._root:
                self.is_over(worker)
        if self.by_pid.get(process.pid) is process:
            del self.by_pid[process.pid]
        for tid in [tid for tid, (owner, _) in self._threads.items() if owner is process]:
            del self._threads[tid]
        return process

    def chain(self, process: Process, worker: Worker) -> tuple[str, ...]:
        """Programs from the pytest process on whose account it is down to this one."""
        names: list[str] = []
        step: Process | None = process
        while step is not None and len(names) < 16:
            if worker in step.workers:
                names.append(
                    worker.scope.host or program(step.pid)
                )  # which may run under any name: python, coverage, a wrapper's
                break
            names.append(program(step.pid))
            step = step.parent
        return tuple(reversed(names))
