"""The control socket: answers to what pytest processes inside the fence ask (`fence_core/link/control.py`).

What arrives here comes from inside: it is data, checked, and chooses only among what the session's policy permits.
A request never widens more than a marker may; see `docs/security-model.md` for what test code can say about itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from fence_core.broker.scopes import Scope, Worker
from fence_core.errors import PolicyError
from fence_core.kernel.signals import SIGRTMAX, SIGRTMIN
from fence_core.link import control as link
from fence_core.link.operations import Operation, misfit
from fence_core.policy.model import CONFIGURABLE_MODES, Blame, Package, Policy, Source
from fence_core.policy.sources.validate import unwatched
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.broker.loop import Loop
    from fence_core.broker.processes import Process
    from fence_core.broker.services.all import Services
    from fence_core.broker.services.sessions import Sessions
    from fence_core.events.ledger import Record

OPEN_OF_ONE_MAX = 64
"""Lines that one process may hold open at a time. Ours are closed after one reply."""
SESSIONS_OF_ONE_MAX = 32
"""Sessions that may be open in one process, one inside the other."""
SESSIONS_MAX = 1000
"""Sessions, and processes of sessions, that may be open in one run."""
_HOST_MAX = 20
"""Characters of what a nested session's program is called."""
_MODES = CONFIGURABLE_MODES
_BLAMES = get_args(Blame)


class Control:
    """What answers need to know."""

    def __init__(self, services: Services, sessions: Sessions, loop: Loop) -> None:
        self.services = services
        self.sessions = sessions
        self.loop = loop

    def open(self, process: Process) -> int | None:
        """Open a line for a process: the end that it gets; None where it has too many."""
        if process.lines_open >= OPEN_OF_ONE_MAX:
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self.loop.watch(ours.fileno(), _Connection(self, ours, process).readable)
        return theirs.detach()


