"""Calls about sockets where none can be borrowed: made on the broker's own copy; and what becomes of those without one.

What `calls/borrowing.py` is elsewhere. The handlers are the same. There is no copy of accepted sockets, of pairs, of
streams once they are connected or listen, and of what came from outside (`services/made_sockets.py`). On those:

* what can only be said one way is said: a connected stream is connected (EISCONN), a listening one listens;
* what cannot reach anybody, whatever it is carried out on, is the kernel's;
* a message to the peer of a connected socket is the kernel's, which takes no notice of any address in it. A program
  with threads that exchanges the descriptor in that moment has it sent by another socket: see the security model;
* everything else is refused, and reported.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fence_core.broker.calls.ancillary import descriptors
from fence_core.broker.calls.arguments import signed
from fence_core.broker.calls.borrowing import address_argument
from fence_core.broker.calls.messages import CONTROL_MAX, headers_of_many
from fence_core.broker.calls.options import is_judged, not_tied, tie_of_server
from fence_core.broker.calls.registers import MSG_FASTOPEN
from fence_core.broker.reply import CONTINUE, Reply, Value, Wait
from fence_core.broker.services.made_sockets import Lent, NotHeldError
from fence_core.broker.services.sockets import AF_UNSPEC
from fence_core.errors import KernelCallError
from fence_core.kernel import memory
from fence_core.kernel.structs import MSGHDR
from fence_core.policy.requests import SystemCall

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.services.made_sockets import Copy, MadeSockets
    from fence_core.broker.services.sockets import Borrowed

    Judge = Callable[[Call, Borrowed], Reply]
    Handler = Callable[[Call], Reply]
    Unheld = Callable[[Call, NotHeldError], Reply]

__all__ = ["NAMES", "handlers"]

_STREAMS = frozenset({"TCP", "TCPv6", "MPTCP", "MPTCPv6", "UNIX-STREAM", "SMC", "SMC6"})
_DATAGRAMS = frozenset({"UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6", "PACKET"})
"""Of what the kernel calls its protocols (`struct proto`): what sends to whom a message names."""
_VALUE_MAX = 64
_LOOKS = 8
_SENDS = frozenset({"connect", "sendto", "sendmsg", "sendmmsg"})
_GIVES_AWAY = frozenset({"connect", "listen"})
"""After which a stream is its owner's alone, if the kernel is left to carry them out."""


def handlers(borrowing: Mapping[str, Handler]) -> dict[str, Handler]:
    """By call, for those about sockets: from the handlers that borrow."""
    return {name: _on_copy(name, vars(borrowing[name])["__wrapped__"], unheld) for name, unheld in _UNHELD.items()}


def _on_copy(name: str, judge: Judge, unheld: Unheld) -> Handler:
    sends, gives_away = name in _SENDS, name in _GIVES_AWAY

    @functools.wraps(judge)
    def handler(call: Call) -> Reply:
        lent = _find(call, unheld)
        if not isinstance(lent, Lent):
            return lent
        made, copy = _made(call), lent.copy
        reply: Reply = CONTINUE
        is_the_kernels = False
        try:
            if call.waits():
                if sends and copy.lasts:
                    made.look_at_receivers(copy)
                reply = judge(call, lent)
                if reply == errno.EADDRINUSE and made.drop_closed(_name_wanted(call, name, copy)):
                    reply = judge(call, lent)  # it was only our copy of what is closed
                if name == "connect":
                    copy.begun = reply == errno.EINPROGRESS
                is_the_kernels = reply.__class__ is int and reply == CONTINUE
            return reply
        finally:
            if not isinstance(reply, Wait):
                lent.close()
                if gives_away and is_the_kernels:
                    made.hand_over(copy)

    return handler


def _find(call: Call, unheld: Unheld) -> Lent | Reply:
    """The copy to make the call on; or what becomes of it without one."""
    for _ in range(_LOOKS):
        try:
            return _made(call).lend(call.tid, signed(call.args[0]))
        except NotHeldError as error:
            try:
                return unheld(call, error) if call.waits() else CONTINUE
            except _ExchangedError:
                continue
        except KernelCallError as error:
            return error.errno or errno.EBADF
    return errno.EBADF


class _ExchangedError(Exception):
    """The number is another socket's by now: closed and opened again by another thread, as a rule."""


def _made(call: Call) -> MadeSockets:
    assert call.services.made is not None
    return call.services.made


def _name_wanted(call: Call, name: str, copy: Copy) -> int | bytes | str:
    """What this socket is to have, and another has."""
    address = address_argument(call.tid, call.args[1], call.args[2]) if name == "bind" else None
    if address is None:
        return copy.name()
    return address.port or address.path or ""


def _protocol(call: Call) -> str:
    """What the kernel calls it, of whatever has the number now. Raises KernelCallError."""
    return _protocol_of(_place(call))


def _place(call: Call) -> str:
    return f"/proc/{call.tid}/fd/{signed(call.args[0])}"


def _protocol_of(place: str) -> str:
    try:
        return os.getxattr(place, "system.sockprotoname").rstrip(b"\0").decode()
    except OSError as error:
        raise _of_its_argument("getxattr", error) from None


