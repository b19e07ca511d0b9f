"""At a terminal: the keys that send signals, job control, debuggers, and windows that are closed."""

from __future__ import annotations

import re
import shlex
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs, Terminal, assert_same, shown, state, until

WAITS = """
    import os, time
    import pytest

    @pytest.fixture
    def slow(request):
        yield
        if request.config.getoption("-k") == "twice":
            wait("tearing down")
        print("torn down")

    def test_twice(slow):
        wait("ready")

    def test_never():
        print("went on")

    def wait(text):
        __tracebackhide__ = True
        print(text, flush=True), time.sleep(60)
"""


def at_terminal(
    runs: Runs,
    args: Sequence[str],
    act: Callable[[Terminal], object],
    *,
    fenced: bool,
    env: dict[str, str] | None = None,
) -> Ended:
    """What a user at a terminal sees of a run with which `act` does something."""
    terminal = Terminal(runs, runs.argv(("-p", "no:cacheprovider", *args), fenced=fenced), env=env)
    act(terminal)
    return terminal.end()


def same_at_terminal(
    runs: Runs, args: Sequence[str], act: Callable[[Terminal], object], *, env: dict[str, str] | None = None
) -> Ended:
    plain, fenced = (at_terminal(runs, args, act, fenced=way, env=env) for way in (False, True))
    assert (fenced.status, shown(fenced.out)) == (plain.status, shown(plain.out)), f"{plain!r}\n{fenced!r}"
    return fenced


def test_ctrl_c(pytester: pytest.Pytester, runs: Runs) -> None:
    """Once: the test is interrupted, its fixtures are torn down, and the status is 2."""
    pytester.makepyfile(test_it=WAITS)

    def act(terminal: Terminal) -> None:
        terminal.expect("ready\r\n")
        terminal.key(termios.VINTR)

    ended = same_at_terminal(runs, ["-s"], act)
    assert ended.status == 2
    ended.has("torn down", "!! KeyboardInterrupt !!", "^=+ no tests ran")


def test_ctrl_c_twice(pytester: pytest.Pytester, runs: Runs) -> None:
    """The second one ends the teardown as well."""
    pytester.makepyfile(test_it=WAITS)

    def act(terminal: Terminal) -> None:
        terminal.expect("ready\r\n")
        terminal.key(termios.VINTR)
        terminal.expect("tearing down\r\n")
        terminal.key(termios.VINTR)

    ended = same_at_terminal(runs, ["-s", "-k", "twice"], act)
    assert ended.status == -2
    assert "torn down" not in ended.out


def test_ctrl_backslash(pytester: pytest.Pytester, runs: Runs) -> None:
    pytester.makepyfile(test_it=WAITS)

    def act(terminal: Terminal) -> None:
        terminal.expect("ready\r\n")
        terminal.key(termios.VQUIT)

    assert same_at_terminal(runs, ["-s"], act).status == -3


@pytest.mark.parametrize("fenced", [False, True])
def test_closed_window(pytester: pytest.Pytester, runs: Runs, fenced: bool) -> None:
    """SIGHUP ends the run; nothing fenced survives."""
    pytester.makepyfile(test_it=WAITS)
    terminal = Terminal(runs, runs.argv(["-s"], fenced=fenced))
    terminal.expect("ready\r\n")
    terminal.hang_up()
    assert terminal.end().status == -1
    until(lambda: not runs.alive(), "the end of all processes")


def test_closed_window_of_a_shell(pytester: pytest.Pytester, runs: Runs) -> None:
    """The same where the leader of the session is a shell, as in a terminal window."""
    pytester.makepyfile(test_it=WAITS)
    terminal = shell(runs)
    terminal.type(shlex.join(runs.argv(["-s"], fenced=True)) + "\n")
    terminal.expect("ready\r\n")
    terminal.hang_up()
    terminal.end()
    until(lambda: not runs.alive(), "the end of all processes")


def shell(runs: Runs) -> Terminal:
    terminal = Terminal(runs, ["sh", "-i"], env={"PS1": "PROMPT> ", "ENV": None})
    terminal.expect("^PROMPT> ")
    return terminal


def helper(pid: int) -> bool:
    """Whether this is a process of the fence itself, outside of what runs in the foreground."""
    return Path(f"/proc/{pid}/comm").read_text().startswith("fence-")


COUNTS = """
    import sys

    def test_counts():
        for line in iter(sys.stdin.readline, "end\\n"):
            print("got", line, end="", flush=True)
"""


