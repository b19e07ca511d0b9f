"""Writing down what was refused: on whose account, by which program, from which line, and what would allow it.

Run by the supervisor, for refused calls only.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from fence_core.broker.processes import Process, ProcessTable, program
from fence_core.broker.services.stacks import StackPipe, StackTarget
from fence_core.events.attempt import described
from fence_core.events.model import Doing, Owner, Program, Violation
from fence_core.events.phases import PHASES
from fence_core.kernel import process as kernel_process
from fence_core.link.page import NO_THREAD
from fence_core.policy.requests import Connect, Fault
from fence_core.text import encodable

if TYPE_CHECKING:
    from fence_core.broker.judging import Objection
    from fence_core.broker.scopes import Binding, Scope, Worker
    from fence_core.events.ledger import Record
    from fence_core.policy.model import Remedy, Rule
    from fence_core.policy.requests import Request

STACK_PIPE_BYTES = 1 << 20
STACK_PATIENCE_S = 0.005
_FEW_PORTS = 4
_WORD_MAX = 200
"""Characters shown of each word of a command line: a whole script may stand there."""
_LINE_DIGITS = 9
"""Of the number of a line; Python refuses to read a number of thousands."""
_LIBRARY = (os.path.dirname(os.__file__) + os.sep, "<frozen ")


_VERDICTS = {"unlisted": "unlisted", "denied": "denied", "error": "error"}
"""Of a decision's reason; all others leave nothing to be allowed."""
_STATES = {"enforce": "failing", "warn": "warned", "audit": "listed", "learn": "listed"}


def _owner(said: str) -> Owner | None:
    """The fixture that a process of pytest says is at work. It can only lie about its own."""
    words = said.split("\0")
    if len(words) != len(Owner._fields) or not words[-1].isdecimal() or len(words[-1]) > _LINE_DIGITS:
        return None
    fixture, scope, file, line = words
    return Owner(fixture, scope, encodable(file), int(line))


def _starter(process: Process, worker: Worker) -> Owner | None:
    """The fixture of more than one test of this session that has started a process."""
    binding = process.binding
    return _owner(binding.owner) if binding.worker is worker and worker not in process.workers else None


class Attempt(NamedTuple):
    """Something that was tried and that a session does not allow."""

    process: Process
    tid: int
    objection: Objection
    errno: int
    """What the program is answered; 0: it is let through."""
    again: bool = False
    """The same as one just noted, made again by something below the program (a resolver)."""
    how: str = ""
    """Of what the filter was asked as a proxy: by which request."""
    place: StackTarget | None = None
    """What was asked for its stack at the time, where the thread is at another line by now."""


def tell(recorder: Recorder, attempt: Attempt, *, happens: bool, absent: bool = False) -> Record | None:
    """Write it down: as a violation, or for a session that learns and lets it through, as a lesson (None).

    `happens`: whether no other session refuses it, so that there is anything to learn. `absent`: see `Lesson`.
    """
    if not attempt.objection.is_learnt:
        return recorder.note(attempt)
    if happens:
        recorder.learn(attempt, absent=absent)
    return None


