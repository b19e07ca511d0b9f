"""Where datagrams end that may not go where they are meant to go.

Connecting a datagram socket sends nothing: programs do it to learn which address of theirs would be used, whether there
is a way at all, and in which order to try addresses (RFC 6724). So it is no violation. But from then on `send` and
`write` on that socket, which the broker does not see, send. The broker connects the socket to one of its own instead:
whatever is sent to its peer, by whoever has the socket by then and by whichever call, ends here and goes nowhere. The
first datagram is the proof that the program meant it: it is reported with the destination that was asked for, on the
line of the connect.

What is asked for by a trapped call on such a socket (sendmsg, sendmmsg) is refused before it is sent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.errors import KernelCallError
from fence_core.events.phases import PHASES
from fence_core.kernel import libc

if TYPE_CHECKING:
    from fence_core.broker.processes import Process, ProcessTable
    from fence_core.broker.scopes import Binding
    from fence_core.broker.services.sockets import Address, Borrowed
    from fence_core.events.model import Frame
    from fence_core.policy.requests import Connect

SO_BINDTODEVICE = 25
_AT_ONCE = 256
_DATAGRAM_MAX = 1 << 17
_connect = libc.function("connect", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def dissolve(fd: int) -> int:
    """Connect a socket to nobody (AF_UNSPEC). The error number."""
    return ctypes.get_errno() if _connect(fd, bytes(16), 16) < 0 else 0


_LOOPBACK = {int(socket.AF_INET): "127.0.0.1", int(socket.AF_INET6): "::1"}

Place = tuple[str, int]
"""Address and port of a socket's own end."""


class Sunk:
    """A socket that was led to us: by whom, and where it was to go."""

    __slots__ = (
        "binding",
        "destination",
        "fd",
        "inode",
        "is_shared",
        "place",
        "process",
        "request",
        "stack",
        "tid",
        "tied",
    )

    def __init__(self, process: Process, tid: int, fd: int, request: Connect, destination: bytes) -> None:
        self.process = process
        self.binding = process.account()
        """On whose account it was led here."""
        self.is_shared = False
        """Whether a process of a test has it, too, which would send under the policies of later ones."""
        self.tid = tid
        self.fd = fd
        """Its number there, while the process keeps it under that one."""
        self.request = request
        self.destination = destination
        """As a raw socket address."""
        self.stack: tuple[Frame, ...] = ()
        """Of the connect; as `stacks.StackTarget` has it."""
        self.inode = 0
        self.place: Place = ("", 0)
        self.tied = False
        """Whether it was not on loopback alone before."""

    def is_open(self) -> bool:
        """Whether the process still has the socket under the number that it had."""
        try:
            return os.stat(f"/proc/{self.process.pid}/fd/{self.fd}").st_ino == self.inode
        except OSError:
            return False


def _holds(pid: str, wanted: str) -> bool:
    """Whether a process has the file that the links of procfs show so. Of those of other users an ordinary one is told
    nothing."""
    place = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(place)
    except OSError:
        return False
    for number in numbers:
        try:
            if os.readlink(f"{place}/{number}") == wanted:
                return True
        except OSError:
            pass  # closed meanwhile
    return False


def _may_be_the_last(sunk: Sunk) -> bool:
    """Whether a process that runs tests may be about to go on to another one."""
    return PHASES[sunk.process.account().phase] not in ("setup", "call")


