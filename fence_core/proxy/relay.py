"""The two sides of one connection, and what becomes of the other when one of them ends.

Bytes of the program go through a filter (`Inspector` for a tunnel, `Exchange` for one proxied request) and from there
to the server. As soon as the filter has no more say, each side writes straight into the other.

How it ends
- A side that ends its half (FIN) ends the other's half; the answer still flows.
- A server that resets: what it sent is delivered, then the program is reset too.
- A server that cannot be reached: the program's connect has succeeded long ago, so it is reset (or, if it speaks
  HTTP, told so by a 502).
- A refusal: recorded first, then the program is told (403, 400, TLS alert), then the connection ends.
- An error of ours: both sides are closed.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from fence_core.proxy.refusal import RefusedError, answer

if TYPE_CHECKING:
    from fence_core.proxy.dial import Target
    from fence_core.proxy.exchange import Exchange
    from fence_core.proxy.inspector import Inspector
    from fence_core.proxy.referee import Referee, Source

WRITE_LIMIT = 262144
"""Bytes kept for a side that does not read, before the other is no longer read from."""
OUTBOX_LIMIT = 65536
"""Bytes of the program that are kept until its server is connected."""
UNDECIDED_PATIENCE_S = 0.2
"""How long a first line may lack its end, before it is passed on as far as it came."""
QUIET_PATIENCE_S = 5.0
"""How long a refusal waits for the answers to requests before it."""
FAREWELL_PATIENCE_S = 2.0
"""How long the program may go on talking after our last word."""
FLUSH_PATIENCE_S = 5.0
"""How long what a server sent is delivered, before the program is reset as that server has done."""

_RESET = struct.pack("ii", 1, 0)
_TCP_CLOSE = 7  # include/net/tcp_states.h

# Why a side is not read from; more than one may hold.
FULL = 1  # the other side does not take more
WAITING = 2  # the filter wants an answer first
UNSENT = 4  # the server is not connected yet


def reset(sock: socket.socket) -> None:
    """Close the socket so that its peer sees ECONNRESET."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass
    sock.close()


class Hub(Protocol):
    """What all connections share, as far as one of them needs it: see `hub`."""

    loop: asyncio.AbstractEventLoop
    referee: Referee
    relays: set[Relay]

    def left(self) -> None: ...
    def start(self, work: Coroutine[Any, Any, None], end: End, source: Source) -> None: ...
    def failed(self, error: Exception, end: End, source: Source) -> None: ...
    async def adopt(self, sock: socket.socket, end: End) -> None: ...
    async def connect(self, relay: Relay, target: Target, source: Source) -> None: ...
    async def record(self, source: Source, what: str, rule: str) -> None: ...


class Owner(Protocol):
    """Who hears of what happens at an End."""

    def ended(self, end: End) -> None: ...
    def lost(self, end: End, error: Exception | None) -> None: ...
    def congested(self, end: End, full: bool) -> None: ...
    def failed(self, end: End, error: Exception) -> None: ...


class End(asyncio.Protocol):
    """One socket of a connection. `take` gets its bytes; it is exchanged as the connection goes on."""

    def __init__(self, owner: Owner, take: Callable[[bytes], object]) -> None:
        self.owner = owner
        self.take = take
        self.transport: asyncio.Transport
        self.connected = False
        self.eof = False
        self.gone = False
        self._said_all = False
        """We have ended our half: whatever else there would be to say, the peer has been told that nothing comes."""
        self._held = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connected = True
        transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def data_received(self, data: bytes) -> None:
        try:
            self.take(data)
        except Exception as error:  # left to the loop, the program would see the end before the broker hears of it
            self.take = discard
            self.owner.failed(self, error)

    def eof_received(self) -> bool:
        if not self.eof:
            self.eof = True
            self.owner.ended(self)
        return True  # the other half stays open

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self.owner.lost(self, error)

    def pause_writing(self) -> None:
        self.owner.congested(self, True)

    def resume_writing(self) -> None:
        self.owner.congested(self, False)

    def hold(self, why: int, on: bool = True) -> None:
        """Stop reading for that reason, or no longer for that reason."""
        before = self._held
        self._held = before | why if on else before & ~why
        if self.eof or self.gone or not self.connected or bool(before) == bool(self._held):
            return
        if self._held:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    @property
    def blind(self) -> bool:
        """Nothing is read, so that a reset would go unnoticed."""
        return self.eof or self._held != 0

    def write(self, data: bytes) -> None:
        if not (self.gone or self._said_all):
            self.transport.write(data)

    def write_eof(self) -> None:
        if not self.gone and not self.transport.is_closing():
            self._said_all = True
            try:
                self.transport.write_eof()
            except OSError:  # it was reset before
                self.transport.abort()

    def close(self) -> None:
        """When all is written."""
        if self.connected and not self.gone:
            self.transport.close()

    def reset(self) -> None:
        """At once, and the peer sees ECONNRESET."""
        if not self.connected or self.gone:
            return
        try:
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass
        self.transport.abort()

    def is_dead(self) -> bool:
        """The connection was reset, whether or not anybody has read that."""
        try:
            return self._socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
        except OSError:
            return True

    def unsent(self) -> int:
        """Bytes that the peer has not got yet."""
        kernel = bytearray(4)
        try:
            fcntl.ioctl(self._socket().fileno(), termios.TIOCOUTQ, kernel)
        except (OSError, ValueError):  # closed
            return 0
        return self.transport.get_write_buffer_size() + int.from_bytes(kernel, "little")

    def _socket(self) -> socket.socket:
        sock: socket.socket = self.transport.get_extra_info("socket")
        return sock


