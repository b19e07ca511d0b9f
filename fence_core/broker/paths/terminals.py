"""Whose terminal is it? The run's own, one that was opened inside the fence, or somebody else's.

All pseudo-terminals of a user are his, and have names in one directory (pts(4)), so their permissions do not tell the
shell in the next window from a terminal that a test has opened. Facts and consequences:

* `/dev/ptmx` is opened by the broker itself, which so learns the number (TIOCGPTN, ioctl_tty(2)).
* Numbers are used again: the next terminal of the same number has the same inode number, too. So what is remembered is
  an O_PATH descriptor. It holds the inode and not the terminal, and once the last descriptor of the master is closed,
  the inode has no link any more (devpts_pty_kill, fs/devpts/inode.c).
* `/dev/tty` is the caller's controlling terminal, which proc_pid_stat(5) names by its number alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from fence_core.kernel import process as kernel_process

__all__ = ["PTMX", "TERMINAL_MAJORS", "TTY", "Terminals", "controlling", "is_slave", "name_of"]

TERMINAL_MAJORS = frozenset({4, 5, *range(136, 144)})  # Documentation/admin-guide/devices.txt
TTY = os.makedev(5, 0)
PTMX = os.makedev(5, 2)
_SLAVES = range(136, 144)
_TIOCGPTN = 0x80045430  # include/uapi/asm-generic/ioctls.h
_O_PATH = os.O_PATH | os.O_CLOEXEC
_ALONE = frozenset({stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG})
"""What has an inode of its own: others without a name in the file system (eventfd(2), epoll(7)) share one."""


def controlling(tid: int) -> tuple[int, int, int]:
    """Session, process id, and device number of the terminal (0: none) of a thread. Raises OSError."""
    fields = kernel_process.stat_fields(tid, kernel_process.TTY_NR)
    number = int(fields[kernel_process.TTY_NR])
    device = os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00) if number else 0
    return int(fields[kernel_process.SESSION]), kernel_process.thread_group(tid), device


def is_slave(device: int) -> bool:
    """Whether it is the number of a pseudo-terminal, of the end that programs run on."""
    return os.major(device) in _SLAVES


def name_of(device: int) -> str:
    """Where a terminal with this device number is."""
    major, minor = os.major(device), os.minor(device)
    return f"/dev/pts/{minor + (major - 136) * 256}" if major in _SLAVES else f"/dev/tty{minor}"


class Terminals:
    """Those that this run may write to."""

    def __init__(self) -> None:
        """What the supervisor has open now is the run's own, and so is its controlling terminal."""
        self._own: dict[int, int] = {}
        self._made: dict[int, int] = {}
        self._consoles: set[int] = set()
        self._handed: set[tuple[int, int]] = set()
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                status = os.fstat(fd)
                if stat.S_IFMT(status.st_mode) in _ALONE:
                    self._handed.add((status.st_dev, status.st_ino))
                elif not stat.S_ISCHR(status.st_mode):
                    continue
                elif os.major(status.st_rdev) in _SLAVES:
                    self._keep(self._own, os.open(f"/proc/self/fd/{fd}", _O_PATH))
                elif status.st_rdev == PTMX:
                    self._note(self._own, fd, "/dev")
                else:
                    self._consoles.add(status.st_rdev)
            except OSError:
                continue
        device = controlling(os.getpid())[2]
        if os.major(device) not in _SLAVES:
            self._consoles.add(device)
        elif device not in self._own:
            try:
                handle = os.open(name_of(device), _O_PATH)
            except OSError:
                return
            self._keep(self._own, handle, device)

    def note_made(self, master: int, path: str) -> None:
        """A master was opened for somebody inside, as `path`."""
        for device in [device for device in self._made if not self._is_there(self._made, device)]:
            os.close(self._made.pop(device))
        self._note(self._made, master, os.path.dirname(path))

    def was_made(self, handle: int) -> bool:
        """Whether a descriptor (O_PATH will do) is open on a terminal that was opened inside."""
        return self._is(self._made, handle)

    def is_ours(self, handle: int) -> bool:
        """Whether it is one of those, or the run's own."""
        return self._is(self._made, handle) or self._is(self._own, handle)

    def has_number(self, device: int) -> bool:
        """The same of a device number."""
        return device in self._consoles or self._is_there(self._made, device) or self._is_there(self._own, device)

    def was_handed(self, handle: int) -> bool:
        """Whether it is a pipe, a socket or a file that the run was started with."""
        status = os.fstat(handle)
        return (status.st_dev, status.st_ino) in self._handed

    def _is(self, known: dict[int, int], handle: int) -> bool:
        status = os.fstat(handle)
        kept = known.get(status.st_rdev)
        if kept is None:
            return False
        ours = os.fstat(kept)
        return ours.st_nlink > 0 and (ours.st_dev, ours.st_ino) == (status.st_dev, status.st_ino)

    @staticmethod
    def _is_there(known: dict[int, int], device: int) -> bool:
        kept = known.get(device)
        return kept is not None and os.fstat(kept).st_nlink > 0

    def _note(self, known: dict[int, int], master: int, directory: str) -> None:
        """Keep the slave of a master that was opened in this directory."""
        (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        device = os.makedev(136, number)
        for place in (directory, f"{directory}/pts"):  # `ptmx` lies in the file system of its slaves, or beside that
            try:
                handle = os.open(f"{place}/{number}", _O_PATH | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
                continue
            self._keep(known, handle, device)

    @staticmethod
    def _keep(known: dict[int, int], handle: int, device: int = 0) -> None:
        status = os.fstat(handle)
        if not stat.S_ISCHR(status.st_mode) or not status.st_nlink or (device and status.st_rdev != device):
            os.close(handle)
            return
        before = known.pop(status.st_rdev, None)
        if before is not None:
            os.close(before)
        known[status.st_rdev] = handle
