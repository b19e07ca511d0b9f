"""Which UNIX sockets were made inside the fence, and so may always be reached from inside.

* A socket with a path is known by its file. Whatever the file is called by now (rename, link), whichever network or
  mount namespace its socket was bound in and whoever has that, the kernel finds the socket by the file; so do we. The
  broker keeps the file open (O_PATH), so that nobody else's can get its number.
* Below the ceiling the kernel binds (`CONTINUE`), so the file is looked for when the next call comes in: the kernel
  tells of which it is (SIOCUNIXFILE with CAP_NET_ADMIN, unix_diag), or else it is the one that has come to be there.
* An abstract name can be somebody else's as soon as its socket is closed: who has it is looked up each time, in the
  network that the asking socket is in. A kernel without unix_diag has a list of its own, `/proc/PID/net/unix`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable, KernelCallError
from fence_core.kernel import sockdiag

if TYPE_CHECKING:
    from fence_core.broker.paths.resolve import Located

_SIOCUNIXFILE = 0x89E0
"""include/uapi/linux/un.h; since Linux 4.11: an O_PATH descriptor of the file that a socket is bound to."""
_SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h; since Linux 5.14: a number of the network namespace, never given twice."""
_FILES_MAX = 4096
_PENDING_S = 0.05
_O_FILE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTENS = 0x10000
"""__SO_ACCEPTCON, include/uapi/linux/net.h."""

_File = tuple[int, int]
"""Device and inode."""


class _Binding:
    """A bind(2) that the kernel was left to carry out."""

    __slots__ = ("directory", "name", "socket", "until")

    def __init__(self, fd: int, located: Located) -> None:
        self.socket = socket.socket(fileno=os.dup(fd))
        self.directory = os.dup(located.directory)
        self.name = located.name
        self.until = time.monotonic() + _PENDING_S

    def close(self) -> None:
        self.socket.close()
        os.close(self.directory)


