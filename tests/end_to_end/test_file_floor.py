"""The floor below the broker: a broker that lets the kernel carry out everything still writes nowhere outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE
from tests.end_to_end.faults import faulty
from tests.end_to_end.support import Runs

BLIND = """
from fence_core.broker import processes
from fence_core.broker.paths import ceiling
processes.Process.may_write = lambda *args: True
ceiling.Ceiling.covers = ceiling.Ceiling.covers_file = lambda *args: True
"""

TESTS = """
import errno, os, socket
import pytest

OUTSIDE = {outside!r}
CALLS = {{
    "open": lambda d, i: os.close(os.open(f"{{d}}/old", os.O_WRONLY)),
    "create": lambda d, i: os.close(os.open(f"{{d}}/new", os.O_RDWR | os.O_CREAT)),
    "unnamed": lambda d, i: os.close(os.open(d, os.O_RDWR | os.O_TMPFILE)),
    "mkdir": lambda d, i: os.mkdir(f"{{d}}/new"),
    "mkfifo": lambda d, i: os.mkfifo(f"{{d}}/new"),
    "symlink": lambda d, i: os.symlink("x", f"{{d}}/new"),
    "unlink": lambda d, i: os.unlink(f"{{d}}/old"),
    "rmdir": lambda d, i: os.rmdir(f"{{d}}/directory"),
    "rename": lambda d, i: os.rename(f"{{d}}/old", f"{{d}}/new"),
    "rename in": lambda d, i: os.rename(f"{{i}}/mine", f"{{d}}/new"),
    "rename out": lambda d, i: os.rename(f"{{d}}/old", f"{{i}}/stolen"),
    "link": lambda d, i: os.link(f"{{d}}/old", f"{{d}}/new"),
    "link out": lambda d, i: os.link(f"{{d}}/old", f"{{i}}/stolen"),
    "link in": lambda d, i: os.link(f"{{i}}/mine", f"{{d}}/new"),
    "bind": lambda d, i: socket.socket(socket.AF_UNIX).bind(f"{{d}}/new"),
}}

@pytest.fixture
def inside():
    os.makedirs("inside/directory", exist_ok=True)
    for name in "old", "mine":
        open(f"inside/{{name}}", "w").close()
    yield "inside"
    os.system("rm -rf inside")

@pytest.mark.parametrize("call", CALLS)
def test_outside(call, inside):
    with pytest.raises(OSError) as caught:
        CALLS[call](OUTSIDE, inside)
    assert caught.value.errno in (errno.EACCES, errno.EXDEV)

@pytest.mark.parametrize("call", CALLS)
def test_inside(call, inside):
    CALLS[call](inside, inside)

def test_between_directories(inside):
    os.rename("inside/mine", "inside/directory/mine")
    os.link("inside/directory/mine", "inside/again")
"""


def tree(directory: Path) -> list[tuple[str, int, int, bytes]]:
    return [
        (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    ]


@pytest.mark.needs("kernel:landlock")
def test_a_broker_that_lets_everything_through(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "old").write_text("as it was")
    (outside / "directory").mkdir()
    before = tree(outside)
    (runs.directory / "pyproject.toml").write_text(ONLY_HERE)
    ended = faulty(runs, BLIND, TESTS.format(outside=str(outside)), "-s", "--basetemp=base")
    assert ended.status == 0, ended
    assert tree(outside) == before


@pytest.mark.needs("kernel:landlock")
def test_the_same_broker_without_a_floor(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The control: it is Landlock that has refused."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "old").write_text("as it was")
    (outside / "directory").mkdir()
    (runs.directory / "pyproject.toml").write_text(ONLY_HERE)
    without = BLIND + WITHOUT_FLOOR
    ended = faulty(
        runs, without, TESTS.format(outside=str(outside)), "-s", "-k", "test_outside and mkdir", "--basetemp=base"
    )
    assert ended.status == 1, ended
    assert (outside / "new").is_dir()


WITHOUT_FLOOR = """
from fence_core.launcher import fork
planned = fork.make_plan
def without(*args):
    plan = planned(*args)
    return plan._replace(walls=plan.walls._replace(file_floor=False))
