"""Tests that replace what the fence itself could use: what they do is told, and the tests after them are run."""

from __future__ import annotations

import pytest

from tests.end_to_end.support import Runs

# fmt: off
NAMES = [
    "os.open", "os.read", "os.write", "os.close", "os.getpid", "os.stat", "os.listdir", "os.fspath", "os.fork",
    "os.kill", "os.waitpid", "os.strerror", "os.environ", "os.path.exists", "os.path.realpath", "os.path.join",
    "os.path.relpath", "json.dumps", "json.loads", "json.JSONEncoder", "json.JSONEncoder.iterencode",
    "json.JSONDecoder.raw_decode", "builtins.open", "builtins.print", "builtins.__import__", "builtins.compile",
    "io.open", "time.time", "time.monotonic", "time.clock_gettime", "socket.socketpair", "threading.Lock",
    "threading.current_thread", "signal.getsignal", "signal.setitimer", "sys.modules", "struct.unpack", "fcntl.fcntl",
    "select.poll", "pathlib.Path.open", "linecache.getlines", "linecache.cache", "traceback.format_exception",
    "warnings.catch_warnings", "warnings.warn_explicit", "ast.walk", "shlex.quote", "tokenize.detect_encoding",
    "resource.getrlimit", "ctypes.get_errno",
]
# fmt: on
"""pytest itself gets on without each of these."""

SUITE = """
import importlib, socket
import pytest

NAMES = {names!r}

def replaced(*args, **kwargs):
    raise OSError(5, "replaced by a test")

@pytest.fixture(params=NAMES)
def patched(request, monkeypatch):
    monkeypatch.delenv("PYTEST_NOTHING", raising=False)
    module, _, rest = request.param.partition(".")
    target = importlib.import_module(module)
    *path, name = rest.split(".")
    for step in path:
        target = getattr(target, step)
    value = {{}} if name in ("environ", "modules", "cache") else replaced
    sock = socket.socket()
    sock.settimeout(1)
    monkeypatch.setattr(target, name, value)
    yield sock
    monkeypatch.undo()
    sock.close()

def test_clean(patched): pass

def test_violates(patched):
    patched.connect_ex(("192.0.2.2", 8))

def test_after(): pass
"""


def write(runs: Runs, names: list[str]) -> None:
    (runs.directory / "test_it.py").write_text(SUITE.format(names=names), encoding="utf-8")


def test_pytest_itself_gets_on_without_them(runs: Runs) -> None:
    """Else they would show nothing here."""
    write(runs, NAMES)
    run = runs.pytest("-q", fenced=False)
    assert run.status == 0, run
    run.has(rf"^{2 * len(NAMES) + 1} passed")


HALVES = pytest.mark.parametrize("names", [NAMES[::2], NAMES[1::2]], ids=["even", "odd"])
"""As many as a run gets done in its time on a busy machine."""


