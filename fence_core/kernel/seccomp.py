"""Install a filter; receive and answer its notifications.

Sources: seccomp(2), seccomp_unotify(2), include/uapi/linux/seccomp.h, kernel/seccomp.c.

The kernel's facts:
- A process tree can have one listener. A second is EBUSY, also when the first belongs to somebody else.
- Whatever was read from a target can be stale. The id of its thread is reused once the target is gone: after
  reading and before acting on what was read, ask `Listener.is_valid`.
- When every copy of the listener is closed, trapped calls fail with ENOSYS. One forgotten copy hangs them.
- Without WAIT_KILLABLE_RECV any signal interrupts a target that waits for its answer, and the call is
  notified again under a new id. With it only a fatal signal does, so a signal that the program waits for is
  held up for as long as the answer takes: answer `reply_error(id, ERESTARTSYS)` to let it through.
"""

from __future__ import annotations

import ctypes
import os
import struct
from errno import EACCES, EBUSY, EINTR, EINVAL, ENOENT, ENOTTY
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable, KernelCallError
from fence_core.kernel import libc

if TYPE_CHECKING:
    from fcntl import ioctl as _ioctl
else:
    try:
        from fcntl import ioctl as _ioctl
    except ImportError:  # not a UNIX: importing is safe, calling is not
        _ioctl = None

# Operations and flags of seccomp(2).
SET_MODE_FILTER = 1
GET_ACTION_AVAIL = 2
GET_NOTIF_SIZES = 3
FILTER_FLAG_SPEC_ALLOW = 1 << 2  # Linux 4.17
FILTER_FLAG_NEW_LISTENER = 1 << 3  # Linux 5.0
FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19

# Requests of the listener: _IOWR('!', 0, 80 bytes) and so on.
IOCTL_NOTIF_RECV = 0xC0502100
IOCTL_NOTIF_SEND = 0xC0182101
IOCTL_NOTIF_ID_VALID = 0x40082102
IOCTL_NOTIF_ADDFD = 0x40182103  # Linux 5.9
IOCTL_NOTIF_SET_FLAGS = 0x40082104  # Linux 6.6

USER_NOTIF_FLAG_CONTINUE = 1 << 0
USER_NOTIF_FD_SYNC_WAKE_UP = 1 << 0
ADDFD_FLAG_SETFD = 1 << 0
ADDFD_FLAG_SEND = 1 << 1  # Linux 5.14

# Inside the kernel only: restart the call after a signal handler, if there is a signal. It leaks to a
# program that has none to take (include/linux/errno.h).
ERESTARTSYS = 512

_O_CLOEXEC = 0o2000000

# struct seccomp_notif { u64 id; u32 pid; u32 flags; struct seccomp_data data; }; `pid` is a thread's id.
# The machine (data.arch) is skipped, since a filter lets only native calls get this far.
_NOTIF = struct.Struct("=QIIi4xQ6Q")
# struct seccomp_notif_resp { u64 id; s64 val; s32 error; u32 flags; };
_RESPONSE = struct.Struct("=QqiI")
# struct seccomp_notif_addfd { u64 id; u32 flags, srcfd, newfd, newfd_flags; };
_ADDFD = struct.Struct("=QIIII")
_ID = struct.Struct("=Q")

NOTIF_SIZE = _NOTIF.size
RESPONSE_SIZE = _RESPONSE.size
DATA_SIZE = 64  # struct seccomp_data


