"""Carries messages out for their sender: on its own socket, from a copy, and without ever waiting in the broker's loop.

The name, the peer and the buffers are those of the sender's socket, which is borrowed. Facts and consequences:

* What the kernel would keep its caller waiting for, a call parked in the loop tries again when there may be room. A
  datagram socket does not tell of room at a receiver that it is not connected to: a socket of ours, connected there
  for the purpose, does (unix_dgram_poll, net/unix/af_unix.c).
* A stream takes a message in parts, which are read from the caller's memory as they are needed.
* EPIPE comes with SIGPIPE on streams, and only there (measured; sk_stream_error, unix_stream_sendmsg).
* A netlink socket that is not bound gets the number of whoever sends first: so it is bound to the sender's before.
* MSG_ZEROCOPY would have the network read memory of ours: the answer is ENOBUFS, on which programs copy
  (Documentation/networking/msg_zerocopy.rst).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fence_core.broker.calls.ancillary import own_number
from fence_core.broker.calls.connecting import send_deadline
from fence_core.broker.reply import Value, Wait
from fence_core.errors import KernelCallError
from fence_core.kernel import libc, memory, signals
from fence_core.kernel.structs import IOVEC, MSGHDR

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.calls.ancillary import Control
    from fence_core.broker.services.sockets import Borrowed

__all__ = ["MSG_DONTWAIT", "Outgoing", "Sender", "cut", "expired", "send_once"]

MSG_DONTWAIT = 0x40
MSG_NOSIGNAL = 0x4000
_MSG_ZEROCOPY = 0x4000000
_SO_ZEROCOPY = 60
_PART = 1 << 18
_AT_ONCE = 1 << 20
"""Of a long message on a stream: what is sent before other calls have their turn."""

_sendmsg = libc.function("sendmsg", ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


_vector = ctypes.create_string_buffer(IOVEC.size)
_header = ctypes.create_string_buffer(MSGHDR.size)
_VECTOR_AT, _HEADER_AT = ctypes.addressof(_vector), ctypes.addressof(_header)
"""For one call at a time: the broker has one thread."""


def _placed(data: bytes | bytearray) -> ctypes.Array[ctypes.c_char] | None:
    """Somewhere in memory; without a copy where it is a bytearray."""
    if not data:
        return None
    if isinstance(data, bytearray):
        return (ctypes.c_char * len(data)).from_buffer(data)
    return ctypes.create_string_buffer(data, len(data))


def _address(placed: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(placed) if placed is not None else 0


def send_once(fd: int, name: bytes, data: bytes | bytearray, control: bytes, flags: int) -> int:
    """sendmsg(2) that neither waits nor raises a signal: what it returned, or minus the error number."""
    # Names hold the buffers until the call is over.
    data_at = _placed(data)
    name_at = _placed(name)
    control_at = _placed(control)
    IOVEC.pack_into(_vector, 0, _address(data_at), len(data))
    MSGHDR.pack_into(_header, 0, _address(name_at), len(name), _VECTOR_AT, 1, _address(control_at), len(control), 0)
    sent = _sendmsg(fd, _HEADER_AT, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
    return sent if sent >= 0 else -ctypes.get_errno()


class Outgoing:
    """A message that may be sent: where to, and with what."""

    __slots__ = ("after", "control", "data", "part", "pieces", "sent", "size", "target")

    def __init__(
        self,
        target: bytes,
        control: Control,
        pieces: Sequence[tuple[int, int]],
        data: bytes | bytearray | None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.target = target
        """Empty: to the peer of the socket."""
        self.control = control
        self.pieces = pieces
        """Address and length of what the caller's memory has of it."""
        self.data = data
        """The copy; None where parts are copied as they are sent (streams)."""
        self.part = bytearray()
        """Of a stream's message: what was copied and found no room."""
        self.after = after
        """Called once it is sent."""
        self.size = sum(length for _, length in pieces)
        self.sent = 0


