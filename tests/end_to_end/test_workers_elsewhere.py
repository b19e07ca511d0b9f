"""pytest-xdist's workers on other machines: fenced there, under the controller's policy, or not run at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.end_to_end.elsewhere import HOME, Machine, there
from tests.end_to_end.support import Ended, Runs, Terminal, until

__all__ = ["there"]

pytestmark = pytest.mark.needs("module:xdist")

REFUSED = """
    import socket
    def test_refused():
        try:
            socket.create_connection(("192.0.2.7", 443), 1)
        except OSError:
            pass
"""


class Project:
    """A directory that is copied to the other machine, and run there."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.directory = runs.directory / "shop"
        self.directory.mkdir()
        (self.directory / "pytest.ini").write_text("[pytest]\n")
        runs.load("xdist.plugin")

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(dedent(text))

    def argv(self, *options: str) -> list[str]:
        """With everything fenced and copied; the directory has to be an absolute path (xdist's `make_reltoroot`)."""
        copied = f"--rsyncdir={self.directory}"
        return self.runs.argv(["--dist=load", "-rA", copied, *options, str(self.directory)], fenced=True)

    def run(self, *options: str) -> Ended:
        return self.runs.command(*self.argv(*options), cwd=self.directory)


@pytest.fixture
def project(runs: Runs) -> Project:
    return Project(runs)


def summary(ended: Ended) -> list[str]:
    """The fence's own section, but for its title."""
    found = re.search(r"^=+ fence: .* =+\n((?:(?!=).*\n)*)", ended.out, re.MULTILINE)
    assert found, ended
    return found[1].splitlines()


def test_over_ssh(project: Project, there: Machine) -> None:
    """Imports, tests, their programs and markers, and relative paths: as on this machine, and told once."""
    project.write("fence.json", '{"enabled": true, "filesystem": {"allowWrite": ["../build"]}}')
    project.write(
        "conftest.py",
        """
        import os, socket
        if "PYTEST_XDIST_WORKER" in os.environ:
            socket.socket().connect_ex(("192.0.2.1", 1))
        """,
    )
    project.write(
        "test_it.py",
        """
        import os, pathlib, socket, subprocess, sys
        import pytest

        HERE = pathlib.Path(__file__).parent
        BESIDE = HERE.parent

        def refused(port):
            socket.socket().connect_ex(("192.0.2.7", port))

        def test_there():
            assert str(HERE) == "THERE/pyexecnetcache/shop"

        def test_refused():
            refused(443)

        def test_program():
            subprocess.run(["sh", "-c", "echo >THERE/.profile"])

        def test_allowed():
            (BESIDE / "build").write_text("")

        def test_not_allowed():
            with pytest.raises(OSError):
                (BESIDE / "other").write_text("")

        @pytest.mark.fence(allow_write=["../other"])
        def test_marked():
            (BESIDE / "other").write_text("")

        def test_inner_fence_is_around():
            assert os.path.exists("/proc/self/status")
            assert "Seccomp:\\t2" in pathlib.Path("/proc/self/status").read_text()
        """.replace("THERE", HOME),
    )
    argv = [word for word in project.argv(f"--tx=2*{there.spec()}") if word != "--fence"]
    ended = project.runs.command(*argv, cwd=project.directory)
    assert ended.status == 1, ended
    assert ended.outcomes() == [
        "FAILED test_it.py::test_not_allowed",
        "FAILED test_it.py::test_program",
        "FAILED test_it.py::test_refused",
        "PASSED test_it.py::test_allowed",
        "PASSED test_it.py::test_inner_fence_is_around",
        "PASSED test_it.py::test_marked",
        "PASSED test_it.py::test_there",
    ]
    ended.has(
        r"^FAILED test_it.py::test_refused - fence: connect 192\.0\.2\.7:443/tcp$",
        r"^fence: workers on ssh=there//\S+: seccomp, ",
        "=+ fence: 3 violations in 3 tests and 1 outside any test =+",
    )
    lines = summary(ended)
    assert lines[lines.index("test_it.py::test_refused") + 1] == "  call: connect 192.0.2.7:443/tcp, test_it.py:9"
    told = [line for line in lines if "192.0.2.1:1/tcp" in line]
    assert len(told) == 1, ended
    assert "2 times" in told[0], ended
    made = {path.name for path in (there.home / "pyexecnetcache").iterdir()}
    assert made == {"_pytest", "build", "other", "pytest", "shop"}


def test_its_own_config_is_not_read(runs: Runs, there: Machine) -> None:
    """Neither what widens nor what could not be used; relative paths count from where the worker works."""
    runs.load("xdist.plugin")
    place = there.home / "shop"
    place.mkdir()
    (place / "fence.json").write_text('{"enabled": false, "network": {"allowedDomains": ["192.0.2.7"]}}')
    (place / "pyproject.toml").write_text("[tool.fence]\nnonsense = 1\n")
    (place / "test_it.py").write_text(dedent(REFUSED) + "def test_write():\n    open('out', 'w').close()\n")
    (runs.directory / "policy.toml").write_text("[tool.fence]\nallow_write = ['out']\n")
    ended = runs.pytest("-d", "-rA", f"--tx={there.spec('chdir=shop')}", "--fence-config=policy.toml", "test_it.py")
    assert ended.status == 1, ended
    assert ended.outcomes() == ["FAILED test_it.py::test_refused", "PASSED test_it.py::test_write"]
    ended.has("no rule in network.allowed_domains allows it", "policy.toml", "fence: 1 violation in 1 test =")


