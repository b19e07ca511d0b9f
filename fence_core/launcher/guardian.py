"""The guardian process: sees to it that nothing fenced outlives the supervisor.

Run by a process of its own, forked by the fenced child before the tests begin. It imports only `kernel` and
`link.start`, and must not touch anything of pytest.

A parent-death signal reaches one process only, and daemons leave the process tree. The kernel's Landlock signal scope
does not: the guardian lives in domain D0, the tests in D1 inside it. The guardian may signal D1 and nothing outside
D0, so ``kill(-1)`` from here ends exactly the fenced processes, doubly forked daemons included; and from D1 neither
the guardian nor the supervisor can be signalled at all. Where the kernel has no signal scope (before Landlock ABI 6)
the guardian knows the processes by what the broker tells it, and ends those with all their children; it misses what
was forked without an exec, has never made a trapped call, and whose parents have ended.
"""

from __future__ import annotations

import os
import select
import signal
from typing import NoReturn

from fence_core.kernel import fds, libc, process
from fence_core.link.start import COUNT, KILL, KNOW, LIST, PACKET, QUIT, TERMINATE


def run(supervisor_pidfd: int, control: int, supervisor_pid: int, *, scoped: bool) -> NoReturn:
    """Never returns. `scoped`: this process is in a Landlock domain with a signal scope."""
    try:
        _watch(supervisor_pidfd, control, supervisor_pid, scoped)
    finally:
        libc.exit_now(0)


def _watch(supervisor_pidfd: int, control: int, supervisor_pid: int, scoped: bool) -> None:
    os.setsid()  # a SIGKILL for the whole process group must not take the guardian along
    fds.keep_only(supervisor_pidfd, control)
    libc.set_name("fence-guardian")
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
    """Whether any fenced process is alive."""
    if scoped:
        try:
            os.kill(-1, 0)
        except OSError:
            return False
    # Counted among these are processes that have ended and that nobody has waited for, which the first process of a
    # container may never do.
    return bool(_members(scoped, known))


def _members(scoped: bool, known: dict[int, int]) -> list[int]:
    """Fenced processes that are alive."""
    found = []
    own = os.getpid()
    if not scoped:
        return _with_children({pid for pid, started in list(known.items()) if _is_same(pid, started, known)})
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            os.kill(int(name), 0)
            if _is_alive(int(name)):
                found.append(int(name))
        except OSError:
            continue
    return found


def _with_children(family: set[int]) -> list[int]:
    """These and all that they have started: a child of a fenced process is fenced."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                alive, parent = _state(int(name))
            except OSError:
                continue
            if alive:
                children.setdefault(parent, []).append(int(name))
    todo = list(family)
    while todo:
        fresh = [pid for pid in children.get(todo.pop(), ()) if pid not in family]
        family.update(fresh)
        todo.extend(fresh)
    return sorted(family)


def _is_alive(pid: int) -> bool:
    """False for what has ended and was not waited for. Raises ProcessLookupError."""
    return _state(pid)[0]


def _state(pid: int) -> tuple[bool, int]:
    """Whether it lives, and its parent. A process lives on in its other threads when the first one has ended."""
    fields = process.stat_fields(pid, process.NUM_THREADS)
    alive = fields[process.STATE] not in (b"Z", b"X") or int(fields[process.NUM_THREADS]) > 1
    return alive, int(fields[process.PPID])


def _is_same(pid: int, started: int, known: dict[int, int]) -> bool:
    try:
        if process.start_time(pid) == started and _is_alive(pid):
            return True
    except OSError:
        pass
    known.pop(pid, None)
    return False


def _end_all(scoped: bool, known: dict[int, int], number: int, *, until_gone: bool) -> None:
    for _ in range(10_000 if until_gone else 1):
        if scoped:
            try:
                os.kill(-1, number)
            except OSError:
                return  # nobody is left inside
        else:
            for pid in _members(False, known):
                try:
                    os.kill(pid, number)
                except OSError:
                    continue
        if until_gone:
            if not _any(scoped, known):
                return
            select.select([], [], [], 0.001)
