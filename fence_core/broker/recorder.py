"""Writing down what was refused: on whose account, by which program, from which line, and what would allow it.

Run by the supervisor, for refused calls only.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from fence_core.broker.attribution import Process, ProcessTable, program
from fence_core.broker.stacks import StackPipe, StackTarget, waits
from fence_core.events.ledger import Record
from fence_core.kernel import process as kernel_process
from fence_core.policy.requests import Connect, printable
from fence_core.report.rule import sentence

if TYPE_CHECKING:
    from fence_core.broker.judging import Objection
    from fence_core.broker.scopes import Binding
    from fence_core.policy.requests import Request

STACK_PIPE_BYTES = 1 << 20
STACK_PATIENCE_S = 0.005
_FEW_PORTS = 4
_WORD_MAX = 200
"""Characters shown of each word of a command line: a whole script may stand there."""
_LIBRARY = (os.path.dirname(os.__file__) + os.sep, "<frozen ")


class Recorder:
    """The ledgers of all sessions, and the pipes through which threads tell where they are."""

    def __init__(self, processes: ProcessTable, *, stacks_work: bool) -> None:
        self._processes = processes
        self.stacks_work = stacks_work
        """Whether WAIT_KILLABLE_RECV is in force: without it a stack signal would repeat the call for ever."""
        self.lost_one = False
        """Whether anything was refused that could not be written down: the run must fail all the same."""
        self._pipes: list[StackPipe] = []
        self._ports: dict[str, set[int]] = {}
        """The first few ports at which each host was refused."""

    def note(
        self,
        process: Process,
        tid: int,
        kind: str,
        what: str,
        binding: Binding,
        rule: str,
        number: int,
        request: object,
        *,
        repeats: bool = False,
        place: StackTarget | None = None,
    ) -> Record:
        """`place`: what was asked for its stack at the time, where the thread is at another line by now."""
        worker = binding.worker
        record, new = worker.scope.ledger.add(
            worker=worker.number,
            nodeid=binding.nodeid,
            phase=binding.phase,
            kind=kind,
            what=what,
            pid=process.pid,
            program=program(process.pid),
            repeats=repeats,
        )
        if new:
            self._describe(record, process, binding, rule, number, request)
            if place is not None and process.stacks is not None:
                process.stacks.collect(STACK_PATIENCE_S)
                record.stack = place.stack
            elif self.stacks_work:
                self._ask_stack(process, tid, binding, record)
        worker.page.add_violation()
        return record

    def objected(
        self,
        process: Process,
        tid: int,
        objection: Objection,
        number: int,
        *,
        repeats: bool = False,
        place: StackTarget | None = None,
    ) -> Record:
        """Record an objection of a session, with the error number that is answered on account of it."""
        request, binding = objection.request, objection.binding
        rule = sentence(objection.decision) + _known_otherwise(binding, request)
        what = request.describe()
        return self.note(process, tid, request.kind, what, binding, rule, number, request, repeats=repeats, place=place)

    def _ask_stack(self, process: Process, tid: int, binding: Binding, record: Record) -> None:
        """The line of the thread that tried; for another program, the line at which its test waits for it."""
        if process.stacks is not None:
            process.stacks.ask(process.pid, tid, record)
            if record.kind == "resolve" and tid != process.pid:
                # asyncio looks names up in a thread that runs nothing of the user's: where does he wait for it?
                process.stacks.collect(STACK_PATIENCE_S)
                if all(frame.path.startswith(_LIBRARY) for frame in record.stack):
                    process.stacks.ask(process.pid, process.pid, record)
            return
        test = self._processes.by_pid.get(binding.worker.test_pid)
        if test is None or test.stacks is None or test.workers[-1:] != [binding.worker]:
            return
        now = binding.worker.now()
        if (now.nodeid, now.phase) == (binding.nodeid, binding.phase) and waits(test.pid):
            test.stacks.ask(test.pid, test.pid, record)

    def _describe(
        self, record: Record, process: Process, binding: Binding, rule: str, number: int, request: object
    ) -> None:
        scope = binding.worker.scope
        record.rule = rule
        record.errno = number
        record.mode = scope.mode
        # To the session around a nested one, whose account it is too, the inner pytest is a program like any other.
        record.is_test_process = binding.worker in process.workers
        record.chain = self._processes.chain(process, binding.worker)
        try:
            record.argv = tuple(printable(word[:_WORD_MAX]) for word in kernel_process.argv(process.pid)[:64])
        except OSError:
            pass
        if not record.is_test_process:
            record.late = binding.worker.page.read()[0] != binding.nodeid and bool(binding.nodeid)
        if request is not None:
            from fence_core.policy.remedy import advice  # only ever needed where something was refused

            request = self._of_many_ports(request)
            policy = scope.policies[binding.policy] if binding.policy < len(scope.policies) else scope.base
            change, record.hint = advice(request, policy, scope.syntax)  # type: ignore[arg-type]
            if change is not None:
                record.marker, record.config = change.marker, change.config

    def _of_many_ports(self, request: object) -> object:
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
        if process.stacks is not None and process.stacks in self._pipes:
            self._pipes.remove(process.stacks)
            process.stacks.close()
        process.stacks = StackPipe(read_fd, os.fstat(read_fd).st_ino)
        self._pipes.append(process.stacks)
        return write_fd

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


def _known_otherwise(binding: Binding, request: Request) -> str:
    """That a name which the policy places elsewhere leads to this address, if so."""
    names = [name for name, _ in binding.rules().network.hosts]
    if not names or not isinstance(request, Connect):
        return ""
    from fence_core.broker import etc_hosts

    return etc_hosts.remark(request.host, names)
