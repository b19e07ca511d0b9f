"""Signals from other processes, and ends by signals: a fenced run is one process to whoever started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.support import Ended, Runs, assert_same, is_fenced, state, until

WAITS = """
    import os, time
    import pytest

    @pytest.fixture
    def resource():
        yield
        os.write(1, b"torn down\\n")

    def test_waits(resource):
        os.write(1, b"ready\\n"), [time.sleep(0.01) for _ in range(6000)]

    def test_never():
        os.write(1, b"went on\\n")
"""


def ready(process: subprocess.Popen[Any], what: str = "ready\n") -> str:
    """Read up to the line with which the inner test says that it is waiting now."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if what in line:
            return "".join(seen)
    raise AssertionError(f"ended before it said {what!r}: {seen} {process.communicate()}")


def parent(pid: str) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[1])


def witnessed(process: subprocess.Popen[Any]) -> bool:
    """Whether the run, started by this process or by its child, has the process that tells signals to the group from
    those to itself. It comes when the tests are under way: earlier, signals are passed on in any case."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "fence-witness\n":
                above = parent(pid)
                if process.pid in (above, parent(str(above))):
                    return True
        except OSError:
            continue  # it has ended
    return False


def signalled(runs: Runs, send: Callable[[subprocess.Popen[Any]], object], *args: str, fenced: bool) -> Ended:
    """What becomes of a run to which `send` is applied while its test waits."""
    process = runs.start(runs.argv(("-s", "-p", "no:cacheprovider", *args), fenced=fenced))
    before = ready(process)
    if fenced:
        until(lambda: witnessed(process), "the run knows who is meant by signals")
    send(process)
    ended = runs.finish(process)
    return Ended(ended.status, before + ended.out, ended.err)


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "ALRM", "RTMIN"])
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
def test_signal(pytester: pytest.Pytester, runs: Runs, name: str, to_group: bool) -> None:
    """Sent to the process the user started or to its whole group: the same words, the same end."""
    pytester.makepyfile(WAITS)
    number = getattr(signal, f"SIG{name}")

    def send(process: subprocess.Popen[Any]) -> None:
        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)

    plain, fenced = (signalled(runs, send, fenced=way) for way in (False, True))
    assert "went on" not in plain.out
    assert plain.status == (2 if name == "INT" else -number)
    assert_same(plain, fenced)


def test_interrupted_twice(pytester: pytest.Pytester, runs: Runs) -> None:
    """The second SIGINT arrives while the first one's teardown is under way."""
    pytester.makepyfile(
        """
        import os, time, pytest

        @pytest.fixture
        def slow():
            yield
            wait("tearing down")

        def test_waits(slow):
            wait("ready")

        def wait(text):
            __tracebackhide__ = True
            os.write(1, text.encode() + b"\\n"), time.sleep(60)
        """
    )

    def send(process: subprocess.Popen[Any]) -> None:
        process.send_signal(signal.SIGINT)
        ready(process, "tearing down\n")
        process.send_signal(signal.SIGINT)

    plain, fenced = (signalled(runs, send, fenced=way) for way in (False, True))
    assert_same(plain, fenced)


def test_handler_of_the_test(pytester: pytest.Pytester, runs: Runs) -> None:
    """A test that handles SIGTERM itself gets it, with as many as are sent, and the run goes on."""
    pytester.makepyfile(
        """
        import os, signal

        def test_handles():
            told, tell = os.pipe()
            signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"got\\n"), os.write(tell, b"x")))
            os.write(1, b"ready\\n")
            for _ in range(3):
                os.read(told, 1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        """
    )

    def send(process: subprocess.Popen[Any]) -> None:
        for n in range(3):
            process.send_signal(signal.SIGTERM)
            if n < 2:
                ready(process, "got\n")

    plain, fenced = (signalled(runs, send, fenced=way) for way in (False, True))
    assert fenced.status == plain.status == 0


@pytest.mark.parametrize(("name", "status"), [("INT", 2), ("TERM", -15)])
def test_timeout(pytester: pytest.Pytester, runs: Runs, name: str, status: int) -> None:
    """`timeout` sends its signal to the command and to the whole group; the tests get one.

    Without a fence they may get both, and then pytest is interrupted in its own report.
    """
    pytester.makepyfile(WAITS)
    argv = [str(shutil.which("timeout")), "-s", name, "60", *runs.argv(("-s", "-q"), fenced=True)]
    process = runs.start(argv)
    before = ready(process)
    until(lambda: witnessed(process), "the run knows who is meant by signals")
    process.send_signal(getattr(signal, f"SIG{name}"))  # passed on as if the time were over
    ended = runs.finish(process)
    assert (ended.status, ended.err) == (status, ""), ended
    if name == "INT":
        assert "torn down" in before + ended.out
        ended.has("^!+ KeyboardInterrupt !+$")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGBUS])
