"""The order of work in the forked child, before any code of a test or conftest runs.

Run by the fenced child (and, for a while, by the guardian it forks). Imports only `kernel` and `errors`. A step that
fails ends the process: the supervisor is told why, and nothing runs unfenced.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

from fence_core.errors import FenceError
from fence_core.kernel import landlock, libc, process, seccomp

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
PROGRAM_MAX = 4096 * 8
"""Bytes of the longest filter the kernel takes (BPF_MAXINSNS)."""


class Orders(NamedTuple):
    """What the supervisor has prepared before the fork."""

    wait_killable: bool
    signal_scope: bool
    network_floor: bool
    """Landlock refuses TCP bind and connect that the broker has not made itself."""
    supervisor_pid: int
    supervisor_pidfd: int
    to_supervisor: int
    """Pipe: the listener's number, or why there is none."""
    from_supervisor: int
    """Pipe: the seccomp filter, and one byte once the supervisor is about to answer."""
    guardian_control: int


def raise_fence(orders: Orders, guard: Callable[..., object], meanwhile: Callable[[], object]) -> None:
    """Fence this process and everything it will ever start. Returns when the broker answers.

    `meanwhile`: what can be done while the supervisor makes the filter.
    """
    try:
        listener = _raise(orders, guard, meanwhile)
    except BaseException as error:  # whatever it is: this process must not go on as an unfenced pytest
        why = str(error) if isinstance(error, OSError | FenceError) else f"{type(error).__name__}: {error}"
        os.write(orders.to_supervisor, b"!" + why.encode("utf-8", "replace")[:4000])
        libc.exit_now(1)
    # The number only: sendmsg, which could carry the descriptor, is trapped already, by a broker not yet there.
    os.write(orders.to_supervisor, b"%d" % listener)
    ready = os.read(orders.from_supervisor, 1)
    os.close(listener)
    for fd in (orders.to_supervisor, orders.from_supervisor, orders.supervisor_pidfd, orders.guardian_control):
        os.close(fd)
    if not ready:
        libc.exit_now(1)


def _raise(orders: Orders, guard: Callable[..., object], meanwhile: Callable[[], object]) -> int:
    libc.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != orders.supervisor_pid:  # it ended before the death signal was set
        raise OSError(errno.ESRCH, "the supervisor is gone")
    libc.set_no_new_privs()
    if orders.signal_scope:
        _enter(landlock.create_ruleset(scoped=landlock.SCOPE_SIGNAL))
    if process.clone_parent() == 0:
        guard(
            orders.supervisor_pidfd,
            orders.guardian_control,
            orders.supervisor_pid,
            scoped=orders.signal_scope,
        )
    if orders.signal_scope:
        network = landlock.ACCESS_NET_BIND_TCP | landlock.ACCESS_NET_CONNECT_TCP if orders.network_floor else 0
        scopes = landlock.SCOPE_SIGNAL | landlock.SCOPE_ABSTRACT_UNIX_SOCKET
        _enter(landlock.create_ruleset(handled_net=network, scoped=scopes))
    meanwhile()
    # It fits the pipe's buffer, so it arrives in one piece.
    program = os.read(orders.from_supervisor, PROGRAM_MAX)
    if not program:
        raise OSError(errno.ESRCH, "the supervisor is gone")
    return seccomp.install_listener(program, wait_killable=orders.wait_killable)


def _enter(ruleset: int) -> None:
    try:
        landlock.restrict_self(ruleset)
    finally:
        os.close(ruleset)
