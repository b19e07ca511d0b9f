"""One trapped call: received, shown to its handler, answered or parked. A handler that raises has refused it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fence_core.broker.call import Call
from fence_core.broker.delivery import Delivery
from fence_core.broker.loop import Loop
from fence_core.broker.repeats import Repeats, has_an_effect
from fence_core.broker.reply import CONTINUE, HandOver, Value, Wait
from fence_core.broker.services.all import Services
from fence_core.broker.services.faults import Faults

if TYPE_CHECKING:
    from fence_core.broker.table import Handler

__all__ = ["Dispatch"]

_ERRNO_MAX = 4096  # MAX_ERRNO + 1, include/linux/err.h


class Dispatch:
    """From the listener to the handlers."""

    def __init__(
        self, services: Services, loop: Loop, handlers: Mapping[int, Handler], repeats: Repeats | None, faults: Faults
    ) -> None:
        self._services = services
        self._loop = loop
        self._handlers = handlers
        self._repeats = repeats
        self._faults = faults
        self._delivery = Delivery(services.listener, loop, repeats, faults.failed)

    def step(self) -> None:
        """Answer one call."""
        services = self._services
        listener = services.listener
        notification = listener.receive()
        if notification is None:
            return
        call = Call(services, notification)
        if services.unix.pending:
            self._loop.guarded(services.unix.settle)
        if services.drafts.open:
            self._loop.guarded(services.drafts.settle)
        key = None
        if self._repeats is not None:
            key = self._repeats.key(call.tid, notification)
            kept = self._repeats.take(call.tid, call.number, key)
            if kept is not None:
                self._delivery.deliver(call, key, kept)
                return
        try:
            process = call.process = services.processes.find(call.tid)
            refusal = services.commands.verify(call) if process.executing else CONTINUE
            reply = refusal or self._handlers[call.number](call)
        except Exception as error:
            reply = self._faults.failed(call, error)
        if reply.__class__ is int and 0 <= reply < _ERRNO_MAX:
            if reply:
                self._delivery.deliver(call, key if has_an_effect(reply) else None, reply)
            else:
                listener.reply_continue(call.id)
        elif isinstance(reply, Wait):
            self._delivery.park(call, key, reply)
            return
        elif isinstance(reply, Value | HandOver):
            self._delivery.deliver(call, key, reply)
        else:
            nonsense = TypeError(f"the handler answered {reply!r}")
            listener.reply_error(call.id, self._faults.fault(call.tid, call.number, nonsense))
        if call.kept:
            call.close()
