"""Connections to names: the program's own socket is connected to the filter, which asks here what it is for.

A program connects to a synthetic address (`fence_core/dns/addresses.py`), the broker connects its socket to the filter
instead and notes the address of the socket's own end. The filter, a process of its own, asks for each connection that
it accepts who has opened it and what for; what nobody has announced here is not ours. No byte of a handshake is spoken
on the program's socket, and `connect` waits for nobody outside.

One referee: whatever the filter must know of the policy it asks here (`fence_core/link/filter.py`).
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fence_core.broker import judging
from fence_core.broker.services.name_server import raw_address
from fence_core.link import filter as link
from fence_core.link.operations import Operation
from fence_core.policy.requests import Connect, Passage

if TYPE_CHECKING:
    from fence_core.broker.loop import Loop
    from fence_core.broker.processes import Process
    from fence_core.broker.services.refusals import Refusals
    from fence_core.broker.services.sockets import Borrowed

Place = tuple[str, int]

_OPEN_MAX = 100_000
_AT_ONCE = 64


class FilterEnd(NamedTuple):
    """A filter that runs: our end of its control line, and where it listens on loopback."""

    control: socket.socket
    host: str
    port: int
    pidfd: int


class FilterStart(NamedTuple):
    """How the filter is started, and where it will listen."""

    start: Callable[[], FilterEnd]
    """Raises OSError, KernelCallError."""
    place: Place | None = None
    """None: that is not known before it is started."""


class Tunnel:
    """What a connection to the filter is for."""

    __slots__ = ("name", "port", "process", "tid", "to", "upstream_proxy")

    def __init__(
        self,
        process: Process,
        tid: int,
        name: str,
        port: int,
        to: tuple[str, int] | None,
        upstream_proxy: str | None,
    ) -> None:
        self.process = process
        self.tid = tid
        self.name = name
        """Empty: the program knows that it talks to a proxy."""
        self.port = port
        self.to = to
        """The address that the policy pins the name to (`network.hosts`)."""
        self.upstream_proxy = upstream_proxy


class Tunnels:
    """All connections to the filter, and the filter itself, started with the first one."""

    def __init__(
        self,
        loop: Loop,
        refusals: Refusals,
        fault: Callable[[tuple[Process, int] | None, str, str, str], None],
        filter_start: FilterStart,
    ) -> None:
        """`fault` reports a failure of the filter's own: see `Faults.in_the_filter`."""
        self._loop = loop
        self._refusals = refusals
        self._report_fault = fault
        self._start, self._place = filter_start
        self._end: FilterEnd | None = None
        self._announced: dict[Place, Tunnel] = {}
        self._open: dict[Place, Tunnel] = {}

    def address(self) -> FilterEnd:
        """Where the filter listens; it is started if it does not run. Raises OSError, KernelCallError."""
        if self._end is None:
            self._end = self._start()
            self._end.control.setblocking(False)
            self._loop.watch(self._end.control.fileno(), self._readable)
        return self._end

    def is_filter(self, host: str, port: int) -> bool:
        """Whether a destination is the filter's own."""
        place = self._place if self._end is None else (self._end.host, self._end.port)
        return (host, port) == place

    def raw_address(self, family: int) -> bytes:
        """The filter's address for a socket of this family: IPv6 ones reach it as an IPv4-mapped address."""
        end = self.address()
        host = end.host if family == socket.AF_INET else f"::ffff:{end.host}"
        return raw_address(family, host, end.port)

    def announce(self, borrowed: Borrowed, tunnel: Tunnel) -> None:
        """This borrowed socket, just connected to the filter, is for that."""
        host, port = borrowed.socket.getsockname()[:2]
        if len(self._announced) > _OPEN_MAX:
            del self._announced[next(iter(self._announced))]
        self._announced[(host.removeprefix("::ffff:"), port)] = tunnel

    def close(self) -> None:
        """End the filter: it goes with its control line."""
        if self._end is not None:
            self._loop.unwatch(self._end.control.fileno())
            self._end.control.close()
            try:
                signal.pidfd_send_signal(self._end.pidfd, signal.SIGKILL)
            except OSError:
                pass  # it has ended
            os.close(self._end.pidfd)
            self._end = None

    # ------------------------------------------------------------ what the filter asks

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            end = self._end
            if end is None:
                return
            try:
                packet = end.control.recv(link.PACKET_MAX)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._lost("it has ended")
                return
            number, operation, request = link.read_question(packet)
            answer = _ANSWERS[operation](self, request)
            try:
                end.control.send(link.answer(number, answer), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._lost("it does not read our answers")  # better none than one that waits
            except OSError:
                self._lost("it has ended")  # after it has asked: its last word is a fault of its own

    def _lost(self, why: str) -> None:
        """The filter is of no use any more: the next connection starts another."""
        self.close()
        self._report_fault(None, why, "", "its connections were closed")

    def _who(self, request: Mapping[str, Any]) -> dict[str, Any]:
        place = (request["host"], request["port"])
        tunnel = self._announced.pop(place, None)
        if tunnel is None:
            return {"kind": link.NOBODY}
        self._open.pop(place, None)
        if len(self._open) > _OPEN_MAX:
            del self._open[next(iter(self._open))]  # the oldest: a port has been used again long ago
        self._open[place] = tunnel
        if not tunnel.name:
            return {"kind": link.PROXY, "upstream_proxy": tunnel.upstream_proxy}
        to_where = {"name": tunnel.name, "port": tunnel.port, "to": tunnel.to, "upstream_proxy": tunnel.upstream_proxy}
        return {"kind": link.TUNNEL, **to_where}

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A name asked for by a program that knows of the proxy: judged by what its test may do now."""
        tunnel = self._known(request)
        if tunnel is None:
            return {"allowed": False, "rule": "", "remedy": []}
        verdict = self._refusals.route(tunnel.process, tunnel.tid, request["name"], request["port"], request["how"])
        if verdict.refusal is None:
            return {"allowed": True, "to": verdict.to}
        from fence_core.report import words  # only ever needed where something was refused
        from fence_core.report.rule import sentence

        rule = sentence(verdict.refusal, tunnel.process.account().syntax())
        change = verdict.remedy
        remedy = [words.marker(change), words.config(change)] if change is not None else []
        return {"allowed": False, "rule": rule, "remedy": remedy, "absent": verdict.absent}

    def _addresses(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Which of a name's addresses may be used: none inside the local network that no rule speaks of."""
        tunnel = self._known(request)
        if tunnel is None:
            return {"use": [], "rule": ""}
        name, port = request["name"], request["port"]
        use, refused = [], []
        for text in request["found"]:
            asked = Connect(text, port, name=name)
            why = judging.why_not(tunnel.process.account(), asked)
            if why is None:
                use.append(text)
                self._refusals.learn(tunnel.process, tunnel.tid, asked)
            else:
                refused.append((asked, why))
        if use or not refused:
            return {"use": use}
        from fence_core.report.rule import sentence

        asked, why = refused[0]
        self._refusals.report(tunnel.process, tunnel.tid, asked)
        return {"use": [], "rule": sentence(why)}

    def _violation(self, request: Mapping[str, Any]) -> dict[str, Any]:
        tunnel = self._known(request)
        if tunnel is not None:
            self._refusals.report(
                tunnel.process, tunnel.tid, Passage(request["what"], request["why"], tunnel.name, tunnel.port)
            )
        return {}

    def _fault(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """An error of the filter's own: on account of whose connection it was, as far as that is known."""
        tunnel = self._known(request) if "from" in request else None
        opener = None if tunnel is None else (tunnel.process, tunnel.tid)
        self._report_fault(opener, request["what"], request["at"], "the connection was closed")
        return {}

    def _known(self, request: Mapping[str, Any]) -> Tunnel | None:
        return self._open.get((request["host"], request["from"]))


_ANSWERS: dict[Operation, Callable[[Tunnels, Mapping[str, Any]], dict[str, Any]]] = {
    link.WHO: Tunnels._who,
    link.ASK: Tunnels._ask,
    link.ADDRESSES: Tunnels._addresses,
    link.VIOLATION: Tunnels._violation,
    link.FAULT: Tunnels._fault,
}
