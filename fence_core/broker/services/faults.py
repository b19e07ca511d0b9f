"""Faults of the fence itself: what failed is refused, and the run says so."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker.judging import Objection
from fence_core.broker.services.recorder import Attempt
from fence_core.errors import KernelCallError
from fence_core.kernel import arch
from fence_core.policy.decision import impossible
from fence_core.policy.requests import Fault
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.processes import Process, ProcessTable
    from fence_core.broker.services.recorder import Recorder

__all__ = ["Faults"]

_OF_ARGUMENTS = (errno.EFAULT, errno.ENAMETOOLONG, errno.EBADF, errno.EMSGSIZE, errno.ENOTSOCK)


class Faults:
    """Written down like violations, on account of whose call it was, or of what pytest is doing."""

    def __init__(self, recorder: Recorder, processes: ProcessTable, root: Process) -> None:
        self._recorder = recorder
        self._processes = processes
        self._root = root
        """The first process of the session that the user has started."""

    def failed(self, call: Call, error: Exception) -> int:
        """A handler has raised: the error number to answer, and a report where it is a fault of ours.

        This is the one place that knows of callers that have died meanwhile. Handlers read a good deal about theirs in
        /proc, and what they read goes bit by bit when a thread ends: its status is missing (ENOENT) or cut short (no
        such field), its namespaces, directories and descriptors lead nowhere, its memory is nobody's. Its call is
        taken back by the kernel before any of that goes, so it can be asked whether that was the reason.
        """
        if isinstance(error, KernelCallError | ProcessLookupError) and error.errno in _OF_ARGUMENTS:
            return error.errno  # what the kernel says about such an argument
        if isinstance(error, OSError | ValueError | LookupError) and not call.waits():
            return errno.EACCES  # nobody is there to read the answer
        return self.fault(call.tid, call.number, error)

    def in_the_broker(self, error: Exception) -> None:
        """Something failed that was no call's doing."""
        self.fault(self._root.pid, -1, error)

    def fault(self, tid: int, number: int, error: Exception) -> int:
        """The error number with which this call is refused."""
        calls = arch.current().calls
        name = next((name for name, its in calls.items() if its == number), "the broker")
        if _cannot_inspect(error):
            what = f"{name} by a process that the fence cannot inspect (undumpable)"
            rule = "what cannot be inspected is refused: see docs/known-limitations.md"
        else:
            import traceback  # a supervisor without faults does without

            what = f"fence error in {name}: {type(error).__name__}: {error}"
            where = traceback.extract_tb(error.__traceback__)
            at = f"{os.path.basename(where[-1].filename)}:{where[-1].lineno}" if where else ""
            rule = _our_fault(at, "the call was refused")
        self._note(self._processes.by_pid.get(tid) or self._root, tid, what, rule)
        return errno.EACCES

    def in_the_filter(self, opener: tuple[Process, int] | None, what: str, at: str, done: str) -> None:
        """The filter's own failure. `opener`: process and thread whose connection it was, if it was anybody's."""
        process, tid = opener or (self._root, self._root.pid)
        self._note(process, tid, f"fence error in the filter: {what}", _our_fault(escape(at), done))

    def _note(self, process: Process, tid: int, what: str, rule: str) -> None:
        try:
            fault = Objection(process.account(), Fault(what), impossible(rule))
            self._recorder.note(Attempt(process, tid, fault, errno.EACCES))
        except Exception:
            self._recorder.lost_one = True
            import traceback

            traceback.print_exc()


def _our_fault(at: str, done: str) -> str:
    """The rule that a fault of ours is reported with."""
    return f"a fault of the fence itself{f' at {at}' if at else ''}: {done}, please report it"


def _cannot_inspect(error: Exception) -> bool:
    """Whether the kernel has kept us from looking into a process: at its memory or descriptors, or below /proc."""
    if not isinstance(error, OSError) or error.errno not in (errno.EPERM, errno.EACCES):
        return False
    return isinstance(error, KernelCallError) or os.fsdecode(error.filename or "").startswith("/proc/")
