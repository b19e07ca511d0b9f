"""Messages: calls that carry data, and may carry a destination of their own.

``sendto`` with an address, ``sendmsg`` and ``sendmmsg`` are never left to the kernel: other threads can change the
memory that the address lies in, and the table that has the descriptor. Continued, a message on any socket could by then
be a datagram to anybody. So each is copied, judged like a connect where it has a destination, and sent by the broker
(`sending`).
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from typing import TYPE_CHECKING

from fence_core.broker.calls.ancillary import CMSG_SIZE, Control, headers
from fence_core.broker.calls.arguments import InvalidMessageError, signed
from fence_core.broker.calls.borrowing import on_socket, remember_own_end
from fence_core.broker.calls.connecting import is_closed, perform_connect
from fence_core.broker.calls.destination import any_unix, judge_destination
from fence_core.broker.calls.options import is_interface, kernel_says
from fence_core.broker.calls.registers import MSG_FASTOPEN
from fence_core.broker.calls.sending import MSG_DONTWAIT, Outgoing, Sender, cut, expired, send_once
from fence_core.broker.calls.ties import (
    LOOPBACK_IFINDEX,
    exposes,
    leads_here,
    peer_is_here,
    shut_to_others,
    tie_late,
)
from fence_core.broker.reply import CONTINUE, HandOver, Reply, Value, Wait
from fence_core.broker.services.name_server import raw_address
from fence_core.broker.services.sockets import SOCKADDR_MAX, Borrowed, parse_address
from fence_core.errors import KernelCallError
from fence_core.kernel import credentials, memory
from fence_core.kernel.credentials import CAP_NET_RAW
from fence_core.kernel.structs import IOVEC, MSGHDR
from fence_core.policy.requests import SocketOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fence_core.broker.call import Call
    from fence_core.broker.services.sinks import Sunk

_DATAGRAM_MAX = 1 << 17
CONTROL_MAX = 1 << 17
"""More than any `net.core.optmem_max` allows by default."""
_COPIED_MAX = 1 << 22
"""Of the messages of one call that wait for room: what is kept of them."""
_IOV_MAX = 1024
_NEGATIVE = 1 << 31

_ROUTES = {(0, 7): 0, (41, 5): 57, (41, 57): 57}
"""Level and type of ancillary data: IP_RETOPTS, IPV6_2292RTHDR, IPV6_RTHDR. With such a route a message for loopback
goes to its first stop, wherever that is. The option of the socket that takes the same value (0: none does)."""
_INTERFACES = {(0, 8): 0, (41, 50): 16, (41, 2): 16}
"""IP_PKTINFO, IPV6_PKTINFO, IPV6_2292PKTINFO: where in it the number of the interface is. The one of IPv4 replaces what
the socket is tied to (ip_cmsg_send, net/ipv4/ip_sockglue.c). The source address in it chooses no interface."""
_IP_PKTINFO = 8


class Message:
    """Where a message is to go, and where its data lies. Read in the order in which the kernel does (net/socket.c)."""

    __slots__ = ("control", "name", "pieces", "size")

    def __init__(self, name: bytes, pieces: Sequence[tuple[int, int]], control: bytes = b"") -> None:
        self.name = name
        self.pieces = pieces
        """Address and length in the caller's memory."""
        self.control = control
        self.size = sum(length for _, length in pieces)

    @classmethod
    def read(cls, tid: int, header: bytes) -> Message:
        """From a struct msghdr. Raises `InvalidMessageError`, KernelCallError."""
        at, size, vector, count, control_at, control_size, _ = MSGHDR.unpack(header)
        if at and size >= _NEGATIVE:
            raise InvalidMessageError(errno.EINVAL)
        if count > _IOV_MAX:
            raise InvalidMessageError(errno.EMSGSIZE)
        name = memory.read(tid, at, min(size, SOCKADDR_MAX)) if at and size else b""
        pieces = [
            (base, length)
            for base, length in (IOVEC.iter_unpack(memory.read(tid, vector, IOVEC.size * count)) if count else ())
            if length
        ]
        if any(length >= 1 << 63 for _, length in pieces):
            raise InvalidMessageError(errno.EINVAL)
        if control_at and control_size > CONTROL_MAX:
            raise InvalidMessageError(errno.ENOBUFS)
        return cls(name, pieces, memory.read(tid, control_at, control_size) if control_at and control_size else b"")

    def contents(self, tid: int, most: int) -> tuple[bytes, bytes, int, bytes]:
        """All that it says, and to whom; of its data as many bytes as `most`. Raises KernelCallError."""
        return self.name, self.control, self.size, bytes(memory.gather(tid, cut(self.pieces, 0, most)))


