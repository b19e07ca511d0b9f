"""What is refused elsewhere than in the call that asked for it: names, datagrams sent later, connections to names."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.services.look_ups import LookUps, Query
from fence_core.broker.services.recorder import Attempt, tell
from fence_core.policy.requests import Connect

if TYPE_CHECKING:
    from fence_core.broker.judging import HasPort, Route
    from fence_core.broker.processes import Process
    from fence_core.broker.scopes import Binding
    from fence_core.broker.services.recorder import Recorder
    from fence_core.broker.services.sinks import Sunk
    from fence_core.policy.model import Remedy
    from fence_core.policy.requests import Request, Resolve

__all__ = ["Refusals"]


class Refusals:
    """Asks the judges, and records what they object to."""

    def __init__(self, recorder: Recorder, has_port: HasPort) -> None:
        self._recorder = recorder
        self._has_port = has_port
        self._look_ups = LookUps()

    def route(self, process: Process, tid: int, name: str, port: int, how: str = "") -> Route:
        """Whether this process may connect to a name, and where the policy says that the name is. `how`: see
        `Attempt`."""
        found, objections = judging.route(process.account(), name, port, self._has_port)
        remedy: Remedy | None = None
        for objection in objections:
            attempt = Attempt(process, tid, objection, errno.EACCES, how=how)
            record = tell(self._recorder, attempt, happens=found.refusal is None)
            if record is not None and not objection.audited:
                remedy = remedy or record.made.remedy
        return found._replace(remedy=remedy)

    def of_query(self, process: Process, tid: int, request: Resolve, query: Query) -> None:
        """A name that was not answered."""
        number = errno.EAGAIN if request.used_up else errno.ENOENT
        for objection in judging.objections(process.account(), request):
            binding = objection.binding
            key = (process.pid, binding.worker.number, binding.nodeid, binding.phase, request.name)
            again = not self._look_ups.begins(key, query)
            if objection.decision.quiet:
                if not again:
                    judging.ignore(binding, objection.decision)
                continue
            # Where all that object only learn, it was not answered since there is no such name.
            tell(self._recorder, Attempt(process, tid, objection, number, again), happens=True, absent=True)

    def of_no_query(self, process: Process, tid: int, host: str, proto: str) -> None:
        """Something to a name server that is no query: it went no further than to us, even where the policy opens the
        port."""
        self.report(process, tid, Connect(host, 53, proto, way="no query"))

    def of_sent(self, sunk: Sunk, account: Binding) -> None:
        """Something was sent on a socket that was led to a sink."""
        request = sunk.request
        if judging.allowed(account, request):
            request = Connect(request.host, request.port, request.proto, name=request.name, way="late")
        for objection in judging.objections(account, request):
            if objection.decision.quiet:
                judging.ignore(objection.binding, objection.decision)
                continue
            attempt = Attempt(sunk.process, sunk.tid, objection, errno.EACCES, place=sunk)
            tell(self._recorder, attempt, happens=judging.lets_learn(account, request))

    def report(self, process: Process, tid: int, request: Request) -> None:
        """With every session that does not allow it."""
        happens = judging.lets_learn(process.account(), request)
        for objection in judging.objections(process.account(), request):
            tell(self._recorder, Attempt(process, tid, objection, errno.EACCES), happens=happens)

    def learn(self, process: Process, tid: int, request: Request) -> None:
        """What was done without being listed, where that is learnt from."""
        if judging.lets_learn(process.account(), request):
            self.report(process, tid, request)