class _sock_fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _install(program: bytes, flags: int) -> int:
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _sock_fprog(len(program) // 8, ctypes.addressof(buffer))
    try:
        return libc.call("seccomp", SET_MODE_FILTER, flags, ctypes.addressof(fprog))
    except KernelCallError as error:
        if error.errno == EACCES:
            raise KernelCallError("seccomp", EACCES, "call libc.set_no_new_privs() first") from None
        raise


def install_listener(program: bytes, *, wait_killable: bool) -> int:
    """Install a filter for this thread and its descendants, for ever; return its listener (close-on-exec).

    `wait_killable` needs Linux 5.19. From this call on every trapped call of the caller waits for an answer,
    so the listener must reach its owner by an untrapped call. Raises `FenceUnavailable` when another program
    is listening already, else `KernelCallError`. Source: seccomp(2).
    """
    # SPEC_ALLOW: without it old kernels (before 5.16) switch on slow Spectre counter-measures for the tests.
    flags = FILTER_FLAG_NEW_LISTENER | FILTER_FLAG_SPEC_ALLOW
    if wait_killable:
        flags |= FILTER_FLAG_WAIT_KILLABLE_RECV
    try:
        return _install(program, flags)
    except KernelCallError as error:
        if error.errno != EBUSY:
            raise
        raise FenceUnavailable(
            "seccomp notification",
            "another program above this one (a container runtime, a sandbox, another fence) already supervises "
            "this process, and the kernel allows only one such supervisor",
            "Run outside of it, or switch off its system call supervision (in a container runtime: the seccomp "
            "profile's SCMP_ACT_NOTIFY rules).",
        ) from error


def is_listener(fd: int) -> bool:
    """Whether this descriptor of ours is one that `install_listener` returns. Raises `OSError`."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify"


# Bound once: an attribute look-up less per trapped call.
_pack_response = _RESPONSE.pack_into
_pack_id = _ID.pack_into
_unpack_notif = _NOTIF.unpack_from
_CLEAN = bytes(NOTIF_SIZE)


class Listener:
    """The broker's end of a filter. For one thread at a time: the buffers are reused by every call.

    The methods return instead of raising where the target may simply be gone, since that happens all the time.
    Takes the number of an open listener and does not close it.

    Measured (Linux 6.18, two shared cores, CPython 3.11, SYNC_WAKE_UP): poll + receive + reply_continue make a
    trapped call take 7.5 us, of which Python's share is under 2; ioctl by ctypes takes 8.3, epoll 8.9. An ioctl
    with `bytes` takes 0.4 us more than one with a buffer that can be written to: `fcntl` tries it as such first, which
    makes an exception.
    """

    __slots__ = ("_added", "_answer", "_asked", "_notif", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._notif = bytearray(NOTIF_SIZE)
        self._added = bytearray(_ADDFD.size)
        self._answer = bytearray(RESPONSE_SIZE)
        self._asked = bytearray(_ID.size)

    def receive(self) -> tuple[int, ...] | None:
        """Wait for a notification: (id, tid, flags, nr, ip, a0, a1, a2, a3, a4, a5), registers unsigned.

        None when the target died or a signal came: poll the descriptor before calling this again. Raises
        `KernelCallError`.
        """
        notif = self._notif
        notif[:] = _CLEAN  # the kernel refuses a buffer with something in it
        try:
            _ioctl(self.fd, IOCTL_NOTIF_RECV, notif, True)
        except OSError as error:
            if error.errno == ENOENT or error.errno == EINTR:
                return None
            raise _failed("SECCOMP_IOCTL_NOTIF_RECV", error) from None
        return _unpack_notif(notif)

    # The replies have the same tail three times on purpose: one of them ends every trapped call, and a function in
    # between would be a call more on each.

    def reply_continue(self, id: int) -> bool:
        """Let the kernel carry out the call. False when the target is gone.

        What pointers point to may have changed since it was read: safe only where the kernel's own rules
        (Landlock) would refuse whatever it may have been changed to. Raises `KernelCallError`.
        """
        _pack_response(self._answer, 0, id, 0, 0, USER_NOTIF_FLAG_CONTINUE)
        try:
            _ioctl(self.fd, IOCTL_NOTIF_SEND, self._answer, True)
        except OSError as error:
            if error.errno == ENOENT:
                return False
            raise _failed("SECCOMP_IOCTL_NOTIF_SEND", error) from None
        return True

    def reply_error(self, id: int, errno: int) -> bool:
        """Make the call fail with `errno`, a positive number; `ERESTARTSYS` is allowed. False: target gone.

        Raises `KernelCallError`.
        """
        _pack_response(self._answer, 0, id, 0, -errno, 0)
        try:
            _ioctl(self.fd, IOCTL_NOTIF_SEND, self._answer, True)
        except OSError as error:
            if error.errno == ENOENT:
                return False
            raise _failed("SECCOMP_IOCTL_NOTIF_SEND", error) from None
        return True

    def reply_value(self, id: int, value: int) -> bool:
        """Make the call return `value` without being carried out. False when the target is gone.

        Raises `KernelCallError`.
        """
        _pack_response(self._answer, 0, id, value, 0, 0)
        try:
            _ioctl(self.fd, IOCTL_NOTIF_SEND, self._answer, True)
        except OSError as error:
            if error.errno == ENOENT:
                return False
            raise _failed("SECCOMP_IOCTL_NOTIF_SEND", error) from None
        return True

    def is_valid(self, id: int) -> bool:
        """Whether the target still waits for this answer, so that what was read from it was its own.

        Raises `KernelCallError`.
        """
        _pack_id(self._asked, 0, id)
        try:
            _ioctl(self.fd, IOCTL_NOTIF_ID_VALID, self._asked, True)
        except OSError as error:
            if error.errno == ENOENT:
                return False
            raise _failed("SECCOMP_IOCTL_NOTIF_ID_VALID", error) from None
        return True

    def add_fd(self, id: int, srcfd: int, *, newfd: int | None = None, cloexec: bool = True, send: bool = False) -> int:
        """Give the target a copy of our descriptor `srcfd`; return its number there.

        `newfd` asks for that very number (replacing what is there). `send` makes the call return the number in
        the same step, so that a target that dies meanwhile leaves no descriptor behind. Raises
        `KernelCallError`: ENOENT target gone, EMFILE its descriptors are used up, EBADF. Source:
        seccomp_unotify(2).
        """
        flags = 0
        if newfd is not None:
            flags |= ADDFD_FLAG_SETFD
        if send:
            flags |= ADDFD_FLAG_SEND
        # A mutable buffer: only then does fcntl.ioctl return the number.
        _ADDFD.pack_into(self._added, 0, id, flags, srcfd, newfd or 0, _O_CLOEXEC if cloexec else 0)
        try:
            number: int = _ioctl(self.fd, IOCTL_NOTIF_ADDFD, self._added, True)
        except OSError as error:
            raise _failed("SECCOMP_IOCTL_NOTIF_ADDFD", error) from None
        return number

    def set_sync_wake_up(self) -> bool:
        """Have each answer wake its target on our own core: 7.5 instead of 70 us a call. False before 6.6.

        Raises `KernelCallError`.
        """
        try:
            _ioctl(self.fd, IOCTL_NOTIF_SET_FLAGS, USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError as error:
            if error.errno in (EINVAL, ENOTTY):
                return False
            raise _failed("SECCOMP_IOCTL_NOTIF_SET_FLAGS", error) from None
        return True


def _failed(call: str, error: OSError) -> KernelCallError:
    return KernelCallError(call, error.errno or 0)
