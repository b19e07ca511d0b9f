"""Sessions inside of a fence cost the supervisor nothing once they are over, and cannot be opened without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import Runs

GREET = """
import json, os, sys

CONFIG = {"mode": "enforce", "source": "x", "syntax": "toml", "base_dir": os.getcwd(), "host": "x", "policy": POLICY,
          "blame": "running", "parts": []}

def ask(**request):
    line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
    try:
        os.write(line, json.dumps(request).encode() + b"\\n")
        answer = b""
        while not answer.endswith(b"\\n"):
            answer += os.read(line, 65536)
        return json.loads(answer)
    finally:
        os.close(line)

def greet():
    return ask(op="hello", role="session", config=CONFIG, note=[0, 0])
"""

TEST = """
import json, os, subprocess, sys
import pytest
from fence_core.policy.model import Policy
from fence_core.policy.sources.wire import to_wire

SUPERVISOR = os.getppid()

def costs():
    '''Memory in KiB, and descriptors, as far as this user may see them.'''
    for _ in range(2):  # ends of processes are seen to before a call is
        open("flush", "w").close()
    text = open(f"/proc/{SUPERVISOR}/status").read()
    memory = int(text.split("VmRSS:")[1].split()[0])
    try:
        return memory, len(os.listdir(f"/proc/{SUPERVISOR}/fd"))
    except OSError:
        return memory, 0

def run(code):
    before = f"POLICY = json.loads({json.dumps(to_wire(Policy()))!r})"
    script = "import json\\n" + before + GREET + code
    return subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True).stdout
"""


def write_helpers(fenced: Fenced) -> None:
    (fenced.directory / "greeting.py").write_text(f"GREET = {GREET!r}\n{TEST}", encoding="utf-8")


def test_hellos_without_end(fenced: Fenced) -> None:
    """The number of sessions in one process is limited, which the answer says; all go with the process."""
    write_helpers(fenced)
    run = fenced.run(
        """
        from greeting import costs, run

        CODE = '''
        answers = [greet() for _ in range(3000)]
        good = sum("error" not in answer for answer in answers)
        print(good, answers[-1]["error"])
        '''

        def test_many():
            for _ in range(5):  # what the broker imports, and what it keeps of the last sessions, is not growth
                run(CODE)
            memory, descriptors = costs()
            assert run(CODE) == "32 32 fenced sessions are open in this process already\\n"
            more, now = costs()
            assert more - memory < 4000, "KiB"
            assert now <= descriptors + 4

        def test_others_after_it():
            assert run("print(sorted(greet()))").startswith("[")
        """
    )
    assert run.status == 0, run


def test_one_after_the_other(fenced: Fenced) -> None:
    """Many processes, each of which greets and ends without a word; and one that says goodbye each time."""
    write_helpers(fenced)
    run = fenced.run(
        """
        from greeting import costs, run

        CODE = '''
        import os
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                assert "error" not in greet()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        assert "error" not in greet()  # this one is a session of its own
        for _ in range(100):
            assert "error" not in greet()
            ask(op="bye")
        '''

        def test_it():
            run(CODE.replace("100", "65"))  # what is kept of the last ones is there by now
            memory, descriptors = costs()
            run(CODE)
            more, now = costs()
            assert more - memory < 4000, "KiB"  # 200 pages alone would be 12,800
            assert now <= descriptors + 4
        """
    )
    assert run.status == 0, run


def test_process_of_a_session_that_is_over(fenced: Fenced) -> None:
    """It is under that session's policy still, whoever else has come and gone."""
    write_helpers(fenced)
    run = fenced.run(
        """
        import os
        from greeting import run

        CODE = '''
        import ctypes, os
        libc = ctypes.CDLL(None)
        go, let_go = os.pipe()
        done, tell = os.pipe()

        def work():  # nobody has seen this process by the time that its session is over
            os.close(let_go)
            os.read(go, 1)
            try:
                os.close(os.open("inner", os.O_CREAT | os.O_WRONLY))
                os.write(tell, b"made")
            except PermissionError:
                os.write(tell, b"refused")
            libc._exit(0)

        if libc.fork() == 0:
            assert "error" not in greet()
            if libc.fork() == 0:
                if libc.fork() == 0:
                    work()
                libc._exit(0)
            os.wait()
            libc._exit(0)
        os.wait()
        assert "error" not in greet()
        for _ in range(OTHERS):
            assert "error" not in greet()
            ask(op="bye")
        os.write(let_go, b"x")
        print(os.read(done, 99).decode())
        '''

        def test_few():
            assert run(CODE.replace("OTHERS", "2")) == "refused\\n"

        def test_many():
            assert run(CODE.replace("OTHERS", "70")) == "refused\\n"

        def test_control():
            open("inner", "w").close()
        """
    )
    assert [run.report(test)["outcome"] for test in ("test_few", "test_many", "test_control")] == ["passed"] * 3, run


@pytest.mark.needs("user:root")  # nobody else sees the descriptors of a supervisor
def test_suite_of_a_plugin(runs: Runs) -> None:
    """Nested pytest runs, in this process and in others, leave no descriptor."""
    runs.load("pytester")
    (runs.directory / "conftest.py").write_text('pytest_plugins = ["pytester"]\n')
    (runs.directory / "test_it.py").write_text(
        """
import os
import pytest

SUPERVISOR = os.getppid()

@pytest.mark.parametrize("how", ["inprocess", "subprocess"])
def test_nested(pytester, how):
    pytester.makepyfile("def test(): pass")
    run = getattr(pytester, "runpytest_" + how)
    counts = []
    for _ in range(7):
        run("-p", "pytest_fence.plugin", "--fence", "-p", "no:cacheprovider").assert_outcomes(passed=1)
        counts.append(len(os.listdir(f"/proc/{SUPERVISOR}/fd")))
    # The first opens what is kept; and of what has just ended something may still be open.
    assert counts[-1] <= counts[1] + 3, counts
"""
    )
    ended = runs.pytest("-p", "no:cacheprovider", env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    assert ended.status == 0, ended