def test_a_config_below_the_root_is_missed(project: Project, there: Machine) -> None:
    """As it is here: its rules would not be kept, and nobody would be told."""
    part = project.directory / "part"
    part.mkdir()
    (part / "fence.json").write_text('{"filesystem": {"denyWrite": ["."]}}')
    (part / "test_it.py").write_text("def test_it(): pass\n")
    ended = project.run(f"--tx={there.spec()}")
    assert ended.status == 4, ended
    assert "part/fence.json: is not read, since pytest's rootdir is" in ended.out + ended.err, ended


def test_without_the_plugin_there(project: Project, there: Machine) -> None:
    """Fenced it is, but nobody would know which test was refused something."""
    project.write("fence.json", '{"enabled": true}')
    project.write("test_it.py", REFUSED)
    project.runs.plugins = ("-p", "xdist.plugin")
    argv = [word for word in project.argv(f"--tx={there.spec('env:PYTEST_PLUGINS=')}") if word != "--fence"]
    env = {"PYTEST_PLUGINS": "pytest_fence.plugin"}
    ended = project.runs.command(*argv, cwd=project.directory, env=env)
    assert ended.status == 4, ended
    assert "has run without the plugin of pytest-fence" in ended.out + ended.err, ended
    assert "connect 192.0.2.7:443/tcp" in ended.out + ended.err, ended


def test_what_a_worker_hides_is_told(project: Project, there: Machine) -> None:
    """Its supervisor tells, past pytest there: a test cannot hide anything by what it does to its worker."""
    project.write(
        "test_it.py",
        """
        import os, socket, subprocess

        def test_without_the_plugin(request):
            request.config.pluginmanager.unregister(name="fence-tests")
            socket.socket().connect_ex(("192.0.2.7", 1))

        def test_crash():
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            socket.socket().connect_ex(("192.0.2.7", 2))
            os._exit(0)
        """,
    )
    ended = project.run(f"--tx={there.spec()}", "--dist=loadscope", "--max-worker-restart=0")
    assert ended.status == 1, ended
    ended.has("^PASSED test_it.py::test_without_the_plugin", "connect 192.0.2.7:1/tcp", "connect 192.0.2.7:2/tcp")
    assert "crashed while running 'test_it.py::test_crash'" in ended.out, ended
    assert "fence: ended 1 process that outlived the session:\n  sleep 1000" in ended.err, ended
    assert "could say" not in ended.err


def test_beside_local_ones(project: Project, there: Machine) -> None:
    """Each test runs at both places, in a process of its own."""
    project.write(
        "test_it.py",
        """
        import os, pathlib, socket, sys
        import pytest

        def test_where(worker_id):
            print("on", worker_id, pathlib.Path(__file__).parent)

        def test_state():
            sys.modules["left_behind"] = sys

        def test_no_state():
            assert "left_behind" not in sys.modules
            socket.socket().connect_ex(("192.0.2.7", os.getpid()))
        """,
    )
    ended = project.run(f"--tx={there.spec()}", "--tx=popen", "--dist=each", "--fence-scope=test")
    assert ended.status == 1, ended
    ended.has("fence: 2 violations in 1 test =", rf"^on gw0 {HOME}/pyexecnetcache/shop$", "^on gw1 /")
    assert len(re.findall("^FAILED .*test_no_state", ended.out, re.MULTILINE)) == 2, ended


WAITING = f"import time\ndef test_it():\n    open('{HOME}/runs', 'w').close()\n    time.sleep(1000)\n"
WAITING_MAY = f'{{"filesystem": {{"allowWrite": ["{HOME}/runs"]}}}}'


def test_interrupted(project: Project, there: Machine) -> None:
    """Ctrl-C here ends what is there."""
    project.write("fence.json", WAITING_MAY)
    project.write("test_it.py", WAITING)
    terminal = Terminal(project.runs, project.argv(f"--tx={there.spec()}"))
    until((there.home / "runs").exists, "the test runs")
    terminal.key(termios.VINTR)
    ended = terminal.end()
    assert ended.status == 2, ended
    assert "KeyboardInterrupt" in ended.out
    assert "could say" not in ended.out


def test_a_connection_that_breaks(project: Project, there: Machine) -> None:
    """Nobody can say what was refused there: the run fails, whatever else it says; and what is there ends."""
    project.write("fence.json", WAITING_MAY)
    project.write("test_it.py", WAITING)
    process = project.runs.start(project.argv(f"--tx={there.spec()}", "--max-worker-restart=0"), cwd=project.directory)
    until((there.home / "runs").exists, "the test runs")
    own = [pid for pid in project.runs.alive() if _words(pid)[:1] == [b"ssh"]]
    assert len(own) == 1
    os.kill(own[0], signal.SIGKILL)
    ended = project.runs.finish(process)
    assert ended.status == 1, ended
    assert "ended before its fence could say all that it has refused" in ended.err, ended


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


