"""Hold a process; borrow its descriptors. Sources: pidfd_open(2), pidfd_getfd(2)."""

from __future__ import annotations

from fence_core.kernel import libc

PIDFD_THREAD = 0o200  # = O_EXCL; Linux 6.9: hold a thread that leads no process


def open_pidfd(pid: int, flags: int = 0) -> int:
    """Return a descriptor (close-on-exec) of process `pid`; it becomes readable when the process ends.

    `pid` must lead a thread group unless `flags` is PIDFD_THREAD. Raises `KernelCallError`: ESRCH no such
    process, EINVAL (ENOENT since 6.9) a thread that leads none. Linux 5.3.
    """
    return libc.call("pidfd_open", pid, flags)


def get_fd(pidfd: int, fd: int) -> int:
    """Return a copy (close-on-exec) of descriptor `fd` of that process, sharing offset and flags with it.

    Raises `KernelCallError`: EBADF it has no such descriptor, ESRCH it is gone, EPERM we may not inspect it
    (ptrace rights). Linux 5.6.
    """
    return libc.call("pidfd_getfd", pidfd, fd)
