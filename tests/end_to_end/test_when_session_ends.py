"""Way out: what runs when all tests are over: `pytest_sessionfinish`, `pytest_unconfigure`, atexit."""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import Runs

CONNECT = """
import socket
from here import AWAY, HELLO, PORT

def call_home():
    with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:  # the control
        assert s.recv(99) == HELLO
    with socket.socket() as s:
        return s.connect_ex((AWAY, 443))  # home
"""
WHAT = "connect 198.51.100.7:443/tcp"
LINE = "return s.connect_ex((AWAY, 443))  # home"


def test_sessionfinish(fenced: Fenced) -> None:
    run = fenced.run(
        "def test_fine(): pass",
        files={
            "conftest.py": CONNECT
            + """
def pytest_sessionfinish():
    call_home()
"""
        },
    )
    run.outside(WHAT, phase="finish", line=LINE)
    run.clean("test_fine")
    assert "finishing the session" in run.out


def test_terminal_summary_and_unconfigure(fenced: Fenced) -> None:
    run = fenced.run(
        "def test_fine(): pass",
        files={
            "conftest.py": CONNECT
            + """
def pytest_unconfigure():
    call_home()
"""
        },
    )
    assert [(v.what, v.nodeid, run.line_of(v)) for v in run.ledger] == [(WHAT, "", LINE)]
    assert run.status == 1
    assert WHAT in run.out
    run.clean("test_fine")


def test_atexit(fenced: Fenced) -> None:
    """Nobody is left in pytest to tell of it: the supervisor does, and the exit status says so."""
    run = fenced.run(
        CONNECT
        + """
import atexit

def test_fine():
    atexit.register(call_home)
"""
    )
    run.clean("test_fine")
    assert run.ledger == []  # when pytest was done there was nothing
    assert "1 passed" in run.out
    assert WHAT in run.err
    assert run.status == 1


def test_atexit_of_a_clean_run(fenced: Fenced) -> None:
    """The control: what is done on loopback at exit changes nothing."""
    run = fenced.run(
        CONNECT.replace("AWAY, 443", '"127.0.0.1", PORT')
        + """
import atexit

def test_fine():
    atexit.register(lambda: print("said hello", call_home(), flush=True))
"""
    )
    assert "said hello 0" in run.out
    assert (run.status, run.err) == (0, "")


def test_interrupted_session(fenced: Fenced) -> None:
    """The status of an interruption stays, and the violation is shown."""
    run = fenced.run(
        CONNECT
        + """
import pytest

def test_stops():
    call_home()
    pytest.exit("enough", returncode=9)

def test_never():
    pass
"""
    )
    assert run.status == 9
    assert WHAT in run.out


def test_each_moment_with_its_own_line(fenced: Fenced) -> None:
    """The same target once more, when the first was shown already: another line, and counted from there."""
    run = fenced.run(
        "def test_fine(): pass",
        files={
            "conftest.py": CONNECT
            + """
import atexit

def pytest_sessionfinish():
    call_home()

def pytest_unconfigure():
    call_home()
    call_home()
    atexit.register(call_home)
"""
        },
    )
    summary, title, late = run.out.partition("after the summary")
    assert title, run
    assert "in pytest_sessionfinish" in summary, run
    assert "in pytest_unconfigure" not in summary
    assert "in pytest_unconfigure" in late
    assert "in pytest_sessionfinish" not in late
    assert f"{WHAT}, 2 times" in late
    (told,) = [line for line in run.err.splitlines() if WHAT in line]
    assert "times" not in told, run


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(0)", 0),
        ("os._exit(0)", 0),
        ("sys.exit(5)", 5),
        ("sys.exit(7)", None),
        ("sys.exit(status)", None),
    ],
)
def test_script_that_goes_on(runs: Runs, end: str, status: int | None) -> None:
    """What was reported is not told again; that the script took no notice is."""
    (runs.directory / "test_it.py").write_text(
        "import socket\ndef test_a():\n    with socket.socket() as s: s.connect_ex(('198.51.100.7', 443))\n"
    )
    (runs.directory / "script.py").write_text(
        "import os, sys, pytest\nstatus = pytest.main(['--fence', '-p', 'pytest_fence.plugin'])\nsys.stdout.flush()\n"
        + end
    )
    ended = runs.command(sys.executable, "script.py")
    assert WHAT in ended.out
    assert "not shown above" not in ended.err
    if status is None:
        assert (ended.status, ended.err) == (7 if "7" in end else 1, "")
        return
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert line.startswith(
        f"fence: the script ended with {status} although the run failed; its exit status is 1 now (test_it.py::test_a: "
        f"{WHAT}; no rule in network.allowed_domains allows it"
    ), ended
