"""Ancillary data of a message that the broker sends for its caller: made to say there what it would have said.

* Descriptors (SCM_RIGHTS) are numbers of the caller's table. They are borrowed, and ours are sent.
* Credentials (SCM_CREDENTIALS) are pid, uid and gid. A receiver that asks for them (SO_PASSCRED) gets those of whoever
  makes the call, the broker's, unless the message names others. That takes CAP_SYS_ADMIN for another's pid: so root's
  broker always names the caller's, and an ordinary user's cannot. Source: scm_check_creds, net/core/scm.c.
* Everything else is passed on as it is; what of it names a way is judged in `messages`.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import InvalidMessageError
from fence_core.broker.services.made_sockets import NotHeldError
from fence_core.kernel import credentials, namespaces
from fence_core.kernel.credentials import CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN
from fence_core.kernel.process import field, read_proc
from fence_core.policy.requests import SystemCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fence_core.broker.call import Call
    from fence_core.broker.services.sockets import Borrowed

__all__ = ["CMSG_SIZE", "Control", "descriptors", "headers", "own_number"]

_CMSG = struct.Struct("@Nii")
"""struct cmsghdr: length with itself, level, type."""
CMSG_SIZE = _CMSG.size
_UCRED = struct.Struct("@iII")
_SCM_CREDENTIALS = 2
_DESCRIPTORS_MAX = 253  # SCM_MAX_FD, include/net/scm.h


def headers(control: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Offset, length, level and type of each part. Raises `InvalidMessageError` where one is no part."""
    at = 0
    while at + _CMSG.size <= len(control):
        size, level, kind = _CMSG.unpack_from(control, at)
        if not _CMSG.size <= size <= len(control) - at:
            raise InvalidMessageError(errno.EINVAL)
        yield at, size, level, kind
        at += _aligned(size)


def descriptors(control: bytes) -> list[int]:
    """The numbers of all descriptors in this; none where the kernel will not take it."""
    found: list[int] = []
    try:
        for at, size, level, kind in headers(control):
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found += _numbers(control[at + _CMSG.size : at + size])
    except InvalidMessageError:
        return []
    return found


def _numbers(body: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"@{len(body) // 4}i", body)


class Control:
    """Ancillary data to be sent by the broker; `close` when it is sent."""

    __slots__ = ("_borrowed", "raw")

    def __init__(self, call: Call, borrowed: Borrowed, given: bytes) -> None:
        """Raises `InvalidMessageError`; KernelCallError where a descriptor cannot be borrowed."""
        self._borrowed: list[int] = []
        self.raw = given
        local = borrowed.domain == socket.AF_UNIX
        if not local and not (given and borrowed.domain == socket.AF_NETLINK):
            return
        try:
            self.raw = b"".join(self._translated(call, given, local))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        while self._borrowed:
            os.close(self._borrowed.pop())

    def _translated(self, call: Call, given: bytes, local: bool) -> Iterator[bytes]:
        named = False
        for at, size, level, kind in headers(given):
            body = given[at + _CMSG.size : at + size]
            if local and level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                body = self._descriptors(call, body)
            elif level == socket.SOL_SOCKET and kind == _SCM_CREDENTIALS:
                body = _credentials(call, body)
                named = True
            yield _part(level, kind, body)
        if local and not named and _may_name_others():
            yield _part(socket.SOL_SOCKET, _SCM_CREDENTIALS, _UCRED.pack(call.process.pid, *_ids(call)))

    def _descriptors(self, call: Call, body: bytes) -> bytes:
        numbers = _numbers(body)
        count = len(numbers)
        if count + len(self._borrowed) > _DESCRIPTORS_MAX:
            raise InvalidMessageError(errno.EINVAL)
        first = len(self._borrowed)
        for number in numbers:
            try:
                self._borrowed.append(call.borrow(number))
            except NotHeldError:
                passed = SystemCall("pass a descriptor over a datagram socket", "unheld")
                raise InvalidMessageError(call.refuse(passed, errno.EPERM) or errno.EPERM) from None
        if call.services.made is not None:
            call.services.made.passing(call.tid, numbers)
        return struct.pack(f"@{count}i", *self._borrowed[first:])


def _part(level: int, kind: int, body: bytes) -> bytes:
    size = _CMSG.size + len(body)
    return (_CMSG.pack(size, level, kind) + body).ljust(_aligned(size), b"\0")


def _aligned(size: int) -> int:
    return (size + 7) & ~7


def _ids(call: Call) -> tuple[int, int]:
    """The real user and group of a thread, as our user namespace has them."""
    if not call.services.identities.differ:
        return os.getuid(), os.getgid()
    who = credentials.of(call.tid)
    return who.uids[0], who.gids[0]


def own_number(tid: int) -> int:
    """The number of a thread's process in its own pid namespace: what getpid(2) says there."""
    return int(field(read_proc(f"/proc/{tid}/status"), b"NStgid").split()[-1])


def _credentials(call: Call, body: bytes) -> bytes:
    """Credentials that the caller names itself, if the kernel would have taken them from it."""
    if len(body) != _UCRED.size:
        raise InvalidMessageError(errno.EINVAL)
    pid, uid, gid = _UCRED.unpack(body)
    own = pid == own_number(call.tid)
    if not _may_name_others():
        # Nor may the caller, who has what we have. Our own number is the only one that we can name.
        if not own:
            raise InvalidMessageError(errno.EPERM)
        pid = os.getpid()
    elif own:
        pid = call.process.pid
    elif not namespaces.is_ours(call.tid, "pid"):
        raise InvalidMessageError(errno.EPERM)  # a number that means nothing to us
    ids = call.services.identities.outer_ids(call.tid, uid, gid)
    if ids is None:
        raise InvalidMessageError(errno.EINVAL)
    if call.services.identities.differ:
        who = credentials.of(call.tid)
        for own_ids, number, capability in ((who.uids, ids[0], CAP_SETUID), (who.gids, ids[1], CAP_SETGID)):
            if number not in own_ids[:3] and not who.may(capability):
                raise InvalidMessageError(errno.EPERM)
        if not own and not who.may(CAP_SYS_ADMIN):
            raise InvalidMessageError(errno.EPERM)
    return _UCRED.pack(pid, *ids)


@functools.cache
def _may_name_others() -> bool:
    """Whether the kernel lets us name another process: tried on ourselves."""
    other = os.getppid() or 1
    named = _UCRED.pack(other, os.getuid(), os.getgid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        try:
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, _SCM_CREDENTIALS, named)])
        except OSError:
            return False
    return True
