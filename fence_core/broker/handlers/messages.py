"""Messages: calls that carry data, and may carry a destination of their own.

Those with a destination (``sendto``, ``sendmsg``, ``sendmmsg``) are judged like a connect. Internet datagrams are sent
by the broker, on the caller's own socket and from a copy, so that nothing can be changed after the verdict.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from fence_core.broker.handlers.arguments import Arguments, signed
from fence_core.broker.handlers.network import (
    CAP_NET_RAW,
    SOURCE_ROUTE,
    Elsewhere,
    has_capability,
    is_closed,
    judge_destination,
    on_socket,
    perform_connect,
    send_deadline,
    tie_late,
)
from fence_core.broker.names import raw_address
from fence_core.broker.reply import CONTINUE, HandOver, Reply, Value, Wait
from fence_core.broker.sockets import SOCKADDR_MAX, Borrowed, parse_address
from fence_core.errors import KernelCallError
from fence_core.kernel import libc, memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.broker.attribution import Process
    from fence_core.broker.loop import Broker

MSG_DONTWAIT = 0x40
MSG_NOSIGNAL = 0x4000
MSG_FASTOPEN = 0x20000000

_MSGHDR = struct.Struct("@PI4xPNPNi4x")
"""struct msghdr of the kernel, 64-bit: name, namelen, iov, iovlen, control, controllen, flags."""
_IOVEC = struct.Struct("@PN")
_DATAGRAM_MAX = 1 << 17
_IOV_MAX = 1024

_sendmsg = libc.function("sendmsg", ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)

_ROUTES = frozenset({(0, 7), (41, 5), (41, 57)})
"""Level and type of ancillary data: IP_RETOPTS, IPV6_2292RTHDR, IPV6_RTHDR. With such a route a message for loopback
goes to its first stop, wherever that is."""
_CMSG = struct.Struct("@Nii")


def _names_a_route(control: bytes) -> bool:
    at = 0
    while at + _CMSG.size <= len(control):
        size, level, kind = _CMSG.unpack_from(control, at)
        if (level, kind) in _ROUTES:
            return True
        if size < _CMSG.size:
            return False  # EINVAL
        at += (size + 7) & ~7
    return False


class _Message:
    """One struct msghdr; the data is copied when it is asked for."""

    __slots__ = ("_iov", "_iov_count", "_tid", "control", "name")

    def __init__(self, tid: int, header: bytes) -> None:
        name, name_size, iov, count, control, control_size, _ = _MSGHDR.unpack(header)
        self._tid, self._iov, self._iov_count = tid, iov, count
        self.name = memory.read(tid, name, min(name_size, SOCKADDR_MAX)) if name and name_size else b""
        self.control = memory.read(tid, control, min(control_size, 65536)) if control and control_size else b""

    def data(self) -> bytes:
        return _gather(self._tid, self._iov, self._iov_count)


def _gather(tid: int, iov: int, count: int) -> bytes:
    if count > _IOV_MAX:
        raise KernelCallError("sendmsg", errno.EMSGSIZE)
    parts = []
    total = 0
    for base, size in _IOVEC.iter_unpack(memory.read(tid, iov, _IOVEC.size * count)) if count else ():
        if size:
            total += size
            if total > _DATAGRAM_MAX:
                raise KernelCallError("sendmsg", errno.EMSGSIZE)
            parts.append(memory.read(tid, base, size))
    return b"".join(parts)


@on_socket
def sendto(broker: Broker, process: Process, tid: int, borrowed: Borrowed, args: Arguments) -> Reply:
    """Only with an address, or with MSG_FASTOPEN: the filter lets the others through."""
    size = args[5] & 0xFFFF_FFFF
    if not args[4]:
        return CONTINUE
    if size > SOCKADDR_MAX:
        return errno.EINVAL
    name = memory.read(tid, args[4], size) if size else b""
    length = min(args[2], _DATAGRAM_MAX)
    return _send(broker, process, tid, borrowed, name, lambda: memory.read(tid, args[1], length), b"", signed(args[3]))


@on_socket
def sendmsg(broker: Broker, process: Process, tid: int, borrowed: Borrowed, args: Arguments) -> Reply:
    """Internet datagrams are sent here whether they have a destination of their own or not: carried on by the kernel,
    a message without one could have got one by then, and with IP_PKTINFO a way past the interface it is tied to."""
    if not borrowed.is_inet and borrowed.type != socket.SOCK_DGRAM:
        return CONTINUE
    message = _Message(tid, memory.read(tid, args[1], _MSGHDR.size))
    return _send(broker, process, tid, borrowed, message.name, message.data, message.control, signed(args[2]))


@on_socket
def sendmmsg(broker: Broker, process: Process, tid: int, borrowed: Borrowed, args: Arguments) -> Reply:
    """Judged and sent one by one; as with the kernel's own, a failure after the first is not told."""
    count = min(args[2] & 0xFFFF_FFFF, _IOV_MAX)
    step = _MSGHDR.size + 8  # struct mmsghdr: msghdr, msg_len, padding
    vector = memory.read(tid, args[1], step * count) if count else b""
    messages = [_Message(tid, vector[i * step : i * step + _MSGHDR.size]) for i in range(count)]
    datagrams = borrowed.is_inet and borrowed.type == socket.SOCK_DGRAM
    if not datagrams and not any(message.name or message.control for message in messages):
        return CONTINUE
    sent = 0
    for index, message in enumerate(messages):
        flags = signed(args[3])
        reply = _send(broker, process, tid, borrowed, message.name, message.data, message.control, flags)
        if reply == CONTINUE and not borrowed.is_inet:
            continue  # judged; the kernel sends them all
        if isinstance(reply, Wait) and not sent:
            return _first_of_many(reply, tid, args[1] + _MSGHDR.size)
        if not isinstance(reply, Value):
            return Value(sent) if sent else reply
        memory.write(tid, args[1] + index * step + _MSGHDR.size, struct.pack("@I", reply.value))
        sent += 1
    return Value(sent) if sent else CONTINUE


