"""Way out: a daemon that outlives its test, and one that outlives the session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced

# A double fork in a session of its own: nothing leads back to the test but what the fence remembers.
DAEMON = """
import os, subprocess, sys
from here import AWAY, HELLO, PORT

PROGRAM = '''
import os, socket, sys
from here import AWAY, HELLO, PORT

if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open("go") as go:  # a FIFO: waits until somebody opens it for writing
    go.read()
with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
    hello = s.recv(99) == HELLO
with socket.socket() as s:
    error = s.connect_ex((AWAY, 443))
with open("done", "w") as done:
    done.write(f"{hello} {error}")
'''

def start():
    os.mkfifo("go")
    os.mkfifo("done")
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)

def let_go():
    with open("go", "w"):
        pass
    with open("done") as done:
        return done.read()
"""


def test_daemon_that_outlives_its_test(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import daemon

        def test_that_starts_it():
            daemon.start()

        def test_during_which_it_acts():
            assert daemon.let_go() == "True 13"

        def test_after():
            pass
        """,
        files={"daemon.py": DAEMON},
    )
    run.clean("test_during_which_it_acts", "test_after")
    (found,) = run.ledger
    assert (found.what, found.phase, found.late) == ("connect 198.51.100.7:443/tcp", "call", True)
    assert found.nodeid == "test_it.py::test_that_starts_it"
    # Its report had been made when the daemon acted; the summary and the exit status know better.
    assert run.report("test_that_starts_it")["outcome"] == "passed"
    assert run.status == 1
    assert "by a process that outlived it" in run.out


def test_daemon_of_a_fixture_acts_in_a_later_phase(fenced: Fenced) -> None:
    """It stays with the phase that started it, though its test is still running."""
    run = fenced.run(
        """
        import daemon, pytest

        @pytest.fixture
        def service():
            daemon.start()

        def test_it(service):
            assert daemon.let_go() == "True 13"
        """,
        files={"daemon.py": DAEMON},
    )
    (found,) = run.attempts("test_it")
    assert (found.what, found.phase, found.late) == ("connect 198.51.100.7:443/tcp", "setup", False)
    # The setup's report is out by then: the next one carries it.
    run.blamed("test_it")


def test_daemon_that_outlives_the_session(fenced: Fenced) -> None:
    """It is named and ended."""
    run = fenced.run(
        """
        import os, subprocess, sys

        def test_leaves_it_behind():
            ready, told = os.pipe()
            subprocess.Popen(
                ["setsid", sys.executable, "-c", f"import os, time; os.write({told}, b'x'); time.sleep(600)"],
                pass_fds=[told])
            os.read(ready, 1)
        """
    )
    assert run.status == 0
    assert "ended 1 process that outlived the session" in run.err
    assert "started by test_it.py::test_leaves_it_behind" in run.err


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_forked_child_that_outlives_its_test(fenced: Fenced, how: str) -> None:
    """No exec ever tells the broker of it: it is bound when it is forked."""
    run = fenced.run(
        f"""
        import multiprocessing, os, socket
        from here import AWAY

        go, let_go = os.pipe()
        done, tell = os.pipe()

        def child():
            os.read(go, 1)
            with socket.socket() as s:
                s.connect_ex((AWAY, 443))
            os.write(tell, b"x")

        def test_that_forks():
            for _ in range(20):  # some of them get no processor before the next test begins
                if {how!r} == "os.fork":
                    if os.fork() == 0:
                        child()
                        os._exit(0)
                else:
                    multiprocessing.get_context("fork").Process(target=child).start()

        def test_during_which_they_act():
            os.write(let_go, b"x" * 20)
            for _ in range(20):
                assert os.read(done, 1) == b"x"
        """
    )
    run.clean("test_during_which_they_act")
    (found,) = run.ledger
    assert (found.nodeid, found.late, found.count) == ("test_it.py::test_that_forks", True, 20)
    assert run.status == 1


def test_background_job_of_a_shell(fenced: Fenced) -> None:
    """When the job's program is started its shell is long gone: only the mark it has inherited tells whose it is."""
    run = fenced.run(
        """
        import os, sys
        from here import AWAY

        def test_that_starts_it():
            os.mkfifo("go")
            os.mkfifo("done")
            assert os.system(f"(read line < go; {sys.executable} late.py) &") == 0

        def test_during_which_it_acts():
            with open("go", "w") as go:
                go.write("now\\\\n")
            with open("done") as done:
                assert done.read() == "13"
        """,
        files={
            "late.py": """
            import socket
            from here import AWAY

            with socket.socket() as s, open("done", "w") as done:
                done.write(str(s.connect_ex((AWAY, 443))))
            """
        },
    )
    run.clean("test_during_which_it_acts")
    (found,) = run.ledger
    assert (found.nodeid, found.phase, found.late) == ("test_it.py::test_that_starts_it", "call", True)
    assert run.status == 1


def test_a_fork_does_not_mark_what_later_tests_start(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, subprocess, sys
        from here import AWAY

        CODE = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 443)))"

        def test_that_forks():
            if os.fork() == 0:
                os._exit(0)
            os.wait()

        def test_that_starts_a_program():
            assert subprocess.run([sys.executable, "-c", CODE, AWAY]).returncode == 13

        def test_that_starts_one_by_fork():
            program = subprocess.Popen([sys.executable, "-c", CODE, AWAY], preexec_fn=lambda: None)
            assert program.wait() == 13
        """
    )
    run.clean("test_that_forks")
    for test in "test_that_starts_a_program", "test_that_starts_one_by_fork":
        run.refused(test, "connect 198.51.100.7:443/tcp", by=[Path(sys.executable).name])
