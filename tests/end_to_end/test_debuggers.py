"""Debuggers that are attached before the fence stands: debugpy (VS Code and others) and pydevd as PyCharm starts it.

Each time a real client sets a breakpoint in a test, it is hit, variables are read, and the run ends as it does without
a debugger.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.end_to_end.caught import AWAY
from tests.end_to_end.debug_client import Dap, Ide
from tests.end_to_end.support import Ended, Runs, filters, until

pytestmark = pytest.mark.needs("module:debugpy")

TESTS = f"""
import os, socket, subprocess, sys

def test_stops():
    value = 40 + 2
    assert value == 42

def test_reaches_out():
    try:
        socket.create_connection(("{AWAY}", 443), 1)
    except OSError:
        pass

def test_starts_a_program():
    program = subprocess.Popen([sys.executable, "program.py"], stdout=subprocess.PIPE, text=True)
    if os.environ["FOLLOWS"] == "1":
        input()  # the client has been offered that process, which waits for a client of its own
        program.kill()
    assert program.communicate()[0] == ("" if os.environ["FOLLOWS"] == "1" else "said 7\\n")

def test_every_thread_is_fenced():
    wanted = os.environ["FILTERS"]
    for tid in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{{tid}}/status") as status:
            assert wanted in status.read(), tid