class Recorder:
    """The ledgers of all sessions, and the pipes through which threads tell where they are."""

    def __init__(self, processes: ProcessTable, *, stacks_work: bool) -> None:
        self._processes = processes
        self.stacks_work = stacks_work
        """Whether WAIT_KILLABLE_RECV is in force: without it a stack signal would repeat the call for ever."""
        self.lost_one = False
        """Whether anything was refused that could not be written down: the run must fail all the same."""
        self._pipes: list[StackPipe] = []
        self._began = time.monotonic()
        self._ports: dict[str, set[int]] = {}
        """The first few ports at which each host was refused."""

    def learn(self, attempt: Attempt, *, absent: bool = False) -> None:
        """Take down what a session that learns lets through. `absent`: see `Lesson`."""
        binding, request = attempt.objection.binding, attempt.objection.request
        lessons = binding.worker.scope.lessons
        if lessons is not None and not isinstance(request, Fault):
            runs_tests = binding.worker in attempt.process.workers
            lessons.add(request, binding.nodeid, "" if runs_tests else program(attempt.process.pid), absent=absent)

    def note(self, attempt: Attempt) -> Record:
        """Write it down, with all that can be told of it now."""
        process, objection = attempt.process, attempt.objection
        binding, request = objection.binding, objection.request
        worker = binding.worker
        operation, target = described(request)
        moment = time.monotonic() - self._began
        why = "error" if request.kind == "error" else objection.decision.why
        made = Violation(
            number=0,
            nodeid=binding.nodeid,
            phase=PHASES[binding.phase],
            owner=_owner(binding.owner),
            started_by=_starter(process, worker),
            kind=request.kind,
            operation=operation,
            target=target,
            verdict=_VERDICTS.get(why, "protected"),
            rule=_with_remark(objection),
            program=Program(program(process.pid)),
            state=_STATES[worker.scope.mode],
            errno=attempt.errno,
            first_s=moment,
            last_s=moment,
        )
        record, new = worker.scope.ledger.add(worker.number, made, again=attempt.again)
        if new:
            record.made = self._with_details(record.made, attempt)
            place = attempt.place
            if place is not None and process.stacks is not None:
                process.stacks.collect(STACK_PATIENCE_S)
                record.stack = place.stack
            elif self.stacks_work:
                self._ask_stack(process, attempt.tid, binding, record)
        worker.page.add_violation()
        if worker.scope.listener is not None:
            worker.scope.listener(record, attempt.how)
        return record

    def _ask_stack(self, process: Process, tid: int, binding: Binding, record: Record) -> None:
        """The line of the thread that tried; for another program, the line at which its test waits for it."""
        from fence_core.broker.services.inquiries import waits  # only ever needed where something was refused

        if process.stacks is not None:
            process.stacks.ask(process.pid, tid, record)
            own = tid == process.pid
            # asyncio, trio and gevent look names up in a thread that runs nothing of the user's: who waits for it?
            if own or waits(process.pid, or_runs=True):
                process.stacks.ask_who_waits(process.pid, tid, record, wait=not own)
            if record.made.kind == "resolve" and not own and not record.lead:
                process.stacks.collect(STACK_PATIENCE_S)
                if all(frame.path.startswith(_LIBRARY) for frame in record.stack):
                    process.stacks.ask(process.pid, process.pid, record)
            return
        test = self._processes.by_pid.get(binding.worker.test_pid)
        if test is None or test.stacks is None or test.workers[-1:] != [binding.worker]:
            return
        now = binding.worker.now()
        if (now.nodeid, now.phase) != (binding.nodeid, binding.phase):
            return
        if waits(test.pid):
            test.stacks.ask(test.pid, test.pid, record)
            test.stacks.ask_who_waits(test.pid, test.pid, record, wait=True)
        elif waits(test.pid, or_runs=True):
            test.stacks.ask_who_waits(test.pid, NO_THREAD, record, wait=True)

    def _with_details(self, made: Violation, attempt: Attempt) -> Violation:
        binding, process = attempt.objection.binding, attempt.process
        scope = binding.worker.scope
        # To the session around a nested one, whose account it is too, the inner pytest is a program like any other.
        is_pytest = binding.worker in process.workers
        from fence_core.policy.sources.lines import in_full  # only ever needed where something was refused

        found, hint = self._advice(attempt.objection)
        return made._replace(
            rule=in_full(made.rule),
            program=self._program(attempt, is_pytest=is_pytest),
            during=self._doing(scope),
            late=not is_pytest and bool(binding.nodeid) and binding.worker.now().nodeid != binding.nodeid,
            remedy=found,
            hint=hint,
        )

    def _program(self, attempt: Attempt, *, is_pytest: bool) -> Program:
        process, tid = attempt.process, attempt.tid
        path, thread = "", ""
        argv: tuple[str, ...] = ()
        try:
            path = os.readlink(f"/proc/{process.pid}/exe")
            argv = tuple(encodable(word[:_WORD_MAX]) for word in _words(process.pid)[:64])
            if tid != process.pid:
                # The kernel's name for it, until Python tells another. Most are called as their process is.
                own = kernel_process.read_proc(f"/proc/{process.pid}/comm")
                said = kernel_process.read_proc(f"/proc/{process.pid}/task/{tid}/comm")
                thread = "" if said == own else said.decode(errors="replace")
        except OSError:
            pass  # it has ended, or shows itself to nobody
        chain = self._processes.chain(process, attempt.objection.binding.worker)
        name = program(process.pid)
        return Program(name, process.pid, encodable(path), chain, argv, is_pytest, encodable(thread.rstrip("\n")))

    def _doing(self, scope: Scope) -> tuple[Doing, ...]:
        """What each worker of a session is running."""
        workers = {each.number: each for process in self._processes.by_pid.values() for each in process.workers}
        found = [(number, each.now()) for number, each in sorted(workers.items()) if each.scope is scope]
        return tuple(Doing(number, now.nodeid, PHASES[now.phase]) for number, now in found if now.nodeid)

    def _advice(self, objection: Objection) -> tuple[Remedy | None, str]:
        binding, request = objection.binding, objection.request
        if isinstance(request, Fault):
            return None, ""
        from fence_core.policy.remedy import advice

        return advice(self._of_many_ports(request), binding.rules(), objection.decision, binding.syntax())

    def _of_many_ports(self, request: Request) -> Request:
        """Of a host that is tried at one port after the other, all of them are asked for."""
        if not isinstance(request, Connect):
            return request
        ports = self._ports.setdefault(request.host, set())
        if len(ports) < _FEW_PORTS:
            ports.add(request.port)
        if request.port in ports or request.host.startswith("127."):
            return request
        return Connect(request.host, 0, request.proto, request.inside, request.name, request.way)

    # ------------------------------------------------------------ stacks

    def open_pipe(self, process: Process) -> int:
        """A new pipe for the stacks of this process: the end that it writes to."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, STACK_PIPE_BYTES)
        except (OSError, AttributeError):
            pass  # the user's pipe quota is used up: a smaller pipe holds fewer stacks
        # A session inside another one in the same process: its main thread answers as before.
        answers = process.stacks.answers if process.stacks is not None else None
        process.stacks = StackPipe(read_fd, os.fstat(read_fd).st_ino)
        process.stacks.answers = answers
        self._pipes.append(process.stacks)
        self._close_unheld()
        return write_fd

    def _close_unheld(self) -> None:
        """Close the pipes that no process writes to any more: each has another, or runs another program by now."""
        held = {process.stacks for process in self._processes.by_pid.values()}
        for pipe in [each for each in self._pipes if each not in held]:
            pipe.collect()
            self._pipes.remove(pipe)
            pipe.close()

    def ended(self, process: Process) -> None:
        """A process is gone: read what it has written last, and close the pipe with the last process that has it."""
        pipe = process.stacks
        if pipe is None or pipe not in self._pipes:
            return
        if process.workers:
            pipe.collect()
        if all(other.stacks is not pipe for other in self._processes.by_pid.values()):
            pipe.collect()
            self._pipes.remove(pipe)
            pipe.close()

    def collect(self) -> None:
        """Read what threads have written since they were refused."""
        for pipe in self._pipes:
            pipe.collect(0.02)


def _words(pid: int) -> tuple[str, ...]:
    """The command line, without the empty words that a program leaves behind its title (npm). Raises OSError."""
    found = kernel_process.argv(pid)
    end = len(found)
    while end and not found[end - 1]:
        end -= 1
    return found[:end]


def _with_remark(objection: Objection) -> Rule:
    """The rule, and that a name which the policy places elsewhere leads to this address, if so."""
    rule, request = objection.decision.rule, objection.request
    names = [name for name, _ in objection.binding.rules().network.hosts]
    if not names or not isinstance(request, Connect):
        return rule
    from fence_core.broker.services import etc_hosts

    found = (rule.reason, etc_hosts.remark(request.host, names))
    return rule._replace(reason="; ".join(filter(None, found)))
