"""What calls share that change a file itself: found, judged and changed by one and the same descriptor.

Landlock knows nothing of these calls, so the kernel is never told to carry one out: by then the path, or the number of
the descriptor, may stand for another file.

* A path becomes an O_PATH descriptor. What such a descriptor stands for is changed with AT_EMPTY_PATH, or where a call
  lacks that by its name below /proc/self/fd, which takes 2 us longer and leads to that very inode, too, a symbolic
  link's own included (proc_pid_fd(5)).
* A descriptor is borrowed (pidfd_getfd(2)), and the call is made on that: so the kernel sees how it was opened, and
  answers EBADF where it was O_PATH.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import repositories, surroundings
from fence_core.broker.handlers.acting import DIRECTORY_ENDS, judged_path, perform, refusal, through_a_stranger
from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from fence_core.broker.reply import CONTINUE, Reply

if TYPE_CHECKING:
    from fence_core.broker.attribution import Process
    from fence_core.broker.loop import Broker
    from fence_core.broker.resolve import Located

__all__ = ["AT_FLAGS", "Change", "change", "change_descriptor", "change_path", "find_path", "for_os"]

AT_FLAGS = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
"""What the newer calls of the family know; with anything else they are EINVAL."""
_O_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

Change = Callable[[int, bool], "int | None"]
"""Makes the change: given a descriptor, and whether that is a borrowed one, or one of ours with O_PATH. Returns None or
an error number, or raises OSError."""


def for_os(fd: int, borrowed: bool) -> str | int:
    """What functions of `os` take that know no AT_EMPTY_PATH."""
    return fd if borrowed else f"/proc/self/fd/{fd}"


def find_path(
    broker: Broker,
    process: Process,
    tid: int,
    dirfd: int,
    raw: bytes,
    op: str,
    *,
    follow: bool,
    empty: bool = False,
) -> Located | int:
    """The file that a path names, with its `handle`; an error number where there is none. `op`: what is to be done.

    `empty`: the empty path means the descriptor itself (AT_EMPTY_PATH).
    """
    if not raw and empty:
        located = broker.resolver.descriptor(tid, dirfd)
    else:
        if not follow and (raw.endswith(DIRECTORY_ENDS) or raw in (b".", b"..")):
            follow = True
        located = broker.resolver.locate(tid, process.pid, dirfd, raw, follow=follow)
    if located.outside:
        return through_a_stranger(broker, process, tid, op, located)
    if located.errno:
        return located.errno if located.errno > 0 else errno.ENOENT
    if located.handle < 0:
        if follow:
            return errno.ENOENT
        try:
            located.handle = os.open(located.name, _O_LINK, dir_fd=located.directory)
        except OSError as error:
            return error.errno or errno.ENOENT
        broker.close_after(located.handle)
    return located


def change_path(
    broker: Broker,
    tid: int,
    op: str,
    dirfd: int,
    address: int,
    act: Change,
    *,
    flags: int = 0,
    refused: Callable[[int, bool], int] | None = None,
) -> Reply:
    """A change of what a path names. `flags`: AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH. `refused`: see `change`."""
    process = broker.processes.find(tid)
    raw = process.read_string(tid, address)
    follow = not flags & AT_SYMLINK_NOFOLLOW
    located = find_path(broker, process, tid, dirfd, raw, op, follow=follow, empty=bool(flags & AT_EMPTY_PATH))
    if not isinstance(located, int):
        return change(broker, process, tid, op, located, act, refused=refused)
    return located


def change_descriptor(
    broker: Broker,
    tid: int,
    op: str,
    fd: int,
    act: Change,
    *,
    refused: Callable[[int, bool], int] | None = None,
) -> Reply:
    """A change of what a descriptor of the caller is open on, which need not be open for writing."""
    process = broker.processes.find(tid)
    located = broker.resolver.opened(process.borrow(tid, fd))
    return change(broker, process, tid, op, located, act, borrowed=True, refused=refused)


def change(
    broker: Broker,
    process: Process,
    tid: int,
    op: str,
    located: Located,
    act: Change,
    *,
    borrowed: bool = False,
    refused: Callable[[int, bool], int] | None = None,
) -> Reply:
    """Judge a file that was found, and change it.

    `refused`: asked where the policy does not allow it, for the error with which the kernel would refuse this call for
    reasons of its own; 0 where it would not.
    """
    handle = located.handle
    may = _may_change(broker, process, op, located) or repositories.lets(broker, process, op, located)
    asked = surroundings.objection(broker, process, op, located, gets=False) if may and located.is_file else None
    if not may or asked is not None:
        if borrowed and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_PATH:
            return errno.EBADF
        answer = refused(handle, borrowed) if refused is not None else 0
        answer = answer or refusal(broker, process, tid, op, located, asked=asked)
        if answer != CONTINUE:
            return answer
    return perform(broker, tid, lambda: act(handle, borrowed))


def _may_change(broker: Broker, process: Process, op: str, located: Located) -> bool:
    if not located.is_file:
        # Pipes and removed files are the tests' own, but for those that the run was started with.
        return not broker.terminals.was_handed(located.handle)
    judged = judged_path(broker, process, located.path)
    if process.may_write(judged, op):
        return True
    # A terminal belongs to whoever has opened its other end: grantpt(3), login and sshd change its mode and owner.
    return (
        judged.startswith("/dev/") and process.may_write(judged, "open") and broker.terminals.was_made(located.handle)
    )
