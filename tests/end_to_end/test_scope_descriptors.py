"""With ``scope = "test"`` nothing that a test does to descriptors, timers or signals ends or hangs the session.

And without: a test that takes the fence's own descriptors away gets no way out by it.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import Runs, filters

HELP = """
import fcntl, json, os, resource, signal, socket, stat, time
import pytest

def lines():
    for n in range(1024):
        try:
            if os.readlink(f"/proc/self/fd/{n}").startswith(("pipe:", "socket:")):
                yield n
        except OSError:
            pass

def put(fd, data):
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.fcntl(fd, fcntl.F_GETFL))
    try:
        while data:
            data = data[os.write(fd, data):]
    except OSError:
        pass
"""

SUITE = (
    HELP
    + """
REPORT = b'["report",{"outcome":"passed","when":"call","longrepr":null,"sections":[],"duration":0,"start":0,"stop":0},'
@pytest.mark.parametrize("data", [
    b"\\xff\\x00{}\\n", b"x" * (1 << 21), b'["end"]\\n', b'["report",1]\\n{"a":1}\\nnull\\n', REPORT + b"false]\\n",
], ids=["garbage", "huge", "end", "shape", "report"])
def test_writes(data):
    for n in lines():
        put(n, data)

def test_child_keeps_all_open():
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(30)
        os._exit(0)

def test_closes_all():
    os.closerange(3, 4096)

def test_closes_low():
    os.closerange(0, 3)

def test_closes_everything():
    os.closerange(0, 4096)

def test_puts_another_everywhere(tmp_path):
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    for n in range(1024):
        if n != fd:
            os.dup2(fd, n)

def test_none_waits():
    for n in range(1024):
        try:
            fcntl.fcntl(n, fcntl.F_SETFL, os.O_NONBLOCK)
        except OSError:
            pass

def test_still_wait():
    pipes = [n for n in (1, 2) if stat.S_ISFIFO(os.fstat(n).st_mode)]
    assert not any(fcntl.fcntl(n, fcntl.F_GETFL) & os.O_NONBLOCK for n in pipes)

def test_blocks_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

def test_ignores_signals():
    for n in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(n, signal.SIG_IGN)

def test_alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    time.sleep(30)

def test_alarms_in_everything():
    signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)

def test_no_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))

def test_no_files_but_a_violation():
    sock = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    sock.connect_ex(("198.51.100.7", 8))

def test_few_files_and_a_violation():
    sock = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    sock.connect_ex(("198.51.100.7", 8))

def test_no_bytes():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

def test_after():
    pass
"""
)

PASSED = (
    "test_writes[garbage] test_writes[huge] test_writes[end] test_writes[shape] test_writes[report] test_closes_low "
    "test_child_keeps_all_open test_puts_another_everywhere test_none_waits test_still_wait test_blocks_signals "
    "test_ignores_signals test_no_files test_no_bytes test_after"
)
FAILED = (
    "test_closes_all test_closes_everything test_alarm test_no_files_but_a_violation test_few_files_and_a_violation"
)


@pytest.mark.parametrize("more", [(), ("-s",), ("-n", "2")], ids=["alone", "shown", "workers"])
def test_nothing_that_a_test_does_to_descriptors(runs: Runs, more: tuple[str, ...]) -> None:
    if "-n" in more:
        runs.load("xdist.plugin")
    (runs.directory / "test_it.py").write_text(SUITE, encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\nleftovers = "end"\n', encoding="utf-8")
    run = runs.command(*runs.argv(["-q", "-rA", "--fence-scope=test", *more], fenced=True), errors="replace")
    assert run.status == 1, run
    assert "INTERNALERROR" not in run.out + run.err, run
    found = run.outcomes()
    for outcome, names in (("PASSED", PASSED), ("FAILED", FAILED)):
        if outcome == "FAILED" and "-s" in more:
            names = names.replace("test_closes_all ", "").replace("test_closes_everything ", "")
        missing = [name for name in names.split() if f"{outcome} test_it.py::{name}" not in found]
        assert not missing, (missing, run)
    assert run.out.count("E   call: connect 198.51.100.7:8/tcp") == 2, run


def test_the_fence_does_not_depend_on_descriptors(runs: Runs) -> None:
    """All in one process: what follows is refused and told all the same. Of pytest, what needs files is left out."""
    (runs.directory / "test_it.py").write_text(
        HELP
        + """
