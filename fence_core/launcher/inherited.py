"""What the caller left open: descriptors that came through the exec which started this interpreter.

A descriptor is a permission that was given already: neither the filter nor Landlock asks again when it is written to.
So the tests get none but those that lead nowhere (`_is_harmless`) and those that they were told to keep.

Python closes on exec what it opens (PEP 446), and so do nearly all libraries. What is open *without* that flag before
the first test was there before: it was inherited. What plugins and debuggers have opened meanwhile stays.

Run by the process that is about to be fenced, before the fork; `close_all` by the fenced child, before its fence.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Left", "close_all", "left_open"]

_DEVICES = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)})
"""null, zero, full, random, urandom: Documentation/admin-guide/devices.txt."""
_EVENTS = frozenset(
    f"anon_inode:{name}" for name in ("[eventfd]", "[eventpoll]", "[timerfd]", "[signalfd]", "inotify", "[inotify]")
)
"""What only tells of something. Of all others of this kind (io_uring, pidfd, perf_event, seccomp notify, bpf, kvm, ...)
nobody knows all that they can do."""


class Left(NamedTuple):
    """A descriptor that the tests do not get."""

    fd: int
    what: str
    """For the user: ``/var/log/run.log``, ``socket to 192.0.2.7:22``. May hold any character but NUL."""


def left_open(keep: Iterable[int] = (), *, watch_reads: bool = False) -> tuple[Left, ...]:
    """The inherited descriptors of this process above 2 that can do something outside. But those to `keep`.

    `watch_reads`: files that are open for reading, too, since nobody would judge what is read from them.
    """
    kept = {0, 1, 2, *keep}
    found = []
    for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if fd in kept:
            continue
        try:
            if fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                continue
            path = os.readlink(f"/proc/self/fd/{fd}")
            if not _is_harmless(fd, path, watch_reads=watch_reads):
                found.append(Left(fd, _socket(fd) if stat.S_ISSOCK(os.fstat(fd).st_mode) else path))
        except OSError:
            continue  # the one that the directory was read by
    return tuple(found)


def close_all(left: Iterable[Left]) -> None:
    for each in left:
        os.close(each.fd)


def _is_harmless(fd: int, path: str, *, watch_reads: bool) -> bool:
    """Raises OSError."""
    status = os.fstat(fd)
    kind = stat.S_IFMT(status.st_mode)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if kind == stat.S_IFIFO or kind == stat.S_IFDIR:
        return True  # what is opened from a directory is judged
    if flags & os.O_PATH and kind in (stat.S_IFREG, stat.S_IFLNK):
        return True  # a name; it must be opened first
    if kind == stat.S_IFCHR:
        return os.isatty(fd) or (os.major(status.st_rdev), os.minor(status.st_rdev)) in _DEVICES
    if kind == stat.S_IFREG:
        # Of procfs: the memory of somebody outside. Without a slash: a namespace, which could be entered.
        elsewhere = path.startswith("/proc/") or not path.startswith("/")
        return flags & os.O_ACCMODE == os.O_RDONLY and not watch_reads and not elsewhere
    return path in _EVENTS


def _socket(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as own:
        for ask, says in (own.getpeername, "socket to "), (own.getsockname, "socket at "):
            try:
                address = ask()
            except OSError:
                continue
            text = _address(address)
            if text:
                return says + text
    return "socket"


def _address(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}" if address[1] else ""
    if isinstance(address, bytes):
        return "@" + os.fsdecode(address[1:])
    return address if isinstance(address, str) else ""
