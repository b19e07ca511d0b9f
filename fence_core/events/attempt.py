"""What was asked for, as data: pure."""

from __future__ import annotations

from fence_core.events.model import Target
from fence_core.policy.domains import Address, DomainError, canonical_host
from fence_core.policy.requests import (
    SOCK_TYPE_MASK,
    Bind,
    Connect,
    Execute,
    Fault,
    Move,
    OpenSocket,
    Passage,
    Read,
    Request,
    Resolve,
    Run,
    SocketOption,
    UnixConnect,
    Write,
)  # fmt: skip
from fence_core.text import encodable

# Linux's numbers, the same on every architecture we know. Spelled out since `socket` does not name all of them.
_FAMILIES = {
    0: "AF_UNSPEC", 1: "AF_UNIX", 2: "AF_INET", 3: "AF_AX25", 4: "AF_IPX", 5: "AF_APPLETALK", 8: "AF_ATMPVC",
    9: "AF_X25", 10: "AF_INET6", 15: "AF_KEY", 16: "AF_NETLINK", 17: "AF_PACKET", 21: "AF_RDS", 23: "AF_IRDA",
    24: "AF_PPPOX", 26: "AF_LLC", 29: "AF_CAN", 30: "AF_TIPC", 31: "AF_BLUETOOTH", 38: "AF_ALG", 39: "AF_NFC",
    40: "AF_VSOCK", 41: "AF_KCM", 42: "AF_QIPCRTR", 43: "AF_SMC", 44: "AF_XDP", 45: "AF_MCTP",
}  # fmt: skip
_TYPES = {
    1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET", 6: "SOCK_DCCP",
    10: "SOCK_PACKET",
}  # fmt: skip
_PROTOCOLS = {33: "DCCP", 132: "SCTP", 136: "UDP-Lite"}
"""Those that family and type do not tell of."""
_OPTIONS = {
    "route": "send by a route of one's own (source routing)",
    "interface": "send to this machine by another interface than loopback",
    "serve": "listen on the network interface that the socket is tied to",
    "tie": "tie a socket to a network interface",
}
_LINE_MAX = 200
_OF_FILES = {"open": "write", "create": "write", "terminal": "write"}
"""Of the changes of files, what those are called that are not called as their system call is."""


def described(request: Request | Fault) -> tuple[str, Target]:
    """Operation and target of the violation that a refusal of this request is."""
    if isinstance(request, Write):
        return _OF_FILES.get(request.op) or request.op.partition(" ")[0], Target("path", path=encodable(request.path))
    if isinstance(request, Move):
        holds = f"which holds {encodable(request.inside)}" if request.inside else ""
        return request.op, Target("path", path=encodable(request.old), detail=holds)
    if isinstance(request, Read | Run):
        return request.kind, Target("path", path=encodable(request.path))
    if isinstance(request, Execute):
        return "run", Target("command", detail=_command_line(request.words))
    if isinstance(request, Connect) and request.name:
        found = _internet(request.name, request.port, request.proto)
        return "connect", found._replace(detail=f"which leads to {encodable(request.host)}")
    if isinstance(request, Connect | Bind):
        return request.kind, _internet(request.host, request.port, request.proto)
    if isinstance(request, Resolve):
        return "resolve", Target("name", host=encodable(request.name))
    if isinstance(request, UnixConnect):
        path = "@" + request.path[1:] if request.path.startswith("\0") else request.path
        return "connect", Target("unix", path=encodable(path))
    if isinstance(request, OpenSocket):
        return "socket", Target("other", protocol=_names(request))
    if isinstance(request, SocketOption):
        option = f" ({encodable(request.name)})" if request.name else ""
        return "socket", Target("other", detail=_OPTIONS[request.op] + option)
    if isinstance(request, Passage):
        kind = "name" if request.host else "other"
        return "relay", Target(kind, encodable(request.host), request.port, "tcp", detail=encodable(request.what))
    return request.kind, Target("other", detail=encodable(request.what))


def _command_line(words: tuple[str, ...]) -> str:
    line = " ".join(map(encodable, words))
    return line if len(line) <= _LINE_MAX else line[: _LINE_MAX - 3] + "..."


def _internet(host: str, port: int, protocol: str) -> Target:
    try:
        kind = "address" if isinstance(canonical_host(host), Address) else "name"
    except DomainError:
        kind = "name"
    return Target(kind, encodable(host), port, protocol)


def _names(request: OpenSocket) -> str:
    """What the numbers are called: ``AF_INET/SOCK_STREAM (SCTP)``."""
    kind = request.type & SOCK_TYPE_MASK
    family = _FAMILIES.get(request.family, f"family {request.family}")
    name = _PROTOCOLS.get(request.proto) if request.family in (2, 10) else None
    return f"{family}/{_TYPES.get(kind, f'type {kind}')}{f' ({name})' if name else ''}"
