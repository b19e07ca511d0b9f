"""Puts the broker together: the only file that knows all its parts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.dispatch import Dispatch
from fence_core.broker.later import Handlers
from fence_core.broker.loop import Loop
from fence_core.broker.paths.identity import Identities
from fence_core.broker.paths.resolve import Resolver
from fence_core.broker.paths.terminals import Terminals
from fence_core.broker.processes import Process, ProcessTable
from fence_core.broker.repeats import Repeats
from fence_core.broker.services.all import Services
from fence_core.broker.services.commands import CommandWatch
from fence_core.broker.services.control import Control
from fence_core.broker.services.doors import Doors
from fence_core.broker.services.drafts import Drafts
from fence_core.broker.services.faults import Faults
from fence_core.broker.services.name_server import Names
from fence_core.broker.services.recorder import Recorder
from fence_core.broker.services.refusals import Refusals
from fence_core.broker.services.sessions import Sessions, Terms, new_worker
from fence_core.broker.services.sinks import Sinks
from fence_core.broker.services.sockets import InsideSockets
from fence_core.broker.services.ties import Ties
from fence_core.broker.services.tunnels import FilterStart, Tunnels
from fence_core.broker.services.unix_sockets import UnixSockets
from fence_core.broker.table import handlers, shapes
from fence_core.kernel import arch, memory, seccomp

if TYPE_CHECKING:
    import socket

    from fence_core.broker.paths.ceiling import Ceiling
    from fence_core.broker.scopes import Scope
    from fence_core.broker.services.made_sockets import MadeSockets
    from fence_core.broker.services.remote_ledgers import RemoteLedgers

__all__ = ["Broker"]


class Broker:
    """What the supervisor holds: the loop, and the parts that it asks at the end."""

    def __init__(
        self,
        listener_fd: int,
        root_pid: int,
        scope: Scope,
        ceiling: Ceiling,
        terms: Terms,
        filter_start: FilterStart,
        on_meeting: Callable[[int], object] | None,
        *,
        borrows: bool = True,
    ) -> None:
        """`scope`: the session that the user has started, in the process `root_pid`. `on_meeting` is called with the
        pid of each process that is seen for the first time. `borrows`: the callers' descriptors may be taken
        (pidfd_getfd)."""
        terminals = Terminals()  # first of all: what is open now was handed to the run
        listener = seccomp.Listener(listener_fd)
        listener.set_sync_wake_up()
        self.loop = Loop(lambda error: self._faults.in_the_broker(error))
        self.scope = scope
        self.others: RemoteLedgers | None = None
        self._on_meeting = on_meeting
        root = new_worker(0, scope, root_pid)
        made = None if borrows else _made_sockets(self)
        process = Process if made is None else _unborrowed(made)
        self.processes = ProcessTable(root, watch=self._watch_process, supervisor=os.getpid(), process=process)
        self.recorder = Recorder(self.processes, stacks_work=terms.stacks)
        self.drafts = Drafts(self.recorder, self.loop.after)
        first = self.processes.adopt(root_pid, root.now())
        first.workers.append(root)
        if not terms.greets:
            self.processes.is_no_session(first)
        self._faults = Faults(self.recorder, self.processes, first)
        inside = InsideSockets()
        refusals = Refusals(self.recorder, lambda host, port: inside.has_port(host, port, "tcp"))
        self.tunnels = Tunnels(self.loop, refusals, self._faults.in_the_filter, filter_start)
        self.sinks = Sinks(self.processes, self.loop.watch, refusals.of_sent)

        parts = self._services = Services()
        parts.listener, parts.started = listener, time.time()
        parts.processes, parts.recorder, parts.drafts = self.processes, self.recorder, self.drafts
        parts.identities, parts.terminals, parts.ceiling = Identities(), terminals, ceiling
        parts.watches_reads = terms.watches_reads
        parts.commands = CommandWatch()
        parts.resolver = Resolver(self.processes.is_ours, parts.identities)
        parts.made, parts.others = made, None
        parts.inside, parts.unix, parts.ties = inside, UnixSockets(self.loop.after), Ties()
        parts.names = _names(self.loop, refusals, listener_fd, learns=scope.mode == "learn")
        parts.tunnels, parts.sinks, parts.route = self.tunnels, self.sinks, refusals.route
        control = Control(parts, Sessions(self.processes, first, terms), self.loop)
        parts.doors = Doors(self.processes, self.recorder, control.open).open

        machine = arch.current()
        repeats = None if terms.stacks else Repeats(shapes(machine))
        handled = Handlers(handlers(machine, borrows=borrows), parts.identities.looking)
        self._dispatch = Dispatch(parts, self.loop, handled, repeats, self._faults)
        if made is not None:
            made.adopt(root_pid)

    def hear_of_others(self, carrier: socket.socket) -> None:
        """Take what fences on other machines refuse into the ledger."""
        from fence_core.broker.services.remote_ledgers import RemoteLedgers  # of runs with such workers only

        self.others = self._services.others = RemoteLedgers(carrier, self.loop, self.scope.ledger)

    def run(self) -> None:
        """Answer calls until the loop is finished."""
        self.loop.run(self._services.listener.fd, memory.for_each_call(self._dispatch.step))

    def _watch_process(self, pidfd: int, pid: int) -> None:
        self.loop.watch(pidfd, lambda: self._ended(pidfd))
        if self._on_meeting is not None:
            self._on_meeting(pid)

    def _ended(self, pidfd: int) -> None:
        self.loop.unwatch(pidfd)
        try:
            self.sinks.drain()  # while it is known who has sent that
            self._services.unix.settle()
            self.drafts.settle()
        finally:  # or whoever is given its number would be taken for it
            process = self.processes.forget(pidfd)
            os.close(pidfd)
        if process is not None:
            self.recorder.ended(process)


def _made_sockets(broker: Broker) -> MadeSockets:
    """Where descriptors can be borrowed, none of this is imported."""
    from fence_core.broker.services.made_sockets import MadeSockets

    return MadeSockets(
        broker.loop, lambda pid: broker.processes.is_fenced(pid), lambda pid: broker.processes.is_ours(pid)
    )


def _unborrowed(made: MadeSockets) -> Callable[..., Process]:
    from functools import partial

    from fence_core.broker.unborrowed import Unborrowed

    return partial(Unborrowed, made)


def _names(loop: Loop, refusals: Refusals, listener_fd: int, *, learns: bool) -> Names:
    exists: Callable[[str], bool] = bool
    if learns:
        from fence_core.broker.services.outside import Outside  # nobody else needs to know

        exists = Outside(loop, listener_fd).exists
    return Names(
        watch=loop.watch,
        unwatch=loop.unwatch,
        verdict=lambda process, name: judging.on_name(process.account(), name, exists),
        refuse=refusals.of_query,
        refuse_message=refusals.of_no_query,
        learn=refusals.learn if learns else None,
    )
