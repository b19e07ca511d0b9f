"""``scope = "test"``: the Landlock layer of a test's process, and whom the broker takes for such a process."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.faults import faulty
from tests.end_to_end.support import Runs

FORKED = ("--fence", "--fence-scope=test")

BLIND = """
from fence_core.broker import processes
processes.Process.may_write = lambda *args: True
"""
NARROWED = """
import pathlib
import pytest

def test_before():
    pathlib.Path("shut/before").touch()

@pytest.mark.fence(deny_write=["./shut"])
def test_there():
    pathlib.Path("shut/there").touch()

@pytest.mark.fence(deny_write=["./shut"])
def test_beside():
    pathlib.Path("free/beside").touch()

def test_later():
    pathlib.Path("shut/later").touch()
"""
PLACES = """
[tool.fence]
extends = "default-deny"
allow_write = ["./shut", "./free", "/dev/null"]
"""


@pytest.mark.needs("kernel:landlock")
@pytest.mark.parametrize(("scope", "outcome"), [("test", "FAILED"), ("session", "PASSED")])
def test_a_narrower_policy_has_a_floor(runs: Runs, scope: str, outcome: str) -> None:
    """With a broker that lets everything through, a place that the marker shuts is shut by the kernel, for that test.

    The control is a run in one process, where the session's own ceiling is all that there is.
    """
    for name in ("shut", "free"):
        (runs.directory / name).mkdir()
    (runs.directory / "pyproject.toml").write_text(PLACES)
    ended = faulty(runs, BLIND, NARROWED, "-s", "--basetemp=free/base", f"--fence-scope={scope}", "-rA")
    assert set(ended.outcomes()) == {
        f"{outcome} test_it.py::test_there",
        *(f"PASSED test_it.py::test_{name}" for name in ("before", "beside", "later")),
    }, ended
    assert (runs.directory / "shut" / "there").exists() == (scope == "session")


@pytest.mark.needs("kernel:landlock")
def test_a_test_cannot_look_into_pytest(fenced: Fenced) -> None:
    """A layer keeps whoever is under it from tracing, and so from writing, processes that are not."""
    run = fenced.run(
        """
        import os
        import pytest

        PYTEST = os.getpid()

        def test_apart():
            with pytest.raises(PermissionError):
                os.readlink(f"/proc/{PYTEST}/cwd")
            assert os.readlink("/proc/self/cwd")

        @pytest.mark.fence(scope="session")
        def test_together():
            if os.fork() == 0:
                os._exit(0 if os.readlink(f"/proc/{PYTEST}/cwd") else 1)
            assert os.wait()[1] == 0
        """,
        flags=FORKED,
    )
    run.clean("test_apart", "test_together")


def test_a_test_may_stop_what_a_fixture_started(fenced: Fenced) -> None:
    """And reach it: its pipes, its socket with an abstract name."""
    run = fenced.run(
        """
        import os, signal, socket, subprocess, sys
        import pytest

        SERVER = '''
        import socket, sys
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\\\\0fence-test-" + sys.argv[1])
        listener.listen()
        print("ready", flush=True)
        while True:
            listener.accept()[0].send(b"hello")
        '''

        @pytest.fixture(scope="session")
        def server():
            with subprocess.Popen(
                [sys.executable, "-c", SERVER, str(os.getpid())], stdout=subprocess.PIPE
            ) as process:
                assert process.stdout.readline() == b"ready\\n"
                yield process
                assert process.wait() == -signal.SIGTERM

        def test_talk(server):
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"\\0fence-test-{os.getppid()}")
                assert line.recv(9) == b"hello"

        def test_stop(server):
            os.kill(server.pid, signal.SIGTERM)
        """,
        flags=FORKED,
    )
    run.clean("test_talk", "test_stop")
    assert run.status == 0, run


def test_too_many_layers(fenced: Fenced) -> None:
    """Sixteen is all that the kernel stacks: a test beyond goes without one of its own, judged by the broker."""
    run = fenced.run(
        """
        import ctypes, os, pathlib, struct
        import pytest
        from here import OUTSIDE

        @pytest.fixture(scope="session", autouse=True)
        def many():
            syscall = ctypes.CDLL(None, use_errno=True).syscall
            attribute = struct.pack("=Q", 1 << 12)  # making symbolic links
            ruleset = syscall(444, attribute, len(attribute), 0)
            while syscall(446, ruleset, 0) == 0:
                pass
            assert ctypes.get_errno() == 7  # E2BIG
            os.close(ruleset)

        def test_it():
            pathlib.Path("here").touch()

        def test_refused():
            with pytest.raises(PermissionError):
                pathlib.Path(OUTSIDE, "there").touch()
        """,
        policy=ONLY_HERE,
        flags=FORKED,
    )
    run.clean("test_it")
    run.refused("test_refused", f"write {fenced.outside}/there")


def test_nobody_else_is_taken_for_pytest(fenced: Fenced) -> None:
    """What a test starts, and what it forks, gets nothing by knocking, and cannot have others taken for it."""
    run = fenced.run(
        """
        import json, os, subprocess, sys

        KNOCK = '''
        import json, os, sys

        def ask(**request):
            line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
            os.write(line, json.dumps(request).encode() + b"\\\\n")
            answer = json.loads(os.read(line, 65536))
            os.close(line)
            return answer

        for pid in (os.getpid(), os.getppid(), 1, 99999999999999999999):
            try:
                os.open(f"/proc/fence/test/{pid}", os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                pass
        layer = {"allow_write": ["/"]}, {"name": "me", "file": "", "line": None, "at": []}
        print(json.dumps([ask(op="policy", layers=[layer]), ask(op="ceiling", policy=0)]))
        '''

        def answers():
            return json.loads(subprocess.run([sys.executable, "-c", KNOCK], stdout=subprocess.PIPE).stdout)

        def test_program():
            for answer in answers():
                assert answer == {"error": "only a pytest process may ask this"}

        def test_announced():
            # Announced by the test, which is pytest: a program all the same, as soon as it is executed.
            process = subprocess.Popen(
                [sys.executable, "-c", "input()\\n" + KNOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            try:
                os.open(f"/proc/fence/test/{process.pid}", os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                pass
            for answer in json.loads(process.communicate(b"go\\n")[0]):
                assert answer == {"error": "only a pytest process may ask this"}

        def test_fork_that_executes():
            reading, writing = os.pipe()
            release, wait = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.read(release, 1)
                os.dup2(writing, 1)
                os.execv(sys.executable, [sys.executable, "-c", KNOCK])
            try:
                os.open(f"/proc/fence/test/{pid}", os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                pass
            os.write(wait, b".")
            os.close(writing)
            for answer in json.loads(os.read(reading, 65536)):
                assert answer == {"error": "only a pytest process may ask this"}
            os.waitpid(pid, 0)
        """,
        flags=FORKED,
    )
    run.clean("test_program", "test_announced", "test_fork_that_executes")


def test_on_whose_account(fenced: Fenced) -> None:
    """A program that outlives its test, and its process, is that test's; the test that runs answers for a fixture's."""
    run = fenced.run(
        """
        import os, subprocess, sys
        import pytest
        from here import OUTSIDE

        WAIT = f"input(); open({OUTSIDE!r} + '/' + __import__('sys').argv[1], 'w')"

        @pytest.fixture(scope="session")
        def wide():
            os.mkfifo("go")
            os.mkfifo("over")
            process = subprocess.Popen(
                [sys.executable, "-c", WAIT, "wide"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            yield process
            process.communicate(b"go\\n")

        def test_first(wide):
            with open("go", "r+b", 0) as go, open("over", "r+b", 0) as over:
                subprocess.Popen([sys.executable, "-c", WAIT, "left"], stdin=go, stdout=over, stderr=subprocess.DEVNULL)

        def test_second(wide):
            with open("over", "rb") as over, open("go", "wb", 0) as go:
                go.write(b"go\\n")
                over.read()  # until it has ended: the session asks for its violations then

        def test_third(wide):
            pass
        """,
        policy=ONLY_HERE.replace('"/dev/tty"]', '"/dev/tty"]\nleftovers = "wait"'),
        flags=FORKED,
    )
    found = sorted((v.what.rpartition("/")[2], v.nodeid, v.phase) for v in run.ledger)
    assert found == [("left", "test_it.py::test_first", "call"), ("wide", "test_it.py::test_third", "teardown")], run
    assert fenced.untouched()
