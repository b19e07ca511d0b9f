"""Sockets where the kernel lets us borrow none (no pidfd_getfd): the broker has made them, and keeps a copy of each.

`socket` is trapped for every family then, and what it makes is handed over. Later calls find the copy by the inode that
`/proc/TID/fd/N` shows, and are made on it: what the number stands for by then, or what lies in memory, changes nothing.

* A copy keeps a socket open that its owner has closed. So that closed is closed, and a port is free, one of a stream
  goes as soon as it listens or is connected, and one of datagrams when nobody inside has the socket any more, which is
  asked: from time to time, more often while sockets are made; before somebody sends to where such a socket may be
  bound; and where an address is in use (EADDRINUSE).
* Where the owner had it last, one link tells. Only if it is not there are the tables of all processes looked through.
* A socket in flight over a UNIX socket (SCM_RIGHTS) is in no table: for a while after such a message its copy stays,
  but where its own address is asked for.
* What has no copy: accepted sockets, pairs, streams that are connected or listen, what came from outside. What becomes
  of calls on those: `calls/lending.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fence_core.broker.services.sockets import Borrowed
from fence_core.errors import KernelCallError

if TYPE_CHECKING:
    from fence_core.broker.loop import Loop

__all__ = ["Copy", "Lent", "MadeSockets", "NotHeldError"]

_TICK_S, _TICK_MAX_S, _SLOWER = 0.02, 0.5, 1.5
_PER_TICK = 256
_PER_SOCKET = 2
_RECEIVERS = 64
_SEARCH_SHARE = 20
"""Of the time at most one in so many parts is for searching the tables of all processes."""
_PASSING_S = 10.0
_REMEMBERED = 100_000
_INET = (int(socket.AF_INET), int(socket.AF_INET6))
_CONNECTING = (int(socket.SOCK_STREAM), int(socket.SOCK_SEQPACKET))
_TCP_SYN_SENT, _TCP_CLOSE, _TCP_LISTEN = 2, 7, 10  # include/net/tcp_states.h


class NotHeldError(KernelCallError):
    """There is no copy of this socket."""

    def __init__(self, inode: int = 0) -> None:
        super().__init__("pidfd_getfd", errno.EPERM, "there is no copy of what this descriptor stands for")
        self.inode = inode


class Copy:
    """A socket that the broker has made, and where a fenced process has it."""

    __slots__ = ("begun", "inode", "lasts", "link", "number", "passed_until", "pid", "socket", "uses", "watched")

    def __init__(self, own: socket.socket, pid: int) -> None:
        self.socket = own
        self.inode = os.fstat(own.fileno()).st_ino
        self.link = f"socket:[{self.inode}]"
        self.lasts = own.family not in (*_INET, socket.AF_UNIX) or int(own.type) not in _CONNECTING
        """Whether it is of use after it was connected: what it receives then still goes to several ends, or none."""
        self.pid = pid
        """A process, or one of its threads, that has it; and its number there, -1 while it is on its way."""
        self.number = -1
        self.begun = False
        """Whether a connect(2) was answered with EINPROGRESS, and none since with its end."""
        self.watched = False
        self.uses = 0
        self.passed_until = 0.0
        """How long it may be in a message that nobody has read yet."""

    def name(self) -> int | bytes | str:
        """What nobody else can have as long as it is there: a port, or the name of a UNIX socket."""
        name: tuple[str, int] | bytes | str = self.socket.getsockname()
        return name[1] if isinstance(name, tuple) else name

    def is_where_it_was(self) -> bool:
        if self.number < 0:
            return os.path.exists(f"/proc/{self.pid}")
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{self.number}") == self.link
        except PermissionError:
            return os.path.exists(f"/proc/{self.pid}")  # another user's by now, which root may lack the right to see
        except OSError:
            return False


class Lent(Borrowed):
    """A copy, while a call is made on it."""

    __slots__ = ("_made", "copy")

    def __init__(self, made: MadeSockets, copy: Copy) -> None:
        own = copy.socket
        self.fd = os.dup(own.fileno())
        # IPV6_ADDRFORM makes an IPv4 socket of one for IPv6, so that is asked each time.
        family = -1 if own.family == socket.AF_INET6 else own.family
        self.socket = socket.socket(family, own.type, own.proto, fileno=self.fd)
        self.domain, self.type, self.protocol = int(self.socket.family), int(own.type), own.proto
        self._made = made
        self.copy = copy
        copy.uses += 1

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            self.copy.uses -= 1
            self._made.used(self)
            self.socket.close()


class MadeSockets:
    """All copies, by the inodes of their sockets."""

    def __init__(
        self, loop: Loop, is_fenced: Callable[[int], bool], is_ours: Callable[[int], bool] = lambda pid: True
    ) -> None:
        """`is_fenced`: whether a process is in a fence, by its number. Raises OSError where it is gone. `is_ours`:
        whether it is known to be in this one, and not in that of another run beside it."""
        self._loop = loop
        self._is_fenced = is_fenced
        self._is_ours = is_ours
        self._outside: dict[str, tuple[int, int]] = {}
        """Processes that are in no fence, and so never will have what is in ours: known by their directories in /proc,
        which are others when a number is given again."""
        self._copies: dict[int, Copy] = {}
        """Those that were looked at longest ago come first."""
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, 64)
        self._ticks = False
        self._interval = _TICK_S
        self._searched_until = 0.0
        """When the next search may begin, if nothing asks for it."""
        self._listening: dict[int, int] = {}
        """Of Internet sockets the port, else 0."""
        self._begun: dict[int, int] = {}

    # ------------------------------------------------------------ kept and found

    def keep(self, fd: int, pid: int) -> Copy:
        """A copy of this new socket, which a process (or a thread) is about to get. Raises OSError: ENFILE."""
        self._look_at(list(self._copies.values())[:_PER_SOCKET] if self._copies else [])
        if len(self._copies) >= self._most and not self._make_room():
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        copy = Copy(socket.socket(fileno=os.dup(fd)), pid)
        self._copies[copy.inode] = copy
        self._interval = _TICK_S
        if not self._ticks:
            self._ticks = True
            self._loop.after(self._interval, self._tick)
        return copy

    def arrived(self, copy: Copy, number: int) -> None:
        """It has this number there; -1: it was not taken."""
        copy.number = number
        if number < 0:
            self._drop(copy)

    def adopt(self, pid: int) -> None:
        """Sockets that this process and that one both have, from before the fence: they are as if we had made them."""
        for name in os.listdir("/proc/self/fd"):
            try:
                link = os.readlink(f"/proc/self/fd/{name}")
                if not link.startswith("socket:[") or os.readlink(f"/proc/{pid}/fd/{name}") != link:
                    continue
                copy = self.keep(int(name), pid)
            except OSError:
                continue
            copy.number = int(name)
            self._settle(copy)

    def find(self, tid: int, number: int) -> Copy:
        """The copy of what a thread has under this number. Raises KernelCallError; NotHeldError where there is none."""
        try:
            link = os.readlink(f"/proc/{tid}/fd/{number}")
        except OSError as error:
            gone = error.errno in (errno.ENOENT, errno.ESRCH)
            raise KernelCallError("readlink", errno.EBADF if gone else error.errno or errno.EBADF) from None
        if not link.startswith("socket:["):
            raise KernelCallError("readlink", errno.ENOTSOCK)
        inode = int(link[8:-1])
        copy = self._copies.get(inode)
        if copy is None:
            raise NotHeldError(inode)
        return copy

    def lend(self, tid: int, number: int) -> Lent:
        """For one call; to be closed. Raises as `find`."""
        return Lent(self, self.find(tid, number))

    def borrow(self, tid: int, number: int) -> int:
        """A descriptor of ours for what a thread has under this number. Raises KernelCallError."""
        try:
            return os.dup(self.find(tid, number).socket.fileno())
        except KernelCallError as error:
            if error.errno == errno.ENOTSOCK:
                raise NotHeldError from None
            raise

    def copies(self) -> list[Copy]:
        """All of them."""
        return list(self._copies.values())

    # ------------------------------------------------------------ what has become of them

    def used(self, lent: Lent) -> None:
        """A call was made on it."""
        if not lent.copy.lasts and self._copies.get(lent.copy.inode) is lent.copy:
            self._settle(lent.copy)

    def hand_over(self, copy: Copy) -> None:
        """The kernel is left to connect it, or to have it listen: from then on only its owner has it."""
        if not copy.lasts:
            self._drop(copy)

    def _settle(self, copy: Copy) -> None:
        """Let it go if it is connected or listens; watch it while it is being connected."""
        if copy.lasts or copy.uses:
            return
        state = _state(copy.socket)
        if copy.watched and state != _TCP_SYN_SENT:
            self._loop.unwatch(copy.socket.fileno())
            copy.watched = False
        if state == _TCP_CLOSE:
            return
        if state == _TCP_SYN_SENT:
            if not copy.watched:
                copy.watched = True
                self._loop.watch(copy.socket.fileno(), lambda: self._settle(copy), select.EPOLLOUT | select.EPOLLET)
            return
        if state == _TCP_LISTEN:
            _remember(self._listening, copy.inode, copy.socket.getsockname()[1] if copy.socket.family in _INET else 0)
        elif copy.begun:
            _remember(self._begun, copy.inode, 0)
        self._drop(copy)

    def listens(self, inode: int) -> bool:
        """Whether this socket listened when it was let go."""
        return inode in self._listening

    def port(self, inode: int) -> int:
        """At which this socket listens; -1 if it does not."""
        return self._listening.get(inode, -1)

    def take_begun(self, inode: int) -> bool:
        """Whether the next connect(2) on it is the first since that which has begun to connect it."""
        if inode not in self._begun:
            return False
        del self._begun[inode]
        return True

    def _drop(self, copy: Copy) -> None:
        if self._copies.get(copy.inode) is copy:
            del self._copies[copy.inode]
        if copy.watched:
            self._loop.unwatch(copy.socket.fileno())
        copy.socket.close()

    # ------------------------------------------------------------ closed is closed

    def drop_closed(self, name: int | bytes | str = "") -> bool:
        """Let go of all whose owners have closed them, now; whether there were any. Of those that may be in a message,
        only of what has this name.
        """
        now = time.monotonic()
        lost = [copy for copy in self._copies.values() if not copy.is_where_it_was()]
        return self._search([copy for copy in lost if now >= copy.passed_until or (name and copy.name() == name)])

    def look_at_receivers(self, sender: Copy) -> None:
        """Somebody is about to send to a socket like this: it may be one that is closed."""
        like = [each for each in self._copies.values() if each.lasts and each is not sender][:_RECEIVERS]
        own = sender.socket.family == socket.AF_UNIX
        lost = [each for each in like if (each.socket.family == socket.AF_UNIX) == own and not each.is_where_it_was()]
        if lost:
            now = time.monotonic()
            self._search([each for each in lost if now >= each.passed_until])

    def passing(self, tid: int, numbers: Iterable[int]) -> None:
        """A message with these descriptors is sent: they may be in nobody's table until it is read."""
        until = time.monotonic() + _PASSING_S
        for number in numbers:
            with contextlib.suppress(KernelCallError):  # no socket, or none of ours
                self.find(tid, number).passed_until = until

    def _make_room(self) -> bool:
        self.drop_closed()
        return len(self._copies) < self._most

    def _tick(self) -> None:
        before = len(self._copies)
        self._look_at(list(self._copies.values())[:_PER_TICK])
        self._ticks = bool(self._copies)
        if self._ticks:
            same = len(self._copies) == before
            self._interval = min(self._interval * _SLOWER, _TICK_MAX_S) if same else _TICK_S
            self._loop.after(self._interval, self._tick)

    def _look_at(self, copies: list[Copy]) -> None:
        """These are next to be looked at; those that are not where they were are searched for, if there is time."""
        now = time.monotonic()
        lost = []
        for copy in copies:
            if now >= copy.passed_until and not copy.is_where_it_was():
                lost.append(copy)
            else:
                self._copies[copy.inode] = self._copies.pop(copy.inode)
        if lost and now >= self._searched_until:
            self.drop_closed()

    def _search(self, lost: list[Copy]) -> bool:
        """Find who has them now, and let go of those that nobody has; whether there were any."""
        if not lost:
            return False
        began = time.monotonic()
        wanted = {copy.link: copy for copy in lost}
        own = str(os.getpid())
        for pid in os.listdir("/proc"):
            if not wanted:
                break
            if not pid.isdecimal() or pid == own or not self._may_have_any(pid):
                continue
            try:
                _find_in(pid, wanted)
            except PermissionError:
                if self._is_ours(int(pid)):  # it may have any of them; one of another run beside this has none
                    wanted.clear()
            except OSError:
                continue  # it has ended
        for copy in wanted.values():
            self._drop(copy)
        now = time.monotonic()
        self._searched_until = now + (now - began) * _SEARCH_SHARE
        return bool(wanted)

    def _may_have_any(self, pid: str) -> bool:
        try:
            status = os.stat(f"/proc/{pid}")
            seen = status.st_ino, status.st_ctime_ns
            if self._outside.get(pid) == seen:
                return False
            # Of one whose first thread has ended, another tells.
            if self._is_fenced(int(pid)) or any(self._is_fenced(int(tid)) for tid in _other_threads(pid)):
                return True
        except OSError:
            return False  # it has ended
        if len(self._outside) >= _REMEMBERED:
            self._outside.clear()
        self._outside[pid] = seen
        return False