class Sender:
    """Sends what one call has to send, one message after the other."""

    __slots__ = ("_borrowed", "_call", "_flags", "_probe", "_room", "waits")

    def __init__(self, call: Call, borrowed: Borrowed, flags: int) -> None:
        self._call = call
        self._borrowed = borrowed
        self._flags = flags & ~_MSG_ZEROCOPY
        self._room: select.epoll | None = None
        self._probe: socket.socket | None = None
        self.waits = not flags & MSG_DONTWAIT and os.get_blocking(borrowed.fd)
        """Whether the caller is ready to wait."""

    def wants_zero_copy(self, flags: int) -> bool:
        if not flags & _MSG_ZEROCOPY:
            return False
        try:
            return bool(self._borrowed.socket.getsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY))
        except OSError:
            return False

    def close(self) -> None:
        if self._room is not None:
            self._room.close()
        if self._probe is not None:
            self._probe.close()

    def attempt(self, message: Outgoing) -> int | Value | None:
        """Send it, or more of it: how the call ends; None where there is no room."""
        try:
            answer = self._attempt(message)
        except ProcessLookupError:
            return errno.ESRCH
        except OSError as error:
            if message.sent:
                return Value(message.sent)
            if isinstance(error, KernelCallError) and error.errno in (errno.EPERM, errno.EACCES):
                raise  # a caller that cannot be looked at
            return error.errno or errno.EIO
        if isinstance(answer, Value) and message.after is not None:
            message.after()
        return answer

    def _attempt(self, message: Outgoing) -> int | Value | None:
        if message.data is not None:
            if not self._call.waits():
                return errno.EINTR  # nobody gets it
            sent = self._send(message, message.data)
            if sent >= 0:
                return Value(sent)
            return None if sent == -errno.EAGAIN else self._failed(-sent)
        at_once = 0
        while True:
            part = message.part
            if not part:
                part = message.part = memory.gather(self._call.tid, cut(message.pieces, message.sent, _PART))
            if not self._call.waits():
                return errno.EINTR
            sent = self._send(message, part)
            if sent < 0:
                if sent == -errno.EAGAIN:
                    return None
                return Value(message.sent) if message.sent else self._failed(-sent)
            message.part = part[sent:]
            message.sent += sent
            at_once += sent
            if message.sent >= message.size:
                return Value(message.sent)
            if message.part or at_once >= _AT_ONCE:
                return None

    def _send(self, message: Outgoing, data: bytes | bytearray) -> int:
        """With the caller's rights where they count: with a UNIX socket they do not, its file was asked before."""
        control = message.control.raw if not message.sent else b""
        if self._borrowed.domain == socket.AF_UNIX or not self._call.services.identities.differ:
            return send_once(self._borrowed.fd, message.target, data, control, self._flags)
        with self._call.services.identities.acting_as(self._call.tid):
            return send_once(self._borrowed.fd, message.target, data, control, self._flags)

    def _failed(self, number: int) -> int:
        if number == errno.EPIPE and self._borrowed.type == socket.SOCK_STREAM and not self._flags & MSG_NOSIGNAL:
            # Before the answer: the thread takes it when the call returns, as it takes the kernel's own.
            with contextlib.suppress(KernelCallError):
                signals.tgkill(self._call.process.pid, self._call.tid, signal.SIGPIPE)
        return number

    def permitted(self, target: bytes) -> int:
        """EACCES where the caller, who has other rights than we, may not write to this UNIX socket; else 0."""
        if not self._call.services.identities.differ:
            return 0
        with self._call.services.identities.acting_as(self._call.tid):
            found = self._connect_probe(target)
        return found if found == errno.EACCES else 0

    def _connect_probe(self, target: bytes) -> int:
        if self._probe is None:
            self._probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._probe.connect(target[2:] if target[2:3] == b"\0" else target[2:].rstrip(b"\0"))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def wait(self, message: Outgoing, poll: Callable[[], int | Value | None], close: Callable[[], None]) -> Wait:
        """For a message that found no room. `poll` is to call `await_room` where there is still none."""
        self._room = select.epoll()
        self._room.register(self._borrowed.fd, 0)
        if message.target and self._borrowed.domain == socket.AF_UNIX and not self._connect_probe(message.target):
            self._room.register(self._probe, 0)  # type: ignore[arg-type]
        elif self._probe is not None:
            self._probe.close()
            self._probe = None
        self.await_room()
        return Wait(self._room.fileno(), poll, close, send_deadline(self._borrowed), readable=True)

    def await_room(self) -> None:
        """Have the loop wake when there may be room: in the sender's own buffer, or else at the receiver."""
        assert self._room is not None
        self._room.poll(0)
        fd: int | socket.socket = self._borrowed.fd
        if self._probe is not None:
            own = select.poll()
            own.register(fd, select.POLLOUT)
            if own.poll(0):
                fd = self._probe
        # Once more each time: only being asked has a socket take note of who waits at its peer.
        self._room.modify(fd, select.EPOLLOUT | select.EPOLLONESHOT)

    def bind_netlink(self) -> None:
        """Give an unbound netlink socket the number that the kernel would give it by itself (netlink_autobind)."""
        if self._borrowed.domain == socket.AF_NETLINK and not self._borrowed.socket.getsockname()[0]:
            with contextlib.suppress(OSError):  # EADDRINUSE: the kernel finds another
                self._borrowed.socket.bind((own_number(self._call.tid), 0))


def cut(pieces: Sequence[tuple[int, int]], start: int, length: int) -> list[tuple[int, int]]:
    """Of these (address, length), what lies between `start` and `start + length`."""
    found = []
    for address, size in pieces:
        if start < size:
            taken = min(size - start, length)
            found.append((address + start, taken))
            length -= taken
            if not length:
                break
        start = max(start - size, 0)
    return found


def expired(wait: Wait) -> bool:
    return time.monotonic() >= wait.deadline
