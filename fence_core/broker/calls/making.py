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
from fence_core.kernel import credentials, libc
from fence_core.kernel.credentials import CAP_NET_RAW
from fence_core.policy.requests import OpenSocket

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_SOCK_TYPE_MASK = 0xF
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


def _may_open_raw(tid: int, family: int, kind: int) -> bool:
    """Whether the kernel would let the caller, which may have fewer rights than the broker, make a raw socket."""
    needs = kind == socket.SOCK_RAW or family == socket.AF_PACKET
    if not needs or os.geteuid() != 0:
        return True
    return credentials.of(tid).may(CAP_NET_RAW)