def _first_of_many(wait: Wait, tid: int, length_at: int) -> Wait:
    """sendmmsg(2) whose first message has to wait: it returns when that one is sent."""
    send = wait.poll

    def poll() -> int | Value | HandOver | None:
        answer = send()
        if not isinstance(answer, Value):
            return answer
        memory.write(tid, length_at, struct.pack("@I", answer.value))
        return Value(1)

    wait.poll = poll
    return wait


def _send(
    broker: Broker,
    process: Process,
    tid: int,
    borrowed: Borrowed,
    name: bytes,
    data: Callable[[], bytes],
    control: bytes,
    flags: int,
) -> Reply:
    datagram = borrowed.type == socket.SOCK_DGRAM
    if not datagram and not flags & MSG_FASTOPEN:
        return CONTINUE  # the kernel does not look at the address
    if control and borrowed.is_inet and _names_a_route(control):
        if not has_capability(tid, CAP_NET_RAW):
            return errno.EPERM
        return broker.refuse(process, tid, SOURCE_ROUTE, errno.EPERM, whatever_rules=True)
    if not name:
        return _perform_datagram(borrowed, b"", data(), control, flags) if borrowed.is_inet and datagram else CONTINUE
    address = parse_address(name)
    if address is None:
        return errno.EINVAL
    verdict = judge_destination(broker, process, tid, borrowed, address, sends=True)
    if isinstance(verdict, int) and verdict > 0:
        return verdict
    if not borrowed.is_inet:
        return CONTINUE
    tie_late(broker, process, borrowed)
    if isinstance(verdict, Elsewhere):
        return _send_elsewhere(broker, borrowed, verdict, data(), control, flags)
    target = verdict if isinstance(verdict, bytes) else name
    if not datagram:
        return _perform_fast_open(borrowed, target, data(), control, flags)
    return _perform_datagram(borrowed, target, data(), control, flags)


def _send_elsewhere(
    broker: Broker, borrowed: Borrowed, verdict: Elsewhere, data: bytes, control: bytes, flags: int
) -> Reply:
    """To one of ours. Who is there is known before anything is read: that comes after this call."""
    reply: Reply
    begins = is_closed(borrowed)
    if borrowed.type == socket.SOCK_STREAM:
        reply = _perform_fast_open(borrowed, verdict.raw, data, control, flags)
    else:
        reply = _perform_datagram(borrowed, verdict.raw, data, control, flags)
    if begins and (not isinstance(reply, int) or reply == errno.EINPROGRESS):
        verdict.arrived(borrowed)
        broker.names.answer_at_once(borrowed)
    return reply