class Sinks:
    """Sockets of ours, of either family, made when first needed; and what has been led to them."""

    def __init__(
        self,
        processes: ProcessTable,
        watch: Callable[[int, Callable[[], None]], None],
        refuse: Callable[[Sunk, Binding], None],
    ) -> None:
        """`refuse` records that something was sent, on whose account."""
        self._processes = processes
        self._refuse = refuse
        self._watch = watch
        self._sockets: dict[int, socket.socket] = {}
        self._deaf: dict[int, socket.socket] = {}
        self._by_place: dict[Place, Sunk] = {}
        """No more than there are ports on the addresses of loopback that programs choose to use."""
        self._by_inode: dict[int, Sunk] = {}
        self._open: list[Sunk] = []
        """Those that may still be sent on by who has made them."""

    def lead(self, borrowed: Borrowed, sunk: Sunk, address: Address) -> int:
        """Connect the borrowed socket to one of ours; the error number where that cannot be."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        target = self._address(family, borrowed.domain)
        if target is None:
            return errno.ENETUNREACH
        options = borrowed.socket
        try:
            # By way of an interface of its choice the socket could still reach the network, whatever its peer is.
            sunk.tied = not options.getsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, 16).strip(b"\0")
            if sunk.tied:
                options.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")
            if options.getsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, 16).strip(b"\0") != b"lo":
                return errno.EACCES
            options.connect(target)
            options.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # of an earlier peer: it would end the first send
        except OSError as error:
            return error.errno or errno.EACCES
        again = bool(sunk.inode)
        host, port = options.getsockname()[:2]
        sunk.place = (host.removeprefix("::ffff:"), port)
        sunk.inode = os.fstat(borrowed.fd).st_ino
        known = self._by_inode.pop(sunk.inode, None) or self._by_place.get(sunk.place)
        if known is not None:
            self._drop(known)
        self._by_place[sunk.place] = self._by_inode[sunk.inode] = sunk
        self._open.append(sunk)
        process = sunk.process
        if process.stacks is not None and not again:
            process.stacks.ask(process.pid, sunk.tid, sunk)
        self._have_asked(sunk)
        return 0

    def of(self, borrowed: Borrowed) -> Sunk | None:
        """What this socket was to reach, if it has been led to us."""
        return self._by_inode.get(os.fstat(borrowed.fd).st_ino) if self._by_inode else None

    def leave(self, borrowed: Borrowed) -> Sunk | None:
        """The socket is about to be connected elsewhere, or to send there: what it has sent so far was sent to us."""
        sunk = self.of(borrowed)
        if sunk is not None:
            self.drain()
            self._drop(sunk)
            self._dissolve(borrowed.socket, sunk)
            borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return sunk

    @staticmethod
    def _dissolve(borrowed: socket.socket, sunk: Sunk) -> None:
        """Take from it the address of loopback that it has got from our peer, and with which nothing leaves this
        machine; of its tie, too, only what was there before is left: the kernel takes it away (__udp_disconnect)."""
        dissolve(borrowed.fileno())
        if not sunk.tied:
            borrowed.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")

    def drain(self) -> None:
        """Report what has been sent; called before anybody asks what a test has done, and before a process is gone."""
        for own in self._sockets.values():
            self._receive(own)

    def settle(self) -> None:
        """As `drain`; and whoever can still send is asked after again, when his test comes to its next phase."""
        self.drain()
        known, self._open = self._open, []
        for sunk in known:
            is_open = sunk.is_open()
            if sunk.process.workers and not sunk.is_shared and (not is_open or _may_be_the_last(sunk)):
                sunk.is_shared = self._is_of_others(sunk)
            if is_open:
                self._open.append(sunk)
                self._have_asked(sunk)

    def _have_asked(self, sunk: Sunk) -> None:
        """Have the test's process ask whether there is something to know, before it goes on to its next phase."""
        for binding, _ in sunk.process.account().judges:
            binding.worker.page.add_violation()

    def _drop(self, sunk: Sunk) -> None:
        if self._by_place.get(sunk.place) is sunk:
            del self._by_place[sunk.place]
        if self._by_inode.get(sunk.inode) is sunk:
            del self._by_inode[sunk.inode]
        if sunk in self._open:
            self._open.remove(sunk)

    def _address(self, family: int, domain: int) -> tuple[str, int] | None:
        """Where a socket of this domain finds ours of this family, or of the other; None: nowhere."""
        for each in dict.fromkeys((family, int(socket.AF_INET))):
            own = self._own(self._sockets, each)
            if own is not None:
                host, port = own.getsockname()[:2]
                return (host if each == domain else f"::ffff:{host}"), port
        return None

    def _own(self, kept: dict[int, socket.socket], family: int) -> socket.socket | None:
        own = kept.get(family)
        if own is None:
            own = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                own.bind((_LOOPBACK[family], 0))
                if kept is self._deaf:
                    own.connect(own.getsockname())
            except OSError:
                own.close()
                return None
            kept[family] = own
            if kept is self._sockets:
                bound = own
                self._watch(own.fileno(), lambda: self._receive(bound))
        return own

    def _receive(self, own: socket.socket) -> None:
        for _ in range(_AT_ONCE):  # the rest when other calls have had their turn
            try:
                data, peer = own.recvfrom(_DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # ECONNREFUSED of a sender that is gone
            sunk = self._by_place.get((peer[0], peer[1]))
            if sunk is not None:
                self._sent(sunk, data)

    def _sent(self, sunk: Sunk, data: bytes) -> None:
        fd = self._borrow(sunk)
        if fd < 0:
            self._refuse(sunk, self.whose(sunk))
            return
        with socket.socket(fileno=fd) as borrowed:
            whose = self.whose(sunk)
            learns = judging.lets_learn(whose, sunk.request)
            if (learns or judging.allowed(whose, sunk.request)) and self.let_go(borrowed, sunk):
                if learns:
                    self._refuse(sunk, whose)  # which takes it down
                try:
                    borrowed.send(data, socket.MSG_DONTWAIT)
                except OSError:
                    pass  # datagrams get lost
                return
            self._refuse(sunk, self.whose(sunk))
            self._turn_away(borrowed)

    def whose(self, sunk: Sunk) -> Binding:
        """On whose account a datagram is that came by this socket.

        A pytest process does one thing after the other: what it sends is for what it does now. That counts only while
        it is there, and nobody else has had the socket at the end of a test.
        """
        process = sunk.process
        if process.workers and (sunk.is_shared or self._processes.by_pid.get(process.pid) is not process):
            return sunk.binding
        return process.account()

    def _is_of_others(self, sunk: Sunk) -> bool:
        """Whether another process than those that run tests has the socket."""
        process, known = sunk.process, self._processes.by_pid
        wanted = f"socket:[{sunk.inode}]"
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) in (os.getpid(), process.pid, process.test):
                continue
            other = known.get(int(name))
            if (other is None or other.workers[-1:] != process.workers[-1:]) and _holds(name, wanted):
                return True
        return False

    def let_go(self, borrowed: socket.socket, sunk: Sunk) -> bool:
        """Connect the socket to where it was to go, which the policy of another test allows; whether that could be."""
        self._drop(sunk)
        self._dissolve(borrowed, sunk)
        return _connect(borrowed.fileno(), sunk.destination, len(sunk.destination)) == 0

    def _borrow(self, sunk: Sunk) -> int:
        """The socket that its process has under the number that it had; -1: another one, or none."""
        try:
            fd = sunk.process.borrow(sunk.process.pid, sunk.fd)
        except (KernelCallError, OSError):
            return -1
        if os.fstat(fd).st_ino != sunk.inode:
            os.close(fd)
            return -1
        return fd

    def _turn_away(self, borrowed: socket.socket) -> None:
        """Whoever waits for an answer gets ECONNREFUSED: from a port at which nobody hears him."""
        try:
            family = socket.AF_INET6 if borrowed.getpeername()[0] == "::1" else socket.AF_INET
            deaf = self._own(self._deaf, family)
            if deaf is None:
                return
            host, port = deaf.getsockname()[:2]
            borrowed.connect((host if family == borrowed.family else f"::ffff:{host}", port))
            borrowed.send(b"", socket.MSG_DONTWAIT)
        except OSError:
            pass  # it has been closed, or connected elsewhere