_MMSGHDR_SIZE = MSGHDR.size + 8  # struct mmsghdr: msghdr, msg_len, padding


def headers_of_many(tid: int, at: int, count: int) -> list[bytes]:
    """The struct msghdrs of sendmmsg(2). Raises KernelCallError."""
    count = min(count & 0xFFFF_FFFF, _IOV_MAX)
    vector = memory.read(tid, at, _MMSGHDR_SIZE * count) if count else b""
    return [vector[start : start + MSGHDR.size] for start in range(0, len(vector), _MMSGHDR_SIZE)]


@on_socket
def sendto(call: Call, borrowed: Borrowed) -> Reply:
    """Only with an address, or with MSG_FASTOPEN: the filter lets the others through."""
    size = call.args[5] & 0xFFFF_FFFF
    if not call.args[4]:
        return CONTINUE  # that it has none is in a register
    if size > SOCKADDR_MAX:
        return errno.EINVAL
    name = memory.read(call.tid, call.args[4], size) if size else b""
    message = Message(name, [(call.args[1], call.args[2])] if call.args[2] else [])
    return _Sending(call, borrowed, [lambda: message], signed(call.args[3])).reply()


@on_socket
def sendmsg(call: Call, borrowed: Borrowed) -> Reply:
    if _sends_itself(call, borrowed):
        return CONTINUE
    message = functools.partial(Message.read, call.tid, memory.read(call.tid, call.args[1], MSGHDR.size))
    return _Sending(call, borrowed, [message], signed(call.args[2])).reply()


def _sends_itself(call: Call, borrowed: Borrowed) -> bool:
    """Whether the kernel may send what goes to the peer of a UNIX socket: it takes no notice of any address.

    Only where the socket cannot be exchanged for one that names its receiver, by another thread; and only for an
    ordinary user, whose broker cannot give the sender's process id to a receiver that wants to know it (SO_PASSCRED):
    Chromium's processes find one another so.
    """
    return (
        borrowed.domain == socket.AF_UNIX
        and borrowed.type in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
        and os.geteuid() != 0
        and os.stat(f"/proc/{call.process.pid}/task").st_nlink == _ONE_THREAD
    )


_ONE_THREAD = 3  # links of /proc/PID/task: ".", its entry above, and one for each thread


@on_socket
def sendmmsg(call: Call, borrowed: Borrowed) -> Reply:
    """Judged and sent one by one; as with the kernel's own, a failure after the first is not told."""
    headers = headers_of_many(call.tid, call.args[1], call.args[2])
    messages = [functools.partial(Message.read, call.tid, header) for header in headers]
    lengths = (call.args[1] + MSGHDR.size, _MMSGHDR_SIZE)
    return _Sending(call, borrowed, messages, signed(call.args[3]), lengths).reply()


