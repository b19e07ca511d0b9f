"""What calls share that change a file itself: found, judged and changed by one and the same descriptor.

Landlock knows nothing of these calls, so the kernel is never told to carry one out: by then the path, or the number of
the descriptor, may stand for another file.

* A path becomes an O_PATH descriptor. What such a descriptor stands for is changed with AT_EMPTY_PATH, or where a call
  lacks that by its name below /proc/self/fd, which takes 2 us longer and leads to that very inode, too, a symbolic
  link's own included (proc_pid_fd(5)).
* A descriptor is borrowed (pidfd_getfd(2)), and the call is made on that: so the kernel sees how it was opened, and
  answers EBADF where it was O_PATH. Where that cannot be had, it becomes an O_PATH descriptor, too (`unborrowed.py`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fence_core.broker.calls.acting import perform, refusal, through_a_stranger
from fence_core.broker.calls.arguments import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from fence_core.broker.paths import repositories, surroundings
from fence_core.broker.paths.resolve import follows
from fence_core.broker.reply import CONTINUE, Reply

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located

__all__ = [
    "AT_FLAGS",
    "Change",
    "change_at",
    "change_descriptor",
    "change_found",
    "change_path",
    "find_path",
    "for_os",
]

AT_FLAGS = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
"""What the newer calls of the family know; with anything else they are EINVAL."""


class Change(NamedTuple):
    """What is to be done to a file. Its functions are given a descriptor, and whether that is a borrowed one, or one of
    ours with O_PATH."""

    op: str
    act: Callable[[int, bool], int | None]
    """Makes the change: returns None or an error number, or raises OSError."""
    refused: Callable[[int, bool], int] | None = None
    """Asked where the policy does not allow it, for the error with which the kernel would refuse this call for reasons
    of its own; 0 where it would not."""


def for_os(fd: int, borrowed: bool) -> str | int:
    """What functions of `os` take that know no AT_EMPTY_PATH."""
    return fd if borrowed else f"/proc/self/fd/{fd}"


def find_path(call: Call, dirfd: int, raw: bytes, op: str, flags: int = 0) -> Located | int:
    """The file that a path names, with its `handle`; an error number where there is none. `op`: what is to be done.

    `flags`: AT_SYMLINK_NOFOLLOW; AT_EMPTY_PATH, with which the empty path means the descriptor itself.
    """
    follow = not flags & AT_SYMLINK_NOFOLLOW
    if not raw and flags & AT_EMPTY_PATH:
        located = call.services.resolver.descriptor(call, dirfd)
    else:
        follow = follows(raw, follow)
        located = call.locate(dirfd, raw, follow=follow)
    if located.outside:
        return through_a_stranger(call, op, located)
    if located.errno:
        return located.refusal(errno.ENOENT)
    failed = errno.ENOENT if follow and located.handle < 0 else located.pin(call)
    if failed:
        return failed
    return located


def change_path(call: Call, change: Change, dirfd: int, address: int, flags: int = 0) -> Reply:
    """A change of what a path names. `flags`: see `find_path`."""
    located = find_path(call, dirfd, call.read_string(address), change.op, flags)
    return located if isinstance(located, int) else change_found(call, change, located)


def change_descriptor(call: Call, change: Change, fd: int) -> Reply:
    """A change of what a descriptor of the caller is open on, which need not be open for writing."""
    handle, borrowed = call.identify(fd)
    return change_found(call, change, call.services.resolver.opened(call, handle), borrowed=borrowed)


def change_at(call: Call, change: Change, dirfd: int, address: int, flags: int) -> Reply:
    """As `change_path`, for calls to which an empty path, or none, means the descriptor as it was opened."""
    if flags & AT_EMPTY_PATH and dirfd >= 0 and not (address and call.read_string(address)):
        return change_descriptor(call, change, dirfd)
    return change_path(call, change, dirfd, address, flags)


def change_found(call: Call, change: Change, located: Located, *, borrowed: bool = False) -> Reply:
    """Judge a file that was found, and change it."""
    handle, op = located.handle, change.op
    may = _may_change(call, op, located) or repositories.lets(call, op, located)
    asked = surroundings.objection(call, op, located, gets=False) if may and located.is_file else None
    if not may or asked is not None:
        if borrowed and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_PATH:
            return errno.EBADF
        answer = change.refused(handle, borrowed) if change.refused is not None else 0
        answer = answer or refusal(call, op, located, asked=asked)
        if answer != CONTINUE:
            return answer
    return perform(call, lambda: change.act(handle, borrowed))


def _may_change(call: Call, op: str, located: Located) -> bool:
    if not located.is_file:
        # Pipes and removed files are the tests' own, but for those that the run was started with.
        return not call.services.terminals.was_handed(located.handle)
    judged = call.judged(located.path)
    if call.process.may_write(judged, op):
        return True
    # A terminal belongs to whoever has opened its other end: grantpt(3), login and sshd change its mode and owner.
    is_device = judged.startswith("/dev/") and call.process.may_write(judged, "open")
    return is_device and call.services.terminals.was_made(located.handle)
