"""Connect to a name: resolve it, have the addresses approved, connect to exactly those.

Nothing is resolved twice, so what was approved is what is connected to (no rebinding). A name that the policy pins to
an address, and one that goes through the user's own proxy, are not resolved at all.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from fence_core.link import filter as link
from fence_core.policy.domains import DomainError, canonical_host
from fence_core.proxy import library

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fence_core.link.operations import Operation
    from fence_core.proxy.referee import Source

_CONNECT_PATIENCE_S = 60.0
"""How long a server, or the upstream proxy, has to take a connection."""
_RESOLVE_PATIENCE_S = 30.0
"""How long the name servers have."""
_STAGGER_S = 0.25
"""How long one address has before the next is tried beside it: RFC 8305, 5."""
_HEAD_LIMIT = 65536
"""Bytes of the head that an upstream proxy answers with."""


class UnreachableError(Exception):
    """There is no connection to that name. With a `rule`: it was refused."""

    def __init__(self, why: str, rule: str = "") -> None:
        super().__init__(why)
        self.rule = rule


class Target:
    """Where a program wants to go, and how the policy wants it to get there."""

    __slots__ = ("name", "pinned", "port", "upstream_proxy")

    def __init__(
        self, name: str, port: int, pinned: Sequence[object] | None = None, upstream_proxy: str | None = None
    ) -> None:
        self.name = name
        self.port = port
        self.pinned = (str(pinned[0]), int(str(pinned[1]))) if pinned else None
        self.upstream_proxy = upstream_proxy

    @property
    def pinned_to_this_machine(self) -> bool:
        """No CDN is behind it: it is a stub of the tests."""
        return self.pinned is not None and (self.pinned[0].startswith("127.") or self.pinned[0] == "::1")


class Asked(Protocol):
    """Who says which addresses of a name may be used: the broker, or one policy."""

    async def ask(self, operation: Operation, **what: object) -> Mapping[str, Any]:
        """The answer. Raises NoAnswerError."""


async def dial(
    loop: asyncio.AbstractEventLoop, referee: Asked, target: Target, source: Source
) -> tuple[socket.socket, bytes]:
    """A connected, non-blocking socket, and what the other side has said.

    Raises UnreachableError, NoAnswerError.
    """
    if target.pinned is not None:
        return await _connect(loop, target.pinned[0], target.pinned[1]), b""
    if target.upstream_proxy:
        return await _dial_by_proxy(loop, target)
    found = await _resolve(loop, target.name, target.port)
    answer = await referee.ask(link.ADDRESSES, **source.named, name=target.name, port=target.port, found=found)
    use = [str(address) for address in answer.get("use") or ()]
    if not use:
        rule = str(answer.get("rule") or "no address of the name may be used")
        raise UnreachableError(f"{target.name} has no address that may be used ({', '.join(found)})", rule)
    return await _connect_any(loop, use, target.port), b""


async def _resolve(loop: asyncio.AbstractEventLoop, name: str, port: int) -> list[str]:
    try:
        host = canonical_host(name)
    except DomainError as error:
        raise UnreachableError(f"{name} {error}") from None
    if not isinstance(host, str):
        return [str(host)]
    try:
        async with _limit(_RESOLVE_PATIENCE_S):
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except asyncio.TimeoutError:
        raise UnreachableError(f"{name}: the name server does not answer") from None
    except OSError as error:
        raise UnreachableError(f"{name}: {error.strerror or error}") from None
    found: list[str] = []
    for *_, address in infos:
        text = str(address[0])
        if text not in found:
            found.append(text)
    if not found:
        raise UnreachableError(f"{name} has no address")
    return found[: link.FOUND_MAX]


class _limit:  # noqa: N801 - stands for asyncio.timeout, which is new in 3.11
    """Cancels what is inside after a time, and turns that into TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ran_out = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            self._ran_out = True
            task.cancel()

        self._handle = asyncio.get_running_loop().call_later(self._seconds, cancel)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._handle.cancel()
        if self._ran_out and isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and hasattr(task, "uncancel"):
                task.uncancel()
            raise asyncio.TimeoutError from None


async def _connect(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with _limit(_CONNECT_PATIENCE_S):
            await loop.sock_connect(sock, (host, port))
    except BaseException as error:
        sock.close()
        if isinstance(error, asyncio.TimeoutError):
            raise UnreachableError(f"{host} port {port}: timed out") from None
        if isinstance(error, OSError):
            # asyncio has put words of its own into `strerror`: "Connect call failed ('127.0.0.1', 8443)"
            why = os.strerror(error.errno) if error.errno else str(error)
            raise UnreachableError(f"{host} port {port}: {why}") from None
        raise
    return sock


async def _connect_any(loop: asyncio.AbstractEventLoop, addresses: Sequence[str], port: int) -> socket.socket:
    if len(addresses) == 1:
        return await _connect(loop, addresses[0], port)
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    failure: UnreachableError | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(loop.create_task(_connect(loop, waiting.pop(0), port)))
            done, _ = await asyncio.wait(
                running, timeout=_STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            running -= done
            sock: socket.socket | None = None
            for task in done:
                error = task.exception()
                if error is None:
                    if sock is None:
                        sock = task.result()
                    else:
                        task.result().close()
                elif isinstance(error, UnreachableError):
                    failure = error
                else:
                    raise error
            if sock is not None:
                return sock
    finally:
        for task in running:
            task.add_done_callback(_close_late)
            task.cancel()
    raise failure or UnreachableError("no address was given")


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _dial_by_proxy(loop: asyncio.AbstractEventLoop, target: Target) -> tuple[socket.socket, bytes]:
    """Through the proxy of the user's network, plain HTTP too: then it is asked for one thing only, a tunnel."""
    url = urlsplit(target.upstream_proxy or "")
    try:
        host, port = url.hostname, url.port or 80
    except ValueError:
        host, port = None, 0
    if url.scheme != "http" or not host:
        raise UnreachableError("the upstream proxy is not of the form http://host:port")
    try:
        sock = await _connect_any(loop, await _resolve(loop, host, port), port)
    except UnreachableError as error:
        raise UnreachableError(f"the upstream proxy: {error}") from None
    try:
        name = f"[{target.name}]" if ":" in target.name else target.name
        request = f"CONNECT {name}:{target.port} HTTP/1.1\r\nHost: {name}:{target.port}\r\n"
        if url.username is not None:
            secret = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
            request += f"Proxy-Authorization: Basic {base64.b64encode(secret).decode()}\r\n"
        async with _limit(_CONNECT_PATIENCE_S):
            await loop.sock_sendall(sock, request.encode() + b"\r\n")
            head = bytearray()
            while (end := head.find(b"\r\n\r\n")) < 0:
                data = await loop.sock_recv(sock, 65536)
                if not data or len(head) > _HEAD_LIMIT:
                    raise UnreachableError("the upstream proxy closed the connection")
                head += data
        library.load()
        from proxy.http.parser import HttpParser

        answer = HttpParser.response(bytes(head[: end + 4]))
        if not re.fullmatch(rb"2[0-9]{2}", answer.code or b""):
            words = b" ".join((answer.code or b"?", answer.reason or b"")).decode("latin-1")
            raise UnreachableError(f"the upstream proxy answers {words.rstrip()}")
        return sock, bytes(head[end + 4 :])
    except BaseException as error:
        sock.close()
        if isinstance(error, asyncio.TimeoutError):
            raise UnreachableError("the upstream proxy does not answer") from None
        if isinstance(error, OSError):
            raise UnreachableError(f"the upstream proxy: {error.strerror or error}") from None
        raise