def discard(data: bytes) -> None:
    """What is said after the end."""


class Farewell:
    """The end of a connection with the program: a last word is delivered before it closes.

    Closing with bytes of the program unread would be a reset, which overtakes the last word. So they are read, for
    a while.
    """

    def __init__(self, hub: Hub, end: End, word: bytes = b"") -> None:
        self._hub = hub
        end.owner = self
        end.take = discard
        if end.gone:
            return  # and counted
        self._limit = hub.loop.call_later(FAREWELL_PATIENCE_S, end.close)
        end.hold(-1, False)
        if word:
            end.write(word)
        end.write_eof()
        if end.eof:
            end.close()

    def ended(self, end: End) -> None:
        end.close()

    def congested(self, end: End, full: bool) -> None:
        pass

    def failed(self, end: End, error: Exception) -> None:
        raise error

    def lost(self, end: End, error: Exception | None) -> None:
        self._limit.cancel()
        self._hub.left()


class Relay:
    """One program's connection and the server's."""

    def __init__(
        self, hub: Hub, filter: Inspector | Exchange, source: Source, client: End | None = None, opening: bytes = b""
    ) -> None:
        """`opening`: what the program is told when there is a server, for a program that waits for that."""
        self._hub = hub
        self._filter = filter
        self._source = source
        self.client = client or End(self, self._from_client)
        self.client.owner = self
        self.client.take = self._from_client
        self.server: End | None = None
        self.dialing: asyncio.Task[None] | None = None
        self._opening = opening
        self._early = b""
        self._outbox: list[bytes] = []
        self._outbox_size = 0
        self._over = False
        """Nothing of the program is looked at any more."""
        self._client_eof_sent = False
        self._server_eof_sent = False
        self._timer: asyncio.TimerHandle | None = None
        self._quiet: asyncio.Future[None] | None = None
        hub.relays.add(self)

    def begin(self, request: bytes, rest: bytes) -> None:
        """`request` goes to the server in any case; `rest` is what the program has said behind its first head."""
        self._send(request)
        if self._opening:
            self._early = rest
        else:
            self._step(self._filter.feed, rest)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _from_client(self, data: bytes) -> None:
        if not self._over:
            self._step(self._filter.feed, data)

    def _step(self, action: Callable[..., bytes], *given: bytes) -> None:
        """Let the filter do something with the program's bytes, and draw the consequences."""
        try:
            forward = action(*given)
        except RefusedError as refused:
            self._send(refused.before)
            self._refuse(refused)
            return
        self._send(forward)
        self._adapt()

    def _send(self, data: bytes) -> None:
        if not data:
            return
        if self.server is not None:
            self.server.write(data)
            return
        self._outbox.append(data)
        self._outbox_size += len(data)
        if self._outbox_size >= OUTBOX_LIMIT:
            self.client.hold(UNSENT)

    def _adapt(self) -> None:
        """After each step: read or not, take the short way or not, wait for the end of a line or not."""
        chosen, server = self._filter, self.server
        self.client.hold(WAITING, chosen.waiting)
        if server is not None and not self._over:
            if chosen.raw:
                self.client.take = server.write
            if chosen.transparent:
                server.take = self.client.write
        if chosen.undecided:
            if self._timer is None:
                self._timer = self._hub.loop.call_later(UNDECIDED_PATIENCE_S, self._let_go)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_go(self) -> None:
        self._timer = None
        if not self._over:
            try:
                self._step(self._filter.release)
            except BaseException:
                self._vanish()
                raise

    def _from_server(self, data: bytes) -> None:
        waited = self._filter.waiting
        self.client.write(self._filter.answered(data))
        if self._over:
            responses = self._filter.responses
            if responses is not None and responses.quiet:
                self._stop_waiting()
        elif self._filter.finished:
            self._part()
        elif waited and not self._filter.waiting:
            self._step(self._filter.resume)
            self._pass_on_eof()
        else:
            self._adapt()

    # -- the server's side --------------------------------------------------------------------------------------------

    async def attach(self, sock: socket.socket, early: bytes) -> None:
        """The server is connected, and has said `early` already."""
        if self._unwanted():
            reset(sock)
            return
        server = End(self, self._from_server)
        # Bytes of the server cannot overtake: they are read after this has returned to the loop.
        await self._hub.adopt(sock, server)
        if self._unwanted():
            server.close()
            return
        self.server = server
        if self._opening:
            self.client.write(self._opening)
        if early:
            self._from_server(early)
        outbox, self._outbox = b"".join(self._outbox), []
        if outbox:
            server.write(outbox)
        self.client.hold(UNSENT, False)
        if self._early:
            self._from_client(self._early)
        self._adapt()
        self._pass_on_eof()

    def _unwanted(self) -> bool:
        """Nobody waits for this server any more."""
        return self.client.gone or (self._over and self._quiet is None)

    def unreachable(self, why: str, rule: str = "") -> None:
        """There will be no server."""
        if self._over:
            self._stop_waiting()
            return
        self._over = True
        if self._opening or self._filter.speaks_http:
            self._say(answer(403 if rule else 502, why, rule))
        else:
            self._vanish()

    # -- ends ---------------------------------------------------------------------------------------------------------

    def ended(self, end: End) -> None:
        """Owner."""
        if end is self.client:
            if not self._over:
                self._step(self._filter.end)
                self._pass_on_eof()
        elif self._over:
            self._stop_waiting()
        elif not self._filter.server_ended():
            responses = self._filter.responses
            if responses is not None and not responses.begun:
                self._over = True
                self._say(answer(502, "the server closed the connection without an answer"))
            else:
                self._reset_when_delivered()
        elif self._filter.one_answer:
            self._part()
        else:
            self._client_eof_sent = True
            self.client.write_eof()
            self._close_if_both_ended()

    def _pass_on_eof(self) -> None:
        if self._over or not self.client.eof or self._server_eof_sent or self.server is None or self._filter.waiting:
            return
        self._server_eof_sent = True
        self.server.write_eof()
        self._close_if_both_ended()

    def _close_if_both_ended(self) -> None:
        if self._client_eof_sent and self._server_eof_sent:
            self._over = True
            self.client.close()
            if self.server is not None:
                self.server.close()

    def lost(self, end: End, error: Exception | None) -> None:
        """Owner."""
        if end is self.client:
            self._over = True
            if self.server is not None:
                self.server.reset() if error is not None else self.server.close()
            self._stop_waiting()
            self._forget()
            self._hub.left()
        elif not self._over:
            if error is None:
                self.client.close()
            else:
                self._reset_when_delivered()
        else:
            self._stop_waiting()

    def failed(self, end: End, error: Exception) -> None:
        """Owner."""
        self._hub.failed(error, end, self._source)

    def congested(self, end: End, full: bool) -> None:
        """Owner."""
        other = self.server if end is self.client else self.client
        if other is not None:
            other.hold(FULL, full)

    def _forget(self) -> None:
        self._hub.relays.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.dialing is not None:
            self.dialing.cancel()

    def _vanish(self) -> None:
        """Both sides, at once."""
        self._over = True
        if self.server is not None:
            self.server.reset()
        self.client.reset()

    def _part(self) -> None:
        """The answer is complete."""
        self._over = True
        self._say(b"")

    def _say(self, word: bytes) -> None:
        self._forget()
        if self.server is not None:
            self.server.take = discard
            if not self.server.gone:
                self.server.transport.abort()
        Farewell(self._hub, self.client, word)

    def _refuse(self, refused: RefusedError) -> None:
        self._over = True
        self.client.take = discard
        responses = self._filter.responses
        if responses is not None and not responses.quiet:
            # Answers to requests before this one are under way; ours may not be written into them.
            self._quiet = self._hub.loop.create_future()
        elif self.dialing is not None:
            self.dialing.cancel()
        self._hub.start(self._record_and_say(refused), self.client, self._source)

    async def _record_and_say(self, refused: RefusedError) -> None:
        if refused.why:
            await self._hub.record(self._source, refused.what, refused.why)
        responses = self._filter.responses
        if responses is not None and self._quiet is not None:
            if not responses.passive:
                limit = self._hub.loop.call_later(QUIET_PATIENCE_S, self._stop_waiting)
                await self._quiet
                limit.cancel()
            if not responses.quiet:
                self._vanish()
                return
        if not self.client.gone:
            self._say(refused.packet())

    def _stop_waiting(self) -> None:
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _reset_when_delivered(self) -> None:
        """Reset the program, but not before it has got what the server sent."""
        self._over = True
        self.client.take = discard
        if self.server is not None:
            self.server.reset()
        until = self._hub.loop.time() + FLUSH_PATIENCE_S

        def check() -> None:
            if self.client.gone:
                return
            if self.client.unsent() and self._hub.loop.time() < until:
                self._hub.loop.call_later(0.01, check)
            else:
                self.client.reset()

        check()

    def sweep(self) -> None:
        """Find out about resets that nobody reads, and end what is left."""
        for end in (self.client, self.server):
            if end is not None and end.connected and not end.gone and end.blind and end.is_dead():
                end.transport.abort()
                other = self.server if end is self.client else self.client
                if other is not None:
                    other.reset()
