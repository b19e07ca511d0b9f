"""When the supervisor dies: every fenced process dies with it, and nothing that was refused is done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

from fence_core.kernel import credentials
from tests.end_to_end.support import Runs, is_fenced, state, until, without

LIVES = '''
    """Processes of every kind that would live on, all of them trying what is refused."""
    import ctypes, os, signal, socket, subprocess, sys, threading, time

    PORT = int(os.environ["PORT"])

    def try_everything():
        for attempt in (lambda: open("forbidden", "w").close(), lambda: os.mkdir("forbidden"),
                        lambda: socket.create_connection(("127.0.0.1", PORT), 1).close(),
                        lambda: os.symlink("x", "forbidden")):
            try:
                attempt()
            except OSError:
                pass

    def try_for_ever():
        while True:
            try_everything()

    def fork(then):
        pid = os.fork()
        if pid == 0:
            try:
                open(f"here-{os.getpid()}", "w").close()  # a trapped call: now the broker knows of it
                then()
            finally:
                os._exit(0)
        return pid

    def ignore_all():
        for number in set(signal.valid_signals()) - {9, 19}:
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: none
        try_for_ever()

    def daemon(then):
        def middle():
            os.setsid()
            fork(then)
        os.waitpid(fork(middle), 0)

    def shell():
        os.execvp("sh", ["sh", "-c", "exec 2>/dev/null; while :; do true > forbidden; done"])

    def thread_and_main_thread_gone():
        thread = threading.Thread(target=try_for_ever)
        thread.start()
        ctypes.CDLL(None).syscall(60)  # exit of the main thread alone

    def stopped():
        os.kill(os.getpid(), signal.SIGSTOP)

    def undumpable():
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        time.sleep(600)

    def test_lives(tmp_path_factory):
        fork(try_for_ever)
        fork(ignore_all)
        fork(stopped)
        fork(thread_and_main_thread_gone)
        daemon(try_for_ever)
        daemon(shell)
        daemon(lambda: daemon(ignore_all))
        daemon(undumpable)
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        for _ in range(4):
            threading.Thread(target=try_for_ever, daemon=True).start()
        open(f"ready-{os.getpid()}", "w").close()
        try_for_ever()
'''


KINDS = 10
"""Processes of one such test, its own included."""
FORKS = 14
"""Of one such test; those between a daemon and the test end at once."""


def start(runs: Runs, argv: Sequence[str], *, tests: int = 1) -> tuple[subprocess.Popen[Any], socket.socket]:
    """A run full of processes that try what is refused; a server that must never be reached."""
    (runs.directory / "test_lives.py").write_text(textwrap.dedent(LIVES), encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text(
        '[tool.fence]\ndeny_write = ["forbidden"]\nallow_local_outbound = false\n'
    )
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    process = runs.start(argv, env={"PORT": str(server.getsockname()[1])}, stdout=subprocess.DEVNULL)
    until(lambda: len(list(runs.directory.glob("ready-*"))) == tests, "the start of the tests")
    # Without signal scopes a process that nobody knows of, and whose parents have ended, is not found.
    until(lambda: len(list(runs.directory.glob("here-*"))) == FORKS * tests, "a trapped call of each process")
    sees_all = credentials.of(os.getpid()).may(credentials.CAP_SYS_PTRACE)
    kinds = KINDS if sees_all else KINDS - 1  # who has not the right cannot tell whose the undumpable one is
    until(lambda: len([pid for pid in runs.alive() if is_fenced(pid)]) >= kinds * tests, "the start of all processes")
    return process, server


def nothing_was_done(runs: Runs, server: socket.socket) -> None:
    assert not (runs.directory / "forbidden").exists()
    with server, pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed(runs: Runs, number: int) -> None:
    """Daemons of daemons, stopped processes, those that ignore everything: all are gone."""
    process, server = start(runs, runs.argv([], fenced=True))
    until(lambda: any(state(pid) == "T" for pid in runs.alive()), "one is stopped")
    process.send_signal(number)
    assert process.wait(20) == -number
    until(lambda: not runs.alive(), "the end of every process", 10)
    nothing_was_done(runs, server)


def test_killed_with_workers(runs: Runs) -> None:
    """The same with two workers of pytest-xdist."""
    runs.load("xdist")
    process, server = start(runs, runs.argv(["--dist", "each", "--tx", "2*popen"], fenced=True), tests=2)
    process.kill()
    process.wait(20)
    until(lambda: not runs.alive(), "the end of every process", 10)
    nothing_was_done(runs, server)


def test_group_killed(runs: Runs) -> None:
    """`kill -9` of the whole process group takes supervisor and tests at once; the daemons follow."""
    process, server = start(runs, runs.argv([], fenced=True))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
    until(lambda: not runs.alive(), "the end of every process", 10)
    nothing_was_done(runs, server)


def test_guardian_cannot_be_reached(runs: Runs) -> None:
    """Tests can end neither the guardian nor the supervisor, and cannot trace or stop them."""
    (runs.directory / "test_it.py").write_text(
        textwrap.dedent("""
        import ctypes, os, signal, pytest

        def outside():
            supervisor = os.getppid()
            siblings = open(f"/proc/{supervisor}/task/{supervisor}/children").read().split()
            return [supervisor, *(int(pid) for pid in siblings if int(pid) != os.getpid())]

        def test_it():
            others = outside()
            assert len(others) >= 2
            for pid in others:
                for number in (0, signal.SIGCONT, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
                    with pytest.raises(PermissionError):
                        os.kill(pid, number)
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.ptrace(16, pid, 0, 0) == -1 and ctypes.get_errno() == 1  # PTRACE_ATTACH
                for name in ("mem", "io"):
                    with pytest.raises(OSError):
                        open(f"/proc/{pid}/{name}", "rb").read(1)
                with pytest.raises(OSError):
                    os.readlink(f"/proc/{pid}/fd/0")
        """),
        encoding="utf-8",
    )
    ended = runs.pytest()
    if ended.status:  # to an ordinary user the kernel may not let such processes be traced anyway (Yama)
        ended.has("call: trace .*, a process outside", "FAILED test_it.py::test_it - fence: ")


def test_killed_without_signal_scopes(runs: Runs) -> None:
    """Kernels before Landlock ABI 6: the guardian ends what the broker has told it of, and all its children.

    Here that is everything, as each process makes a trapped call or has a living parent.
    """
    process, server = start(runs, without(runs, "landlock_scopes"))
    process.kill()
    process.wait(20)
    until(lambda: not runs.alive(), "the end of every process", 10)
    nothing_was_done(runs, server)


def test_leftovers_without_signal_scopes(runs: Runs) -> None:
    """A daemon is found, named and ended at the end of the session all the same."""
    (runs.directory / "test_it.py").write_text(
        "import subprocess\ndef test(): subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    )
    ended = runs.command(*without(runs, "landlock_scopes", "-q"))
    assert ended.status == 0, ended
    assert "sleep 600" in ended.err
    assert "test_it.py::test" in ended.err