"""
STOPS = 6
"""The line of the breakpoint."""
PROGRAM = "x = 7\nprint('said', x)\n"
ONLY_INSIDE = """
[tool.fence]
allow_local_binding = false
allow_local_outbound = false
"""
QUIET = ("-p", "no:cacheprovider", "-rA")


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")


def env(*, fenced: bool, follows: bool = False) -> dict[str, str]:
    said = {"FILTERS": filters(fenced=fenced), "FOLLOWS": "1" if follows else "0"}
    return {**said, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def check(ended: Ended, *, fenced: bool) -> None:
    """As the run ends without a debugger."""
    names = ["every_thread_is_fenced", "reaches_out", "starts_a_program", "stops"]
    failed = {"reaches_out"} if fenced else set()
    expected = [f"{'FAILED' if name in failed else 'PASSED'} test_it.py::test_{name}" for name in names]
    assert ended.outcomes() == sorted(expected), ended
    assert ended.status == (1 if fenced else 0), ended
    assert "Traceback" not in ended.out + ended.err, ended
    if fenced:
        ended.has(f"^  call: connect {AWAY}:443/tcp", "^fence: a debugger is attached, .* 127.0.0.1:")


class Debuggee:
    """A command whose output goes to a file: debugpy's adapter has it open for as long as it lives."""

    def __init__(self, runs: Runs, *words: str, env: Mapping[str, str]) -> None:
        self._output = runs.directory / "output"
        self._ports = runs.directory / "ports"
        with open(self._output, "w") as output:
            self.process: subprocess.Popen[str] = runs.start(
                [sys.executable, *words],
                env={**env, "DEBUGPY_ADAPTER_ENDPOINTS": str(self._ports)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def address(self) -> tuple[str, int]:
        """Where the adapter waits for a client, as it has noted itself."""

        def noted() -> tuple[str, int] | None:
            try:
                client = json.loads(self._ports.read_text())["client"]
            except (OSError, ValueError):
                assert self.process.poll() is None, self.ended()
                return None
            return client["host"], client["port"]

        found: tuple[str, int] = until(noted, "the address of the adapter")
        return found

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ended(self) -> Ended:
        status = self.process.wait(60)
        return Ended(status, self._output.read_text(), "")


@pytest.mark.parametrize(
    ("fenced", "follows"), [(False, True), (True, True), (True, False)], ids=["plain", "fenced", "no sub-processes"]
)
def test_debugpy_that_listens(runs: Runs, fenced: bool, follows: bool) -> None:
    """The process that the client talks to runs the tests. A program that a test starts is offered to the client, also
    under a policy that allows no port on loopback."""
    write(runs.directory, test_it=TESTS, program=PROGRAM)
    (runs.directory / "pyproject.toml").write_text(ONLY_INSIDE)
    words = ["-m", "debugpy", "--listen", "127.0.0.1:0", "--wait-for-client"]
    words += [] if follows else ["--configure-subProcess", "false"]
    argv = runs.argv(["-s", *QUIET], fenced=fenced)
    debuggee = Debuggee(runs, *words, *argv[1:], env=env(fenced=fenced, follows=follows))
    client = Dap(debuggee.address())
    client.attach({runs.directory / "test_it.py": STOPS}, subProcess=follows)
    stop = client.stop()
    assert stop.at() == ("test_stops", STOPS)
    assert stop.values["value"] == "42"
    client.resume(stop)
    if follows:
        assert client.event("debugpyAttach")["subProcessId"]
        debuggee.say("go on")
    client.end()
    check(debuggee.ended(), fenced=fenced)


RUNNER = """
import sys
import pytest

class Plugin:
    @staticmethod
    def pytest_configure(config):
        pass

if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:], [Plugin]))
"""


@pytest.mark.parametrize("fenced", [False, True], ids=["plain", "fenced"])
def test_pydevd_as_pycharm_starts_it(runs: Runs, fenced: bool) -> None:
    """It connects to the IDE, and runs a script that calls pytest; here as the pydevd that debugpy brings."""
    found = importlib.util.find_spec("debugpy")
    assert found is not None
    assert found.origin is not None
    pydevd = Path(found.origin).parent / "_vendored" / "pydevd" / "pydevd.py"
    write(runs.directory, test_it=TESTS, _jb_pytest_runner=RUNNER, program=PROGRAM)
    ide = Ide()
    words = ["--multiprocess", "--client", "127.0.0.1", "--port", str(ide.port), "--file"]
    script = str(runs.directory / "_jb_pytest_runner.py")
    argv = [sys.executable, str(pydevd), *words, script, *runs.argv(QUIET, fenced=fenced)[3:]]
    process = runs.start(argv, env=env(fenced=fenced))
    ide.accept()
    ide.run({runs.directory / "test_it.py": STOPS})
    stop = ide.stop()
    assert stop.at() == ("test_stops", STOPS)
    assert stop.values["value"] == "int: 42"
    ide.resume(stop)
    other = ide.another()  # of the program that a test starts
    other.run({})
    other.end()
    ide.end()
    check(runs.finish(process), fenced=fenced)


def test_a_test_that_listens(runs: Runs) -> None:
    """There the debugger is started in the fence, its adapter included."""
    write(
        runs.directory,
        test_it="""
        import debugpy

        def test_stops():
            debugpy.listen(("127.0.0.1", 0))
            debugpy.wait_for_client()
            value = 42
            debugpy.breakpoint()
            assert value == 42
        """,
    )
    debuggee = Debuggee(runs, *runs.argv(QUIET, fenced=True)[1:], env=env(fenced=True))
    client = Dap(debuggee.address())
    client.attach({})
    stop = client.stop()
    assert (stop.at()[0], stop.values["value"]) == ("test_stops", "42")
    client.resume(stop)
    client.end()
    ended = debuggee.ended()
    assert ended.status == 0, ended
    assert ended.outcomes() == ["PASSED test_it.py::test_stops"]


class TestRefused:
    """With a sentence that names the reason and the way out; the debugger's session ends as with any usage error."""

    def listen(self, runs: Runs, *args: str, env: Mapping[str, str] | None = None) -> Ended:
        words = ["-m", "debugpy", "--listen", "127.0.0.1:0"]
        with open(runs.directory / "output", "w") as output:  # which debugpy's adapter may have open a while longer
            argv = [sys.executable, *words, *runs.argv([*args, *QUIET], fenced=True)[1:]]
            process = runs.start(argv, env=env, stdout=output, stderr=subprocess.STDOUT)
        return Ended(process.wait(60), (runs.directory / "output").read_text(), "")

    def test_a_process_for_each_test(self, runs: Runs) -> None:
        write(runs.directory, test_it="def test(): pass")
        ended = self.listen(runs, "--fence-scope=test")
        assert ended.status == pytest.ExitCode.USAGE_ERROR, ended
        ended.has("^ERROR: with scope = .*debugger.*--fence-scope=session")
        assert "Traceback" not in ended.out

    def test_another_thread(self, runs: Runs) -> None:
        """It is not started anew for that: the client would be lost."""
        plugin = 'import threading; threading.Thread(target=threading.Event().wait, name="mine", daemon=True).start()'
        write(runs.directory, test_it="def test(): pass", threaded=plugin)
        ended = self.listen(runs, "-p", "threaded", env={"PYTHONPATH": str(runs.directory)})
        assert ended.status == pytest.ExitCode.USAGE_ERROR, ended
        ended.has("^ERROR: the fence starts with a fork", "^  another thread is running: mine ")
        assert "pydevd" not in ended.out
