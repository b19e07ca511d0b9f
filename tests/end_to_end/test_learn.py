"""`--fence-learn`: what the tests need becomes the configuration, with one process as with workers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs

TESTS = """
import os, pathlib, pty, socket, subprocess
import pytest

OUTSIDE = pathlib.Path(@OUTSIDE@)

@pytest.mark.parametrize("number", range(6))
def test_many(number, tmp_path):
    (OUTSIDE / "many").mkdir(exist_ok=True)
    (OUTSIDE / "many" / f"{number}").write_text("x")
    (tmp_path / "free").write_text("x")

def test_one():
    (OUTSIDE / "one.db").write_text("x")
    subprocess.run(["sh", "-c", 'echo x > "$0"/two', OUTSIDE], check=True)

def test_terminal():
    master, slave = pty.openpty()
    os.write(slave, b"x")

def test_server():
    with socket.create_connection(("127.0.0.1", @PORT@)) as client:
        client.sendall(b"x")

def test_protected():
    for name in (".bashrc", "notes.txt"):
        try:
            (pathlib.Path(@HOME@) / name).write_text("x")
        except PermissionError:
            pass
"""
CONFIG = """\
# mine
[tool.fence]
enabled = true  # always
extends = "default-deny"
allow_write = [
    "@TMP@",  # pytest's
    "/nowhere/at/all",
]

[tool.other]
x = 1
"""


class Project:
    """Tests that need some things outside."""

    def __init__(self, runs: Runs, outside: Path, port: int) -> None:
        self.runs = runs
        self.directory = runs.directory
        self.outside = outside
        text = TESTS.replace("@OUTSIDE@", repr(str(outside))).replace("@PORT@", str(port))
        (self.directory / "test_t.py").write_text(text.replace("@HOME@", repr(str(self.directory / "home"))))
        (self.directory / "home").mkdir()
        self.temporary = str(self.directory / "tmp")
        (self.directory / "tmp").mkdir()
        self.before = CONFIG.replace("@TMP@", self.temporary)
        (self.directory / "pyproject.toml").write_text(self.before)

    @property
    def config(self) -> str:
        return (self.directory / "pyproject.toml").read_text()

    def __call__(self, *arguments: str) -> Ended:
        plugin = ("-p", "xdist") if {"-n", "--tx"} & set(arguments) else ()
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "pytest_fence.plugin",
            "-p",
            "no:cacheprovider",
            *plugin,
            *arguments,
        ]
        environ = dict.fromkeys(("TMPDIR", "PYTEST_DEBUG_TEMPROOT"), self.temporary)
        return self.runs.command(*argv, env={**environ, "HOME": str(self.directory / "home")})

    def reset(self) -> None:
        (self.directory / "pyproject.toml").write_text(self.before)
        subprocess.run(["rm", "-rf", str(self.outside)], check=True)
        self.outside.mkdir()


@pytest.fixture
def project(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    outside = tmp_path_factory.mktemp("elsewhere")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Project(runs, outside, server.getsockname()[1])


def test_a_fixed_point_with_and_without_workers(project: Project) -> None:
    """Learnt by one process and by two workers: the same file; what it allows is all that the tests need."""
    texts = []
    for workers in ("0", "2"):
        project.reset()
        ended = project("--fence-learn", "--fence-write", "-n", workers)
        assert ended.status == 0, ended
        assert "fence: learn: nothing is refused but writes to protected files" in project("--fence-learn", "-v").out
        assert "pyproject.toml was written" in ended.out
        texts.append(project.config)
    assert texts[0] == texts[1]
    text = texts[0]
    for line in project.before.splitlines():
        assert line in text.splitlines()
    assert f'"{project.outside}/many", # test_t.py::test_many' in text
    assert f'"{project.outside}/one.db", # test_t.py::test_one' in text
    assert "allow_pty = true # test_t.py::test_terminal" in text
    assert ".bashrc" not in text
    assert not (project.directory / "home" / ".bashrc").exists()
    assert (project.directory / "home" / "notes.txt").exists()
    again = project("--fence-learn", "--fence-write", "-n", "2")
    assert "nothing to learn" in again.out, again
    assert project.config == text
    enforced = project("-n", "2", "--deselect", "test_t.py::test_protected")
    assert enforced.status == 0, enforced
    assert "violation" not in enforced.out


def test_nothing_is_written_where_tests_fail_or_without_being_asked(project: Project) -> None:
    ended = project("--fence-learn")
    assert ended.status == 0, ended
    assert "pyproject.toml would become (--fence-write does it):" in ended.out
    assert "[protected" not in ended.out
    assert f"write {project.directory}/home/.bashrc (test_t.py::test_protected): protected" in ended.out
    assert project.config == project.before
    (project.directory / "test_f.py").write_text("def test_f(): assert 0\n")
    ended = project("--fence-learn", "--fence-write")
    assert ended.status == 1, ended
    assert "pyproject.toml was not written: not all has passed (exit status 1)" in ended.out
    assert project.config == project.before
    assert project("--fence-learn", "--fence-write", "--fence-learn-partial").status == 1
    assert project.config != project.before


ATTACKS = """
import os, pathlib, sys, sysconfig
import pytest
ROOT = pathlib.Path(__file__).parent
PLACES = {
    "policy": ROOT / "pyproject.toml",
    "package": pathlib.Path(sysconfig.get_path("purelib")) / "fence_test_evil.py",
    "environment": next(ROOT.glob("venv/lib/*/site-packages")) / "evil.py",
    "interpreter": ROOT / "venv" / "bin" / "python",
}