fork.make_plan = without
"""

MOVES = """
import ctypes, os, struct

def moves():
    os.makedirs("a/b")
    open("a/file", "w").close()
    os.rename("a/file", "a/b/file")
    os.link("a/b/file", "file")

def test_moves():
    moves()

def test_moves_below_a_ruleset_of_ones_own(tmp_path):
    os.chdir(tmp_path)
    create, add, restrict = 444, 445, 446
    refer, make, remove = 1 << 13, 1 << 8 | 1 << 7, 3 << 4
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    pid = os.fork()
    if not pid:
        try:
            rights = refer | make | remove
            ruleset = syscall(create, struct.pack("=QQQ", rights, 0, 0), 8, 0)
            assert syscall(add, ruleset, 1, struct.pack("=Qi", rights, os.open(".", os.O_PATH)), 0) == 0
            assert syscall(restrict, ruleset, 0) == 0
            moves()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.needs("kernel:landlock")
@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_files_move_between_directories(runs: Runs, mode: str) -> None:
    """Every ruleset of Landlock has a say in that, those that are about other things included."""
    (runs.directory / "test_it.py").write_text(MOVES)
    ended = runs.pytest(f"--fence-mode={mode}")
    assert ended.status == 0, ended


STRANGERS = """
import errno, os
import pytest

PID = {pid}

@pytest.mark.fence(allow_write=["/proc"])
@pytest.mark.parametrize("pid", [PID, os.getppid()])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
@pytest.mark.parametrize("name", ["environ", "mem", "maps"])
def test_written(pid, flags, name):
    with pytest.raises(PermissionError):
        os.open(f"/proc/{{pid}}/{{name}}", flags)

@pytest.mark.parametrize("pid", [PID, os.getppid()])
@pytest.mark.parametrize("name", ["environ", "mem", "maps"])
def test_read(pid, name):
    "With O_CREAT it is an open for reading all the same: the caller's own, by the kernel, and not the broker's."
    def said(flags):
        try:
            os.close(os.open(f"/proc/{{pid}}/{{name}}", flags))
        except OSError as error:
            return error.errno
    assert said(os.O_RDONLY | os.O_CREAT) == said(os.O_RDONLY)
    assert said(os.O_RDONLY) == errno.EACCES or (name == "environ" and os.geteuid() == 0)

@pytest.mark.fence(allow_write=["/proc", {outside!r}])
@pytest.mark.parametrize("path", [f"/proc/{{PID}}/cwd/old", f"/proc/{{PID}}/root" + {outside!r} + "/old"])
def test_through(path):
    with pytest.raises(PermissionError):
        os.open(path, os.O_WRONLY)
    with pytest.raises(PermissionError):
        os.chmod(path, 0)

@pytest.mark.fence(allow_write=["/proc", {outside!r}])
def test_ones_own():
    os.chdir({outside!r})
    for path in "/proc/self/cwd/old", "/proc/thread-self/cwd/old", f"/proc/{{os.getpid()}}/root{outside}/old":
        os.close(os.open(path, os.O_WRONLY))
    os.close(os.open("/proc/self/environ", os.O_RDONLY | os.O_CREAT))
"""


@pytest.mark.needs("kernel:landlock")
def test_processes_outside_give_nothing_away(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The broker may look into them, as who started the tests may; it does so for nobody."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "old").write_text("as it was")
    (runs.directory / "pyproject.toml").write_text(ONLY_HERE)
    stranger = runs.start([sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, cwd=outside)
    assert stranger.stdout is not None
    stranger.stdout.readline()
    text = STRANGERS.format(pid=stranger.pid, outside=str(outside))
    (runs.directory / "test_it.py").write_text(text)
    (runs.directory / "tmp").mkdir()
    ended = runs.pytest("-rA", "--basetemp=base", env={"TMPDIR": str(runs.directory / "tmp")})
    runs.finish(stranger)
    # Refused, each; and told of, where whoever runs the tests could have done it.
    assert "DID NOT RAISE" not in ended.out, ended
    assert "PASSED test_it.py::test_ones_own" in ended.out, ended
    assert (outside / "old").read_text() == "as it was"
