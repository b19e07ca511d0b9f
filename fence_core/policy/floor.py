"""What no list opens: refused whatever is allowed, or unless one switch says otherwise; each row with its reason.

The judge asks here first. A row that is `after_lists` is asked when the lists have allowed the request: what they
refuse is said to be refused by them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy import domains
from fence_core.policy.domains import Address, DomainError
from fence_core.policy.record import Record
from fence_core.policy.requests import (
    SOCK_TYPE_MASK,
    Connect,
    OpenSocket,
    Passage,
    Resolve,
    SocketOption,
    SystemCall,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FLOOR", "PASSAGES", "RESOLVER_PORTS", "Row", "Switches", "find", "of_a_process_outside"]

RESOLVER_PORTS = (53, 853)
_CARRIED = {1: (0, 6, 262), 2: (0, 17, 1, 58)}
"""Protocols of SOCK_STREAM (TCP, MPTCP) and of SOCK_DGRAM (UDP, ping)."""


class Switches(Record):
    """What a policy sets of that which opens something here."""

    proxy_env: bool
    expose_ports: tuple[int, ...]
    lists_addresses: bool
    """Whether `allowed_domains` has addresses that a socket could reach directly."""


class Row(Record):
    """One kind of request that is refused."""

    covers: Callable[..., bool]
    """Of a request, and of the switches in force: whether it is one of these."""
    reason: str
    switch: str = ""
    """The key that would open it; empty if none does."""
    item: Callable[..., str] = lambda _: ""
    """What would have to be in that list, if it is one."""
    quiet: bool = False
    always: bool = False
    """An audit refuses it, too: what it changes could not be undone, or it cannot be carried out."""
    after_lists: bool = False


PASSAGES = {
    "own name": "a tunnel is for its own name only",
    "ambiguous": "requests that two readers could understand differently are never passed on",
    "no proxy request": "the filter takes the requests of a proxy only: CONNECT, and http://host/path",
    "cleartext HTTP/2": "HTTP/2 without TLS cannot be judged request by request",
}
"""What the filter refuses to pass on, by what it says of it: see `Passage`."""

_SYSTEM = {
    "machine": "it changes the whole machine, or leads around every path, and no rule speaks of that",
    "terminal": "the terminal is that of whoever started the tests: a shell would run what is typed there",
    "process": "processes outside of the fence are out of reach from inside",
}


def of_a_process_outside(path: str) -> bool:
    """Those inside are `/proc/self`, see `Judge.may_write`."""
    return path.startswith("/proc/") and path[6:7].isdigit()


def _is_resolver(request: Connect, _: Switches) -> bool:
    if request.port not in RESOLVER_PORTS or request.inside:
        return False
    try:
        host = domains.canonical_host(request.host)
    except DomainError:
        return False
    if isinstance(host, str):
        return domains.is_this_machine(host)
    return domains.is_loopback(host)


def _is_name_by_datagrams(request: Connect, _: Switches) -> bool:
    if request.proto == "tcp":
        return False
    try:
        host = domains.canonical_host(request.host)
    except DomainError:
        return False
    return not isinstance(host, Address) and not domains.is_this_machine(host)


def _is_odd(request: OpenSocket, _: Switches) -> bool:
    if request.family in (1, 16):
        return False
    return request.family not in (2, 10) or request.proto not in _CARRIED.get(request.type & SOCK_TYPE_MASK, ())


def _is_of(of: str) -> Callable[[SystemCall, Switches], bool]:
    return lambda request, _: request.of == of


def _is_because(why: str) -> Callable[[Passage, Switches], bool]:
    return lambda request, _: request.why == why


FLOOR: dict[type, tuple[Row, ...]] = {
    Connect: (
        Row(
            _is_resolver,
            "a name server of this machine would carry any name, and what is hidden in it, to anywhere; the fence "
            "answers look-ups of allowed names itself",
        ),
        Row(
            lambda request, switches: request.way == "filter" and not switches.proxy_env,
            "the filter is for programs that were told of it",
            switch="network.proxy_env",
        ),
        Row(
            lambda request, _: request.way == "no query",
            "the fence answers for every name server, and this was no query for a name",
            after_lists=True,
        ),
        Row(
            lambda request, _: request.way == "late",
            "what allows it now did not when the socket was connected",
            after_lists=True,
        ),
        Row(
            _is_name_by_datagrams,
            "names are reached by TCP only, which programs turn to",
            quiet=True,
            always=True,
            after_lists=True,
        ),
    ),
    Resolve: (
        Row(
            lambda request, _: request.used_up,
            "no address is left to give it: too many names were looked up in this run",
            after_lists=True,
        ),
    ),
    OpenSocket: (Row(_is_odd, "whom a socket of this kind reaches is not for the fence to see"),),
    SocketOption: (
        Row(
            lambda request, _: request.op == "route",
            "such a message goes to the first stop of its route, whatever address was judged",
        ),
        Row(
            lambda request, switches: request.op == "tie" and not switches.lists_addresses,
            "sockets stay on the loopback interface while the policy lists no addresses outside",
            switch="network.allowed_domains",
        ),
        Row(
            lambda request, switches: request.port >= 0 and request.port not in switches.expose_ports,
            "a server is for this machine only",
            switch="network.expose_ports",
            item=lambda request: str(request.port),
        ),
        Row(
            lambda request, _: request.op == "interface",
            "by another interface it leaves this machine, whatever address it is for",
        ),
    ),
    Passage: tuple(Row(_is_because(why), reason) for why, reason in PASSAGES.items()),
    Write: (
        Row(
            lambda request, _: request.op == "mknod device",
            "a device node is a way to everything behind it",
        ),
        Row(
            lambda request, _: request.known == "inherited",
            "pipes and files without a name that the run was started with are those of whoever started it",
        ),
        Row(
            lambda request, _: request.known == "outside" or of_a_process_outside(request.path),
            "it belongs to a process outside of the fence, or the path leads through one",
        ),
    ),
    SystemCall: (
        *(Row(_is_of(of), reason, always=True) for of, reason in _SYSTEM.items()),
        Row(_is_of("neighbours"), _SYSTEM["process"], quiet=True, always=True),
        Row(
            _is_of("namespace"),
            "in a namespace of the host's, paths and addresses are not those that the rules speak of",
        ),
        Row(
            _is_of("unheld"),
            "the kernel lets the fence borrow no descriptor here (pidfd_getfd), and it has no copy of this one",
        ),
    ),
}
"""By kind of request; the first row that covers it counts."""


def find(request: object, switches: Switches) -> Row | None:
    """The row that covers this request, if there is one."""
    for row in FLOOR.get(type(request), ()):
        if row.covers(request, switches):
            return row
    return None