PYTHON = f'exec {sys.executable} "$@"'
REFUSING = f"exec {sys.executable} {Path(__file__).resolve().parents[1] / 'refusing.py'}"
OLDER = "Metadata-Version: 2.1\nName: pytest-fence\nVersion: 0.0.9\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f'exec {sys.executable} -S "$@"', r"cannot be fenced: pytest-fence is not installed there \(Python 3\."),
        (f"PYTHONPATH=${{0%/*}} {PYTHON}", "cannot be fenced: pytest-fence 0.0.9 is installed there"),
        (f'{REFUSING} seccomp {sys.executable} "$@"', "cannot be fenced: seccomp: "),
        (f'{REFUSING} landlock_create_ruleset {sys.executable} "$@"', "cannot be fenced: landlock: "),
        ("exit 1", "cannot be reached, or has no Python that can be used"),
    ],
    ids=["not-installed", "older", "no-seccomp", "no-landlock", "no-python"],
)
def test_what_cannot_be_fenced_is_not_run(runs: Runs, there: Machine, script: str, says: str) -> None:
    """An error that names the machine and what lacks there, before anything is imported here."""
    runs.load("xdist.plugin")
    (there.directory / "pytest_fence-0.0.9.dist-info").mkdir()
    (there.directory / "pytest_fence-0.0.9.dist-info/METADATA").write_text(OLDER)
    (runs.directory / "conftest.py").write_text("print('imported')\n")
    spec = there.spec(python=there.script("python", script))
    ended = runs.pytest("-d", f"--tx={spec}", "--fence-require=landlock")
    assert ended.status == 4, ended
    assert "ERROR: workers on other machines are not run without a fence:\n" in ended.err, ended
    assert re.search(f"^  {re.escape(spec)}: {says}", ended.err, re.MULTILINE), ended
    assert "imported" not in ended.out


@pytest.fixture
def server(runs: Runs, tmp_path: Path) -> Iterator[str]:
    """Execnet's server, on a port of loopback: its address."""
    command = [sys.executable, "-u", "-m", "execnet.script.socketserver", "127.0.0.1:0"]
    process = runs.start(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    found = re.search(r"Entering Accept loop \('127.0.0.1', (\d+)\)", process.stdout.readline())
    assert found
    yield f"127.0.0.1:{found[1]}"
    process.kill()
    process.wait()


def test_over_a_socket(project: Project, server: str) -> None:
    """Two workers by one connection: the server has no second one at a time."""
    project.write("test_it.py", REFUSED + "    def test_other(): pass\n")
    ended = project.run(f"--tx=2*socket={server}")
    assert ended.status == 1, ended
    ended.has("^PASSED test_it.py::test_other", "^FAILED test_it.py::test_refused - fence: connect 192.0.2.7:443/tcp")
    ended.has("fence: 1 violation in 1 test =")


@pytest.mark.parametrize(
    "options",
    [
        ["--px=id=far//ssh=localhost", "--tx=popen//via=far"],
        ["--px=id=far//socket=127.0.0.1:9", "--tx=popen//via=far"],
    ],
)
def test_by_way_of_another(runs: Runs, options: list[str]) -> None:
    """Refused before anything is imported, or connected to."""
    runs.load("xdist.plugin")
    (runs.directory / "conftest.py").write_text("print('imported')\n")
    ended = runs.pytest("-d", *options)
    assert ended.status == 4, ended
    assert f"ERROR: workers started by {options[0].partition('=')[2]} would run outside the fence: " in ended.err, ended
    assert "imported" not in ended.out


@pytest.mark.parametrize("options", [["-n1"], ["-d", "--tx=popen"]])
def test_asked_for_by_a_conftest(runs: Runs, options: list[str]) -> None:
    """When the command line was read there was no word of it."""
    runs.load("xdist.plugin")
    (runs.directory / "conftest.py").write_text(
        "def pytest_xdist_setupnodes(specs):\n    assert not 'asked'\n"
        "def pytest_configure(config):\n    config.option.tx = ['ssh=localhost']\n"
    )
    ended = runs.pytest(*options)
    assert ended.status == 4, ended
    assert "would run outside the fence: " in ended.out + ended.err
    assert "'asked'" not in ended.out + ended.err


def test_another_interpreter(runs: Runs) -> None:
    """It joins the fence of its controller, as others do: what it is refused is on the right test."""
    runs.load("xdist.plugin")
    other = runs.directory / "another-python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    (runs.directory / "test_it.py").write_text(dedent(REFUSED))
    ended = runs.pytest("-d", f"--tx=popen//python={other}")
    assert ended.status == 1, ended
    ended.has("^FAILED test_it.py::test_refused - fence: connect 192.0.2.7:443/tcp", "fence: 1 violation in 1 test =")