@pytest.mark.parametrize("fenced", [False, True])
def test_job_control(pytester: pytest.Pytester, runs: Runs, fenced: bool) -> None:
    """Ctrl-Z, bg, fg: the run stops, cannot read from the terminal in the background, and goes on as if nothing was."""
    pytester.makepyfile(test_it=COUNTS)
    terminal = shell(runs)
    terminal.type(shlex.join(runs.argv(["-s", "-q"], fenced=fenced)) + "\n")
    terminal.type("one\n")
    terminal.expect("^got one")
    terminal.key(termios.VSUSP)
    terminal.expect("Stopped")
    terminal.expect("^PROMPT> ")
    terminal.type("echo the shell is $((40 + 2))\n")
    terminal.expect("^the shell is 42")
    terminal.type("fg\n")
    terminal.expect("pytest")
    terminal.type("two\n")
    terminal.expect("^got two")
    terminal.key(termios.VSUSP)
    terminal.expect("Stopped")
    terminal.expect("^PROMPT> ")
    terminal.type("bg; jobs\n")
    terminal.expect("^PROMPT> ")
    # Reading from the terminal stops a job in the background (SIGTTIN).
    own = [pid for pid in runs.alive() if pid != terminal.process.pid and not helper(pid)]
    assert len(own) == (2 if fenced else 1)
    until(lambda: all(state(pid) == "T" for pid in own), "both processes are stopped")
    terminal.type("fg\n")
    terminal.expect("pytest")
    terminal.type("three\nend\n")
    terminal.expect("^got three")
    terminal.expect("1 passed")
    terminal.expect("PROMPT> ")
    terminal.type("echo status $?; exit\n")
    terminal.expect("^status 0")
    assert terminal.end().status == 0


def test_background_job(pytester: pytest.Pytester, runs: Runs) -> None:
    """`pytest &` prints to the terminal, is waited for, and ends on its own."""
    pytester.makepyfile("def test(): print('in the background')")
    terminal = shell(runs)
    terminal.type(shlex.join(runs.argv(["-s", "-q"], fenced=True)) + " &\n")
    terminal.expect("in the background")
    terminal.expect("1 passed")
    terminal.type("wait $!; echo status $?; exit\n")
    terminal.expect("^status 0")
    terminal.end()


DEBUGS = """
    import pytest

    def test_fails():
        value = 41 + 1
        assert value == 0

    def test_breaks():
        value = 6 * 7
        breakpoint()
        assert value == 0

    def test_input():
        assert input("your name? ") == "Ann"
"""


@pytest.mark.parametrize("fenced", [False, True])
def test_pdb(pytester: pytest.Pytester, runs: Runs, fenced: bool) -> None:
    """--pdb and breakpoint(): prompt, commands, line editing, end of input, and Ctrl-C in the prompt."""
    pytester.makepyfile(test_it=DEBUGS)
    argv = runs.argv(["--pdb", "-p", "no:cacheprovider", "-k", "fails or breaks"], fenced=fenced)
    terminal = Terminal(runs, argv)
    terminal.expect(r"AssertionError")
    terminal.expect(r"^\(Pdb\) ")
    terminal.type("p value + 100\n")
    terminal.expect(r"^142")
    terminal.type("where\n")
    terminal.expect(r"test_it\.py\(5\)test_fails")
    terminal.expect(r"^\(Pdb\) ")
    terminal.type("c\n")
    terminal.expect(r"test_it\.py\(\d+\)test_breaks")
    terminal.expect(r"^\(Pdb\) ")
    terminal.key(termios.VINTR)
    terminal.expect(r"\(Pdb\) ")
    terminal.type("value = 0\n")
    terminal.expect(r"^\(Pdb\) ")
    terminal.type("c\n")
    ended = terminal.end()
    assert ended.status == 1
    ended.has("1 failed, 1 passed, 1 deselected")


@pytest.mark.parametrize("leave", ["q", "end of input", "Ctrl-C twice"])
def test_leaving_the_debugger(pytester: pytest.Pytester, runs: Runs, leave: str) -> None:
    """By command, by the end of input, by the keyboard."""
    pytester.makepyfile(test_it=DEBUGS)

    def act(terminal: Terminal) -> None:
        terminal.expect(r"^\(Pdb\) ")
        if leave == "q":
            terminal.type("q\n")
        elif leave == "end of input":
            terminal.key(termios.VEOF)
        else:
            terminal.type("import time; time.sleep(60)\n")
            terminal.expect("sleep\\(60\\)\r\n")
            terminal.key(termios.VINTR)
            terminal.expect(r"\(Pdb\) ")
            terminal.type("q\n")

    goes_on = leave == "end of input" and sys.version_info < (3, 14)  # since then that is leaving as well
    assert same_at_terminal(runs, ["-k", "breaks"], act).status == (1 if goes_on else 2)


