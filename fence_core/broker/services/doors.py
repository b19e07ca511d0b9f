"""Who knocks at the doors of the fence (`fence_core/link/doors.py`), and what is handed out there.

Run by the supervisor. Unfenced such opens fail: procfs lets nobody create files.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker.reply import HandOver, Reply
from fence_core.link import doors

if TYPE_CHECKING:
    from fence_core.broker.processes import Process, ProcessTable
    from fence_core.broker.services.recorder import Recorder

__all__ = ["Doors"]


class Doors:
    """One for all processes."""

    def __init__(self, processes: ProcessTable, recorder: Recorder, control: Callable[[Process], int | None]) -> None:
        """`control` opens a control line: the end for the process, None where it has too many."""
        self._processes = processes
        self._recorder = recorder
        self._control = control

    def open(self, process: Process, raw: bytes) -> Reply:
        """The answer to the open of a door."""
        if raw == doors.CONTROL:
            line = self._control(process)
            return errno.EMFILE if line is None else HandOver(line, cloexec=True)
        if raw == doors.PAGE and process.workers and process.workers[-1].page_fd >= 0:
            # Once: whoever has it mapped needs no descriptor, and nor do we.
            fd, process.workers[-1].page_fd = process.workers[-1].page_fd, -1
            return HandOver(fd, cloexec=True)
        if raw == doors.STACK and process.workers:
            return HandOver(self._recorder.open_pipe(process), cloexec=True)
        if raw == doors.LINES and process.workers and process.workers[-1].stream < 0:
            from fence_core.broker.services.stream import open_stream  # for a command in a command

            return HandOver(open_stream(process.workers[-1]), cloexec=True)
        # Nothing to hand over: that the call is made says all there is to say.
        pid = doors.pid_of_test(raw)
        if pid is not None:
            self._processes.expect_test(process, pid)
        return errno.ENOENT
