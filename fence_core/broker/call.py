"""A trapped call: who makes it, what it asks for, and what of ours it keeps open until it is answered.

One object for each call, made by the loop. Handlers take it alone, and reach what else they need by `services`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.reply import CONTINUE
from fence_core.broker.services.recorder import Attempt, tell
from fence_core.kernel import memory, namespaces
from fence_core.policy.requests import Read, Run, Write

if TYPE_CHECKING:
    from fence_core.broker.calls.arguments import Arguments
    from fence_core.broker.paths.resolve import Located
    from fence_core.broker.processes import Process
    from fence_core.broker.services.all import Services
    from fence_core.policy.requests import Request


class Call:
    """What a thread has asked the kernel for, and waits to be told."""

    __slots__ = ("args", "id", "kept", "number", "process", "services", "tid")

    process: Process
    """The one that the thread belongs to; set before a handler sees the call."""

    def __init__(self, services: Services, notification: tuple[int, ...]) -> None:
        """`notification`: as `seccomp.Listener.receive` gives it."""
        self.services = services
        self.id = notification[0]
        self.tid = notification[1]
        self.number = notification[3]
        self.args: Arguments = notification[5:]  # type: ignore[assignment]
        self.kept: list[int] | None = None
        """Descriptors of ours that are needed until it is answered, which may be after other calls (`Wait`)."""

    def waits(self) -> bool:
        """Whether the caller is still there and waits: only then was what was read from it its own."""
        return self.services.listener.is_valid(self.id)

    def keep(self, fd: int) -> None:
        """Close this descriptor of ours once the call is answered."""
        if self.kept is None:
            self.kept = []
        self.kept.append(fd)

    def close(self) -> None:
        for fd in self.kept or ():
            os.close(fd)
        self.kept = None

    # ------------------------------------------------------------ what the caller has

    def read_string(self, address: int) -> bytes:
        """A path argument. Raises KernelCallError as `memory.read_string` does, ProcessLookupError."""
        own = self.process.memory
        if own >= 0:
            try:
                # Short at the end of what is mapped, so no need to look where pages end.
                data = os.pread(own, 256, address)
                end = data.find(0)
                if end >= 0:
                    return data[:end]
            except (OSError, OverflowError):
                pass
        return memory.read_string(self.tid, address)

    def read(self, address: int, length: int) -> bytes:
        """Exactly so many bytes of the caller's memory. Raises as `read_string` does."""
        own = self.process.memory
        if own >= 0:
            try:
                data = os.pread(own, length, address)
                if len(data) == length:
                    return data
            except (OSError, OverflowError):
                pass
        return memory.read(self.tid, address, length)

    def borrow(self, fd: int) -> int:
        """A copy of a descriptor of the caller. Raises KernelCallError."""
        return self.process.borrow(self.tid, fd)

    def identify(self, fd: int) -> tuple[int, bool]:
        """A descriptor for what one of the caller is open on; see `Process.identify`."""
        return self.process.identify(self.tid, fd)

    def locate(self, dirfd: int, raw: bytes, *, follow: bool) -> Located:
        """What a path names for the caller; see `Resolver.locate`."""
        return self.services.resolver.locate(self, dirfd, raw, follow=follow)

    def same_network(self) -> bool:
        return namespaces.is_ours(self.tid, "net")

    # ------------------------------------------------------------ what the policies say

    def judged(self, path: str) -> str:
        """The path that rules speak of: ``/proc/<pid>/x`` of the caller or of another fenced process is judged as
        ``/proc/self/x``."""
        if not path.startswith("/proc/"):
            return path
        pid, _, rest = path[6:].partition("/")
        if pid.isdigit() and (int(pid) == self.process.pid or self.services.processes.is_inside(int(pid))):
            return f"/proc/self/{rest}"
        return path

    def allowed(self, request: Request) -> bool:
        return judging.allowed(self.process.account(), request)

    def enforcing(self) -> bool:
        """Whether any session above this process refuses what its policy does not allow."""
        return judging.enforces(self.process.account())

    def lets_learn(self, request: Request) -> bool:
        """Whether it may happen since all that object to it only learn."""
        return judging.lets_learn(self.process.account(), request)

    def passes(self, request: Request) -> bool:
        """Whether it is allowed, or all that object to it only learn; then it is taken down."""
        return self.allowed(request) or (self.lets_learn(request) and self.refuse(request, errno.EACCES) == CONTINUE)

    def learns(self) -> bool:
        return judging.learns(self.process.account())

    def ask(self, request: Request, number: int) -> int:
        """`CONTINUE` where every session allows it; else as `refuse`."""
        return CONTINUE if self.allowed(request) else self.refuse(request, number)

    def refuse(self, request: Request, number: int, *, quietly: int = 0) -> int:
        """Record a violation with every session whose policy does not allow it; the error number to answer.

        `CONTINUE` where all of those only audit. `quietly`: the number for what is refused without being a violation,
        if that is another.
        """
        if not self.waits():
            return number
        if isinstance(request, Write | Read | Run):
            request = request.at(self.judged(request.path))
        found = judging.objections(self.process.account(), request)
        answer = CONTINUE
        noted = []
        for objection in found:
            decision = objection.decision
            given = (quietly or number) if decision.quiet else number
            if objection.audited and not decision.always:
                given = 0
            answer = answer or given
            if decision.quiet:
                judging.ignore(objection.binding, decision)
            else:
                noted.append(Attempt(self.process, self.tid, objection, given))
        for attempt in noted:
            tell(self.services.recorder, attempt, happens=answer == CONTINUE)
        return answer if found else number
