"""What calls about a socket share: the socket borrowed, its address copied, and its own end remembered."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import signed
from fence_core.broker.reply import CONTINUE, Reply, Wait
from fence_core.broker.services.sockets import SOCKADDR_MAX, Address, Borrowed, parse_address
from fence_core.errors import KernelCallError
from fence_core.kernel import memory

if TYPE_CHECKING:
    from fence_core.broker.call import Call


def errno_of(result: int) -> int:
    return ctypes.get_errno() if result < 0 else 0


def on_socket(
    judge: Callable[[Call, Borrowed], Reply],
) -> Callable[[Call], Reply]:
    """A handler whose first argument is a socket: borrowed, known by what it is, and closed again."""

    @functools.wraps(judge)
    def handler(call: Call) -> Reply:
        try:
            fd = call.borrow(signed(call.args[0]))
        except KernelCallError as error:
            return error.errno or errno.EBADF
        try:
            borrowed = Borrowed(fd)
        except OSError as error:
            os.close(fd)
            return error.errno or errno.ENOTSOCK
        reply: Reply = CONTINUE
        try:
            if call.waits():
                reply = judge(call, borrowed)
            return reply
        finally:
            if not isinstance(reply, Wait):  # which closes it when the wait is over
                borrowed.close()

    return handler


def address_argument(tid: int, at: int, size: int) -> Address | None:
    """A copy of the address argument; None where the kernel answers EINVAL."""
    size &= 0xFFFF_FFFF
    if not 0 < size <= SOCKADDR_MAX:
        return None
    return parse_address(memory.read(tid, at, size))


def remember_own_end(call: Call, borrowed: Borrowed) -> None:
    """The port that the kernel has chosen for a datagram socket, as it has sent or may: answers come to that."""
    if borrowed.type == socket.SOCK_DGRAM and borrowed.is_inet and not _reaches_loopback(call):
        remember_port(call, borrowed)


def _reaches_loopback(call: Call) -> bool:
    return all(judge.loopback_is_free for _, judge in call.process.account().judges)


def remember_port(call: Call, borrowed: Borrowed) -> None:
    call.services.inside.add_port(borrowed.socket, borrowed.proto)
