"""Forked children, so that what a test does to a process for ever ends with it.

A child runs one function and sends its result, or the text of what it raised, through a pipe. An alarm ends
it should it hang, a death signal should this process vanish, and it leaves by libc's `_exit`.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from fence_core.kernel import arch, bpf, libc, pidfd, seccomp

SECONDS = 30  # far beyond any test, below the suite's own timeout


class ChildFailedError(AssertionError):
    """The child raised; its traceback is the message."""


class Child:
    """A forked process that runs `function` and hands back its result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._result, result = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, result)
        os.close(result)
        self.pidfd = pidfd.open_pidfd(self.pid)
        self.status: int | None = None

    @staticmethod
    def _run(function: Callable[[], Any], result: int) -> None:
        try:
            libc.set_parent_death_signal(signal.SIGKILL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            try:
                answer = pickle.dumps((True, function()))
            except BaseException:
                answer = pickle.dumps((False, traceback.format_exc()))
            while answer:
                answer = answer[os.write(result, answer) :]
        finally:
            libc.exit_now(0)

    def result(self) -> Any:
        """Wait for the end of the child; return what the function returned."""
        parts = []
        while part := os.read(self._result, 65536):
            parts.append(part)
        self.wait()
        if not parts:
            raise ChildFailedError(f"the child sent nothing; wait status {self.status}")
        good, answer = pickle.loads(b"".join(parts))
        if not good:
            raise ChildFailedError(answer)
        return answer

    def wait(self) -> int:
        """Wait for the end; return the wait status."""
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)
        return self.status

    def kill(self) -> None:
        if self.status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self.wait()
        os.close(self._result)
        os.close(self.pidfd)


class Supervised(Child):
    """A child under a filter, and this process's listener for it."""

    def __init__(self, rules: Mapping[int, bpf.Action], function: Callable[[], Any], wait_killable: bool) -> None:
        read, write = os.pipe()
        program = bpf.assemble(rules)

        def fenced() -> Any:
            libc.set_no_new_privs()
            listener = seccomp.install_listener(program, wait_killable=wait_killable)
            os.write(write, struct.pack("=i", listener))  # an untrapped call: nobody would answer it
            os.read(go_read, 1)
            os.close(listener)  # or it would hang, not fail, when this process's copy is gone
            return function()

        go_read, go_write = os.pipe()
        super().__init__(fenced)
        os.close(write)
        (number,) = struct.unpack("=i", os.read(read, 4))
        self.listener = seccomp.Listener(pidfd.get_fd(self.pidfd, number))
        os.write(go_write, b"!")
        for fd in (read, go_read, go_write):
            os.close(fd)

    def next(self) -> tuple[int, ...]:
        """Wait for a notification, and fail rather than hang when the child ends without one."""
        poll = select.poll()
        poll.register(self.listener.fd, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        events = dict(poll.poll(SECONDS * 1000))
        if not events.get(self.listener.fd, 0) & select.POLLIN:
            self.result()
            raise AssertionError("the child ended without a notification")
        received = self.listener.receive()
        assert received is not None
        return received

    def close(self) -> None:
        if self.listener.fd >= 0:
            os.close(self.listener.fd)
        super().close()

    def close_listener(self) -> None:
        os.close(self.listener.fd)
        self.listener.fd = -1


def ended(fd: int, seconds: float = SECONDS) -> bool:
    """Whether the process of a pidfd ends within so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def become_user() -> None:
    """Drop root, if we have it, in this child: to uid 1000, still inspectable as a program that user started."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        libc.set_dumpable(True)  # setresuid switched it off


def install_filter(program: bytes) -> None:
    """A filter without notifications, for this thread and its descendants. Raises KernelCallError."""
    seccomp._install(program, seccomp.FILTER_FLAG_SPEC_ALLOW)


def adopt_orphans() -> None:
    """Be the parent of descendants whose own has ended, instead of init: PR_SET_CHILD_SUBREAPER(2const)."""
    libc.syscall(arch.current().calls["prctl"], 36, 1, call="prctl")
