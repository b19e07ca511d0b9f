"""The order of work in the forked child, before any code of a test or conftest runs.

Run by the fenced child (and, for a while, by the guardian it forks). Imports only `kernel`,
`errors`, `untouched_calls` and `link.start`. A step that fails ends the process: the supervisor is told why, and
nothing runs unfenced.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from fence_core.errors import FenceError
from fence_core.kernel import landlock, libc, process, seccomp
from fence_core.link import start
from fence_core.untouched_calls import calls as real

BLOCKED = frozenset(signal.valid_signals()) - {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGKILL,
    signal.SIGSTOP,
}
"""Signals blocked around the fork, and in the supervisor for good: everything that somebody else sends. What a process
brings upon itself keeps its meaning."""
_NUMBER = struct.Struct("=i")
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_DIRECTORY
FILES = (
    landlock.ACCESS_FS_WRITE_FILE
    | landlock.ACCESS_FS_REMOVE_DIR
    | landlock.ACCESS_FS_REMOVE_FILE
    | landlock.ACCESS_FS_MAKE_CHAR
    | landlock.ACCESS_FS_MAKE_DIR
    | landlock.ACCESS_FS_MAKE_REG
    | landlock.ACCESS_FS_MAKE_SOCK
    | landlock.ACCESS_FS_MAKE_FIFO
    | landlock.ACCESS_FS_MAKE_BLOCK
    | landlock.ACCESS_FS_MAKE_SYM
    | landlock.ACCESS_FS_REFER
)
"""What the ceiling is about. Not TRUNCATE: every open for reading would walk the path (20 to 40 % slower, measured);
the broker truncates by path itself. Not IOCTL_DEV: harmless requests to devices would fail."""


def raise_fence(orders: start.Orders, guard: Callable[..., object], meanwhile: Callable[[], object]) -> None:
    """Fence this process and everything it will ever start. Returns when the broker answers.

    `meanwhile`: what can be done while the supervisor makes the filter.
    """
    try:
        listener = _raise(orders, guard, meanwhile)
    except BaseException as error:  # whatever it is: this process must not go on as an unfenced pytest
        why = str(error) if isinstance(error, OSError | FenceError) else f"{type(error).__name__}: {error}"
        start.tell_failure(orders.to_supervisor, why)
        libc.exit_now(1)
    start.tell_listener(orders.to_supervisor, listener)
    ready = os.read(orders.from_supervisor, len(start.GO))
    os.close(listener)
    for fd in (orders.to_supervisor, orders.from_supervisor, orders.supervisor_pidfd, orders.guardian_control):
        os.close(fd)
    if not ready:
        libc.exit_now(1)


def _raise(orders: start.Orders, guard: Callable[..., object], meanwhile: Callable[[], object]) -> int:
    libc.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != orders.supervisor_pid:  # it ended before the death signal was set
        raise OSError(errno.ESRCH, "the supervisor is gone")
    libc.set_no_new_privs()
    if orders.walls.signal_scope:
        ruleset = landlock.create_ruleset(handled_fs=landlock.ACCESS_FS_REFER, scoped=landlock.SCOPE_SIGNAL)
        _allow_moves(ruleset)
        _enter(ruleset)
    if process.clone_parent() == 0:
        guard(
            orders.supervisor_pidfd,
            orders.guardian_control,
            orders.supervisor_pid,
            scoped=orders.walls.signal_scope,
        )
    meanwhile()
    program, places = start.read_program(orders.from_supervisor)
    chosen = inner(orders.walls)
    if chosen is not None:
        ruleset = landlock.create_ruleset(chosen.files, chosen.network, chosen.scopes)
        if orders.walls.file_floor:
            add_places(ruleset, places)
        else:
            _allow_moves(ruleset)
        _enter(ruleset)
    if orders.walls.borrows:
        return seccomp.install_listener(program, wait_killable=orders.walls.wait_killable)
    return _install_and_hand_over(orders, program)


def _install_and_hand_over(orders: start.Orders, program: bytes) -> int:
    """Install the filter, and send its listener: what would carry it is trapped from then on, with nobody to answer.

    So a process is made beforehand that has no filter, and this one's table of descriptors, where the listener will be.
    When it is waited for, the table is this process's alone again.
    """
    numbers, number = os.pipe2(os.O_CLOEXEC)
    collects = gc.isenabled()
    gc.disable()
    ours = os.getpid()
    helper = process.clone_with_our_files()
    if helper == 0:
        _hand_over(ours, numbers, orders.guardian_control)
    listener = seccomp.install_listener(program, wait_killable=orders.walls.wait_killable)
    os.write(number, _NUMBER.pack(listener))
    status = process.wait_for_clone(helper)
    if status:
        raise OSError(errno.EPIPE, f"the listener could not be handed over (wait status {status})")
    os.close(numbers)
    os.close(number)
    if collects:
        gc.enable()
    return listener


def _hand_over(parent: int, numbers: int, control: int) -> NoReturn:
    """Run by the helper. Never returns: 0 is its status where the listener was sent."""
    try:
        libc.set_parent_death_signal(signal.SIGKILL)  # a pipe of which it has both ends never ends
        if os.getppid() == parent:
            start.hand_over(control, _NUMBER.unpack(os.read(numbers, _NUMBER.size))[0])
            libc.exit_now(0)
    finally:
        libc.exit_now(1)


class Ruleset(NamedTuple):
    """What a Landlock ruleset takes away, as far as no rule of it gives it back."""

    files: int
    network: int
    scopes: int


def inner(walls: start.Walls) -> Ruleset | None:
    """The domain of the tests, D1; None where there is nothing that it could do."""
    network = scopes = 0
    if walls.signal_scope:
        network = landlock.ACCESS_NET_BIND_TCP | landlock.ACCESS_NET_CONNECT_TCP if walls.network_floor else 0
        scopes = landlock.SCOPE_SIGNAL | landlock.SCOPE_ABSTRACT_UNIX_SOCKET
    if not walls.file_floor and not scopes:
        return None
    return Ruleset(FILES if walls.file_floor else landlock.ACCESS_FS_REFER, network, scopes)


def add_places(ruleset: int, places: start.Places) -> None:
    """Let a ruleset allow writing in these directories and to these files.

    A place that is gone by now is left out: writing there is refused then, which is the safe side.
    """
    for place, what in places:
        try:
            fd = real.open(place, _PLACE | (0 if what == "f" else _DIRECTORY))
        except OSError:
            continue
        try:
            # REFER, too, and the same for every directory: else moving a file between two of them is EXDEV.
            landlock.add_path_rule(ruleset, fd, FILES if what == "d" else landlock.ACCESS_FS_WRITE_FILE)
        finally:
            real.close(fd)


def _allow_moves(ruleset: int) -> None:
    """Let a ruleset that keeps no files from anybody say so.

    Once any ruleset of a process handles files, moving a file to another directory is denied by each of them that does
    not allow it, also by one that handles no files (measured on Linux 6.18; landlock(7), LANDLOCK_ACCESS_FS_REFER).
    Programs inside may have rulesets of their own.
    """
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        landlock.add_path_rule(ruleset, root, landlock.ACCESS_FS_REFER)
    finally:
        os.close(root)


def _enter(ruleset: int) -> None:
    try:
        landlock.restrict_self(ruleset)
    finally:
        os.close(ruleset)
