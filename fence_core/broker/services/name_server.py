"""The name server of all fenced programs: their resolvers' sockets end here.

libc connects a UDP socket to its name server, and a TCP one where the answer was cut; the broker connects it to one of
ours on loopback instead. Which process asks is known by the address of its socket, from when that was connected.
Nothing is ever sent on. What is answered: `fence_core/dns/responder.py`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker.services.look_ups import NotYetKnownError, Query
from fence_core.policy.requests import Resolve

if TYPE_CHECKING:
    from fence_core.broker.processes import Process
    from fence_core.broker.services.sockets import Address, Borrowed
    from fence_core.dns.responder import Responder, Verdict
    from fence_core.dns.tcp import Splitter

_AT_ONCE = 32
_BACKLOG = 128
_CONVERSATIONS_MAX = 512
_ASKERS_MAX = 200_000
_LOOPBACK = {int(socket.AF_INET): "127.0.0.1", int(socket.AF_INET6): "::1"}

Place = tuple[int, str, int]
"""Kind of socket, address and port of the asker's end."""


class Asker:
    """Who asks at an address: the process and thread that connected the socket, and whom it meant to ask."""

    __slots__ = ("host", "process", "proto", "tid")

    def __init__(self, process: Process, tid: int, host: str, proto: str) -> None:
        self.proto = proto
        self.process = process
        self.tid = tid
        self.host = host


