"""Whoever does it and is gone in the same breath is reported all the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("program:cc")
def test_program_that_ends_with_its_call(fenced: Fenced, probe: Callable[..., Path]) -> None:
    program = probe("exit_calls")
    run = fenced.run(
        f"""
        import errno, subprocess
        from here import AWAY, PORT

        def test_away():
            assert subprocess.run([{str(program)!r}, AWAY, "443"]).returncode == errno.EACCES

        def test_away_unwatched():
            processes = [subprocess.Popen([{str(program)!r}, AWAY, "444"]) for _ in range(10)]
            assert [process.wait() for process in processes] == [errno.EACCES] * 10

        def test_loopback():
            assert subprocess.run([{str(program)!r}, "127.0.0.1", str(PORT)]).returncode == 0
        """
    )
    run.refused("test_away", "connect 198.51.100.7:443/tcp", by=["exit_calls"])
    run.refused("test_away_unwatched", "connect 198.51.100.7:444/tcp", by=["exit_calls"], count=10)
    run.clean("test_loopback")


def test_forked_child_that_exits_at_once(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, socket
        from here import AWAY

        def test_child():
            if os.fork() == 0:
                try:
                    socket.socket().connect_ex((AWAY, 443))
                finally:
                    os._exit(7)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
        """
    )
    run.refused("test_child", "connect 198.51.100.7:443/tcp", by=[Path(sys.executable).name])


@pytest.mark.parametrize(
    ("how", "status"),
    [("os._exit(0)", 1), ("os._exit(5)", 1), ("os._exit(42)", 42), ("os.kill(os.getpid(), 9)", -9)],
)
def test_pytest_itself_ends_abruptly(fenced: Fenced, how: str, status: int) -> None:
    """Nobody in pytest can tell any more: the supervisor does, and "all is well" is not what the run ends with."""
    run = fenced.run(
        f"""
        import os, socket
        from here import AWAY

        def test_it():
            socket.socket().connect_ex((AWAY, 443))
            {how}
        """
    )
    assert "test_it.py::test_it: connect 198.51.100.7:443/tcp" in run.err
    assert run.status == status


def test_pytest_that_ends_abruptly_and_did_nothing(fenced: Fenced) -> None:
    """The control: then the status is what it was."""
    run = fenced.run("import os\ndef test_it(): os._exit(0)")
    assert (run.status, run.err) == (0, "")


def test_crash(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import ctypes, socket
        from here import AWAY

        def test_it():
            socket.socket().connect_ex((AWAY, 443))
            ctypes.string_at(0)
        """,
        "-p",
        "no:faulthandler",
    )
    assert "test_it.py::test_it: connect 198.51.100.7:443/tcp" in run.err
    assert run.status == -11