class UnixSockets:
    """The sockets, by their own inodes, and the files of those that have one."""

    def __init__(self, after: Callable[[float, Callable[[], None]], None]) -> None:
        """`after` calls back once, so many seconds later."""
        self._after = after
        self._sockets: set[int] = set()
        self._paths: set[str] = set()
        self._files: dict[_File, int] = {}
        """An O_PATH descriptor of each, the oldest first."""
        self._most = min(_FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._cookie: bytes | None = None
        self.pending: list[_Binding] = []
        """To be settled before the next call is judged."""

    def add(self, fd: int, path: str = "") -> None:
        """This borrowed socket is bound, or about to be: to the path, or to a name without one."""
        self._sockets.add(os.fstat(fd).st_ino)
        if path:
            self._paths.add(path)

    def expect(self, fd: int, located: Located) -> None:
        """The kernel is left to bind this borrowed socket to a path; where that exists it will not."""
        try:
            os.stat(located.name, dir_fd=located.directory, follow_symlinks=False)
        except OSError:
            if not self.pending:
                self._after(_PENDING_S, self._settle_later)
            self.pending.append(_Binding(fd, located))

    def bound(self, fd: int, located: Located) -> None:
        """This borrowed socket has been bound to the path by the broker."""
        binding = _Binding(fd, located)
        try:
            self._find(binding)
        finally:
            binding.close()

    def settle(self) -> None:
        """Find the files of what has been bound meanwhile. What has no name yet is on its way, or has failed."""
        pending, self.pending = self.pending, []
        for binding in pending:
            try:
                if binding.socket.getsockname():
                    self._find(binding)
                elif time.monotonic() < binding.until:
                    self.pending.append(binding)
                    continue
            except OSError:
                pass
            binding.close()

    def _settle_later(self) -> None:
        """For a program that makes no further call: with our copy its socket would stay open when it is closed."""
        self.settle()
        if self.pending:
            self._after(_PENDING_S, self._settle_later)

    def _find(self, binding: _Binding) -> None:
        sock = binding.socket
        self._sockets.add(os.fstat(sock.fileno()).st_ino)
        try:
            self._keep(fcntl.ioctl(sock.fileno(), _SIOCUNIXFILE))
            return
        except OSError:
            pass  # not for an ordinary user
        try:
            found = os.open(binding.name, _O_FILE, dir_fd=binding.directory)
        except OSError:
            return  # renamed or removed at once
        status = os.fstat(found)
        if stat.S_ISSOCK(status.st_mode) and self._is_file_of(status, sock):
            self._keep(found)
        else:
            os.close(found)

    @staticmethod
    def _is_file_of(status: os.stat_result, sock: socket.socket) -> bool:
        """As far as the kernel tells: it does of the sockets in our own network."""
        try:
            return sockdiag.is_bound_to(os.fstat(sock.fileno()).st_ino, status.st_dev, status.st_ino)
        except (FenceUnavailable, KernelCallError, OSError):
            return True

    def _keep(self, fd: int) -> None:
        status = os.fstat(fd)
        file = (status.st_dev, status.st_ino)
        if file in self._files:
            os.close(fd)
            return
        if len(self._files) >= self._most:
            gone = [known for known, kept in self._files.items() if not os.fstat(kept).st_nlink]
            for known in gone or [next(iter(self._files))]:
                os.close(self._files.pop(known))
        self._files[file] = fd

    # ------------------------------------------------------------ who is there

    def has_file(self, handle: int, status: os.stat_result, path: str) -> bool | None:
        """Whether this socket file (an O_PATH descriptor) is one of a socket bound inside; None where that is closed.

        A file without a socket counts as outside unless it was made here: its socket may live in another network
        namespace, of which the kernel tells nothing (a docker.sock mounted into a container).
        """
        if (status.st_dev, status.st_ino) in self._files:
            return True
        try:
            inode = sockdiag.unix_socket_at(status.st_dev, status.st_ino)
        except (FenceUnavailable, KernelCallError, OSError):
            return False  # the kernel cannot tell: what we do not know is not ours
        if inode is None:
            return None if path in self._paths else False
        if inode not in self._sockets:
            return False
        self._keep(os.dup(handle))
        return True

    def is_of_others(self, status: os.stat_result, path: str) -> bool:
        """Whether somebody outside has this socket file, as far as the kernel tells.

        Not where nobody has it: suites remove what an earlier run has left.
        """
        if (status.st_dev, status.st_ino) in self._files:
            return False
        try:
            inode = sockdiag.unix_socket_at(status.st_dev, status.st_ino)
            return inode is not None and inode not in self._sockets
        except (FenceUnavailable, KernelCallError, OSError):
            pass
        try:
            with open("/proc/self/net/unix", "rb") as lines:
                shown = os.fsencode(path).split(b"\n")[0]
                return any(name == shown and inode not in self._sockets for inode, *_, name in _listed(lines.read()))
        except OSError:
            return False

    def has_abstract(self, asking: socket.socket, name: bytes, kind: int, tid: int) -> bool | None:
        """Whether the socket of this type with this abstract name, in the network of the socket that asks, was bound
        inside; None where nobody has the name. `tid`: of the thread that asks."""
        if self._is_in_our_network(asking):
            try:
                inode = sockdiag.unix_socket_named(name, kind)
                return None if inode is None else inode in self._sockets
            except (FenceUnavailable, KernelCallError, OSError):
                pass
        own = os.fstat(asking.fileno()).st_ino
        for source in "/proc/self/net/unix", f"/proc/{tid}/net/unix":
            try:
                with open(source, "rb") as lines:
                    listed = _listed(lines.read())
            except OSError:
                continue
            if any(each == own for each, *_ in listed):  # it is the list of that network
                return self._of_ours(_holders(listed, name, kind))
        return False

    def _of_ours(self, holders: list[int]) -> bool | None:
        if not holders:
            return None
        return all(inode in self._sockets for inode in holders)

    def _is_in_our_network(self, asking: socket.socket) -> bool:
        try:
            if self._cookie is None:
                with socket.socket(socket.AF_UNIX) as ours:
                    self._cookie = ours.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            return asking.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) == self._cookie
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            return False  # before Linux 5.14: the lists tell


def _listed(text: bytes) -> list[tuple[int, int, bool, bool, bytes]]:
    """Of each line of /proc/net/unix: inode, type, whether it listens, whether it is connected, and name as shown."""
    found = []
    for line in text.split(b"\n")[1:]:
        fields = line.split(b" ", 6)
        if len(fields) == 7:
            inode, _, shown = fields[6].strip(b" ").partition(b" ")
            try:
                flags, kind, state = int(fields[3], 16), int(fields[4], 16), int(fields[5], 16)
                found.append((int(inode), kind, bool(flags & _LISTENS), state == 3, shown))
            except ValueError:
                continue
    return found


def _holders(listed: list[tuple[int, int, bool, bool, bytes]], name: bytes, kind: int) -> list[int]:
    """Inodes of all that may be bound to an abstract name, as far as the list tells names apart: it shows NUL as "@",
    and a name may hold a new line, so that one may look like another. Accepted sockets show the listening one's."""
    shown = name.replace(b"\0", b"@").split(b"\n")[0]
    same = [each for each in listed if each[1] == kind and each[4] == shown]
    if kind != socket.SOCK_DGRAM:
        same = [each for each in same if each[2] or not each[3]] or same
    return [each[0] for each in same]
