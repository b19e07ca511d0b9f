"""A program that uses us as its HTTP proxy: `CONNECT host:port`, or `GET http://host/path`.

Each request is judged by the broker. proxy.py's parser takes the request line apart once it has passed the strict
checks, and both readings must agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.link import filter as link
from fence_core.proxy import http1, library
from fence_core.proxy.dial import Target
from fence_core.proxy.exchange import Exchange
from fence_core.proxy.inspector import Inspector
from fence_core.proxy.referee import NoAnswerError
from fence_core.proxy.refusal import RefusedError, answer
from fence_core.proxy.relay import WAITING, End, Farewell, Relay, discard

if TYPE_CHECKING:
    from fence_core.proxy.referee import Source
    from fence_core.proxy.relay import Hub

HEAD_PATIENCE_S = 30.0
"""For a whole head: there is no user of a proxy that says nothing."""
_HOW_LIMIT = 300
"""Characters of a request that the broker is told."""


class Classic:
    """The connection until its first request is judged; a Relay has it afterwards."""

    def __init__(self, hub: Hub, source: Source, upstream_proxy: str | None) -> None:
        self._hub = hub
        self._source = source
        self._upstream_proxy = upstream_proxy
        self._buffer = bytearray()
        self._limit = hub.loop.call_later(HEAD_PATIENCE_S, self._too_late)
        self.client = End(self, self._take)

    def _take(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        try:
            if self._buffer and not b"A" <= self._buffer[:1] <= b"z":
                raise http1.AmbiguousError("it is no HTTP")  # TLS, most likely
            end = http1.find_head_end(self._buffer)
            if not end:
                return
            head = http1.parse_request_head(bytes(self._buffer[:end]))
        except http1.AmbiguousError as error:
            self._stop()
            self._hub.start(self._refuse(_bad(str(error))), self.client, self._source)
            return
        rest = bytes(self._buffer[end:])
        self._stop()
        self._hub.start(self._serve(head, rest), self.client, self._source)

    def _stop(self) -> None:
        self._limit.cancel()
        self.client.take = discard  # nothing comes: it is not read
        self.client.hold(WAITING)
        self._buffer.clear()

    def _too_late(self) -> None:
        Farewell(self._hub, self.client, answer(408, "no request came within 30 seconds"))

    async def _refuse(self, refused: RefusedError) -> None:
        if refused.why:
            await self._hub.record(self._source, refused.what, refused.why)
        if not self.client.gone:
            Farewell(self._hub, self.client, refused.packet())

    async def _serve(self, head: http1.RequestHead, rest: bytes) -> None:
        try:
            if head.method == b"CONNECT":
                await self._tunnel(head, rest)
            else:
                await self._request(head, rest)
        except http1.AmbiguousError as error:
            await self._refuse(_bad(str(error)))
        except RefusedError as refused:
            await self._refuse(refused)

    async def _judge(self, name: str, port: int, how: str) -> Target:
        """Raises RefusedError."""
        try:
            verdict = await self._hub.referee.ask(
                link.ASK, **self._source.named, name=name, port=port, how=how[:_HOW_LIMIT]
            )
        except NoAnswerError:
            raise RefusedError(403, "the fence does not answer") from None
        if verdict.get("absent") is True:
            raise RefusedError(502, f"{name}: Name or service not known")
        if verdict.get("allowed") is not True:
            raise RefusedError(
                403,
                f"{name}:{port} is not allowed",
                rule=str(verdict.get("rule") or ""),
                remedy=[str(line) for line in verdict.get("remedy") or ()],
            )
        return Target(name, port, verdict.get("to"), self._upstream_proxy)

    async def _tunnel(self, head: http1.RequestHead, rest: bytes) -> None:
        name, port = http1.parse_authority(head.target)
        if port is None:
            raise http1.AmbiguousError("its target has no port")
        _compare(head, name, port)
        target = await self._judge(name, port, "CONNECT")
        if self.client.gone:
            return
        inspector = Inspector(name, port, cleartext_h2=target.pinned_to_this_machine)
        library.load()
        from proxy.http.responses import PROXY_TUNNEL_ESTABLISHED_RESPONSE_PKT

        opening = bytes(PROXY_TUNNEL_ESTABLISHED_RESPONSE_PKT)
        relay = Relay(self._hub, inspector, self._source, self.client, opening)
        relay.begin(b"", rest)
        await self._hub.connect(relay, target, self._source)

    async def _request(self, head: http1.RequestHead, rest: bytes) -> None:
        parts = http1.split_absolute(head.target)
        if parts is None:
            where = head.host.decode("latin-1") if head.host else head.target.decode("latin-1")
            raise _unsupported(f"an HTTP request to the proxy for {where[:_HOW_LIMIT]}: it must name the whole URI")
        scheme, authority, path = parts
        if scheme != "http":
            shown = head.target.decode("latin-1")[:_HOW_LIMIT]
            raise _unsupported(f"an HTTP request to the proxy for {shown}: {scheme} is asked for by CONNECT")
        name, port = http1.parse_authority(authority)
        if head.host is not None:
            host, host_port = http1.parse_authority(head.host)
            if host != name or (host_port is not None and host_port != (port or 80)):
                raise http1.AmbiguousError("its Host is not that of its URI")
        _compare(head, name, port or 80)
        how = f"{head.method.decode('latin-1')} {head.target.decode('latin-1')}"
        target = await self._judge(name, port or 80, how)
        if self.client.gone:
            return
        host = f"[{name}]" if ":" in name else name
        if port is not None and port != 80:
            host += f":{port}"
        path = path.partition(b"#")[0]
        if not path:
            path = b"*" if head.method == b"OPTIONS" else b"/"
        exchange = Exchange(head, host.encode("ascii"), path)
        relay = Relay(self._hub, exchange, self._source, self.client)
        relay.begin(exchange.first, rest)
        await self._hub.connect(relay, target, self._source)

    # -- Owner, while there is no relay -------------------------------------------------------------------------------

    def ended(self, end: End) -> None:
        """Owner: a program that ends its half before its request is complete has no request."""
        self._limit.cancel()
        end.close()

    def lost(self, end: End, error: Exception | None) -> None:
        """Owner."""
        self._limit.cancel()
        self._hub.left()

    def failed(self, end: End, error: Exception) -> None:
        """Owner."""
        self._hub.failed(error, end, self._source)

    def congested(self, end: End, full: bool) -> None:
        """Owner: we write nothing yet."""


def _compare(head: http1.RequestHead, name: str, port: int) -> None:
    """proxy.py must read the same from the request line as we do. Raises AmbiguousError."""
    library.load()
    from proxy.http.exception import HttpProtocolException
    from proxy.http.parser import HttpParser

    try:
        parsed = HttpParser.request(head.line + b"\r\n\r\n")
        host, _ = http1.parse_authority(parsed.host or b"")
    except (HttpProtocolException, ValueError):
        raise http1.AmbiguousError("its target is none") from None
    if host != name or parsed.port != port or parsed.method != head.method:
        raise http1.AmbiguousError("its target can be read in two ways")


def _bad(why: str) -> RefusedError:
    return RefusedError(400, f"an HTTP request to the proxy: {why}", "ambiguous")


def _unsupported(why: str) -> RefusedError:
    return RefusedError(400, why, "no proxy request")