def _find_in(pid: str, wanted: dict[str, Copy]) -> None:
    """Take out of `wanted` what this fenced process has, and note where. Raises OSError where it shows nothing."""
    pid, numbers = _table(pid)
    for number in numbers:
        try:
            copy = wanted.pop(os.readlink(f"/proc/{pid}/fd/{number}"), None)
        except OSError:
            continue  # closed meanwhile
        if copy is not None:
            copy.pid, copy.number = int(pid), int(number)
            if not wanted:
                return


def _other_threads(pid: str) -> list[str]:
    return [tid for tid in os.listdir(f"/proc/{pid}/task") if tid != pid]


def _table(pid: str) -> tuple[str, list[str]]:
    """Which thread tells what this process has open, and the numbers of that. Raises OSError."""
    numbers = os.listdir(f"/proc/{pid}/fd")
    if not numbers:  # the first thread may have ended, and the others not
        for tid in _other_threads(pid):
            numbers = os.listdir(f"/proc/{tid}/fd")
            if numbers:
                return tid, numbers
    return pid, numbers


def _state(sock: socket.socket) -> int:
    """As tcp(7) has it; of other streams, connected ones count as established: 1."""
    if sock.family in _INET:
        try:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            pass
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return _TCP_LISTEN
    try:
        sock.getpeername()
    except OSError:
        return _TCP_CLOSE
    return 1


def _remember(known: dict[int, int], inode: int, what: int) -> None:
    if len(known) >= _REMEMBERED:
        del known[next(iter(known))]
    known[inode] = what