class _Connection:
    """One open control socket and the process that opened it, as the kernel named it when it did."""

    def __init__(self, control: Control, own: socket.socket, process: Process) -> None:
        self._control = control
        self._socket = own
        self._process = process
        process.lines_open += 1
        self._received = bytearray()
        self._to_send = bytearray()

    def readable(self) -> None:
        try:
            chunk = self._socket.recv(link.CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk or len(self._received) > link.REQUEST_MAX:
            self._close()
            return
        self._received += chunk
        if b"\n" not in chunk:
            return
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received.clear()
        if rest or self._to_send:
            self._close()  # one request, one reply: who sends more before reading is nobody of ours
            return
        self._to_send += link.answer(self._answer(line))
        self._flush()

    def _flush(self) -> None:
        try:
            while self._to_send:
                sent = self._socket.send(self._to_send, socket.MSG_NOSIGNAL)
                del self._to_send[:sent]
        except BlockingIOError:
            # A reply larger than the socket's buffer: go on when the other side has read some of it.
            self._control.loop.after(0.002, self._flush)
        except OSError:
            self._to_send.clear()

    def _close(self) -> None:
        self._control.loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._process.lines_open -= 1

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            operation, request = link.read_request(line)
        except link.NoRequestError:
            return link.refusal("no such request")
        if operation is not link.HELLO and not _is_pytest(self._process):
            return link.refusal("only a pytest process may ask this")
        wrong = misfit(request, operation.asks)
        if wrong:
            return link.refusal(f"no such request, for its {wrong!r}")
        try:
            return _ANSWERS[operation](self._control, self._process, request)
        except PolicyError as error:
            return link.problems(error)
        except Exception as error:
            # Whatever it was, the request made it happen: an answer for who asked, and no fault of ours.
            return link.refusal(f"{type(error).__name__}: {error}")


def _hello(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """Who a pytest process is. Its first word about itself, once per session in it."""
    role = request["role"]
    address, token = map(int, request["note"])
    process.remember_memory()
    if control.sessions.greet_root(process):
        return _welcome(control, "session", process.workers[0], (address, token))
    here = process.started_for()  # and not what runs now: the inner session may outlast that
    if len(process.workers) >= SESSIONS_OF_ONE_MAX:
        return link.refusal(f"{SESSIONS_OF_ONE_MAX} fenced sessions are open in this process already")
    if control.services.processes.sessions_open() >= SESSIONS_MAX:
        return link.refusal(f"{SESSIONS_MAX} fenced sessions are open in this run already")
    if role == "worker":
        # A worker may register policies, which only pytest may: so not whatever program a test starts is one, but
        # what a process starts that has said it would, outside of any test.
        started_by = process.binding
        if not started_by.worker.expects_workers or started_by.nodeid or process.workers:
            return link.refusal("no workers are expected here")
        return _welcome(control, "worker", _worker(control, process), (address, token))
    config = request["config"] or {}
    wrong = misfit(config, link.CONFIG)
    if wrong:
        return link.refusal(f"a session without a config, for its {wrong!r}")
    from fence_core.policy.sources.wire import from_wire  # for sessions inside of this one

    policy = from_wire(Policy, config["policy"])
    parts = tuple(from_wire(Package, each) for each in config["parts"])
    policies = (policy, *(each.policy for each in parts))
    if any(each.filesystem.deny_read for each in policies) and not control.services.watches_reads:
        raise PolicyError((unwatched(escape(config["source"]), "the session around this one"),))
    scope = Scope(
        policy,
        mode=config["mode"] if config["mode"] in _MODES else "enforce",
        source=config["source"],
        syntax=config["syntax"],
        base_dir=config["base_dir"],
        host=escape(config["host"])[:_HOST_MAX],
        watches_reads=control.services.watches_reads,
        blame=config["blame"] if config["blame"] in _BLAMES else "running",
        parts=parts,
    )
    worker = control.sessions.add(scope, process, here.judges)
    return _welcome(control, "nested", worker, (address, token))


def _worker(control: Control, process: Process) -> Worker:
    """A further process of the session that started it (xdist)."""
    above = process.binding.worker
    return control.sessions.add(above.scope, process, above.outer_judges)


def _welcome(control: Control, role: str, worker: Worker, note: tuple[int, int]) -> dict[str, Any]:
    worker.note = note
    terms = control.sessions.terms
    return {
        "role": role,
        "mode": worker.scope.mode,
        "layers": list(terms.layers),
        "source": worker.scope.source,
        "withheld": list(terms.withheld) if role == "session" else [],
        "closed": [[fd, escape(what)] for fd, what in terms.closed] if role == "session" else [],
        "stacks": terms.stacks,
        "watches_reads": terms.watches_reads,
        "announces_forks": terms.announces_forks,
        "packages": [[each.directory, each.scope] for each in worker.scope.parts],
    }


def _workers(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """This session is about to start workers (xdist)."""
    _own(process).expects_workers = True
    return {}


def _proxy(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """Where the filter listens, for programs that are to be told of it; it is started if need be."""
    end = control.services.tunnels.address()
    return {"url": f"http://{end.host}:{end.port}"}


def _policy(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    from fence_core.policy.sources.wire import from_wire

    layers = [(raw, from_wire(Source, source)) for raw, source in request["layers"]]
    return {"number": _own(process).scope.register(layers, request["base"])}


def _ceiling(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """Where a test under this policy may write at all: places for a Landlock layer of its own.

    A rule that forbids a place forbids all that lies in it, so such a place is left out. None: there is no floor, and
    no layer would stand on anything.
    """
    worker = _own(process)
    judges = [worker.judge(request["policy"]), *(judge for _, judge in worker.outer_judges)]
    if not control.services.ceiling.floor:
        return {"places": None}
    return {
        "places": [
            place for place in control.services.ceiling.places() if not any(judge.shuts(place[0]) for judge in judges)
        ]
    }


def _stacks(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """The handler of the stack signal stands, and writes to this descriptor.

    Said once: forks of the process have the same pipe, and a test is not to say for others how they are asked.
    """
    pipe, signal = process.stacks, request["signal"]
    if pipe is None or pipe.signal or not SIGRTMIN <= signal <= SIGRTMAX:
        return link.refusal("no such signal, or it was said before")
    if SIGRTMIN <= request["inquiry"] <= SIGRTMAX and process.workers and request["inquiry"] != signal:
        pipe.answers = (process.workers[-1].page, request["inquiry"])
    pipe.target_fd = request["fd"]
    pipe.signal = signal
    return {}


def _wire(records: list[Record]) -> list[dict[str, Any]]:
    if not records:
        return []
    from fence_core.events.wire import to_wire  # a run without violations does without

    return [to_wire(record.violation()) for record in records]


def _take(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    control.services.sinks.settle()
    control.services.drafts.settle()
    control.services.drafts.have_asked()
    control.services.recorder.collect()
    worker = _own(process)
    ledger = worker.scope.ledger
    nodeid = request["nodeid"]
    if process.pid != worker.tgid:
        # A fork, of which its parent need not believe that it told of all it has taken.
        records = ledger.take(worker.number, nodeid, keep=True)
    elif request["by_fork"]:
        records = ledger.kept(worker.number, nodeid)
    else:
        records = [*ledger.kept(worker.number, nodeid), *ledger.take(worker.number, nodeid)]
    return {"violations": _wire(records)}


def _ledger(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    control.services.sinks.drain()
    control.services.drafts.settle()
    control.services.recorder.collect()
    if control.services.others is not None:
        control.services.others.drain()
    ledger = _own(process).scope.ledger
    return {"violations": _wire(ledger.records)}


def _uses(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    from fence_core.events.wire import to_wire
    from fence_core.policy.sources.lines import in_full

    found = _own(process).scope.ledger.uses()
    return {"uses": [to_wire(use._replace(rule=in_full(use.rule))) for use in found]}


def _settle(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    _own(process).scope.ledger.settle(request["upto"])
    return {}


def _told(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """Kept as it came: who writes the report checks it. Only the session's own process speaks for its tests."""
    worker = _own(process)
    if process.pid != worker.tgid or worker.number:
        return link.refusal("only the first process of a session may say that")
    worker.scope.told = request["told"]
    return {}


def _bye(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """An inner session in this process is over; the outer one's test goes on."""
    if len(process.workers) > 1:
        control.services.processes.is_over(process.workers.pop())
        control.services.processes.registered(process)
    return {}


def _fork_server(control: Control, process: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    """This session has started the fork server of `multiprocessing`."""
    control.services.processes.serves_forks(process, request["pid"])
    return {}


def _is_pytest(process: Process) -> bool:
    """Registered, or forked from a registered one without an exec since (pytest-forked runs its tests in such)."""
    return bool(process.workers) or process.stacks is not None


def _own(process: Process) -> Worker:
    """The session that asks: the innermost one of the process, or the one it was forked from."""
    return process.workers[-1] if process.workers else process.binding.worker


_ANSWERS: dict[Operation, Callable[[Control, Process, Mapping[str, Any]], dict[str, Any]]] = {
    link.HELLO: _hello,
    link.WORKERS: _workers,
    link.POLICY: _policy,
    link.CEILING: _ceiling,
    link.PROXY: _proxy,
    link.STACKS: _stacks,
    link.TAKE: _take,
    link.LEDGER: _ledger,
    link.USES: _uses,
    link.SETTLE: _settle,
    link.TOLD: _told,
    link.BYE: _bye,
    link.FORK_SERVER: _fork_server,
}
