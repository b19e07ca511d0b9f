"""The filter as a plugin for proxy.py's own server, by its public interface.

`fence proxy` runs it, and anybody's proxy.py does with ``proxy --plugins fence_core.proxy.plugin.FenceFilter
--fence-settings fence.json``. No kernel stands behind it: it holds whoever goes by this proxy, and nobody else.

proxy.py parses the first request, then asks `before_upstream_connection`. From there the plugin has the connection to
itself: it answers None, so that proxy.py connects to nobody, and gets all further bytes (`handle_client_data`). What
it does with them is what the fence's own filter does: one name for each connection, a ClientHello or request for
another one is refused, a proxied request is rebuilt strictly. Left to proxy.py, a second request on a connection
would go to the server of the first, and nobody would see what passes a tunnel.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.common.flag import flags
from proxy.http.exception import HttpProtocolException
from proxy.http.proxy import HttpProxyBasePlugin
from proxy.http.responses import PROXY_TUNNEL_ESTABLISHED_RESPONSE_PKT

from fence_core.proxy import http1
from fence_core.proxy.desk import Desk, Outcome
from fence_core.proxy.dial import UnreachableError, dial
from fence_core.proxy.exchange import Exchange
from fence_core.proxy.inspector import Inspector
from fence_core.proxy.referee import Source
from fence_core.proxy.refusal import RefusedError, answer
from fence_core.proxy.relay import UNDECIDED_PATIENCE_S, WRITE_LIMIT

if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine

    from proxy.common.types import Descriptors, Readables, Writables
    from proxy.http.parser import HttpParser

    from fence_core.policy.model import Policy

__all__ = ["FenceFilter"]

flags.add_argument("--fence-settings", type=str, default="", help="Policy of FenceFilter: fence.json or fence.yaml.")

_RECEIVE = 65536
_LOG = logging.getLogger("fence")


class _Farewell(HttpProtocolException):
    """Our last word on a connection, as proxy.py wants it: it sends the packet and closes."""

    def __init__(self, packet: bytes) -> None:
        super().__init__("refused by the fence")
        self._packet = packet

    def response(self, _request: HttpParser) -> memoryview:
        return memoryview(self._packet)


class FenceFilter(HttpProxyBasePlugin):
    """One connection of a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._desk = _desk_of(self.flags)
        self._server: socket.socket | None = None
        self._filter: Inspector | Exchange | None = None
        self._pending = bytearray()
        """For the server, which does not take it yet."""
        self._held_since = 0.0
        """When a first line came that has not ended yet; 0: there is none."""
        self._asked = ("", "", 0)
        """Method, host and port."""

    # -- the first request --------------------------------------------------------------------------------------------

    def before_upstream_connection(self, request: HttpParser) -> HttpParser | None:
        """proxy.py's. None always: we connect ourselves. Raises HttpProtocolException where it is refused."""
        try:
            self._check_token(request)
            if request.is_https_tunnel:
                self._tunnel(request)
            else:
                self._exchange(request)
        except http1.AmbiguousError as error:
            self._refuse(RefusedError(400, f"an HTTP request to the proxy: {error}", "ambiguous"))
        except RefusedError as refused:
            self._refuse(refused)
        except UnreachableError as error:
            status = 403 if error.rule else 502
            self._refuse(RefusedError(status, str(error), rule=error.rule))
        return None

    def handle_client_request(self, request: HttpParser) -> HttpParser | None:
        """proxy.py's. It has been carried out already."""
        return None

    def _check_token(self, request: HttpParser) -> None:
        """Raises HttpProtocolException."""
        desk = self._desk
        if not desk.token:
            return
        given = request.header(b"proxy-authorization") if request.has_header(b"proxy-authorization") else b""
        kind, _, secret = given.partition(b" ")
        try:
            token = base64.b64decode(secret.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            token = b""
        if kind.lower() != b"basic" or not desk.knows(token):
            what = "a request without the token of this proxy" if not given else "a request with a wrong token"
            self._tell(
                "refused", 407, what, rule="clients name the token as the password: http://fence:TOKEN@HOST:PORT"
            )
            raise _Farewell(_unauthorized())

    def _tunnel(self, request: HttpParser) -> None:
        """Raises AmbiguousError, RefusedError, UnreachableError."""
        name, port = self._place(request, request.port)
        self._connect(name, port)
        self._filter = Inspector(name, port)
        self._tell("allowed", 200, f"CONNECT {name}:{port}")
        self.client.queue(memoryview(bytes(PROXY_TUNNEL_ESTABLISHED_RESPONSE_PKT)))

    def _exchange(self, request: HttpParser) -> None:
        """Raises AmbiguousError, RefusedError, UnreachableError."""
        uri = request.build(for_proxy=True).split(b" ", 2)[1]
        if uri.startswith(b"https:"):
            raise RefusedError(400, "an HTTP request to the proxy: https is asked for by CONNECT", "no proxy request")
        name, port = self._place(request, request.port or 80)
        body = request.body or b""
        head = http1.parse_request_head(_head(request, len(body)))
        if head.host is not None:
            host, host_port = http1.parse_authority(head.host)
            if host != name or (host_port or 80) != port:
                raise http1.AmbiguousError("its Host is not that of its URI")
        authority = f"[{name}]" if ":" in name else name
        if port != 80:
            authority += f":{port}"
        path = bytes(request.path or (b"*" if request.method == b"OPTIONS" else b"/")).partition(b"#")[0] or b"/"
        exchange = Exchange(head, authority.encode("ascii"), path)
        self._connect(name, port)
        self._filter = exchange
        self._tell("allowed", 0, f"{head.method.decode('latin-1')} http://{authority}")
        self._send(exchange.first + exchange.feed(body))

    def _place(self, request: HttpParser, port: int | None) -> tuple[str, int]:
        """Canonical host, and port. Raises AmbiguousError."""
        host = bytes(request.host or b"")
        method = bytes(request.method or b"").decode("latin-1")
        self._asked = (method, host.decode("latin-1"), port or 0)
        name, inner_port = http1.parse_authority(host)
        if inner_port is not None or port is None or not 0 < port < 65536:
            raise http1.AmbiguousError("its target has no port" if port is None else "a port in it is none")
        self._asked = (method, name, port)
        return name, port

    def _connect(self, name: str, port: int) -> None:
        """Raises RefusedError, UnreachableError."""
        target = self._desk.target(name, port)
        host, number = self.client.addr or ("", 0)
        sock, early = _Dialer.run(dial(_Dialer.loop(), self._desk, target, Source(str(host), int(number))))
        sock.setblocking(False)
        self._server = sock
        if early:
            self.client.queue(memoryview(early))

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def handle_client_data(self, raw: memoryview) -> memoryview | None:
        """proxy.py's: what the client sends behind its first request. Raises HttpProtocolException."""
        if self._filter is not None and self._server is not None:
            self._pass(raw.tobytes())
        return None

    def _pass(self, data: bytes) -> None:
        assert self._filter is not None
        try:
            self._send(self._filter.feed(data))
            if not self._filter.undecided:
                self._held_since = 0.0
            elif not self._held_since:
                self._held_since = time.monotonic()
        except RefusedError as refused:
            self._send(refused.before)
            self._refuse(refused)

    async def get_descriptors(self) -> Descriptors:
        """proxy.py's."""
        if self._server is None:
            return [], []
        if self._held_since and time.monotonic() - self._held_since > UNDECIDED_PATIENCE_S:
            self._held_since = 0.0
            assert self._filter is not None
            self._send(self._filter.release())
        fd = self._server.fileno()
        return ([] if self.client.has_buffer() else [fd]), ([fd] if self._pending else [])

    async def write_to_descriptors(self, w: Writables) -> bool:
        """proxy.py's."""
        if self._server is not None and self._server.fileno() in w:
            return not self._write()
        return False

    async def read_from_descriptors(self, r: Readables) -> bool:
        """proxy.py's. True: the connection ends when the client has read what is left for it."""
        if self._server is None or self._server.fileno() not in r:
            return False
        return not self._read()

    def on_upstream_connection_close(self) -> None:
        """proxy.py's, at the end of every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _read(self) -> bool:
        """Pass on what the server says; False at its end."""
        assert self._server is not None
        assert self._filter is not None
        try:
            data = self._server.recv(_RECEIVE)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        passed = self._filter.answered(data)
        if passed:
            self.client.queue(memoryview(passed))
        if not self._filter.waiting:
            try:
                self._send(self._filter.resume())
            except RefusedError as refused:
                self._end(refused)
                return False
        return not self._filter.finished

    def _send(self, data: bytes) -> None:
        """To the server, now or later; waits where it has too much of it already, as the client is to wait."""
        if not data:
            return
        self._pending += data
        while self._write() and len(self._pending) > WRITE_LIMIT and self._server is not None:
            ready, writable, _ = select.select([self._server], [self._server], [], 1.0)
            if ready and not writable and not self._read():
                return

    def _write(self) -> bool:
        """False when the server takes nothing any more."""
        assert self._server is not None
        try:
            while self._pending:
                del self._pending[: self._server.send(self._pending[:_RECEIVE])]
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            self._pending.clear()
            return False
        return True

    # -- what is told -------------------------------------------------------------------------------------------------

    def _refuse(self, refused: RefusedError) -> None:
        """Raises HttpProtocolException."""
        raise _Farewell(self._record(refused))

    def _end(self, refused: RefusedError) -> None:
        self.client.queue(memoryview(self._record(refused)))

    def _record(self, refused: RefusedError) -> bytes:
        """What the client is told."""
        mark = "failed" if refused.status == 502 else "refused"
        self._tell(mark, refused.status, refused.what, refused.rule, refused)
        self.on_upstream_connection_close()
        return refused.packet()

    def _tell(self, mark: str, status: int, what: str, rule: str = "", refused: RefusedError | None = None) -> None:
        host, port = self.client.addr or ("", 0)
        change = refused.change if refused is not None else None
        self._desk.tell(Outcome(mark, *self._asked, status, f"{host}:{port}", what, rule, change))


def _head(request: HttpParser, length: int) -> bytes:
    """The head as proxy.py has understood it, with the length of the body that it has read.

    It keeps one line of each name: what two readers could understand differently is gone with the others.
    """
    lines = [b"%s / %s" % (request.method, request.version)]
    for key, value in (request.headers or {}).values():
        if key.lower() not in (b"content-length", b"transfer-encoding"):
            lines.append(b"%s: %s" % (key, value))
    if length or (request.headers and b"content-length" in request.headers):
        lines.append(b"Content-Length: %d" % length)
    return b"\r\n".join([*lines, b"", b""])


def _unauthorized() -> bytes:
    packet = answer(407, "this proxy wants its token")
    return packet.replace(b"\r\n", b'\r\nProxy-Authenticate: Basic realm="fence"\r\n', 1)


class _Dialer:
    """The loop that connects, in a thread of its own: the same code as in the fence's filter."""

    _lock = threading.Lock()
    _running: asyncio.AbstractEventLoop | None = None
    _process = 0

    @classmethod
    def loop(cls) -> asyncio.AbstractEventLoop:
        with cls._lock:
            if cls._running is None or cls._process != os.getpid():  # proxy.py forks: threads stay behind
                cls._process = os.getpid()
                cls._running = asyncio.new_event_loop()
                threading.Thread(target=cls._running.run_forever, name="fence-dial", daemon=True).start()
            return cls._running

    @classmethod
    def run(cls, work: Coroutine[Any, Any, tuple[socket.socket, bytes]]) -> tuple[socket.socket, bytes]:
        return asyncio.run_coroutine_threadsafe(work, cls.loop()).result()


# -- in somebody else's proxy.py --------------------------------------------------------------------------------------

_DESKS: dict[str, Desk] = {}
_DESKS_LOCK = threading.Lock()


def _desk_of(flags: argparse.Namespace) -> Desk:
    """That of `fence proxy`, or the one of the file that `--fence-settings` names. Raises PolicyError."""
    desk: Desk | None = getattr(flags, "fence_desk", None)
    if desk is not None:
        return desk
    with _DESKS_LOCK:
        settings = str(flags.fence_settings)
        if settings not in _DESKS:
            _DESKS[settings] = Desk(_policy(settings), _log)
        return _DESKS[settings]


def _policy(settings: str) -> Policy:
    """The empty one where no file is named: it allows nothing."""
    from fence_core.policy.model import Policy
    from fence_core.policy.sources.load import find_config

    if not settings:
        _LOG.error("FenceFilter has no policy and refuses everything: start proxy.py with --fence-settings FILE")
        return Policy()
    path = Path(settings).absolute()
    return find_config(path.parent, path).policy


def _log(outcome: Outcome) -> None:
    if outcome.mark != "allowed":
        where = f"{outcome.host}:{outcome.port}: " if outcome.host else ""
        _LOG.warning("%s %s%s (%s)", outcome.mark, where, outcome.what, outcome.rule)
