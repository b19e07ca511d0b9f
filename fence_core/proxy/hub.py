"""The work of the filter process once somebody has connected: accept, ask who that is, relay.

One loop in one thread for everything; only name look-ups have threads of their own.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fence_core.link import filter as link
from fence_core.proxy.classic import Classic
from fence_core.proxy.dial import Target, UnreachableError, dial
from fence_core.proxy.inspector import Inspector
from fence_core.proxy.referee import NoAnswerError, Referee, Source
from fence_core.proxy.relay import End, Relay, reset

CONNECTION_LIMIT = 4000
LOOKUPS_AT_ONCE = 64
_ACCEPTS_AT_ONCE = 64
_SWEEP_EVERY_S = 15.0
"""How often connections that nobody reads are asked whether they were reset."""
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Hub:
    """What all connections share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        control: socket.socket,
    ) -> None:
        self.loop = loop
        self.relays: set[Relay] = set()
        self.referee = Referee(loop, control)
        self._listeners = listeners
        self._count = 0
        self._limit = min(CONNECTION_LIMIT, _descriptors() // 2 - 32)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping = False
        loop.set_default_executor(ThreadPoolExecutor(LOOKUPS_AT_ONCE, "look-up"))
        loop.set_exception_handler(self._loop_error)
        for listener in listeners:
            listener.setblocking(False)
        self._listen()

    async def run(self) -> None:
        """Until the broker is gone."""
        await self.referee.gone

    # -- accepting ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for listener in self._listeners:
            self.loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors or memory: the next ones wait in the queue
                for each in self._listeners:
                    self.loop.remove_reader(each)
                self.loop.call_later(0.1, self._listen)
                return
            if self._count >= self._limit:
                reset(sock)
                continue
            self._count += 1
            sock.setblocking(False)
            self._start(self._greet(sock, Source(str(address[0]), int(address[1]))))
            if not self._sweeping:
                self._sweeping = True
                self.loop.call_later(_SWEEP_EVERY_S, self._sweep)

    def left(self) -> None:
        """A program's connection has ended."""
        self._count -= 1

    def _sweep(self) -> None:
        for relay in list(self.relays):
            relay.sweep()
        self._sweeping = self._count > 0
        if self._sweeping:
            self.loop.call_later(_SWEEP_EVERY_S, self._sweep)

    async def _greet(self, sock: socket.socket, source: Source) -> None:
        try:
            who = await self.referee.ask(link.WHO, host=source.host, port=source.port)
            kind = who.get("kind")
            if kind == link.TUNNEL:
                target = Target(str(who["name"]), int(who["port"]), who.get("to"), who.get("upstream_proxy"))
                inspector = Inspector(target.name, target.port, cleartext_h2=target.pinned_to_this_machine)
            elif kind != link.PROXY:
                raise NoAnswerError(str(kind))
        except Exception as error:
            self.left()
            if not isinstance(error, NoAnswerError):
                await self._report(error, source)
            reset(sock)
            return
        if kind == link.PROXY:
            classic = Classic(self, source, who.get("upstream_proxy"))
            await self.adopt(sock, classic.client)
            return
        relay = Relay(self, inspector, source)
        await self.adopt(sock, relay.client)
        await self.connect(relay, target, source)

    async def adopt(self, sock: socket.socket, end: End) -> None:
        """Have the loop read this socket for that end."""
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            pass  # reset already: the loop will find out
        await self.loop.connect_accepted_socket(lambda: end, sock)

    async def connect(self, relay: Relay, target: Target, source: Source) -> None:
        """Give the relay its server."""
        if relay.client.gone:
            return
        relay.dialing = asyncio.current_task()
        try:
            sock, early = await dial(self.loop, self.referee, target, source)
        except UnreachableError as error:
            relay.unreachable(str(error), error.rule)
        except NoAnswerError:
            relay.unreachable("the fence does not answer", "without an answer, nothing is allowed")
        except asyncio.CancelledError:
            return  # the program is gone, or was refused
        except Exception as error:
            await self._report(error, source)
            relay.client.reset()
        else:
            relay.dialing = None
            await relay.attach(sock, early)
        finally:
            relay.dialing = None

    async def record(self, source: Source, what: str, why: str) -> None:
        """Return when the broker has written the violation down."""
        try:
            await self.referee.ask(link.VIOLATION, **source.named, what=what[:1000], why=why)
        except NoAnswerError:
            pass  # it is refused all the same

    # -- our own errors -----------------------------------------------------------------------------------------------

    async def _report(self, error: Exception, source: Source) -> None:
        """Return when the broker has written it down: its test may be over as soon as the connection is."""
        from fence_core.proxy import fault

        try:
            await self.referee.ask(link.FAULT, **source.named, **fault.describe(error))
        except NoAnswerError:
            pass  # it is not silent: the broker takes that for the end of this process

    def failed(self, error: Exception, end: End, source: Source) -> None:
        """An error in what a connection was sent: it ends, when that has been told."""

        async def fail() -> None:
            raise error

        self.start(fail(), end, source)

    def start(self, work: Coroutine[Any, Any, None], end: End, source: Source) -> None:
        """Go on with a connection; if that fails, it ends."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                await self._report(error, source)
                end.reset()

        self._start(guarded())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell(error)

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):  # of sockets: the connection has been closed
            return
        self._tell(error if error is not None else RuntimeError(context.get("message")))

    def _tell(self, error: BaseException) -> None:
        """Of an error that belongs to no connection."""
        from fence_core.proxy import fault

        self.referee.tell(link.FAULT, **fault.describe(error))


def _descriptors() -> int:
    """How many this process may have, after asking for as many as it may get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTION_LIMIT + 128
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
    except (OSError, ValueError):
        return soft
    return new


def run(listeners: Sequence[socket.socket], control: socket.socket) -> None:
    """Serve until the other end of `control` is closed."""
    logging.disable(logging.CRITICAL)  # asyncio and proxy.py would write to stderr, which is pytest's
    loop = asyncio.SelectorEventLoop()

    async def main() -> None:
        await Hub(loop, listeners, control).run()

    loop.run_until_complete(main())
