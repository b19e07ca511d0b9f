"""Making sockets: Internet sockets are made by the broker, and stay on this machine.

Each is tied to the loopback interface (SO_BINDTODEVICE) before the program gets it, unless the policy lists addresses
outside. This is the floor below everything that has no other: UDP, MPTCP, TCP fast open, and races for calls that are
continued.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import signed
from fence_core.broker.calls.ties import tie_new
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.kernel import credentials, libc, namespaces
from fence_core.kernel.credentials import CAP_NET_RAW
from fence_core.policy.requests import OpenSocket

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_SOCK_TYPE_MASK = 0xF
_FREE_FAMILIES = (socket.AF_UNIX, socket.AF_NETLINK)
_ORDINARY = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
_socket = libc.function("socket", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)


def socket_(call: Call) -> Reply:
    """socket(2) for every family but AF_UNIX and AF_NETLINK, which the filter lets through."""
    family, type_, protocol = signed(call.args[0]), signed(call.args[1]), signed(call.args[2])
    kind = type_ & _SOCK_TYPE_MASK
    request = OpenSocket(family, kind, protocol)
    ordinary = call.allowed(request)
    if ordinary and not call.same_network():
        call.services.inside.others_make_sockets = True
        return CONTINUE  # a namespace of the test's own: the socket has to be made there
    fd = _socket(family, type_, protocol)
    if fd < 0:
        return ctypes.get_errno()  # the kernel's own refusal is no violation
    try:
        if not ordinary:
            if not _may_open_raw(call.tid, family, kind):
                return errno.EPERM
            return call.refuse(request, errno.EPERM)
        tie_new(call, fd, kind)
        reply = HandOver(fd, cloexec=bool(type_ & socket.SOCK_CLOEXEC))
        fd = -1
        return reply
    finally:
        if fd >= 0:
            os.close(fd)


def kept_socket(call: Call) -> Reply:
    """socket(2) for every family, where nothing can be borrowed: a copy is kept of what is made."""
    family, type_, protocol = signed(call.args[0]), signed(call.args[1]), signed(call.args[2])
    if family not in _FREE_FAMILIES:
        reply = socket_(call)
        if not isinstance(reply, HandOver):
            elsewhere = isinstance(reply, int) and reply == CONTINUE and not call.same_network()
            reply = _made_there(call, family, type_, protocol) if elsewhere else reply
    elif call.same_network():
        with call.services.identities.acting_as(call.tid):
            fd = _socket(family, type_, protocol)
        reply = HandOver(fd, cloexec=bool(type_ & socket.SOCK_CLOEXEC)) if fd >= 0 else ctypes.get_errno()
    else:
        reply = _made_there(call, family, type_, protocol)
    return _kept(call, reply) if isinstance(reply, HandOver) else reply


def _made_there(call: Call, family: int, type_: int, protocol: int) -> Reply:
    """In a network of the program's own."""
    if type_ & _SOCK_TYPE_MASK not in _ORDINARY:
        return CONTINUE  # with rights that it has there, and we may not
    try:
        fd = namespaces.make_socket(call.tid, family, type_, protocol)
    except OSError as error:
        return error.errno or errno.EACCES
    return HandOver(fd, cloexec=bool(type_ & socket.SOCK_CLOEXEC))


def _kept(call: Call, reply: HandOver) -> Reply:
    made = call.services.made
    assert made is not None
    try:
        copy = made.keep(reply.fd, call.tid)
    except OSError as error:
        os.close(reply.fd)
        return error.errno or errno.ENFILE
    reply.arrived = lambda number: made.arrived(copy, number)
    return reply


def _may_open_raw(tid: int, family: int, kind: int) -> bool:
    """Whether the kernel would let the caller, which may have fewer rights than the broker, make a raw socket."""
    needs = kind == socket.SOCK_RAW or family == socket.AF_PACKET
    if not needs or os.geteuid() != 0:
        return True
    return credentials.of(tid).may(CAP_NET_RAW)
