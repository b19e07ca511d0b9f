"""The filter process: sleeps until somebody connects, and ends with the broker.

Run by a process of its own, forked from the supervisor, outside the fence: its connections are nobody's. It relays
for fenced programs and asks the broker about everything (`referee`). Until the first connection it imports nothing
but what every Python has loaded, so that a session without network does not pay for it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from fence_core.link.filter import PACKET_MAX

# What a terminal or a caller sends to the whole group is for the tests. We end when the broker does.
_IGNORED = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM,
)  # fmt: skip


def serve(listeners: Sequence[socket.socket], control: socket.socket, blocked: str = "") -> NoReturn:
    """Never returns. `control`: a SOCK_SEQPACKET socket of the broker, which is told of our own errors, too. `blocked`:
    the first line of a page that says what the rules do not allow."""
    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        if _somebody_connects(listeners, control):
            from fence_core.proxy import hub, refusal

            refusal.begin_with(blocked)
            hub.run(listeners, control)
    except BaseException as error:
        from fence_core.proxy import fault

        fault.tell_last(control, error)
    finally:
        # Not sys.exit: what the supervisor's copy of the interpreter would do at its end is not ours to do.
        os._exit(0)


def _somebody_connects(listeners: Sequence[socket.socket], control: socket.socket) -> bool:
    """Sleep until then; False when the broker is gone first."""
    poll = select.poll()
    for listener in listeners:
        poll.register(listener, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if control.fileno() in ready and not control.recv(PACKET_MAX):
            return False
        if any(listener.fileno() in ready for listener in listeners):
            return True
