"""``connect``: always performed by the broker, on the caller's own socket (`pidfd_getfd`) with a copied address.

So no other thread can change the address, or the descriptor, between the verdict and the call.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import signed
from fence_core.broker.calls.borrowing import address_argument, errno_of, on_socket, remember_own_end
from fence_core.broker.calls.destination import judge_destination
from fence_core.broker.calls.ties import tie_again, tie_late, tied_to
from fence_core.broker.reply import CONTINUE, Reply, Value, Wait
from fence_core.broker.services.sinks import Sunk
from fence_core.broker.services.sockets import AF_UNSPEC, Address, Borrowed
from fence_core.kernel import credentials, libc, timers

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.kernel.credentials import Credentials
    from fence_core.policy.requests import Connect

_connect = libc.function("connect", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


@on_socket
def connect(call: Call, borrowed: Borrowed) -> Reply:
    if call.process.fork_servers:
        call.services.processes.asks_fork_servers(call.process)
    address = address_argument(call.tid, call.args[1], call.args[2])
    if address is None:
        return errno.EINVAL
    destination = judge_destination(call, borrowed, address)
    if destination.unsent is not None:
        return _connect_to_sink(call, borrowed, *destination.unsent)
    if destination.errno:
        return destination.errno
    if destination.by_kernel:
        return CONTINUE
    tie_late(call, borrowed)
    call.services.sinks.leave(borrowed)
    if destination.arrived is None:
        dissolves = address.family == AF_UNSPEC and borrowed.is_inet and borrowed.type == socket.SOCK_DGRAM
        tied = tied_to(borrowed.socket) if dissolves else 0
        answer = perform_connect(borrowed, destination.raw, _other_ids(call.tid, borrowed))
        if tied:
            tie_again(call, borrowed, tied)
        if answer.__class__ is Value:
            remember_own_end(call, borrowed)
        return answer
    begins = is_closed(borrowed)
    reply = perform_connect(borrowed, destination.raw)
    if not begins:
        return reply  # it asks how an earlier connect has ended, or should not ask at all
    if not isinstance(reply, int) or reply == errno.EINPROGRESS:
        destination.arrived(borrowed)
    return reply


def _connect_to_sink(call: Call, borrowed: Borrowed, request: Connect, address: Address) -> Reply:
    refused = _native_refusal(borrowed, address)
    if refused:
        return refused
    sunk = Sunk(call.process, call.tid, signed(call.args[0]), request, address.raw)
    if not call.same_network() or call.services.sinks.lead(borrowed, sunk, address):
        return call.refuse(request, errno.EACCES)
    return Value(0)


def _native_refusal(borrowed: Borrowed, address: Address) -> int:
    """What the kernel says to such an address on any machine; whether there is a way to it is another question."""
    with socket.socket(borrowed.domain, socket.SOCK_DGRAM) as probe:
        options = [(socket.SOL_SOCKET, socket.SO_BROADCAST)]
        if borrowed.domain == socket.AF_INET6:
            options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        for level, name in options:
            probe.setsockopt(level, name, borrowed.socket.getsockopt(level, name))
        failed = errno_of(_connect(probe.fileno(), address.raw, len(address.raw)))
        if failed == errno.ENETUNREACH and borrowed.domain == socket.AF_INET6 and "." in address.host:
            return failed if probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) else 0
        return failed if failed in (errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT) else 0


_TCP_CLOSE = 7  # include/net/tcp_states.h


def is_closed(borrowed: Borrowed) -> bool:
    """Whether a connect now would be a new one: for any other nobody may be announced."""
    if borrowed.type != socket.SOCK_STREAM:
        return True
    try:
        return borrowed.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:
        return True


def _other_ids(tid: int, borrowed: Borrowed) -> Credentials | None:
    """The caller's ids where they are others than ours and count: a server on a UNIX socket sees whose client it has,
    and the socket's file has permissions."""
    if borrowed.domain != socket.AF_UNIX or os.geteuid() != 0:
        return None
    who = credentials.of(tid)
    return who if who.uid else None


def _connect_as(who: Credentials | None, fd: int, target: bytes) -> int:
    """The error number of connect(2), made with these ids."""
    if who is None:
        return errno_of(_connect(fd, target, len(target)))
    groups, gid = os.getgroups(), os.getegid()
    try:
        os.setgroups(who.groups)
        os.setresgid(-1, who.gid, -1)
        os.setresuid(-1, who.uid, -1)
        return errno_of(_connect(fd, target, len(target)))
    finally:
        os.setresuid(-1, 0, -1)
        os.setresgid(-1, gid, -1)
        os.setgroups(groups)


def perform_connect(borrowed: Borrowed, target: bytes, who: Credentials | None = None) -> Reply:
    """connect(2) on the borrowed socket without ever blocking the loop.

    A blocking socket is made non-blocking for the microseconds of the call. EINPROGRESS (TCP) and EAGAIN (a full
    UNIX backlog) are waited for in the loop.
    """
    fd = borrowed.fd
    blocking = os.get_blocking(fd)
    if borrowed.type == socket.SOCK_DGRAM:
        return _connect_as(who, fd, target) or Value(0)
    failed = _connect_at_once(who, fd, target)
    if not blocking or failed not in _UNFINISHED:
        return failed or Value(0)
    deadline = send_deadline(borrowed)

    def poll() -> int | Value | None:
        # Asked by a further connect(2), which takes note of the end in the socket itself: SO_ERROR would leave a
        # connected socket in a state in which the next connect(2) succeeds once more, where it must say EISCONN.
        again = _connect_at_once(who, fd, target)
        if again not in _UNFINISHED:
            return Value(0) if again in (0, errno.EISCONN) else again
        if time.monotonic() >= deadline:
            return errno.EAGAIN if failed == errno.EAGAIN else errno.EINPROGRESS
        return None

    return Wait(fd, poll, borrowed.close, deadline)


def _connect_at_once(who: Credentials | None, fd: int, target: bytes) -> int:
    """The error number of a connect(2) that does not wait, on a socket that may be blocking.

    O_NONBLOCK belongs to the open file, which the program shares: it can take the flag away at the wrong moment. So a
    timer ends the call all the same.
    """
    blocking = os.get_blocking(fd)
    if blocking:
        os.set_blocking(fd, False)
    try:
        with _interruption():
            failed = _connect_as(who, fd, target)
    finally:
        if blocking:
            os.set_blocking(fd, True)
    return errno.EINPROGRESS if failed == errno.EINTR else failed


@functools.cache
def _interruption() -> timers.Interruption:
    return timers.Interruption(_CONNECT_S)


_CONNECT_S = 0.005
"""Longer than any connect(2) to loopback takes, which does all of the handshake at once."""
_UNFINISHED = (errno.EINPROGRESS, errno.EAGAIN, errno.EALREADY)


def send_deadline(borrowed: Borrowed) -> float:
    """When SO_SNDTIMEO is over."""
    seconds, micros = struct.unpack("@qq", borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
    limit = seconds + micros / 1e6
    return time.monotonic() + limit if limit else float("inf")