@pytest.mark.parametrize("place", PLACES)
def test_write(place):
    with pytest.raises(OSError):
        PLACES[place].write_text("x")

@pytest.mark.parametrize("place", ["policy", "interpreter"])
def test_replace(place, tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(OSError):
        (tmp_path / "x").rename(PLACES[place])
    with pytest.raises(OSError):
        PLACES[place].rename(tmp_path / "y")

def test_move_all_of_it(tmp_path):
    with pytest.raises(OSError):
        ROOT.rename(ROOT.with_name("gone"))

def test_allowed():
    (ROOT / "fine").write_text("x")
"""


def test_what_would_outlive_the_fence_stays_refused(project: Project) -> None:
    """The policy, what the supervisor imports, and a virtual environment that somebody uses: refused while learning,
    and not proposed."""
    made = project.runs.command(sys.executable, "-m", "venv", "--without-pip", str(project.directory / "venv"))
    assert made.status == 0, made
    (project.directory / "test_t.py").write_text(ATTACKS)
    ended = project("--fence-learn", "--fence-write")
    assert ended.status == 0, ended
    assert "8 passed" in ended.out, ended
    text = project.config
    assert '"fine", # test_t.py::test_allowed' in text
    assert "venv" not in text
    assert "site-packages" not in text


def test_a_fenced_run_cannot_switch_to_it(project: Project) -> None:
    """A session inside asks for it by every means it has: it is told that it cannot, and lets nothing through."""
    (project.directory / "test_t.py").write_text(
        "import os, subprocess, sys\n"
        "def test_inner(tmp_path):\n"
        f"    (tmp_path / 'test_i.py').write_text(\"def test_w(): open({str(project.outside / 'x')!r}, 'w')\")\n"
        "    inner = [sys.executable, '-m', 'pytest', '-p', 'pytest_fence.plugin', '--fence', '--fence-learn']\n"
        "    ended = subprocess.run(inner, capture_output=True, text=True, cwd=tmp_path)\n"
        "    print(ended.stdout, ended.stderr)\n"
        "    assert 'does not work inside another fence' in ended.stderr\n"
        "    assert ended.returncode == 4\n"
    )
    ended = project()
    assert ended.status == 0, ended
    assert not (project.outside / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--fence-write"], "--fence-write is for --fence-learn"),
        (["--fence-learn", "--fence-mode=warn"], "--fence-learn is a mode of its own"),
        (["--fence-mode=learn"], "invalid choice"),
        (["--fence-learn", "--tx", "ssh=somewhere", "--dist", "load"], "nothing is learnt from what runs"),
    ],
)
def test_what_is_wrong(project: Project, arguments: list[str], complaint: str) -> None:
    ended = project(*arguments)
    assert ended.status == 4, ended
    assert complaint in ended.err


def test_no_config_asks_for_it(project: Project) -> None:
    (project.directory / "pyproject.toml").write_text('[tool.fence]\nenabled = true\nmode = "learn"\n')
    ended = project()
    assert ended.status == 4, ended
    assert "tool.fence" in ended.err


def test_without_a_fence_it_does_nothing(project: Project) -> None:
    (project.directory / "pyproject.toml").write_text("")
    (project.directory / "test_t.py").write_text("def test_a(): pass\n")
    ended = project("--fence-learn")
    assert ended.status == 0, ended
    assert "learnt" not in ended.out
