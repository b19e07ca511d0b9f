"""Opens that may keep their opener waiting: made by a process of their own, so that the broker never waits.

A pipe waits for its other end, a leased file for the lease to be broken, a device as long as it likes. The process
does nothing but this one open, with the caller's rights, and hands the descriptor over.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from fence_core.broker.reply import HandOver, Value, Wait
from fence_core.kernel import libc, process

if TYPE_CHECKING:
    from fence_core.broker.call import Call


def open_elsewhere(call: Call, handle: int, flags: int) -> Wait | int:
    """Open what an O_PATH descriptor stands for, with the flags of open(2) but without making anything."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    flags &= ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    try:
        pid = process.clone_child()
    except OSError as error:
        ours.close()
        theirs.close()
        return error.errno or errno.EAGAIN
    if pid == 0:
        _open(call, handle, flags, theirs)
    theirs.close()
    finished = False

    def poll() -> int | Value | HandOver | None:
        nonlocal finished
        try:
            said, fds, _, _ = socket.recv_fds(ours, 16, 1)
        except BlockingIOError:
            return None
        finished = True
        if fds:
            return HandOver(fds[0], cloexec=bool(flags & os.O_CLOEXEC))
        return int(said) if said else errno.EIO

    def close() -> None:
        ours.close()
        if not finished:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    return Wait(ours.fileno(), poll, close, math.inf, readable=True)


def _open(call: Call, handle: int, flags: int, line: socket.socket) -> NoReturn:
    """Run by the new process."""
    try:
        # First of all: while a copy of the listener is open, calls of the tests would wait for an answer for ever.
        os.close(call.services.listener.fd)
        libc.set_parent_death_signal(signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        kept = sorted({handle, line.fileno()})
        start = 3
        for fd in (*kept, 1 << 20):
            os.closerange(start, fd)
            start = fd + 1
        try:
            with call.services.identities.acting_as(call.tid):
                found = os.open(f"/proc/self/fd/{handle}", flags | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            line.send(b"%d" % (error.errno or errno.EIO))
        else:
            socket.send_fds(line, [b"0"], [found])
    finally:
        libc.exit_now(0)