def test_death_of_the_tests(pytester: pytest.Pytester, runs: Runs, number: int) -> None:
    """pytest killed by a signal of its own making ends the run with that signal, and without a word of ours."""
    pytester.makepyfile(f"import os\ndef test_dies(): os.write(1, b'x\\n'); os.kill(os.getpid(), {number})")
    runs.same("-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", status=-number)


def test_no_second_core(pytester: pytest.Pytester, runs: Runs) -> None:
    """The end by SIGABRT leaves at most the core that the tests' own process leaves."""
    pytester.makepyfile("import os\ndef test_dies(): os.abort()")
    plain, fenced = runs.both("-p", "no:cacheprovider")
    assert plain.status == fenced.status == -signal.SIGABRT
    assert fenced.err.count("Fatal Python error: Aborted") == 1


def test_reader_goes_away(pytester: pytest.Pytester, runs: Runs) -> None:
    """`pytest | head -1`: a broken pipe ends both alike."""
    pytester.makepyfile(
        """
        import os, select

        def test_prints():
            for n in range(100_000):
                os.write(1, b"line of a test\\n")
        """
    )
    ends = []
    for fenced in (False, True):
        process = runs.start(runs.argv(("-s", "-p", "no:cacheprovider"), fenced=fenced))
        ready(process, "line of a test")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        ends.append((process.wait(60), err.count("BrokenPipeError"), "fence" in err))
    assert ends[0] == ends[1]


def test_in_a_pipeline(pytester: pytest.Pytester, runs: Runs) -> None:
    """A shell's own plumbing: pipe, status, redirection."""
    pytester.makepyfile("def test_a(): pass\ndef test_b(): assert 0")
    words = " ".join(runs.argv(("-q", "-p", "no:cacheprovider"), fenced=True))
    ended = runs.command(
        "sh", "-c", f"{words} | head -1; {words} > out.txt 2>&1; echo status $?; wait; tail -1 out.txt"
    )
    assert ended.status == 0
    ended.has(r"^\.F", "^status 1$", "^1 failed, 1 passed")


@pytest.mark.parametrize(
    ("stop", "wake"),
    [("TSTP group", "CONT group"), ("TSTP", "CONT"), ("STOP group", "CONT group"), ("STOP group", "CONT")],
)
def test_stopped_and_continued(pytester: pytest.Pytester, runs: Runs, stop: str, wake: str) -> None:
    """The tests stop when the process the user started is stopped, and go on when it does."""
    pytester.makepyfile(
        """
        import os, signal

        def test_waits():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            os.write(1, b"ready\\n")
            signal.sigwait({signal.SIGUSR1})
        """
    )
    # In our own session: SIGTSTP does not stop a group that nobody could continue.
    argv = runs.argv(("-s", "-p", "no:cacheprovider"), fenced=True)
    process = runs.start(argv, start_new_session=False, preexec_fn=os.setpgrp)
    ready(process)
    (child,) = [pid for pid in runs.alive() if is_fenced(pid)]

    def send(what: str) -> None:
        name, _, group = what.partition(" ")
        number = getattr(signal, f"SIG{name}")
        os.killpg(process.pid, number) if group else process.send_signal(number)

    send(stop)
    until(lambda: state(process.pid) == state(child) == "T", "both are stopped", 10)
    send(wake)
    until(lambda: state(process.pid) in "SR" and state(child) in "SR", "both go on", 10)
    process.send_signal(signal.SIGUSR1)
    assert runs.finish(process).status == 0


def test_ignored_signals_stay_ignored(pytester: pytest.Pytester, runs: Runs) -> None:
    """`nohup` and a background job of a script: what was ignored at the start is ignored."""
    pytester.makepyfile(
        """
        import os, signal

        def test_ignores():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.write(1, b"ready\\n")
            signal.sigwait({signal.SIGUSR1})
        """
    )
    process = runs.start(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *runs.argv(("-s",), fenced=True)],
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}),
    )
    ready(process)
    process.send_signal(signal.SIGHUP)
    os.killpg(process.pid, signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert runs.finish(process).status == 0


def test_handlers_set_before(runs: Runs) -> None:
    """A script around `pytest.main()` keeps the handlers it set before."""
    (runs.directory / "test_it.py").write_text("def test(): pass\n", encoding="utf-8")
    (runs.directory / "script.py").write_text(
        "import pytest, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(40 + status))\n"
        "status = pytest.main(['--fence', '-q', '-p', 'pytest_fence.plugin'])\n"
        # Not one long sleep: a signal just before that is seen by Python after it.
        "print('ready', flush=True)\nfor _ in range(6000): time.sleep(0.01)\n",
        encoding="utf-8",
    )
    process = runs.start([sys.executable, "script.py"])
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert runs.finish(process).status == 40
