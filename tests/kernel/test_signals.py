"""Signals read from a descriptor, sent to a thread, and seen from outside."""

from __future__ import annotations

import errno
import os
import signal
import threading

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import libc, signals
from tests.kernel.children import ended


def test_range_of_real_time_signals() -> None:
    assert signals.SIGRTMIN == signal.SIGRTMIN
    assert signals.SIGRTMAX == signal.SIGRTMAX


def test_signals_sent_and_children_ended_are_read(in_child) -> None:
    def work() -> tuple[list[tuple[int, int, bool, int]], list[object]]:
        wanted = {signal.SIGUSR1, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        fd = signals.create_signalfd(wanted)
        empty = signals.read_signalfd(fd)
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
        os.kill(os.getpid(), signal.SIGUSR1)
        (user,) = signals.read_signalfd(fd)
        found = [(user.signo, user.code, user.pid == os.getpid(), user.status)]
        signals.tgkill(os.getpid(), threading.get_native_id(), signal.SIGUSR1)
        (thread,) = signals.read_signalfd(fd)
        found.append((thread.signo, thread.code, thread.pid == os.getpid(), thread.status))
        for end in (lambda: libc.exit_now(7), lambda: os.kill(os.getpid(), signal.SIGKILL)):
            pid = os.fork()
            if pid == 0:
                end()
            os.waitid(os.P_PID, pid, os.WEXITED)
            (child,) = signals.read_signalfd(fd)
            found.append((child.signo, child.code, child.pid == pid, child.status))
        return found, list(empty)

    found, empty = in_child(work)
    assert empty == []
    assert found == [
        (signal.SIGUSR1, signals.SI_USER, True, 0),
        (signal.SIGUSR1, -6, True, 0),
        (signal.SIGCHLD, os.CLD_EXITED, True, 7),
        (signal.SIGCHLD, os.CLD_KILLED, True, signal.SIGKILL),
    ]


def test_terminal_signal_comes_from_the_kernel(in_child) -> None:
    """How Ctrl-C is told from a kill: the first is for the whole foreground group, the second for us."""

    def work() -> list[tuple[int, int]]:
        import pty
        import termios

        master, slave = pty.openpty()
        os.setsid()
        import fcntl

        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        fd = signals.create_signalfd([signal.SIGINT], nonblocking=False)
        os.write(master, b"\x03")
        return [(info.signo, info.code) for info in signals.read_signalfd(fd)]

    assert in_child(work) == [(signal.SIGINT, signals.SI_KERNEL)]


def test_state_of_a_thread_seen_from_outside(start) -> None:
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

        def thread() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            os.write(ready[1], b"%d" % threading.get_native_id())
            os.read(go[0], 1)

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()

    child = start(work)
    tid = int(os.read(ready[0], 20))
    main, worker = signals.state(child.pid), signals.state(tid)
    assert not main.has_handler(signal.SIGUSR1)
    assert main.has_handler(signal.SIGUSR2)
    assert not worker.has_handler(signal.SIGUSR2)
    assert not main.has_handler(signal.SIGTERM)
    signals.tgkill(child.pid, tid, signal.SIGUSR2)
    os.kill(child.pid, signal.SIGUSR1)  # to the process; both threads block it
    worker = signals.state(tid)
    assert worker.pending_thread == signals.bit(signal.SIGUSR2)
    assert worker.pending_shared == signals.bit(signal.SIGUSR1)
    assert signals.state(child.pid).pending_thread == 0
    os.write(go[1], b"!")
    child.result()
    for fd in (*ready, *go):
        os.close(fd)


def test_tgkill_checks_that_the_thread_is_of_the_process(start) -> None:
    ready = os.pipe()
    child = start(lambda: (os.write(ready[1], b"!"), signal.pause()))
    os.read(ready[0], 1)
    with pytest.raises(KernelCallError) as caught:
        signals.tgkill(os.getpid(), child.pid, signal.SIGKILL)
    assert caught.value.errno == errno.ESRCH
    assert not ended(child.pidfd, 0)
    signals.tgkill(child.pid, child.pid, signal.SIGKILL)
    assert ended(child.pidfd)
    for fd in ready:
        os.close(fd)
