"""The line to the broker, which decides: what `fence_core/link/filter.py` says, and each question is answered in time.

No answer is a no. When the broker is gone this process has nothing more to do.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import Any

from fence_core.link import filter as link
from fence_core.link.operations import Operation, misfit

Answer = dict[str, Any]


class Source:
    """Which connection a question is about: the program's own end of it."""

    __slots__ = ("host", "named", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.named: dict[str, Any] = {"from": port, "host": host}


class NoAnswerError(Exception):
    """The broker said nothing that could be understood."""


class Referee:
    """Asks, by the control socket; any number of questions may be open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, control: socket.socket) -> None:
        self._loop = loop
        self._control = control
        self._fd = control.fileno()
        self._last = 0
        self._open: dict[int, asyncio.Future[Answer]] = {}
        self._unsent: deque[bytes] = deque()
        self.gone: asyncio.Future[None] = loop.create_future()
        control.setblocking(False)
        loop.add_reader(self._fd, self._receive)

    async def ask(self, operation: Operation, **what: object) -> Answer:
        """The answer. Raises NoAnswerError."""
        self._last += 1
        number = self._last
        packet = link.question(number, operation, what)
        if len(packet) > link.PACKET_MAX or self.gone.done():
            raise NoAnswerError(operation.name)
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._open[number] = future
        limit = self._loop.call_later(link.PATIENCE_S, _too_late, future)
        try:
            self._send(packet)
            answer = await future
        finally:
            limit.cancel()
            self._open.pop(number, None)
        wrong = misfit(answer, operation.answers)
        if wrong:
            raise NoAnswerError(f"{operation.name} without {wrong}")
        return answer

    def tell(self, operation: Operation, **what: object) -> None:
        """Say something without waiting for the answer."""
        if not self.gone.done():
            self._last += 1
            self._send(link.question(self._last, operation, what))

    def _send(self, packet: bytes) -> None:
        if not self._unsent:
            try:
                self._control.send(packet)
                return
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._fd, self._send_rest)
            except OSError:
                self._lost()
                return
        self._unsent.append(packet)

    def _send_rest(self) -> None:
        while self._unsent:
            try:
                self._control.send(self._unsent[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._lost()
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._fd)

    def _receive(self) -> None:
        for _ in range(64):
            try:
                packet = os.read(self._fd, link.PACKET_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet = b""
            if not packet:
                self._lost()
                return
            try:
                number, answer = link.read_answer(packet)
            except ValueError:
                continue
            future = self._open.get(number)
            if future is not None and not future.done():
                future.set_result(answer)

    def _lost(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        for future in self._open.values():
            if not future.done():
                future.set_exception(NoAnswerError("the broker is gone"))
        if not self.gone.done():
            self.gone.set_result(None)


def _too_late(future: asyncio.Future[Answer]) -> None:
    if not future.done():
        future.set_exception(NoAnswerError("the broker does not answer"))