class _Sending:
    """What one call sends: judged and sent in turn."""

    __slots__ = (
        "_borrowed",
        "_call",
        "_current",
        "_flags",
        "_lengths",
        "_messages",
        "_parked",
        "_ready",
        "_sender",
        "_sent",
        "_wait",
    )

    def __init__(
        self,
        call: Call,
        borrowed: Borrowed,
        messages: Sequence[Callable[[], Message]],
        flags: int,
        lengths: tuple[int, int] | None = None,
    ) -> None:
        """`lengths`: for sendmmsg(2), where the first length is written, and how far it is to the next."""
        self._call = call
        self._borrowed = borrowed
        self._messages = list(reversed(messages))
        self._flags = flags
        self._lengths = lengths
        self._sender = Sender(call, borrowed, flags)
        self._current: Outgoing | None = None
        self._ready: list[Outgoing] = []
        """Judged, to be sent when there is room."""
        self._parked = False
        self._wait: Wait | None = None
        self._sent = 0

    def reply(self) -> Reply:
        reply: Reply | None = None
        parks = False
        try:
            reply = self._go()
            if reply is None:
                reply = self._park()
                parks = True
            return reply
        finally:
            if not parks:
                self._close()

    def _go(self) -> Reply | None:
        """Send until there is an answer; None where there is no room."""
        while True:
            message = self._current or self._next()
            if message is None:
                return Value(self._sent)
            if isinstance(message, Outgoing):
                self._current = message
                answer: Reply | None = self._sender.attempt(message)
                if answer is None:
                    if self._sender.waits:
                        return None
                    answer = Value(message.sent) if message.sent else errno.EAGAIN
                complete = isinstance(answer, Value) and answer.value >= message.size
                message.control.close()
                self._current = None
            elif isinstance(message, Wait):  # of a fast open
                return self._first_of_many(message)
            else:
                answer, complete = message, True
            if not isinstance(answer, Value):
                return Value(self._sent) if self._sent else answer
            if self._lengths is None:
                return answer
            self._note_length(answer.value)
            self._sent += 1
            if not complete:
                return Value(self._sent)

    def _next(self) -> Outgoing | Reply | None:
        if self._parked:
            return self._ready.pop() if self._ready else None
        if not self._messages:
            return None
        try:
            return self._judged(self._messages.pop()())
        except InvalidMessageError as error:
            return error.errno
        except KernelCallError as error:
            if not (self._sent or self._current):
                raise
            return error.errno or errno.EFAULT  # not told, as something was sent before

    def _note_length(self, length: int) -> None:
        assert self._lengths is not None
        at, step = self._lengths
        memory.write(self._call.tid, at + self._sent * step, struct.pack("@I", length))

    def _park(self) -> Wait:
        """The rest is judged now: later the caller is not the one that the broker answers."""
        assert self._current is not None
        copied = 0
        while self._messages and copied < _COPIED_MAX:
            following = self._next()
            if not isinstance(following, Outgoing):
                break
            self._ready.append(following)
            copied += len(following.data or b"")
        self._ready.reverse()
        self._parked = True
        self._wait = self._sender.wait(self._current, self._poll, self._close_all)
        return self._wait

    def _poll(self) -> int | Value | None:
        assert self._wait is not None
        answer = self._go()
        if answer is None and expired(self._wait):
            self._sender.waits = False
            answer = self._go()
        if answer is None and self._current is not None:
            self._wait.so_far = self._sent if self._lengths else self._current.sent
            if self._lengths and self._current.sent:
                self._note_length(self._current.sent)
                self._wait.so_far += 1
            self._sender.await_room()
        return answer if isinstance(answer, int | Value) else None

    def _first_of_many(self, wait: Wait) -> Reply:
        """A fast open that has to wait: sendmmsg(2) returns when that one is sent."""
        if self._lengths is None:
            return wait
        if self._sent:
            return Value(self._sent)
        send, length_at, tid = wait.poll, self._lengths[0], self._call.tid

        def poll() -> int | Value | HandOver | None:
            answer = send()
            if not isinstance(answer, Value):
                return answer
            memory.write(tid, length_at, struct.pack("@I", answer.value))
            return Value(1)

        wait.poll = poll
        return wait

    def _close(self) -> None:
        self._sender.close()
        for message in (self._current, *self._ready):
            if message is not None:
                message.control.close()

    def _close_all(self) -> None:
        self._close()
        self._borrowed.close()

    # ------------------------------------------------------------ judging

    def _judged(self, message: Message) -> Outgoing | Reply:
        """What is to be sent; or the answer. Raises `InvalidMessageError`, KernelCallError."""
        if self._sender.wants_zero_copy(self._flags):
            return errno.ENOBUFS
        control = Control(self._call, self._borrowed, message.control)
        found: Outgoing | Reply = CONTINUE
        try:
            found = self._addressed(message, control)
        finally:
            if not isinstance(found, Outgoing):
                control.close()
        return found

    def _addressed(self, message: Message, control: Control) -> Outgoing | Reply:
        borrowed, flags = self._borrowed, self._flags
        datagram = borrowed.type == socket.SOCK_DGRAM
        stream = borrowed.type == socket.SOCK_STREAM
        fast_open = borrowed.is_inet and stream and bool(flags & MSG_FASTOPEN) and bool(message.name)
        data = None if stream and not fast_open else self._copied(message)
        if control.raw and borrowed.is_inet and (datagram or fast_open):
            refused = self._refuse_route(control.raw)
            if refused:
                return refused
        if datagram and borrowed.is_inet and not message.name:
            refused = self._refused_at_last()
            if refused:
                return refused
        if message.name and (fast_open or (datagram and (borrowed.is_inet or borrowed.domain == socket.AF_UNIX))):
            return self._destined(message, control, data)
        if borrowed.domain == socket.AF_UNIX and self._lengths is None and any_unix(self._call):
            return CONTINUE
        after: Callable[[], None] | None = None
        if borrowed.is_inet and datagram:
            if self._goes_to_us():
                control.raw = b""
                after = functools.partial(self._call.services.names.answer_at_once, borrowed)
            elif control.raw and peer_is_here(borrowed):
                refused = self._refuse_interface(control.raw)
                if refused:
                    return refused
        self._sender.bind_netlink()
        # UNIX streams refuse an address, other connected sockets take no notice of it: none goes out unjudged.
        ignored = (borrowed.is_inet and stream) or (borrowed.domain == socket.AF_UNIX and not stream)
        return Outgoing(b"" if ignored else message.name, control, message.pieces, data, after)

    def _refused_at_last(self) -> int:
        """What is sent to the peer of a socket that was led to a sink when it was connected; 0 for any other."""
        sinks = self._call.services.sinks
        sunk = sinks.of(self._borrowed)
        if sunk is None:
            return 0
        if self._call.allowed(sunk.request) or self._call.lets_learn(sunk.request):
            if not sinks.let_go(self._borrowed.socket, sunk):
                return errno.ENETUNREACH
            return self._call.ask(sunk.request, errno.EACCES) if self._call.learns() else 0
        return self._call.refuse(sunk.request, errno.EACCES)

    def _destined(self, message: Message, control: Control, data: bytes | bytearray | None) -> Outgoing | Reply:
        """A message with an address of its own."""
        call, borrowed = self._call, self._borrowed
        address = parse_address(message.name)
        if address is None:
            return errno.EINVAL
        destination = judge_destination(call, borrowed, address, sends=True)
        if destination.errno:
            return destination.errno
        target = destination.raw if destination.arrived is None else message.name
        if borrowed.domain == socket.AF_UNIX:
            if destination.by_kernel and self._lengths is None:
                return CONTINUE
            return self._sender.permitted(target) or Outgoing(target, control, message.pieces, data)
        sunk = None if leads_here(target) else call.services.sinks.leave(borrowed)
        tie_late(call, borrowed)
        if (
            borrowed.type == socket.SOCK_DGRAM
            and exposes(call)
            and not borrowed.socket.getsockname()[1]
            and call.services.inside.is_in_ours(borrowed.socket)
        ):
            shut_to_others(call, borrowed.fd)
        after: Callable[[], None] | None = None
        if destination.arrived is not None:
            target, after = destination.raw, functools.partial(_arrived, call, borrowed, destination.arrived)
            control.raw = b""
        else:
            if control.raw and borrowed.type == socket.SOCK_DGRAM and leads_here(target):
                refused = self._refuse_interface(control.raw)
                if refused:
                    return refused
            if borrowed.type == socket.SOCK_DGRAM:
                after = functools.partial(_sent_elsewhere, call, borrowed, sunk)
        if borrowed.type == socket.SOCK_DGRAM:
            return Outgoing(target, control, message.pieces, data, after)
        begins = is_closed(borrowed)
        reply = _perform_fast_open(borrowed, target, bytes(data or b""), control.raw, self._flags)
        if after is not None and begins and (not isinstance(reply, int) or reply == errno.EINPROGRESS):
            after()
        return reply

    def _goes_to_us(self) -> bool:
        """Whether the socket was led to our name server: nothing that says how goes along with a query."""
        if self._call.services.names.asked(self._borrowed) is None:
            return False
        try:
            peer = self._borrowed.socket.getpeername()
        except OSError:
            return False
        return self._call.services.names.is_ours(self._borrowed, peer)

    def _copied(self, message: Message) -> bytearray:
        """The data of a message that is sent in one piece. Larger ones the kernel refuses, whatever else they are."""
        borrowed = self._borrowed
        if borrowed.type == socket.SOCK_STREAM:
            return memory.gather(self._call.tid, cut(message.pieces, 0, _DATAGRAM_MAX))
        most = _DATAGRAM_MAX if borrowed.is_inet else borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        if message.size > most:
            raise InvalidMessageError(errno.EMSGSIZE)
        return memory.gather(self._call.tid, message.pieces)

    # ------------------------------------------------------------ ancillary data

    def _is_free(self) -> bool:
        """Whether a message may go by any way: of no session that refuses something, or in a network of its own."""
        return not self._call.enforcing() or not self._call.services.inside.is_in_ours(self._borrowed.socket)

    def _refuse_route(self, control: bytes) -> int:
        """The error number for a message with a route of its own; else 0."""
        for at, size, level, kind in headers(control):
            option = _ROUTES.get((level, kind))
            if option is None or not self._call.services.inside.is_in_ours(self._borrowed.socket):
                continue
            if level == socket.IPPROTO_IP:
                if not credentials.of(self._call.tid).may(CAP_NET_RAW):
                    continue  # the kernel takes no route from those, but other options
            else:
                body = control[at + CMSG_SIZE : at + size]
                failed = kernel_says(self._call, self._borrowed, (level, option), body)
                if failed:
                    return failed
            return self._call.ask(SocketOption("route"), errno.EPERM)
        return 0

    def _refuse_interface(self, control: bytes) -> int:
        """The error number for a message to this machine that names another interface than loopback; else 0."""
        for at, size, level, kind in headers(control):
            start = _INTERFACES.get((level, kind))
            if start is None:
                continue
            number = int.from_bytes(control[at + CMSG_SIZE : at + size][start : start + 4], "little")
            if number in (0, LOOPBACK_IFINDEX) or self._is_free() or not is_interface(number):
                continue
            if kind != _IP_PKTINFO and self._call.services.ties.said_loopback(self._borrowed.fd):
                continue  # the kernel minds a tie of the program's own: EINVAL
            return self._call.ask(SocketOption("interface"), errno.EPERM)
        return 0


