"""The witness process: tells the supervisor which signals were sent to the whole process group.

Run by a process of its own, a child of the supervisor that does nothing else. It imports only `kernel` and
`link.start`, and must not touch anything of pytest.

``kill -INT -<group>``, ``timeout`` and shells send a signal to every process of the group. It has reached the tests
then, and the supervisor must not pass it on: a second SIGINT interrupts pytest in the middle of its report (measured).
A signal for the supervisor alone has to be passed on, and nothing in its siginfo tells the two apart. But a third
process of the group, to which nobody has any reason to send something, gets only what everybody gets.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import NoReturn

from fence_core.kernel import fds, libc, signals
from fence_core.link.start import NOTE


def run(notes: int, supervisor_pid: int, watched: Iterable[int]) -> NoReturn:
    """Never returns. `notes`: write end of a pipe; all that is `watched` is blocked already."""
    try:
        _watch(notes, supervisor_pid, frozenset(watched))
    finally:
        libc.exit_now(0)


def _watch(notes: int, supervisor_pid: int, watched: frozenset[int]) -> None:
    libc.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != supervisor_pid:  # it ended before the death signal was set
        return
    fds.keep_only(notes)  # above all no copy of the listener: with one left, trapped calls would wait for ever
    libc.set_name("fence-witness")
    while True:
        info = signal.sigwaitinfo(watched)
        if info.si_code == signals.SI_USER and info.si_pid != supervisor_pid:
            os.write(notes, NOTE.pack(info.si_signo, info.si_pid))
