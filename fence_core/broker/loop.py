"""The supervisor's loop: receive a trapped call, have it judged, send the answer. One thread, never blocking.

Runs in the supervisor process. Measured facts: a second thread makes every call dearer and a second process gains
nothing, so there is one loop; ``poll`` on two descriptors is cheaper than ``epoll`` on many, so everything but the
listener sits behind one epoll descriptor. Whatever else happens, a call is answered: a handler that raises has
refused it.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import select
import socket
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.attribution import Process, ProcessTable
from fence_core.broker.call import Call
from fence_core.broker.ceiling import Ceiling
from fence_core.broker.control import OPEN_OF_ONE_MAX, Connection
from fence_core.broker.drafts import Drafts
from fence_core.broker.identity import Identities
from fence_core.broker.judging import Route
from fence_core.broker.look_ups import LookUps, Query
from fence_core.broker.names import Names
from fence_core.broker.recorder import Attempt, Recorder
from fence_core.broker.repeats import KEPT_S, Answer, Key, Repeats, has_an_effect
from fence_core.broker.reply import HandOver, Reply, Value, Wait
from fence_core.broker.resolve import Resolver
from fence_core.broker.scopes import Binding, Scope, Worker
from fence_core.broker.services import Services
from fence_core.broker.sinks import Sinks, Sunk
from fence_core.broker.sockets import InsideSockets
from fence_core.broker.table import handlers
from fence_core.broker.terminals import Terminals
from fence_core.broker.ties import Ties
from fence_core.broker.tunnels import Tunnel, Tunnels
from fence_core.broker.unix_sockets import UnixSockets
from fence_core.errors import KernelCallError
from fence_core.kernel import arch as arches
from fence_core.kernel import seccomp, signals
from fence_core.link import doors
from fence_core.link.page import create as create_page
from fence_core.policy.decision import impossible
from fence_core.policy.requests import Connect, Fault, Request, Resolve, printable

if TYPE_CHECKING:
    from fence_core.policy.decide import Judge
    from fence_core.policy.model import Remedy


WAIT_TICK_S = 0.02
"""How often a call that is being waited for is looked at: for signals that its thread must get."""
_TICKS_FOR_A_SIGNAL = 10
"""How long an answer is kept back from a thread that is about to take a signal."""
_ERRNO_MAX = 4096  # MAX_ERRNO + 1, include/linux/err.h
_ANSWERS = (Value, HandOver, Wait)
_OF_ARGUMENTS = (errno.EFAULT, errno.ENAMETOOLONG, errno.EBADF, errno.EMSGSIZE)


def _our_fault(at: str, done: str) -> str:
    """The rule that a fault of ours is reported with."""
    return f"a fault of the fence itself{f' at {at}' if at else ''}: {done}, please report it"


class _Parked:
    """A call whose answer is outstanding."""

    __slots__ = ("call", "key", "wait")

    def __init__(self, call: Call, wait: Wait, key: Key | None) -> None:
        self.call = call
        self.wait = wait
        self.key = key


def _interrupted(wait: Wait) -> int | Value:
    """What a signal makes of a call that waits. Source: sock_intr_errno, include/net/sock.h."""
    if wait.so_far:
        return Value(wait.so_far)
    return seccomp.ERESTARTSYS if wait.deadline == math.inf else errno.EINTR


class Broker:
    """All that the supervisor knows. Only `run` blocks; everything else is called from it."""

    def __init__(
        self,
        listener_fd: int,
        root: Scope,
        root_pid: int,
        *,
        layers: tuple[str, ...],
        stacks: bool,
        interruptible: bool,
        ceiling: Ceiling,
        watches_reads: bool,
    ) -> None:
        self.listener = seccomp.Listener(listener_fd)
        self.listener.set_sync_wake_up()
        self.layers = layers
        self.withheld: tuple[str, ...] = ()
        """Names of the variables that were kept from the tests."""
        self.closed: tuple[tuple[int, str], ...] = ()
        """Descriptors that the caller had left open and the tests did not get, each with what it led to."""
        self.identities = Identities()
        self.resolver = Resolver(lambda pid: self.processes.is_ours(pid), self.identities)
        self.ceiling = ceiling
        self.watches_reads = watches_reads
        """Whether opens for reading are trapped: the filter cannot be changed later."""
        self.inside = InsideSockets()
        self.terminals = Terminals()
        self.unix = UnixSockets(self.after)
        self.ties = Ties()
        self.epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self.names = Names(
            watch=self.watch,
            unwatch=self.unwatch,
            verdict=lambda process, name: judging.on_name(process.account(), name),
            refuse=self._refuse_name,
            refuse_message=self._refuse_message,
        )
        self.tunnels = Tunnels(self)
        self.sinks = Sinks(self, self.watch)
        self._look_ups = LookUps()
        self.root = Worker(0, root, root_pid, create_page(), ())
        """The session that the user has started, in its first process."""
        self.root.page.write(b"", 0, 0)
        self._numbers = itertools.count(1)
        self.on_meeting: Callable[[int], None] | None = None
        """Called with the pid of each process that is seen for the first time."""
        self.processes = ProcessTable(self.root, watch=self._watch_process, supervisor=os.getpid())
        self.recorder = Recorder(self.processes, stacks_work=stacks)
        self.drafts = Drafts(self.recorder, self.after)
        first = self.processes.adopt(root_pid, self.root.now())
        first.workers.append(self.root)
        self.root_process = first
        self.root_greeted = False
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.finished = False
        self._handlers = handlers(arches.current())
        self._repeats = Repeats(arches.current().calls) if interruptible else None
        """None where no signal takes a call back from us: then what is not delivered is for processes that end."""
        self._parked: list[_Parked] = []
        self._services = self._parts()
        self._call_names = {number: name for name, number in arches.current().calls.items()}

    def _parts(self) -> Services:
        parts = Services()
        parts.listener, parts.processes, parts.recorder = self.listener, self.processes, self.recorder
        parts.doors, parts.started = self.doors, time.time()
        parts.resolver, parts.identities, parts.ceiling = self.resolver, self.identities, self.ceiling
        parts.watches_reads, parts.terminals, parts.drafts = self.watches_reads, self.terminals, self.drafts
        parts.inside, parts.unix, parts.ties = self.inside, self.unix, self.ties
        parts.names, parts.tunnels, parts.sinks = self.names, self.tunnels, self.sinks
        parts.route = self.route
        return parts

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Answer until `finished` is set by somebody's callback."""
        outer = select.poll()
        listener_fd = self.listener.fd
        outer.register(listener_fd, select.POLLIN)
        outer.register(self.epoll.fileno(), select.POLLIN)
        poll, step = outer.poll, self._step
        while not self.finished:
            calls = 0
            for fd, event in poll(self._timeout_ms()):
                if fd == listener_fd:
                    calls = event
                else:
                    # Ends of processes come before calls: a reused number must not meet its former owner.
                    self._housekeeping()
            if calls & select.POLLIN:
                step()
            elif calls:
                outer.unregister(listener_fd)  # POLLHUP: no fenced process is left
            if self.timers or self._parked:
                self._tick()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable."""
        self._watched[fd] = callback
        self.epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, that much later."""
        self.timers.append((time.monotonic() + seconds, callback))

    def _timeout_ms(self) -> float | None:
        if self._parked:
            return WAIT_TICK_S * 1000
        if self.timers:
            return max(0.0, (min(self.timers, key=lambda timer: timer[0])[0] - time.monotonic()) * 1000 + 1)
        return None

    def _tick(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self.timers if timer[0] <= now]
        if due:
            self.timers = [timer for timer in self.timers if timer[0] > now]
            for _, callback in due:
                self._guarded(callback)
        for parked in list(self._parked):
            self._look_at(parked)

    def _housekeeping(self) -> None:
        for fd, _ in self.epoll.poll(0):
            callback = self._watched.get(fd)
            if callback is not None:
                self._guarded(callback)

    def _guarded(self, callback: Callable[[], None]) -> None:
        """A fault in our own book-keeping is reported like one in a handler; the loop goes on answering."""
        try:
            callback()
        except Exception as error:
            self._fault(self.root_process.pid, -1, error)

    def _step(self) -> None:
        """Answer one call."""
        notification = self.listener.receive()
        if notification is None:
            return
        call = Call(self._services, notification)
        if self.unix.pending:
            self.unix.settle()
        if self.drafts:
            self._guarded(self.drafts.settle)
        key = None
        if self._repeats is not None:
            key = self._repeats.key(call.tid, notification)
            kept = self._repeats.take(call.tid, call.number, key)
            if kept is not None:
                self._deliver(call, key, kept)
                return
        try:
            call.process = self.processes.find(call.tid)
            reply = self._handlers[call.number](call)
        except Exception as error:
            reply = self._failed(call, error)
        if reply.__class__ is int and 0 <= reply < _ERRNO_MAX:
            if reply:
                self._deliver(call, key if has_an_effect(reply) else None, reply)
            else:
                self.listener.reply_continue(call.id)
        elif isinstance(reply, Wait):
            self._park(call, key, reply)
            return
        elif isinstance(reply, Value | HandOver):
            self._deliver(call, key, reply)
        else:
            nonsense = TypeError(f"the handler answered {reply!r}")
            self.listener.reply_error(call.id, self._fault(call.tid, call.number, nonsense))
        if call.kept:
            call.close()

    def _park(self, call: Call, key: Key | None, wait: Wait) -> None:
        """Answer it when it is time; until then it keeps what it has open."""
        self._parked.append(_Parked(call, wait, key))
        ready = select.EPOLLIN if wait.readable else select.EPOLLOUT
        self.epoll.register(wait.fd, ready | select.EPOLLET)

    def _deliver(self, call: Call, key: Key | None, answer: Answer, ticks: int = _TICKS_FOR_A_SIGNAL) -> None:
        """Send what was done, and where it does not arrive keep it for when the call is made again.

        Whether a number has arrived cannot be asked: SECCOMP_IOCTL_NOTIF_SEND succeeds, too, while the thread, woken
        by a signal, is on its way to take its call back. Measured with a stand-in for the broker (Linux 6.18, a signal
        each millisecond, two busy cores): 6 in 177,000 answers were lost so, and 6 in 1,217,000 where an answer waits
        for a signal that is seen to be pending. A descriptor (SECCOMP_IOCTL_NOTIF_ADDFD) is acknowledged by the thread.
        """
        repeats = self._repeats
        if repeats is None or key is None:
            self._send(call.id, answer)
        elif ticks and not isinstance(answer, HandOver) and self._has_signal(call.tid, main_thread=True):
            repeats.keep(call.tid, key, answer)
            self.after(WAIT_TICK_S, lambda: self._deliver_late(call, key, answer, ticks - 1))
            return
        elif self._send(call.id, answer):
            repeats.arrived(call.tid, key)
        else:
            repeats.keep(call.tid, key, answer)
            self.after(KEPT_S, repeats.expire)
            return
        if isinstance(answer, HandOver):
            os.close(answer.fd)

    def _deliver_late(self, call: Call, key: Key, answer: Answer, ticks: int) -> None:
        """Unless the signal has come: it may have been blocked meanwhile, or taken by another thread."""
        if call.waits():
            self._deliver(call, key, answer, ticks)

    def _send(self, id_: int, answer: Answer) -> bool:
        """Whether it has arrived, as far as the kernel tells."""
        if isinstance(answer, HandOver):
            return self._hand_over(id_, answer)
        if isinstance(answer, Value):
            return self.listener.reply_value(id_, answer.value)
        return self.listener.reply_error(id_, answer)

    def _hand_over(self, id_: int, reply: HandOver) -> bool:
        listener = self.listener
        try:
            try:
                listener.add_fd(id_, reply.fd, cloexec=reply.cloexec, send=True)
            except KernelCallError as error:
                if error.errno != errno.EINVAL:
                    raise
                # Before Linux 5.14: in two steps.
                return listener.reply_value(id_, listener.add_fd(id_, reply.fd, cloexec=reply.cloexec))
        except KernelCallError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):  # the call was taken back before, or instead of taking it
                return False
            return listener.reply_error(id_, error.errno or errno.EMFILE)
        return True

    def _look_at(self, parked: _Parked) -> None:
        """Answer a waiting call if its time has come, or give its thread the signal that it must take."""
        answer: int | Value | HandOver | None
        gone = Value(0)
        call = parked.call
        if not call.waits():
            answer = gone  # the reply below goes nowhere
        else:
            try:
                answer = parked.wait.poll()
            except OSError as error:
                answer = error.errno or errno.EIO
            if answer is None and self._has_signal(call.tid, main_thread=call.tid == call.process.pid):
                answer = _interrupted(parked.wait)
        if answer is None:
            return
        self._parked.remove(parked)
        self.epoll.unregister(parked.wait.fd)
        parked.wait.close()
        call.close()
        if answer is gone or answer == seccomp.ERESTARTSYS:
            self._send(call.id, answer)
        else:
            self._deliver(call, parked.key if not isinstance(answer, int) else None, answer)

    @staticmethod
    def _has_signal(tid: int, *, main_thread: bool) -> bool:
        """ERESTARTSYS reaches the program as error 512 unless the thread really has a signal to take."""
        try:
            state = signals.state(tid)
        except OSError:
            return False
        return bool(state.deliverable(main_thread=main_thread))

    # ------------------------------------------------------------ what can go wrong

    def _failed(self, call: Call, error: Exception) -> int:
        """A handler has raised: the error number to answer, and a report where it is a fault of ours.

        This is the one place that knows of callers that have died meanwhile. Handlers read a good deal about theirs in
        /proc, and what they read goes bit by bit when a thread ends: its status is missing (ENOENT) or cut short (no
        such field), its namespaces, directories and descriptors lead nowhere, its memory is nobody's. Its call is
        taken back by the kernel before any of that goes, so it can be asked whether that was the reason.
        """
        if isinstance(error, KernelCallError | ProcessLookupError) and error.errno in _OF_ARGUMENTS:
            return error.errno  # what the kernel says about such an argument
        if isinstance(error, OSError | ValueError | LookupError) and not call.waits():
            return errno.EACCES  # nobody is there to read the answer
        return self._fault(call.tid, call.number, error)

    def _fault(self, tid: int, number: int, error: Exception) -> int:
        """Our own failure: the call is refused and the run says so."""
        name = self._call_names.get(number, "the broker")
        if isinstance(error, KernelCallError) and error.errno in (errno.EPERM, errno.EACCES):
            what = f"{name} by a process that the fence cannot inspect (undumpable)"
            rule = "what cannot be inspected is refused: see docs/known-limitations.md"
        else:
            what = f"fence error in {name}: {type(error).__name__}: {error}"
            where = traceback.extract_tb(error.__traceback__)
            at = f"{os.path.basename(where[-1].filename)}:{where[-1].lineno}" if where else ""
            rule = _our_fault(at, "the call was refused")
        self._note_fault(self.processes.by_pid.get(tid) or self.root_process, tid, what, rule)
        return errno.EACCES

    def filter_fault(self, tunnel: Tunnel | None, what: str, at: str, done: str) -> None:
        """The filter's own failure. On nobody's connection it is on account of what pytest is doing."""
        process, tid = (self.root_process, self.root_process.pid) if tunnel is None else (tunnel.process, tunnel.tid)
        self._note_fault(process, tid, f"fence error in the filter: {what}", _our_fault(printable(at), done))

    def _note_fault(self, process: Process, tid: int, what: str, rule: str) -> None:
        try:
            fault = judging.Objection(process.account(), Fault(what), impossible(rule))
            self.recorder.note(Attempt(process, tid, fault, errno.EACCES))
        except Exception:
            self.recorder.lost_one = True
            traceback.print_exc()

    # ------------------------------------------------------------ what services ask

    def allowed_by_now(self, sunk: Sunk) -> bool:
        """Whether what was to be refused when a socket was connected is allowed now to whoever sends by it."""
        return judging.allowed(self.sinks.whose(sunk), sunk.request)

    def report_sent(self, sunk: Sunk) -> None:
        """Record that something was sent on a socket that was led to a sink."""
        request = sunk.request
        if self.allowed_by_now(sunk):
            request = Connect(request.host, request.port, request.proto, name=request.name, way="late")
        for objection in judging.objections(self.sinks.whose(sunk), request):
            if not objection.decision.quiet:
                self.recorder.note(Attempt(sunk.process, sunk.tid, objection, errno.EACCES, place=sunk))

    def report(self, process: Process, tid: int, request: Request) -> None:
        """Record what was refused elsewhere than in a trapped call, with every session that does not allow it."""
        for objection in judging.objections(process.account(), request):
            self.recorder.note(Attempt(process, tid, objection, errno.EACCES))

    def route(self, process: Process, tid: int, name: str, port: int) -> Route:
        """Whether this process may connect to a name, and where the policy says that the name is. A refusal is
        recorded."""
        account = process.account()
        found, objections = judging.route(account, name, port, lambda host, at: self.inside.has_port(host, at, "tcp"))
        remedy: Remedy | None = None
        for objection in objections:
            record = self.recorder.note(Attempt(process, tid, objection, errno.EACCES))
            if not objection.audited:
                remedy = remedy or record.made.remedy
        return found._replace(remedy=remedy)

    def _refuse_name(self, process: Process, tid: int, request: Resolve, query: Query) -> None:
        number = errno.EAGAIN if request.used_up else errno.ENOENT
        for objection in judging.objections(process.account(), request):
            binding = objection.binding
            key = (process.pid, binding.worker.number, binding.nodeid, binding.phase, request.name)
            again = not self._look_ups.begins(key, query)
            self.recorder.note(Attempt(process, tid, objection, number, again))

    def _refuse_message(self, process: Process, tid: int, host: str, proto: str) -> None:
        """To a name server, but no query: it went no further than to us, even where the policy opens the port."""
        self.report(process, tid, Connect(host, 53, proto, way="no query"))

    # ------------------------------------------------------------ doors: /proc/fence/...

    def doors(self, process: Process, raw: bytes) -> Reply:
        """The opens that only a broker can answer. Unfenced they fail: procfs lets nobody create files."""
        if raw == doors.CONTROL:
            if process.lines_open >= OPEN_OF_ONE_MAX:
                return errno.EMFILE
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            connection = Connection(self, ours, process)
            self.watch(ours.fileno(), connection.readable)
            return HandOver(theirs.detach(), cloexec=True)
        if raw == doors.PAGE and process.workers and process.workers[-1].page_fd >= 0:
            # Once: whoever has it mapped needs no descriptor, and nor do we.
            fd, process.workers[-1].page_fd = process.workers[-1].page_fd, -1
            return HandOver(fd, cloexec=True)
        if raw == doors.STACK and process.workers:
            return HandOver(self.recorder.open_pipe(process), cloexec=True)
        # Nothing to hand over: that the call is made says all there is to say.
        pid = doors.pid_of_test(raw)
        if pid is not None:
            self.processes.expect_test(process, pid)
        return errno.ENOENT

    # ------------------------------------------------------------ processes and names

    def _watch_process(self, pidfd: int, pid: int) -> None:
        def ended() -> None:
            self.unwatch(pidfd)
            self.sinks.drain()  # while it is known who has sent that
            self.unix.settle()
            self.drafts.settle()
            process = self.processes.forget(pidfd)
            os.close(pidfd)
            if process is not None:
                self.recorder.ended(process)

        self.watch(pidfd, ended)
        if self.on_meeting is not None:
            self.on_meeting(pid)

    def add_worker(self, scope: Scope, process: Process, outer_judges: tuple[tuple[Binding, Judge], ...]) -> Worker:
        worker = Worker(next(self._numbers), scope, process.pid, create_page(), outer_judges)
        worker.page.write(b"", 0, 0)
        process.workers.append(worker)
        self.processes.registered(process)
        return worker