def _arrived(call: Call, borrowed: Borrowed, arrived: Callable[[Borrowed], None]) -> None:
    """Sent to one of ours. Who is there is known before anything is read: that comes after this call."""
    arrived(borrowed)
    call.services.names.answer_at_once(borrowed)


def _sent_elsewhere(call: Call, borrowed: Borrowed, sunk: Sunk | None) -> None:
    """A datagram socket has sent to an address; it goes on being connected to whom it was connected to."""
    remember_own_end(call, borrowed)
    peer = parse_address(sunk.destination) if sunk is not None else None
    if sunk is not None and peer is not None:
        call.services.sinks.lead(borrowed, sunk, peer)


def _perform_fast_open(borrowed: Borrowed, target: bytes, data: bytes, control: bytes, flags: int) -> Reply:
    """MSG_FASTOPEN connects and sends; where it may block in turn, as the kernel does without a cookie of this peer."""
    fd = borrowed.fd
    if flags & MSG_DONTWAIT or not os.get_blocking(fd):
        return _send_now(fd, target, data, control, flags)
    connected = perform_connect(borrowed, target)
    if not isinstance(connected, Wait):
        return _send_now(fd, b"", data, control, flags & ~MSG_FASTOPEN) if connected.__class__ is Value else connected
    wait = connected

    def poll() -> int | Value | HandOver | None:
        answer = wait.poll()
        if not isinstance(answer, Value):
            return answer
        return _send_now(fd, b"", data, control, flags & ~MSG_FASTOPEN)

    return Wait(wait.fd, poll, wait.close, wait.deadline)


