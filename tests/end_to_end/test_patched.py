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


def write(runs: Runs) -> None:
    (runs.directory / "test_it.py").write_text(SUITE.format(names=NAMES), encoding="utf-8")


def test_pytest_itself_gets_on_without_them(runs: Runs) -> None:
    """Else they would show nothing here."""
    write(runs)
    run = runs.pytest("-q", fenced=False)
    assert run.status == 0, run
    run.has(rf"^{2 * len(NAMES) + 1} passed")


@pytest.mark.parametrize("more", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize("scope", ["session"])
def test_whatever_a_test_replaces(runs: Runs, scope: str, more: tuple[str, ...]) -> None:
    if more:
        runs.load("xdist.plugin")
    write(runs)
    run = runs.pytest("-q", "-rA", f"--fence-scope={scope}", *more)
    assert run.status == 1, run
    wanted = ["PASSED test_it.py::test_after"]
    wanted += [f"PASSED test_it.py::test_clean[{name}]" for name in NAMES]
    wanted += [f"FAILED test_it.py::test_violates[{name}]" for name in NAMES]
    assert run.outcomes() == sorted(wanted)
    assert run.out.count("E   call: connect 192.0.2.2:8/tcp") == len(NAMES), run
    assert "could not be read" not in run.out, run
    assert "INTERNALERROR" not in run.out + run.err, run


@pytest.mark.parametrize("mode", ["warn", "audit"])
@pytest.mark.parametrize("scope", ["session"])
def test_modes_that_change_nothing(runs: Runs, scope: str, mode: str) -> None:
    write(runs)
    run = runs.pytest("-q", "-rA", f"--fence-scope={scope}", f"--fence-mode={mode}")
    assert run.status == 0, run
    assert len(run.outcomes()) == 2 * len(NAMES) + 1
    assert all(line.startswith("PASSED") for line in run.outcomes())
    if mode == "warn":
        run.has(rf"{2 * len(NAMES) + 1} passed, \d+ warnings?")
    else:
        run.has("^=+ fence: .*notes? \\(audit")
