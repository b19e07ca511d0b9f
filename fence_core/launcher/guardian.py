"""The guardian process: sees to it that nothing fenced outlives the supervisor.

Run by a process of its own, forked by the fenced child before the tests begin. It imports only `kernel` and must not
touch anything of pytest.

A parent-death signal reaches one process only, and daemons leave the process tree. The kernel's Landlock signal scope
does not: the guardian lives in domain D0, the tests in D1 inside it. The guardian may signal D1 and nothing outside
D0, so ``kill(-1)`` from here ends exactly the fenced processes, doubly forked daemons included; and from D1 neither
the guardian nor the supervisor can be signalled at all. Where the kernel has no signal scope (before Landlock ABI 6)
the guardian knows the processes by what the broker tells it, and ends those.
"""

from __future__ import annotations

import os
import select
import signal
import struct
from typing import NoReturn

from fence_core.kernel import libc, process

PACKET = struct.Struct("=cQQ")
"""Command, pid, start time: one datagram each way."""
COUNT, LIST, TERMINATE, KILL, QUIT, KNOW = b"c", b"l", b"t", b"k", b"q", b"+"


def run(supervisor_pidfd: int, control: int, supervisor_pid: int, *, scoped: bool) -> NoReturn:
    """Never returns. `scoped`: this process is in a Landlock domain with a signal scope."""
    try:
        _watch(supervisor_pidfd, control, supervisor_pid, scoped)
    finally:
        libc.exit_now(0)


def _watch(supervisor_pidfd: int, control: int, supervisor_pid: int, scoped: bool) -> None:
    os.setsid()  # a SIGKILL for the whole process group must not take the guardian along
    _keep_only(supervisor_pidfd, control)
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as name:
            name.write("fence-guardian")
    except OSError:
        pass
    scoped = scoped and _is_refused(supervisor_pid) and _is_refused(1)
    known: dict[int, int] = {}
    poll = select.poll()
    poll.register(supervisor_pidfd, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == supervisor_pidfd:
                _end_all(scoped, known, signal.SIGKILL, until_gone=True)
                return
            packet = os.read(control, PACKET.size)
            if not packet:
                poll.unregister(control)
                continue
            command, pid, started = PACKET.unpack(packet)
            if command == QUIT:
                return
            if command == KNOW:
                known[pid] = started
            elif command in (TERMINATE, KILL):
                _end_all(scoped, known, signal.SIGTERM if command == TERMINATE else signal.SIGKILL, until_gone=False)
                os.write(control, PACKET.pack(command, 0, 0))
            elif command in (COUNT, LIST):
                for member in _members(scoped, known) if command == LIST or _any(scoped, known) else ():
                    os.write(control, PACKET.pack(LIST, member, 0))
                    if command == COUNT:
                        break
                os.write(control, PACKET.pack(QUIT, 0, 0))


def _keep_only(*wanted: int) -> None:
    """Close every other descriptor: a pipe held open here would keep its reader waiting."""
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    low = 3
    for fd in sorted(wanted):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, max(low, _highest_fd() + 1))


def _highest_fd() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))


def _is_refused(pid: int) -> bool:
    """Whether the kernel keeps us from signalling this process outside: asked before anything is sent to "all"."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return True
    return False


def _any(scoped: bool, known: dict[int, int]) -> bool:
    if not scoped:
        return True
    try:
        os.kill(-1, 0)
        return True
    except OSError:
        return False


def _members(scoped: bool, known: dict[int, int]) -> list[int]:
    """Fenced processes that are alive."""
    found = []
    own = os.getpid()
    if not scoped:
        return [pid for pid, started in list(known.items()) if _is_same(pid, started, known)]
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            os.kill(int(name), 0)
            if process.read_proc(f"/proc/{name}/cmdline"):  # empty: ended, and not waited for yet
                found.append(int(name))
        except OSError:
            continue
    return found


def _is_same(pid: int, started: int, known: dict[int, int]) -> bool:
    try:
        if process.start_time(pid) == started:
            return bool(process.read_proc(f"/proc/{pid}/cmdline"))
    except OSError:
        pass
    known.pop(pid, None)
    return False


def _end_all(scoped: bool, known: dict[int, int], number: int, *, until_gone: bool) -> None:
    for _ in range(10_000 if until_gone else 1):
        if scoped:
            try:
                os.kill(-1, number)
            except ProcessLookupError:
                return
            except PermissionError:
                return  # only processes outside are left
        else:
            members = _members(False, known)
            for pid in members:
                try:
                    os.kill(pid, number)
                except OSError:
                    continue
            if not members:
                return
        if until_gone:
            select.select([], [], [], 0.001)