def _send_now(fd: int, target: bytes, data: bytes, control: bytes, flags: int) -> int | Value:
    sent = send_once(fd, target, data, control, flags)
    return Value(sent) if sent >= 0 else -sent


@on_socket
def recvfrom(call: Call, borrowed: Borrowed) -> Reply:
    """Only where the caller wants to know the sender: some resolvers (c-ares, musl) take an answer only from whom they
    have asked. On a socket that was led to us, that is who it comes from."""
    if borrowed.type != socket.SOCK_DGRAM or not borrowed.is_inet:
        return CONTINUE
    asked = call.services.names.asked(borrowed)
    if asked is None:
        return CONTINUE
    flags = signed(call.args[3])
    waits = os.get_blocking(borrowed.fd) and not flags & MSG_DONTWAIT
    room_for_data = bytearray(min(call.args[2], _DATAGRAM_MAX))
    try:
        # Into a buffer of ours: with MSG_TRUNC the size may be larger, and `recvfrom` would make up the rest.
        size, sender = borrowed.socket.recvfrom_into(room_for_data, 0, flags | MSG_DONTWAIT)
    except BlockingIOError:
        return CONTINUE if waits else errno.EAGAIN
    except OSError as error:
        return error.errno or errno.EIO
    if sender is None:
        name = b""  # of what only tells that memory is free again (MSG_ZEROCOPY)
    else:
        name = asked if call.services.names.is_ours(borrowed, sender) else raw_address(borrowed.domain, *sender[:2])
    room = int.from_bytes(memory.read(call.tid, call.args[5], 4), "little", signed=True)
    if room < 0:
        return errno.EINVAL
    memory.write(call.tid, call.args[1], bytes(room_for_data[:size]))
    memory.write(call.tid, call.args[4], name[:room])
    memory.write(call.tid, call.args[5], len(name).to_bytes(4, "little"))
    return Value(size)
