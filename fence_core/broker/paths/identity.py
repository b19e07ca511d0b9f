"""Carrying out a file call as the process that made it: its user, groups, capabilities and umask.

Facts and consequences:

* Every process begins with what the broker has, and cannot gain anything (no_new_privs). An ordinary user has nothing
  that it could give up either. So only as root, and only once some process has changed its identity or made a user
  namespace, is there anything to look up; the calls that do so are trapped to know (`Identities.note_change`). One
  that asks for the ids it has already changes nothing: libraries do so when they are loaded (seen in Debian sid).
* setfsuid(2) from 0 takes the capabilities about files away, and back to 0 gives them back. It, setfsgid(2) and
  capset(2) act on one thread; the broker has no other.
* Root without CAP_SYS_PTRACE, as in a container, may look into processes of its own user only: what the kernel compares
  are the real or the file system's ids, with all of the target's (__ptrace_may_access in kernel/ptrace.c). So there,
  calls of other users are handled with these ids theirs, and all capabilities kept (`Identities.looking`).
* The umask belongs to the process, and the broker starts no thread: it is set for one call and set back.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EPERM
from typing import Protocol, TypeVar

from fence_core.broker.reply import HandOver, Reply, Value, Wait
from fence_core.errors import KernelCallError
from fence_core.kernel import arch, credentials, libc, namespaces
from fence_core.kernel.credentials import Credentials
from fence_core.kernel.process import read_proc

__all__ = ["Identities"]

_NOBODY = 0xFFFF_FFFF  # no valid id: changes nothing
_CAPABILITY_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h
_CAP_HEADER = struct.Struct("=Ii")
_CAP_DATA = struct.Struct("=6I")  # effective, permitted, inheritable: the low words, then the high ones


class Caller(Protocol):
    """Of a trapped call what is needed to know whose it is."""

    tid: int


C = TypeVar("C", bound=Caller)


class Identities:
    """Who the callers are, where that is not the same as who the broker is."""

    def __init__(self) -> None:
        self.changed = False
        """Whether any fenced process may be somebody else than it was at the start."""
        self.differ = False
        """Whether a caller may have other rights than we have. An attribute, since every call about a path asks."""
        self._own = Credentials(read_proc("/proc/self/status"))
        self._privileged = os.geteuid() == 0 or self._own.capabilities != 0
        self._base = (self._own.uid, self._own.gid)
        """The ids that we have outside of `acting_as`."""
        self._sets_ids = {arch.current().calls[name]: name for name in credentials.SETS_IDS}

    def note_change(self) -> None:
        """From now on any fenced process may be somebody else."""
        self.changed = True
        self.differ = self._privileged

    def note_ids(self, tid: int, number: int, args: Sequence[int]) -> None:
        """A thread makes one of `SETS_IDS`, by its number. Raises ProcessLookupError where it is gone."""
        if not self.changed and not credentials.of(tid).stay_in(self._sets_ids[number], args):
            self.note_change()

    @contextmanager
    def acting_as(self, tid: int, *, creates: bool = False) -> Iterator[None]:
        """In this block file calls have the rights of that thread; with `creates`, new files its umask, too.

        Raises ProcessLookupError where it is gone.
        """
        somebody_else = self.differ
        if not (creates or somebody_else):
            yield
            return
        status = read_proc(f"/proc/{tid}/status")
        who = None
        if somebody_else:
            who = Credentials(status, here=namespaces.is_ours(tid, "user"))
            if who == self._own:
                who = None
        before = os.umask(credentials.umask(status)) if creates else 0
        try:
            if who is not None:
                self._become(who)
            yield
        finally:
            if who is not None:
                self._become_ourselves()
            if creates:
                os.umask(before)

    def looking(self, handler: Callable[[C], Reply]) -> Callable[[C], Reply]:
        """The same handler, but able to look into callers of another user, where that takes their ids.

        A caller whose own ids are not all the same stays one that nobody may look into.
        """
        own = self._own
        if own.uids != (0,) * 4 or own.may(credentials.CAP_SYS_PTRACE):
            return handler
        if not (own.may(credentials.CAP_SETUID) and own.may(credentials.CAP_SETGID)):
            return handler

        def as_its_user(call: C) -> Reply:
            if not self.changed:
                return handler(call)
            with self._looking_into(call.tid):
                reply = handler(call)
            if isinstance(reply, Wait):
                poll = reply.poll

                def poll_as_its_user() -> int | Value | HandOver | None:
                    with self._looking_into(call.tid):
                        return poll()

                reply.poll = poll_as_its_user
            return reply

        return as_its_user

    @contextmanager
    def _looking_into(self, tid: int) -> Iterator[None]:
        """Raises ProcessLookupError where it is gone."""
        own, who = self._own, Credentials(read_proc(f"/proc/{tid}/status"))
        alike = len({*who.uids}) == len({*who.gids}) == 1
        if not alike or (who.uids, who.gids) == (own.uids, own.gids):
            yield
            return
        try:
            self._look_as(who.uid, who.gid)
            yield
        finally:
            self._look_as(own.uid, own.gid)

    def _look_as(self, uid: int, gid: int) -> None:
        try:
            libc.call("setresgid", gid, _NOBODY, _NOBODY)
            libc.call("setresuid", uid, _NOBODY, _NOBODY)
            _set_file_id("setfsgid", gid)
            _set_file_id("setfsuid", uid)
            _set_effective(self._own.capabilities)
            self._base = (uid, gid)
        except OSError:
            libc.exit_now(3)

    def outer_ids(self, tid: int, uid: int, gid: int) -> tuple[int, int] | None:
        """The ids of a thread's user namespace as ours has them; None where one of them has no counterpart.

        -1, as 32 bits, stays what it is: "leave it alone".
        """
        if namespaces.is_ours(tid, "user"):
            return uid, gid
        outer_uid = uid if uid == _NOBODY else _outer_id(f"/proc/{tid}/uid_map", uid)
        outer_gid = gid if gid == _NOBODY else _outer_id(f"/proc/{tid}/gid_map", gid)
        return None if outer_uid is None or outer_gid is None else (outer_uid, outer_gid)

    def _become(self, who: Credentials) -> None:
        _set_groups(who.groups)
        _set_file_id("setfsgid", who.gid)
        _set_file_id("setfsuid", who.uid)
        _set_effective(who.capabilities & self._own.capabilities)

    def _become_ourselves(self) -> None:
        try:
            _set_file_id("setfsuid", self._base[0])
            _set_effective(self._own.capabilities)
            _set_file_id("setfsgid", self._base[1])
            _set_groups(self._own.groups)
        except OSError:
            libc.exit_now(3)  # as nobody in particular nothing can be judged: the guardian ends the tests


def _outer_id(table: str, inner: int) -> int | None:
    """By user_namespaces(7): lines of first id inside, first id in the namespace of whoever reads, how many."""
    for line in read_proc(table).splitlines():
        first, outer, count = map(int, line.split())
        if first <= inner < first + count and outer != _NOBODY:
            return outer + inner - first
    return None


def _set_file_id(call: str, value: int) -> None:
    """setfsuid(2) and setfsgid(2) return the id that was in force, also when they fail: so it is asked for again."""
    for given in (value, _NOBODY):
        try:
            now = libc.call(call, given)
        except KernelCallError:
            now = _NOBODY
    if now & 0xFFFF_FFFF != value:
        raise KernelCallError(call, EPERM)


def _set_groups(groups: tuple[int, ...]) -> None:
    array = (ctypes.c_uint32 * max(len(groups), 1))(*groups)
    libc.call("setgroups", len(groups), ctypes.addressof(array))


def _set_effective(capabilities: int) -> None:
    header = ctypes.create_string_buffer(_CAP_HEADER.pack(_CAPABILITY_VERSION_3, 0), _CAP_HEADER.size)
    data = ctypes.create_string_buffer(_CAP_DATA.size)
    libc.call("capget", ctypes.addressof(header), ctypes.addressof(data))
    words = list(_CAP_DATA.unpack(data.raw))
    words[0], words[3] = capabilities & 0xFFFF_FFFF, capabilities >> 32
    data = ctypes.create_string_buffer(_CAP_DATA.pack(*words), _CAP_DATA.size)
    libc.call("capset", ctypes.addressof(header), ctypes.addressof(data))
