"""Processes that outlive the session: named and ended, or waited for, and fenced until the end."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs, is_fenced, state, until

DAEMONS = """
    import os, signal, subprocess, sys, time

    def daemon(code):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
            os._exit(0)
        os.waitpid(pid, 0)
"""


def write(runs: Runs, text: str, config: str = "") -> None:
    (runs.directory / "test_it.py").write_text(textwrap.dedent(DAEMONS) + textwrap.dedent(text), encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text(f"[tool.fence]\n{config}\n")


def own_children(supervisor: int) -> list[int]:
    """Fenced processes that this one has started itself, and that live: pytest."""
    names = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [pid for pid in map(int, names) if is_fenced(pid) and state(pid) not in "ZX"]


def test_named_and_ended(runs: Runs) -> None:
    """By its words, its pid and the test that started it, on stderr; the exit status is that of the tests."""
    write(
        runs,
        """
        def test_starts():
            subprocess.Popen(["sleep", "601"], start_new_session=True)
            daemon("import time; time.sleep(602)")

        def test_other():
            pass
        """,
    )
    ended = runs.pytest("-q")  # which would wait for no more than a fraction of what they sleep
    assert ended.status == 0, ended
    assert "ended 2 processes that outlived the session" in ended.err
    for words in ("sleep 601 ", "time.sleep(602)"):
        (line,) = [line for line in ended.err.splitlines() if words in line]
        assert "test_it.py::test_starts" in line
    assert "sleep" not in ended.out


def test_term_first(runs: Runs) -> None:
    """SIGTERM lets a daemon tidy up; what ignores it is killed, stopped or not."""
    write(
        runs,
        '''
        def test_starts():
            daemon("""if True:
                import signal, sys, time
                def end(*_):
                    open("tidied", "w").close()
                    sys.exit()
                signal.signal(signal.SIGTERM, end)
                open("ready-1", "w").close()
                time.sleep(600)""")
            daemon("""if True:
                import signal, time
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                open("ready-2", "w").close()
                time.sleep(600)""")
            daemon("""if True:
                import os, signal
                open("ready-3", "w").close()
                os.kill(os.getpid(), signal.SIGSTOP)""")
            while not all(os.path.exists(f"ready-{n}") for n in (1, 2, 3)):
                time.sleep(0.01)
        ''',
    )
    ended = runs.pytest("-q")
    assert ended.status == 0, ended
    assert "ended 3 processes" in ended.err
    assert (runs.directory / "tidied").exists()


def test_helpers_that_end_by_themselves(runs: Runs) -> None:
    """Resource trackers, fork servers and pools see that the session is over: nothing is said of them."""
    write(
        runs,
        """
        import multiprocessing
        from multiprocessing import shared_memory

        def test_helpers():
            context = multiprocessing.get_context("forkserver")
            process = context.Process(target=time.sleep, args=(0,))
            process.start()
            process.join()
            block = shared_memory.SharedMemory(create=True, size=8)
            block.close()
            block.unlink()
            subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE)
        """,
    )
    ended = runs.pytest("-q", "-W", "ignore")
    assert (ended.status, ended.err) == (0, ""), ended


def test_wait(runs: Runs) -> None:
    """`leftovers = "wait"`: the run ends when the last of them has, and what it tries until then is refused."""
    write(
        runs,
        '''
        def test_starts():
            daemon("""if True:
                import os, time
                while os.path.exists("go-on"):
                    time.sleep(0.01)
                open("allowed", "w").close()
                try:
                    os.mkdir("forbidden")
                except OSError:
                    pass""")
        ''',
        'leftovers = "wait"\ndeny_write = ["forbidden"]',
    )
    (runs.directory / "go-on").touch()
    process = runs.start(runs.argv(["-q"], fenced=True))
    assert process.stdout is not None
    for line in process.stdout:
        if "1 passed" in line:
            break
    until(lambda: not own_children(process.pid), "the end of the session itself")
    # Meanwhile another run, begun later, has been patient, and has ended what was left of it.
    write(runs, "def test_starts(): daemon('import time; time.sleep(600)')\n", 'leftovers = "end"')
    assert "ended 1 process " in runs.pytest("-q").err
    assert process.poll() is None
    (runs.directory / "go-on").unlink()
    ended = runs.finish(process)
    assert ended.status == 1, ended  # the late violation
    assert "mkdir" in ended.err
    assert "forbidden" in ended.err
    assert "test_it.py::test_starts" in ended.err
    assert (runs.directory / "allowed").exists()
    assert not (runs.directory / "forbidden").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_wait_is_interrupted(runs: Runs, number: int) -> None:
    """A signal to the run while it waits ends what is left, and the run."""
    write(runs, "def test_starts(): daemon('import time; time.sleep(600)')\n", 'leftovers = "wait"')
    process = runs.start(runs.argv(["-q"], fenced=True))
    assert process.stdout is not None
    for line in process.stdout:
        if "1 passed" in line:
            break
    until(lambda: not own_children(process.pid), "the end of the session itself")
    process.send_signal(number)
    ended = runs.finish(process)
    assert ended.status == -number
    assert "ended 1 process that outlived the session" in ended.err
    until(lambda: not runs.alive(), "the end of every process", 10)


def test_after_a_crash(runs: Runs) -> None:
    """pytest itself is killed: what it started is ended just the same, and the status is the signal's."""
    write(
        runs,
        """
        def test_starts():
            subprocess.Popen(["sleep", "603"], start_new_session=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    ended = runs.pytest("-q")
    assert ended.status == -9
    assert "sleep 603" in ended.err


def test_late_attempts(runs: Runs) -> None:
    """What a leftover tries between the end of the session and its own is refused, and fails the run."""
    write(
        runs,
        '''
        def test_starts():
            daemon("""if True:
                import os, signal, time
                def last(*_):
                    try:
                        os.mkdir("forbidden")
                    except OSError:
                        pass
                    os._exit(0)
                signal.signal(signal.SIGTERM, last)
                open("ready", "w").close()
                time.sleep(600)""")
            while not os.path.exists("ready"):
                time.sleep(0.01)
        ''',
        'deny_write = ["forbidden"]',
    )
    ended = runs.pytest("-q")
    assert ended.status == 1, ended
    ended.has("^1 passed")
    assert "test_it.py::test_starts: mkdir" in ended.err
    assert not os.path.exists(runs.directory / "forbidden")
