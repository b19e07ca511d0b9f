"""Way out: what runs when all tests are over: `pytest_sessionfinish`, `pytest_unconfigure`, atexit."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced

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