def _of_its_argument(name: str, error: OSError) -> KernelCallError:
    """The number was closed meanwhile, or stands for something else; or we may not look."""
    if isinstance(error, PermissionError):
        return KernelCallError(name, error.errno or errno.EACCES)
    gone = error.errno in (errno.ENOENT, errno.ESRCH)
    return KernelCallError(name, errno.EBADF if gone else errno.ENOTSOCK)


def _refuse(call: Call, unheld: NotHeldError, what: str, protocol: str = "") -> Reply:
    """Refused and reported, if it is one socket that there is no copy of and that has this protocol.

    Raises `_ExchangedError`, KernelCallError.
    """
    try:
        handle = os.open(_place(call), os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _of_its_argument("open", error) from None
    try:
        if os.fstat(handle).st_ino != unheld.inode or (
            protocol and _protocol_of(f"/proc/self/fd/{handle}") != protocol
        ):
            raise _ExchangedError
    finally:
        os.close(handle)
    return call.refuse(SystemCall(what, "unheld"), errno.EPERM)


def _connect(call: Call, unheld: NotHeldError) -> Reply:
    protocol = _protocol(call)
    if protocol in _STREAMS:
        address = address_argument(call.tid, call.args[1], call.args[2])
        if address is None:
            return errno.EINVAL
        if address.family != AF_UNSPEC:
            return Value(0) if _made(call).take_begun(unheld.inode) else errno.EISCONN
    return _refuse(call, unheld, "connect a socket that is connected, or from elsewhere", protocol)


def _bind(call: Call, unheld: NotHeldError) -> Reply:
    protocol = _protocol(call)
    if protocol in _STREAMS:
        return errno.EINVAL
    return _refuse(call, unheld, "bind a socket from elsewhere", protocol)


def _listen(call: Call, unheld: NotHeldError) -> Reply:
    if _made(call).listens(unheld.inode):
        return Value(0)
    protocol = _protocol(call)
    if protocol.startswith("UNIX"):
        return CONTINUE  # on a UNIX socket the kernel notes who listens
    return errno.EINVAL if protocol in _STREAMS else errno.EOPNOTSUPP


def _sendto(call: Call, unheld: NotHeldError) -> Reply:
    if not call.args[4]:
        return CONTINUE  # that it has none is in a register
    protocol = _protocol(call)
    if protocol in _STREAMS:
        return errno.EISCONN
    return _refuse(call, unheld, "send by a socket from elsewhere", protocol)


def _sendmsg(call: Call, unheld: NotHeldError) -> Reply:
    return _send_to_peer(call, unheld, signed(call.args[2]), lambda: [memory.read(call.tid, call.args[1], MSGHDR.size)])


def _sendmmsg(call: Call, unheld: NotHeldError) -> Reply:
    return _send_to_peer(
        call, unheld, signed(call.args[3]), lambda: headers_of_many(call.tid, call.args[1], call.args[2])
    )


def _send_to_peer(call: Call, unheld: NotHeldError, flags: int, headers: Callable[[], list[bytes]]) -> Reply:
    protocol = _protocol(call)
    if protocol in _DATAGRAMS:
        return _refuse(call, unheld, "send by a socket from elsewhere", protocol)
    if flags & MSG_FASTOPEN:
        return errno.EISCONN
    if protocol.startswith("UNIX"):
        fields = [MSGHDR.unpack(header) for header in headers()]
        for *_, control, size, _ in fields:
            if control and size:
                _made(call).passing(call.tid, descriptors(memory.read(call.tid, control, min(size, CONTROL_MAX))))
        if protocol == "UNIX" and any(name and size for name, size, *_ in fields):
            return _refuse(call, unheld, "send by a socket from elsewhere", protocol)
    return CONTINUE


def _recvfrom(call: Call, _: NotHeldError) -> Reply:
    return CONTINUE


def _setsockopt(call: Call, unheld: NotHeldError) -> Reply:
    level, name, size = signed(call.args[1]), signed(call.args[2]), signed(call.args[4])
    if not is_judged((level, name)):
        return CONTINUE
    if level == socket.SOL_SOCKET and _made(call).port(unheld.inode) > 0 and 0 <= size <= _VALUE_MAX:
        value = memory.read(call.tid, call.args[3], size) if size and call.args[3] else b""
        return tie_of_server(call, name, value, _made(call).port(unheld.inode))
    return _refuse(call, unheld, "set where messages go by a socket from elsewhere")


def _getsockopt(call: Call, _: NotHeldError) -> Reply:
    """One that listens is tied by us, and an accepted one has its tie."""
    ours = _protocol(call) in _STREAMS and call.enforcing() and call.same_network()
    return not_tied(call) if ours else CONTINUE


_UNHELD: dict[str, Unheld] = {
    "connect": _connect,
    "bind": _bind,
    "listen": _listen,
    "sendto": _sendto,
    "recvfrom": _recvfrom,
    "sendmsg": _sendmsg,
    "sendmmsg": _sendmmsg,
    "setsockopt": _setsockopt,
    "getsockopt": _getsockopt,
}
NAMES = frozenset(_UNHELD)
"""Of the calls about sockets that `handlers` takes."""