def test_input_and_colours(pytester: pytest.Pytester, runs: Runs) -> None:
    """input(), colours and the width of the window are as without a fence."""
    pytester.makepyfile(test_it=DEBUGS)

    def act(terminal: Terminal) -> None:
        terminal.expect("your name\\? ")
        terminal.type("Ann\n")

    ended = same_at_terminal(runs, ["-s", "-k", "input", "--color=yes"], act, env={"TERM": "xterm", "PY_COLORS": "1"})
    assert ended.status == 0
    assert "\x1b[32m" in ended.out
    assert re.search("^.{0,30}=+ .*1 passed", ended.out, re.MULTILINE)


OPENS_TERMINALS = """
    import fcntl, os, pty, subprocess, sys, termios
    import pytest

    def test_openpty():
        master, slave = pty.openpty()
        os.write(slave, b"hello\\n")
        assert os.read(master, 99) == b"hello\\r\\n"
        name = os.ttyname(slave)
        with open(name, "w") as again:
            again.write("x\\n")
        assert os.read(master, 99) == b"x\\r\\n"
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.close(slave), os.close(master)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_fork():
        pid, fd = pty.fork()
        if pid == 0:
            os.execvp("sh", ["sh", "-c", "test -t 0 && echo a terminal; echo x > /dev/tty; exit 7"])
        seen = b""
        try:
            while chunk := os.read(fd, 99):
                seen += chunk
        except OSError:
            pass
        assert seen == b"a terminal\\r\\nx\\r\\n"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        os.close(fd)

    def test_interactive_python():
        master, slave = pty.openpty()
        child = subprocess.Popen([sys.executable, "-q"], stdin=slave, stdout=slave, stderr=slave, close_fds=True,
                                 env={**os.environ, "TERM": "dumb", "PYTHON_BASIC_REPL": "1"})
        os.close(slave)
        os.write(master, b"print(6 * 7)\\nexit()\\n")
        seen = b""
        try:
            while chunk := os.read(master, 999):
                seen += chunk
        except OSError:
            pass
        assert b"42" in seen
        assert child.wait() == 0
        os.close(master)
"""


def test_terminals_in_tests(pytester: pytest.Pytester, runs: Runs) -> None:
    """Tests make terminals of their own."""
    pytester.makepyfile(OPENS_TERMINALS)
    runs.same("-rA", "-p", "no:cacheprovider")


@pytest.mark.parametrize("fenced", [False, True])
def test_terminal_settings_survive(pytester: pytest.Pytester, runs: Runs, fenced: bool) -> None:
    """A test that is killed leaves the terminal as it found it, or as a plain run would leave it."""
    pytester.makepyfile(
        """
        import os, termios

        def test_dies():
            attributes = termios.tcgetattr(0)
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, attributes)
            os.kill(os.getpid(), 9)
        """
    )
    terminal = Terminal(runs, ["sh", "-c", shlex.join(runs.argv(["-s"], fenced=fenced)) + "; echo over; read x"])
    terminal.expect("^over")
    assert not terminal.echo()
    terminal.type("\n")
    terminal.end()


@pytest.mark.parametrize("fenced", [False, True])
def test_without_a_terminal(pytester: pytest.Pytester, runs: Runs, fenced: bool) -> None:
    """Standard input closed: what a daemon has."""
    pytester.makepyfile("def test(capfd): print('x'); assert capfd.readouterr().out == 'x\\n'")
    words = shlex.join(runs.argv(["-p", "no:cacheprovider"], fenced=fenced))
    assert runs.command("sh", "-c", f"exec {words} <&-").status == 0


def test_without_output(pytester: pytest.Pytester, runs: Runs) -> None:
    """Closed standard output or error: whatever pytest makes of it, it makes of it in a fence."""
    pytester.makepyfile("def test(): print('x')")
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        ends = [
            runs.command("sh", "-c", f"exec {shlex.join(runs.argv(['-p', 'no:cacheprovider'], fenced=way))} {closed}")
            for way in (False, True)
        ]
        assert_same(*ends)
