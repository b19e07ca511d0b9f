"""What was asked for, as data: pure."""

from __future__ import annotations

from fence_core.events.model import Target
from fence_core.policy.domains import Address, DomainError, canonical_host
from fence_core.policy.requests import (
    Bind,
    Connect,
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
        return "socket", Target("other", protocol=request.names())
    if isinstance(request, SocketOption):
        return "socket", Target("other", detail=request.describe())
    if isinstance(request, Passage):
        kind = "name" if request.host else "other"
        return "relay", Target(kind, encodable(request.host), request.port, "tcp", detail=encodable(request.what))
    return request.kind, Target("other", detail=encodable(request.what))


def _internet(host: str, port: int, protocol: str) -> Target:
    try:
        kind = "address" if isinstance(canonical_host(host), Address) else "name"
    except DomainError:
        kind = "name"
    return Target(kind, encodable(host), port, protocol)