def _perform_datagram(borrowed: Borrowed, target: bytes, data: bytes, control: bytes, flags: int) -> Reply:
    """A full buffer of a blocking socket is waited for here: carried on by the kernel, the call could be another."""
    reply = _perform_send(borrowed.fd, target, data, control, flags)
    if reply.__class__ is Value or reply != CONTINUE:
        return reply
    deadline = send_deadline(borrowed)

    def poll() -> int | Value | None:
        again = _perform_send(borrowed.fd, target, data, control, flags)
        if isinstance(again, Value):
            return again
        if again == CONTINUE:
            return errno.EAGAIN if time.monotonic() >= deadline else None
        return int(again)  # type: ignore[arg-type]

    return Wait(borrowed.fd, poll, borrowed.close, deadline)


def _perform_fast_open(borrowed: Borrowed, target: bytes, data: bytes, control: bytes, flags: int) -> Reply:
    """MSG_FASTOPEN connects and sends; where it may block in turn, as the kernel does without a cookie of this peer."""
    fd = borrowed.fd
    if flags & MSG_DONTWAIT or not os.get_blocking(fd):
        return _perform_send(fd, target, data, control, flags)
    connected = perform_connect(borrowed, target)
    if not isinstance(connected, Wait):
        return (
            _perform_send(fd, b"", data, control, flags & ~MSG_FASTOPEN) if connected.__class__ is Value else connected
        )
    wait = connected

    def poll() -> int | Value | HandOver | None:
        answer = wait.poll()
        if not isinstance(answer, Value):
            return answer
        sent = _perform_send(fd, b"", data, control, flags & ~MSG_FASTOPEN)
        return sent if isinstance(sent, Value) else errno.EAGAIN if sent == CONTINUE else int(sent)  # type: ignore[arg-type]

    return Wait(wait.fd, poll, wait.close, wait.deadline)


@on_socket
def recvfrom(broker: Broker, process: Process, tid: int, borrowed: Borrowed, args: Arguments) -> Reply:
    """Only where the caller wants to know the sender: some resolvers (c-ares, musl) take an answer only from whom they
    have asked. On a socket that was led to us, that is who it comes from."""
    if borrowed.type != socket.SOCK_DGRAM or not borrowed.is_inet:
        return CONTINUE
    asked = broker.names.asked(borrowed)
    if asked is None:
        return CONTINUE
    flags = signed(args[3])
    waits = os.get_blocking(borrowed.fd) and not flags & MSG_DONTWAIT
    room_for_data = bytearray(min(args[2], _DATAGRAM_MAX))
    try:
        # Into a buffer of ours: with MSG_TRUNC the size may be larger, and `recvfrom` would make up the rest.
        size, sender = borrowed.socket.recvfrom_into(room_for_data, 0, flags | MSG_DONTWAIT)
    except BlockingIOError:
        return CONTINUE if waits else errno.EAGAIN
    except OSError as error:
        return error.errno or errno.EIO
    name = asked if broker.names.is_ours(borrowed, sender) else raw_address(borrowed.domain, *sender[:2])
    room = int.from_bytes(memory.read(tid, args[5], 4), "little", signed=True)
    if room < 0:
        return errno.EINVAL
    memory.write(tid, args[1], bytes(room_for_data[:size]))
    memory.write(tid, args[4], name[:room])
    memory.write(tid, args[5], len(name).to_bytes(4, "little"))
    return Value(size)


def _perform_send(fd: int, name: bytes, data: bytes, control: bytes, flags: int) -> Reply:
    name_buffer = ctypes.create_string_buffer(name, max(len(name), 1))
    data_buffer = ctypes.create_string_buffer(data, max(len(data), 1))
    control_buffer = ctypes.create_string_buffer(control, max(len(control), 1))
    iov = ctypes.create_string_buffer(_IOVEC.pack(ctypes.addressof(data_buffer), len(data)), _IOVEC.size)
    header = _MSGHDR.pack(
        ctypes.addressof(name_buffer) if name else 0,
        len(name),
        ctypes.addressof(iov),
        1,
        ctypes.addressof(control_buffer) if control else 0,
        len(control),
        0,
    )
    message = ctypes.create_string_buffer(header, len(header))
    sent = _sendmsg(fd, ctypes.addressof(message), flags | MSG_DONTWAIT | MSG_NOSIGNAL)
    if sent < 0:
        failed = ctypes.get_errno()
        # CONTINUE: a full buffer of a blocking socket.
        return CONTINUE if failed == errno.EAGAIN and not flags & MSG_DONTWAIT and os.get_blocking(fd) else failed
    return Value(int(sent))