class Names:
    """Sockets of either kind and family, made when first needed."""

    def __init__(
        self,
        *,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        verdict: Callable[[Process, str], Verdict],
        refuse: Callable[[Process, int, Resolve, Query], None],
        refuse_message: Callable[[Process, int, str, str], None],
        learn: Callable[[Process, int, Resolve], None] | None = None,
    ) -> None:
        """`verdict`: what a process may look up; it may raise NotYetKnownError. `refuse` records a name, and the query
        in which it came; `refuse_message` what was no query; `learn`, if it is given, is told of names that were
        answered."""
        self._watch = watch
        self._unwatch = unwatch
        self._verdict = verdict
        self._refuse = refuse
        self._refuse_message = refuse_message
        self._learn = learn
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        self._askers: dict[Place, Asker] = {}
        """No more than there are ports on the addresses of loopback that programs choose to use."""
        self._asked: dict[int, bytes] = {}
        """By the inode of the asker's socket."""
        self._conversations: dict[int, _Conversation] = {}
        self._responder: Responder | None = None

    def responder(self) -> Responder:
        """Made when the first name is asked: a run that asks none does without its modules."""
        if self._responder is None:
            from fence_core.dns.resolv_conf import read_resolv_conf
            from fence_core.dns.responder import Responder, Verdict

            config = read_resolv_conf()
            self._responder = Responder(lambda name: Verdict.REFUSE, config.suffixes, ndots=config.ndots)
        return self._responder

    def name_of(self, address: str) -> str | None:
        """The name that was given this synthetic address; None if it was never handed out."""
        return None if self._responder is None else self._responder.addresses.name_of(address)

    def address(self, family: int, kind: int) -> bytes | None:
        """The raw socket address to connect a resolver's socket to; None if this host has no such loopback."""
        own = self._sockets.get((family, kind))
        if own is None:
            try:
                own = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                own.bind((_LOOPBACK[family], 0))
                if kind == socket.SOCK_STREAM:
                    own.listen(_BACKLOG)
            except OSError:
                return None
            self._sockets[(family, kind)] = own
            answer = self._answer_datagrams if kind == socket.SOCK_DGRAM else self._accept
            self._watch(own.fileno(), lambda: answer(own))
        return raw_address(family, _LOOPBACK[family], own.getsockname()[1])

    def expect(self, asker: Borrowed, process: Process, server: Address, tid: int) -> None:
        """This borrowed socket, just led to us, is that process asking a name server, in that thread."""
        if len(self._askers) > _ASKERS_MAX or len(self._asked) > _ASKERS_MAX:
            self._askers.clear()
            self._asked.clear()
        host, port = asker.socket.getsockname()[:2]
        if host in ("0.0.0.0", "::"):
            host = _LOOPBACK[asker.domain]  # not connected: what it sends to loopback comes from there
        self._askers[(asker.type, host, port)] = Asker(process, tid, server.host, asker.proto)
        self._asked[os.fstat(asker.fd).st_ino] = server.raw

    def asked(self, borrowed: Borrowed) -> bytes | None:
        """The name server, as a raw address, that this socket has asked last; None if it has not been led to us."""
        return self._asked.get(os.fstat(borrowed.fd).st_ino) if self._asked else None

    def serves(self, borrowed: Borrowed, host: str, port: int) -> bool:
        """Whether this is the address of ours that a socket of this kind would be led to."""
        own = self._sockets.get((socket.AF_INET6 if ":" in host else socket.AF_INET, borrowed.type))
        return own is not None and own.getsockname()[:2] == (host, port)

    def is_ours(self, borrowed: Borrowed, sender: tuple[str, int]) -> bool:
        """Whether a message on this socket comes from us."""
        own = self._sockets.get((borrowed.domain, borrowed.type))
        return own is not None and own.getsockname()[:2] == sender[:2]

    def answer_at_once(self, borrowed: Borrowed) -> None:
        """Read what this socket has just sent us: whoever does not wait for the answer is still in the same test."""
        own = self._sockets.get((borrowed.domain, borrowed.type))
        if own is not None and borrowed.type == socket.SOCK_DGRAM:
            self._answer_datagrams(own)

    def _answer_datagrams(self, own: socket.socket) -> None:
        for _ in range(_AT_ONCE):  # the rest when other calls have had their turn
            try:
                message, peer = own.recvfrom(4096)
            except BlockingIOError:
                return
            except OSError:
                continue  # ECONNREFUSED of an asker that is gone
            self._answer_one(own, message, self._askers.get(_place(socket.SOCK_DGRAM, peer)), peer)

    def _answer_one(self, own: socket.socket, message: bytes, asker: Asker | None, peer: tuple[str, int]) -> None:
        try:
            reply = self.answer(message, asker, peer[1])
        except NotYetKnownError as error:
            error.when_known(lambda: self._answer_one(own, message, asker, peer))
            return
        if reply is not None:
            try:
                own.sendto(reply, peer)
            except OSError:
                pass

    def answer(self, message: bytes, asker: Asker | None, port: int) -> bytes | None:
        """The reply to a message from this port, recorded first where it is refused: the program's test can then name
        it. Raises NotYetKnownError."""
        if asker is None:
            return None  # nobody of ours: whoever else is on this machine has a name server of his own
        process = asker.process
        answer = self.responder().answer(message, lambda name: self._verdict(process, name))
        if answer.refused is not None:
            number = int.from_bytes(message[:2], "big")
            query = Query(answer.question, answer.rtype, number, asker.proto, asker.host, port)
            self._refuse(process, asker.tid, Resolve(answer.refused, answer.used_up), query)
        elif not answer.is_query:
            self.refuse_message(asker)
        elif self._learn is not None and answer.about:
            self._learn(process, asker.tid, Resolve(answer.about))
        return answer.reply

    def refuse_message(self, asker: Asker) -> None:
        """Something came that is no query."""
        self._refuse_message(asker.process, asker.tid, asker.host, asker.proto)

    def _accept(self, own: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, peer = own.accept()
            except OSError:
                return
            asker = self._askers.pop(_place(socket.SOCK_STREAM, peer), None)
            if asker is None or len(self._conversations) >= _CONVERSATIONS_MAX:
                connection.close()
                continue
            connection.setblocking(False)
            conversation = _Conversation(self, connection, asker, peer[1])
            self._conversations[connection.fileno()] = conversation
            self._watch(connection.fileno(), conversation.readable)

    def over(self, connection: socket.socket) -> None:
        """A conversation by TCP has ended."""
        self._conversations.pop(connection.fileno(), None)
        self._unwatch(connection.fileno())
        connection.close()


class _Conversation:
    """Queries by TCP, answered in turn."""

    def __init__(self, names: Names, connection: socket.socket, asker: Asker, port: int) -> None:
        from fence_core.dns.tcp import Splitter

        self._names = names
        self._connection = connection
        self._asker = asker
        self._port = port
        self._splitter: Splitter = Splitter()

    def readable(self) -> None:
        from fence_core.dns.tcp import FramingError, frame

        try:
            data = self._connection.recv(4096)
            if not data:
                self._names.over(self._connection)
                return
            for message in self._splitter.feed(data):
                reply = self._names.answer(message, self._asker, self._port)
                if reply is None:
                    self._names.over(self._connection)
                    return
                self._connection.sendall(frame(reply))  # a full buffer raises: nobody reads what he asked for
        except NotYetKnownError:
            self._names.over(self._connection)  # whoever asks by TCP tries again
        except BlockingIOError:
            self._names.over(self._connection)
        except FramingError:
            self._names.refuse_message(self._asker)
            self._names.over(self._connection)
        except OSError:
            self._names.over(self._connection)


def raw_address(family: int, host: str, port: int) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
    return (
        struct.pack("=H", family) + struct.pack("!HI", port, 0) + socket.inet_pton(family, host) + struct.pack("=I", 0)
    )


def _place(kind: int, peer: tuple[str, int] | tuple[str, int, int, int]) -> Place:
    return (kind, peer[0], peer[1])
