"""Who may be fenced: what a fork would lose, and what the kernel has to offer.

Run by the process that the user started, before anything is done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from fence_core.errors import FenceUnavailable
from fence_core.kernel import arch, features, process

NEEDED = ("seccomp", "pidfd_open", "ptrace")
"""Without these there is no fence at all; the others make it better."""
_SHOWN = 10


def obstacles() -> tuple[str, ...]:
    """Why this process cannot be fenced by a fork, one sentence each; empty where it can."""
    import threading  # a process of one's own has but one thread, and does not ask

    found: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        found.append(f"this is not the main thread but {threading.current_thread().name!r}")
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    others = [tid for name in os.listdir("/proc/self/task") if (tid := int(name)) != os.getpid()]
    for tid in others[:_SHOWN]:
        found.append(f"another thread is running: {names.get(tid, 'not started by Python')} (native id {tid})")
    for pid in process.children()[:_SHOWN]:
        try:
            name = process.program_name(pid)
        except OSError:
            continue
        found.append(f"a child process exists already: {name} (pid {pid})")
    return tuple(found)


def known_interpreter(flags: str) -> None:
    """Raise `FenceUnavailable` for a build of Python (`sys.abiflags`) that the fence was never tried on.

    Stacks are read, and forks made, by what the interpreter lock keeps still meanwhile.
    """
    if "t" in flags:
        remedy = "Use the ordinary build of the same version."
        raise FenceUnavailable("free-threaded Python", "the fence does not support this build", remedy)


def check_layers(required: Iterable[str]) -> features.Features:
    """What this kernel offers. Raises FenceUnavailable where something needed, or required by name, is missing."""
    known_interpreter(sys.abiflags)
    arch.current()  # raises on a machine whose calls we do not know
    found = features.detect()
    found.require(NEEDED)
    found.require(name for name in required if name)
    return found
