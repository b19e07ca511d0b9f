"""Calls that change what a process is: a program started, a root or namespace entered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.broker.reply import CONTINUE, Reply

if TYPE_CHECKING:
    from fence_core.broker.handlers.files import Arguments
    from fence_core.broker.loop import Broker


def execve(broker: Broker, tid: int, args: Arguments) -> Reply:
    """Nothing is refused here yet. Stopping is what counts: a new program is bound to the test that starts it while
    its parent is still there, and the stack signal, which would now kill it, is forgotten."""
    process = broker.processes.find(tid)
    process.stacks = None
    process.forget_memory(for_exec=True)
    return CONTINUE


def change_root(broker: Broker, tid: int, args: Arguments) -> Reply:
    """chroot(2), setns(2): from now on "/" may be another directory for some process of ours."""
    broker.processes.find(tid)
    broker.resolver.foreign_roots = True
    return CONTINUE
