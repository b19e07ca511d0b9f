"""A command on a terminal: jobs, keys, sizes, and where our lines come."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import sys
import termios

import pytest

from tests.end_to_end.command.conftest import Command
from tests.end_to_end.support import Terminal

PROMPT = "ready> "
SHELL = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
ENV = {"PS1": PROMPT, "HISTFILE": None, "PROMPT_COMMAND": None}

SIZE = """
import os, signal

def tell(*signal):
    size = os.get_terminal_size(0)
    print("size", size.lines, size.columns, flush=True)
    os._exit(0)

signal.signal(signal.SIGWINCH, tell)
print("begun", flush=True)
signal.pause()
"""

pytestmark = pytest.mark.needs("program:bash")


def terminal(fence: Command, *argv: str) -> Terminal:
    return Terminal(fence.runs, argv, env=ENV)


def test_jobs_of_a_shell_inside(fence: Command) -> None:
    shown = terminal(fence, *fence.argv(*SHELL))
    shown.expect(PROMPT)
    shown.type("sleep 300\n")
    shown.key(termios.VSUSP)
    shown.expect("Stopped")
    shown.expect(PROMPT)
    shown.type("fg\n")
    shown.expect("^sleep 300")
    shown.key(termios.VINTR)
    shown.expect(PROMPT)
    shown.type("echo status $?\n")
    shown.expect("^status 130")
    shown.expect(PROMPT)
    shown.type("exit 7\n")
    assert shown.end().status == 7


def test_the_fence_is_a_job_of_a_shell_outside(fence: Command) -> None:
    shown = terminal(fence, *SHELL)
    shown.expect(PROMPT)
    shown.type(" ".join([*fence.argv("sh", "-c", "'echo begun; exec sleep 300'"), "\n"]))
    shown.expect("^begun")
    shown.key(termios.VSUSP)
    shown.expect("Stopped")
    shown.expect(PROMPT)
    shown.type("fg\n")
    shown.expect("^.*sleep 300'")
    shown.key(termios.VINTR)
    shown.expect(PROMPT)
    shown.type("echo status $?\n")
    shown.expect("^status 130")
    shown.expect(PROMPT)
    shown.type("exit\n")
    shown.end()


def test_the_size_follows(fence: Command) -> None:
    shown = terminal(fence, *fence.argv(sys.executable, "-c", SIZE))
    shown.expect("^begun")
    fcntl.ioctl(shown._master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    shown.expect("^size 33 77")
    assert shown.end().status == 0


def test_a_hint_where_somebody_reads_it(fence: Command) -> None:
    for words, hint in (
        (["-c", "touch x"], "^fence: 1 action was refused; run with -m to see it\r$"),
        (["-c", "touch x; touch y"], "^fence: 2 actions were refused; run with -m to see them\r$"),
    ):
        shown = terminal(fence, *fence.argv(*words))
        shown.expect(hint)
        assert shown.end().status == 1
    shown = terminal(fence, *fence.argv("true"))
    assert shown.end().out == ""


RAW = """
import os, sys, termios, tty

before = termios.tcgetattr(0)
tty.setraw(0)
try:
    open("x", "w")
except PermissionError:
    pass
os.write(1, b"raw")
os.read(0, 1)
termios.tcsetattr(0, termios.TCSADRAIN, before)
os.write(1, b"cooked\\n")
os.read(0, 1)
"""


def test_a_terminal_that_a_program_has_taken_over_is_left_alone(fence: Command) -> None:
    shown = terminal(fence, *fence.argv("-m", sys.executable, "-c", RAW))
    assert "[fence" not in shown.expect("raw")
    shown.type("x")
    said = shown.expect(r"EACCES \(.*\)\r\n")
    assert "cooked" in said
    assert re.search(r"^\[fence:file\] ", said.partition("cooked")[2].lstrip("\r\n"))
    shown.type("x\n")
    assert shown.end().status == 0


def test_a_terminal_that_is_left_taken_over(fence: Command) -> None:
    """The lines come at the end, each at the beginning of one."""
    program = RAW.partition("termios.tcsetattr")[0].replace('open("x", "w")', 'os.mkdir("x")')
    shown = terminal(fence, *fence.argv("-m", sys.executable, "-c", program))
    shown.expect("raw")
    shown.type("x")
    shown.expect(r"\[fence:file\] .* mkdir .* EACCES \(.*\)\r\n")
    assert shown.end().status == 0


def test_a_hang_up_ends_it(fence: Command) -> None:
    shown = terminal(fence, *fence.argv("sh", "-c", "echo begun; exec sleep 300"))
    shown.expect("^begun")
    shown.hang_up()
    assert shown.end().status == -signal.SIGHUP
    assert os.path.isdir(fence.directory)
