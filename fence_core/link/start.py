"""What the processes of a fence say to one another while it is set up, and what its helpers say later.

Run by the supervisor, the fenced child, the guardian and the witness: after a fork, so it imports the standard library
only.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

Places = Iterable[tuple[str, str]]
"""Where may be written, each with its letter: "d" for a directory in which names may change, too; "f" for a file, "o"
for a directory of devices (see `broker/paths/ceiling.py`)."""
_CHUNK = 1 << 16


class Walls(NamedTuple):
    """What the child puts around itself."""

    wait_killable: bool
    """Calls that the broker has taken are interrupted by deadly signals only."""
    signal_scope: bool
    """Nobody outside can be signalled; before Linux 6.12 the guardian ends what it knows of."""
    network_floor: bool
    """Landlock refuses TCP bind and connect that the broker has not made itself."""
    file_floor: bool
    """Landlock refuses writes outside of the ceiling."""
    borrows: bool = True
    """The supervisor may take descriptors (pidfd_getfd); else it is sent the listener, and makes sockets itself."""


class Orders(NamedTuple):
    """What the supervisor has prepared for its child before the fork."""

    walls: Walls
    supervisor_pid: int
    supervisor_pidfd: int
    to_supervisor: int
    """Pipe: `tell_listener` or `tell_failure`."""
    from_supervisor: int
    """Pipe: `send_program`, and `GO` once the supervisor is about to answer."""
    guardian_control: int


# Supervisor to child.

GO = b"1"
_FD = struct.Struct("=i")


def send_program(fd: int, program: bytes, places: Places) -> None:
    """The seccomp filter, and the places of the ceiling. Raises OSError."""
    text = b"\0".join(what.encode() + os.fsencode(place) for place, what in places)
    rest = memoryview(b"%d %d\n" % (len(program), len(text)) + program + text)
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_program(fd: int) -> tuple[bytes, list[tuple[str, str]]]:
    """The program, and the places. Raises OSError."""
    data = b""
    while True:
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            raise OSError(errno.ESRCH, "the supervisor is gone")
        data += chunk
        head, line, rest = data.partition(b"\n")
        if line:
            program, text = map(int, head.split())
            if len(rest) == program + text:
                break
    return rest[:program], [(os.fsdecode(item[1:]), chr(item[0])) for item in rest[program:].split(b"\0") if item]


# Child to supervisor.


def tell_listener(fd: int, listener: int) -> None:
    """The number only: sendmsg, which could carry the descriptor, is trapped already, by a broker not yet there."""
    os.write(fd, b"%d" % listener)


def tell_failure(fd: int, why: str) -> None:
    os.write(fd, b"!" + why.encode("utf-8", "replace")[:4000])


def hand_over(control: int, listener: int) -> None:
    """Send the listener itself, as the first packet to the supervisor: by a process that is not filtered."""
    line = socket.socket(fileno=control)
    line.sendmsg([GO], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(listener))])
    line.detach()


def take_over(control: socket.socket) -> int:
    """The descriptor that was sent (close-on-exec). Raises OSError where none has come, or more than one."""
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        packet, ancillary, _, _ = control.recvmsg(len(GO), socket.CMSG_SPACE(_FD.size), flags)
    except BlockingIOError:
        packet, ancillary = b"", []
    fds = [
        int(_FD.unpack(data)[0])
        for level, kind, data in ancillary
        if (level, kind, len(data)) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.size)
    ]
    if packet != GO or len(fds) != 1:
        raise OSError(errno.EBADMSG, "the listener did not come along")
    return fds[0]


def read_listener(fd: int) -> tuple[int, str]:
    """The number of the listener, or -1 and why there is none. Raises OSError."""
    answer = os.read(fd, 8192)
    if answer.isdigit():
        return int(answer), ""
    return -1, answer[1:].decode("utf-8", "replace") or "the fenced process ended before the fence stood"


# Supervisor and guardian: one packet each way.

PACKET = struct.Struct("=cQQ")
"""Command, pid, start time."""
COUNT, LIST, TERMINATE, KILL, QUIT, KNOW = b"c", b"l", b"t", b"k", b"q", b"+"
"""`COUNT` and `LIST` are answered with `LIST` packets and a `QUIT`, `TERMINATE` and `KILL` with themselves."""

# Witness to supervisor.

NOTE = struct.Struct("=ii")
"""Number of the signal, pid of its sender."""