def test_closes():
    os.closerange(3, 1024)
    assert socket.socket().connect_ex(("198.51.100.7", 8))

def test_puts_another(tmp_path):
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    for n in range(3, 1024):
        os.dup2(fd, n)
    os.closerange(3, 1024)
    assert socket.socket().connect_ex(("198.51.100.7", 9))

@pytest.fixture
def few():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    sock = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    yield sock
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)

def test_few_files(few):
    assert few.connect_ex(("198.51.100.7", 10))

def test_after():
    pass
""",
        encoding="utf-8",
    )
    run = runs.pytest("-s", "-rA", "-p", "no:logging", "-p", "no:faulthandler", "-p", "no:randomly")
    assert run.status == 1, run
    assert run.outcomes() == [
        "FAILED test_it.py::test_closes",
        "FAILED test_it.py::test_few_files",
        "FAILED test_it.py::test_puts_another",
        "PASSED test_it.py::test_after",
    ], run
    for port in (8, 9, 10):
        assert f"E   call: connect 198.51.100.7:{port}/tcp" in run.out, run
    assert "INTERNALERROR" not in run.out + run.err, run


def test_a_report_that_hides_a_violation(fenced: Fenced) -> None:
    """What the fork says of itself can be a lie: what the broker has recorded fails the test all the same."""
    run = fenced.run(
        """
        import socket
        import pytest
        from pytest_fence.items import TestHooks

        @pytest.fixture
        def liar(monkeypatch):
            monkeypatch.setattr(TestHooks, "_decided", lambda *_: None)
            yield monkeypatch.setattr(TestHooks, "judge", lambda *_: None)

        def test_before(): pass

        def test_lies(liar):
            socket.socket().connect_ex(("198.51.100.7", 8))

        def test_says_it_has_told(monkeypatch):
            def told(self, item, report):
                report.fence = [{"number": v.number, "state": v.state} for v in
                                self._fence.take(item.nodeid)]
                self._seen = self._count()
            monkeypatch.setattr(TestHooks, "_decided", lambda *_: None)
            monkeypatch.setattr(TestHooks, "judge", told)
            socket.socket().connect_ex(("198.51.100.7", 9))

        def test_after(): pass
        """,
        flags=("--fence", "--fence-scope=test"),
    )
    assert run.status == 1, run
    for name, phase, port in (("test_lies", "teardown", 8), ("test_says_it_has_told", "call", 9)):
        report = run.report(name, phase)
        assert report["outcome"] == "failed", run
        assert f"connect 198.51.100.7:{port}/tcp" in report["text"]
    for name in ("test_before", "test_after"):
        assert run.report(name)["outcome"] == "passed"


def test_rulesets_that_are_closed(fenced: Fenced) -> None:
    """A fixture of the session closes all descriptors of pytest's process: each test has its floor still."""
    run = fenced.run(
        f"""
        import os
        import pytest

        @pytest.mark.fence(allow_write=["./*"])
        def test_before(): pass

        @pytest.mark.fence(allow_write=["./*"])
        def test_floor(closed, tmp_path):
            (tmp_path / "x").write_text("x")
            assert {filters(fenced=True)!r} in open("/proc/self/status").read()

        @pytest.fixture(scope="session")
        def closed():
            fd = os.open("/dev/null", os.O_RDWR)
            for n in range(200, 1024):
                os.dup2(fd, n)
            os.close(fd)
        """,
        "-s",
        "-p",
        "no:randomly",
        flags=("--fence", "--fence-scope=test"),
    )
    assert run.status == 0, run