@HALVES
@pytest.mark.parametrize("more", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize("scope", ["session", "test"])
def test_whatever_a_test_replaces(runs: Runs, names: list[str], scope: str, more: tuple[str, ...]) -> None:
    if more:
        runs.load("xdist.plugin")
    write(runs, names)
    run = runs.pytest("-q", "-rA", f"--fence-scope={scope}", *more)
    assert run.status == 1, run
    wanted = ["PASSED test_it.py::test_after"]
    wanted += [f"PASSED test_it.py::test_clean[{name}]" for name in names]
    wanted += [f"FAILED test_it.py::test_violates[{name}]" for name in names]
    assert run.outcomes() == sorted(wanted)
    assert run.out.count("E   call: connect 192.0.2.2:8/tcp") == len(names), run
    assert "could not be read" not in run.out, run
    assert "INTERNALERROR" not in run.out + run.err, run


@HALVES
@pytest.mark.parametrize("mode", ["warn", "audit"])
@pytest.mark.parametrize("scope", ["session", "test"])
def test_modes_that_change_nothing(runs: Runs, names: list[str], scope: str, mode: str) -> None:
    write(runs, names)
    run = runs.pytest("-q", "-rA", f"--fence-scope={scope}", f"--fence-mode={mode}")
    assert run.status == 0, run
    assert len(run.outcomes()) == 2 * len(names) + 1
    assert all(line.startswith("PASSED") for line in run.outcomes())
    if mode == "warn":
        run.has(rf"{2 * len(names) + 1} passed, \d+ warnings?")
    else:
        run.has("^=+ fence: .*notes? \\(audit")


ADDRESS = """
    s = socket.socket(); s.settimeout(1); s.connect_ex(("192.0.2.2", 8)); s.close()
"""


@pytest.mark.parametrize("more", [(), ("--fence-scope=test",), ("-n", "2")], ids=["session", "test", "workers"])
def test_pyfakefs(runs: Runs, more: tuple[str, ...]) -> None:
    """The real one: for a test, a class, a module, with an option that replaces default arguments, too."""
    runs.load("pyfakefs.pytest_plugin", *(["xdist.plugin"] if "-n" in more else []))
    (runs.directory / "test_it.py").write_text(
        f"""
import os, socket
import pytest
from pyfakefs.fake_filesystem_unittest import Patcher, TestCase

def violate():{ADDRESS}

def test_before(): pass

def test_clean(fs):
    fs.create_file("/x/y")
    assert os.listdir("/x") == ["y"]

def test_violates(fs):
    violate()

@pytest.mark.parametrize("fs", [[None, None, None, True, False, True]], indirect=True)
def test_default_arguments(fs):
    violate()

def test_in_module(fs_module):
    fs_module.create_file("/fake/x")

def test_in_module_violates(fs_module):
    violate()

@pytest.mark.fence(allow_write=["/srv/nowhere"])
def test_in_module_marked(fs_module):
    assert os.path.exists("/fake/x") or not os.path.exists("/usr")

class TestClass:
    def test_in_class(self, fs_class): pass
    def test_in_class_violates(self, fs_class): violate()

class TestUnit(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.setUpClassPyfakefs()
    def test_unit(self):
        self.fake_fs().create_file("/fake/z") if not os.path.exists("/fake/z") else None
    def test_unit_violates(self): violate()

def test_after(): pass
""",
        encoding="utf-8",
    )
    plain = runs.pytest("-q", "-rA", fenced=False)
    run = runs.pytest("-q", "-rA", *more)
    assert "INTERNALERROR" not in run.out + run.err, run
    assert all(line.startswith("PASSED") for line in plain.outcomes()), plain
    assert len(plain.outcomes()) == 12
    wanted = {
        f"{'FAILED' if 'violates' in line or 'default' in line else 'PASSED'} {line.split()[1]}"
        for line in plain.outcomes()
    }
    assert set(run.outcomes()) == wanted, run
    assert run.out.count("E   call: connect 192.0.2.2:8/tcp") == 5, run


@pytest.mark.parametrize("scope", ["session", "test"])
@pytest.mark.parametrize("library", ["freezegun", "time_machine"])
def test_clocks_that_stand_still(runs: Runs, library: str, scope: str) -> None:
    begin = "freezegun.freeze_time(AT)" if library == "freezegun" else "time_machine.travel(AT, tick=False)"
    (runs.directory / "test_it.py").write_text(
        f"""
import datetime, socket, time
import pytest
import {library}

AT = datetime.datetime(2001, 2, 3)

def violate():{ADDRESS}

@pytest.fixture(scope="module")
def wide():
    with {begin}:
        yield

@{begin}
def test_clean():
    assert time.time() < 1e9

@{begin}
def test_violates():
    violate()

def test_wide(wide):
    assert time.time() < 1e9

def test_wide_violates(wide):
    violate()
    assert time.time() < 1e9
""",
        encoding="utf-8",
    )
    run = runs.pytest("-q", "-rA", f"--fence-scope={scope}", "-p", "no:randomly")
    assert run.outcomes() == [
        "FAILED test_it.py::test_violates",
        "FAILED test_it.py::test_wide_violates",
        "PASSED test_it.py::test_clean",
        "PASSED test_it.py::test_wide",
    ], run
    assert run.out.count("E   call: connect 192.0.2.2:8/tcp") == 2, run
    assert " passed in -" not in run.out


def test_a_clock_that_stands_still_and_a_timer(runs: Runs) -> None:
    """pytest-timeout's timer goes on in the process of the test, whatever time a wider fixture has stopped."""
    runs.load("pytest_timeout")
    (runs.directory / "test_it.py").write_text(
        """
import time
import freezegun
import pytest

@pytest.fixture(scope="module", autouse=True)
def wide():
    with freezegun.freeze_time("2001-02-03"):
        yield

def test_a(): pass

@pytest.mark.timeout(0.5)
def test_slow():
    while True: pass

def test_b(): pass
""",
        encoding="utf-8",
    )
    run = runs.pytest("-q", "-rA", "--fence-scope=test", "-p", "no:randomly")
    assert run.outcomes() == ["FAILED test_it.py::test_slow", "PASSED test_it.py::test_a", "PASSED test_it.py::test_b"]


@pytest.mark.parametrize("more", [(), ("-n", "2"), ("--fence-scope=test",)], ids=["session", "workers", "test"])
@pytest.mark.parametrize("name", ["os.open", "os.read", "os.write", "json.loads", "json.dumps", "builtins.open"])
def test_what_is_never_put_back(runs: Runs, name: str, more: tuple[str, ...]) -> None:
    """It stands while the session is ended and its summary made; what pytest itself needs then is left out."""
    if "-n" in more:
        runs.load("xdist.plugin")
    module, attribute = name.split(".")
    (runs.directory / "test_it.py").write_text(
        f"""
import {module}, socket

def replaced(*args, **kwargs):
    raise OSError(5, "replaced by a test")

def test_leaves_it():
    sock = socket.socket()
    {module}.{attribute} = replaced
    sock.connect_ex(("192.0.2.2", 8))
    sock.close()
""",
        encoding="utf-8",
    )
    run = runs.pytest("-q", "-rA", "-p", "no:cacheprovider", *more)
    assert run.status == 1, run
    assert run.outcomes() == ["FAILED test_it.py::test_leaves_it"], run
    run.has("^=+ fence: 1 violation in 1 test", "E   call: connect 192.0.2.2:8/tcp")
    assert "cannot be read" not in run.out + run.err, run
    assert "INTERNALERROR" not in run.out + run.err, run
