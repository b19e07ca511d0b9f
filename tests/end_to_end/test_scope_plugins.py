"""``scope = "test"`` beside plugins that most suites use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs, assert_same, shown

CODE = {
    "mine.py": """
        def for_all():
            return 1

        def for_one(yes):
            if yes:
                return 2
            return 3

        def for_nobody():
            return 4
        """,
    "test_it.py": """
        import mine
        import pytest

        @pytest.fixture(scope="session")
        def base():
            return mine.for_all()

        def test_a(base):
            assert mine.for_one(True) == 2

        def test_b():
            assert mine.for_one(False) == 3

        class TestC:
            def test_c(self):
                assert mine.for_one(True) == 2
        """,
}


def _covered(runs: Runs) -> list[object]:
    """Lines, branches and contexts, and no data but the one file."""
    import coverage

    files = [path.name for path in runs.directory.glob(".coverage*")]
    assert files == [".coverage"], files
    data = coverage.CoverageData(str(runs.directory / ".coverage"))
    data.read()
    name = str(runs.directory / "mine.py")
    lines, arcs = sorted(data.lines(name) or ()), sorted(data.arcs(name) or ())
    contexts = {line: sorted(found) for line, found in data.contexts_by_lineno(name).items()}
    if hasattr(data, "close"):  # since 7.10.3
        data.close()
    return [lines, arcs, contexts]


@pytest.mark.parametrize(
    "args",
    [
        "--cov=mine --cov-branch",
        "--cov=mine --cov-context=test",
        "--cov=mine -n 2",
        "--cov=mine -n 2 --cov-context=test",
    ],
)
def test_coverage_by_pytest_cov(
    pytester: pytest.Pytester, runs: Runs, monkeypatch: pytest.MonkeyPatch, args: str
) -> None:
    if "context" in args:
        # What coverage takes by default since Python 3.14 asks for each line once, not for every test that reaches it.
        monkeypatch.setenv("COVERAGE_CORE", "ctrace")
    runs.load("pytest_cov", "xdist")
    pytester.makepyfile(**{Path(name).stem: text for name, text in CODE.items()})
    found = []
    for more in ((), ("--fence-scope=test",)):
        ended = runs.pytest("--cov=mine", "--cov-report=term-missing", *args.split(), *more)
        assert ended.status == 0, ended
        ended.has(r"^mine.py .* 10(?:$| )") if "branch" not in args else None
        found.append(_covered(runs))
        (runs.directory / ".coverage").unlink()
    assert found[0] == found[1]
    assert found[0][0]


def test_coverage_run(pytester: pytest.Pytester, runs: Runs) -> None:
    pytester.makepyfile(**{Path(name).stem: text for name, text in CODE.items()})
    found = []
    for more in ((), ("--fence-scope=test",)):
        python, *rest = runs.argv(more, fenced=True)
        ended = runs.command(python, "-m", "coverage", "run", "--branch", "--source=.", *rest)
        assert ended.status == 0, ended
        found.append(_covered(runs))
        (runs.directory / ".coverage").unlink()
    assert found[0] == found[1]
    assert found[0][1]


@pytest.mark.parametrize(
    "settings",
    [
        'patch = ["subprocess"]',
        'patch = ["subprocess", "_exit"]\nbranch = true',
        'dynamic_context = "test_function"\nparallel = true',
        'concurrency = ["thread", "multiprocessing"]\nsigterm = true',
    ],
)
def test_coverage_with_settings(pytester: pytest.Pytester, runs: Runs, settings: str) -> None:
    """What runs in programs, threads, and forks of a test counts as well, and what a test leaves running."""
    runs.load("pytest_cov")
    pytester.makepyprojecttoml(f"[tool.coverage.run]\n{settings}\n")
    pytester.makepyfile(mine="".join(f"def by_{way}():\n    return '{way}'\n" for way in WAYS), test_it=WAYS_TESTS)
    found = []
    for more in ((), ("--fence-scope=test",)):
        ended = runs.pytest("--cov=mine", "--cov-report=term-missing", *more)
        assert ended.status == 0, ended
        assert "coverage has no" not in ended.out
        found.append(_covered(runs))
        (runs.directory / ".coverage").unlink()
    assert found[0] == found[1]
    lines = found[0][0]
    assert isinstance(lines, list)
    assert [way for number, way in enumerate(WAYS) if 2 * number + 2 in lines][:3] == ["itself", "thread", "fixture"]


WAYS = ("itself", "thread", "fixture", "program", "fork", "teardown")
WAYS_TESTS = """
import os, subprocess, sys, threading
import mine, pytest

@pytest.fixture
def made():
    yield mine.by_fixture()
    mine.by_teardown()

def test_itself(made):
    mine.by_itself()

def test_thread():
    thread = threading.Thread(target=mine.by_thread)
    thread.start()
    thread.join()

def test_program():
    subprocess.run([sys.executable, "-c", "import mine; mine.by_program()"], check=True)

def test_fork():
    pid = os.fork()
    if not pid:
        mine.by_fork()
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("from coverage import collector\ndel collector.Collector.use_data", "use_data"),
        (
            "from coverage import Coverage\nreal = Coverage.current\n"
            "class Other:\n    _started = True\nCoverage.current = classmethod(lambda cls: real() and Other())",
            "_collector",
        ),
    ],
)
def test_coverage_that_cannot_be_split(pytester: pytest.Pytester, runs: Runs, without: str, missing: str) -> None:
    """A version of coverage that looks different inside: said once, and the tests run."""
    runs.load("pytest_cov")
    pytester.makepyfile(**{Path(name).stem: text for name, text in CODE.items()})
    pytester.makeconftest(without)
    ended = runs.pytest("--cov=mine", "--fence-scope=test")
    assert ended.status == 0, ended
    assert ended.out.count(f"this version of coverage has no {missing}") == 1, ended


def _outcomes(ended: Ended) -> tuple[int, list[str]]:
    return ended.status, sorted(set(ended.outcomes()))


def test_xdist(pytester: pytest.Pytester, runs: Runs) -> None:
    runs.load("xdist")
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def base(worker_id):
            return os.getpid()

        @pytest.mark.parametrize("n", range(12))
        def test_many(n, base, tmp_path):
            assert os.getppid() == base
            if n == 5:
                os.abort()
            assert n != 7
        """
    )
    ended = runs.pytest("-n", "2", "--fence-scope=test", "-rA", "-p", "no:faulthandler")
    name = "test_xdist.py::test_many"
    assert ended.outcomes() == sorted(f"{'FAILED' if n in (5, 7) else 'PASSED'} {name}[{n}]" for n in range(12)), ended
    ended.has("ended by SIGABRT", r"\[gw[01]\] linux")
    assert "crashed" not in ended.out


@pytest.mark.parametrize("more", [(), ("-n", "2")])
def test_reruns(pytester: pytest.Pytester, runs: Runs, more: tuple[str, ...]) -> None:
    """Attempts share the process of their test; a crash is not repeated."""
    runs.load("pytest_rerunfailures", "xdist")
    pytester.makepyfile(
        test_it="""
        import os
        import pytest

        attempts = []

        @pytest.fixture(scope="module")
        def wide():
            yield os.getpid()

        @pytest.fixture
        def own():
            yield

        def test_third_time(wide, own):
            attempts.append(1)
            assert os.getppid() == wide
            assert len(attempts) == 3

        def test_never(own):
            assert attempts == []
            assert 0

        def test_crash(own):
            os.abort()

        def test_after(wide):
            assert attempts == []
        """
    )
    ended = runs.pytest("--reruns=2", "--fence-scope=test", "-rAR", "-p", "no:faulthandler", *more)
    assert _outcomes(ended) == (
        1,
        [
            "FAILED test_it.py::test_crash",
            "FAILED test_it.py::test_never",
            "PASSED test_it.py::test_after",
            "PASSED test_it.py::test_third_time",
            "RERUN test_it.py::test_never",
            "RERUN test_it.py::test_third_time",
        ],
    ), ended
    ended.has("2 failed, 2 passed, .*4 rerun")


def test_timeouts(pytester: pytest.Pytester, runs: Runs) -> None:
    """The alarm rings in the test's process, and shows its line; one that is set for a call only does so too."""
    runs.load("pytest_timeout")
    pytester.makepyfile(
        test_it="""
        import signal, time
        import pytest

        def test_slow():
            time.sleep(60)  # here

        @pytest.mark.timeout(0.3, func_only=True)
        def test_slow_call():
            time.sleep(60)  # and here

        def test_quick():
            pass

        def test_alarm_of_its_own():
            rung = []
            signal.signal(signal.SIGALRM, lambda *args: rung.append(1))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while not rung:
                time.sleep(0.001)
        """
    )
    ended = runs.pytest("--timeout=0.5", "--fence-scope=test", "-rA")
    assert _outcomes(ended) == (
        1,
        [
            "FAILED test_it.py::test_slow",
            "FAILED test_it.py::test_slow_call",
            "PASSED test_it.py::test_alarm_of_its_own",
            "PASSED test_it.py::test_quick",
        ],
    ), ended
    ended.has(r"^>.*# here", r"^>.*# and here", r"Failed: Timeout \(>0.5s\)")


def test_an_alarm_for_the_session_goes_on(pytester: pytest.Pytester, runs: Runs) -> None:
    pytester.makepyfile(
        test_it="""
        import signal
        import pytest

        @pytest.fixture(scope="session")
        def alarm():
            signal.setitimer(signal.ITIMER_REAL, 600)

        @pytest.mark.parametrize("n", range(3))
        def test_it(n, alarm):
            assert 590 < signal.getitimer(signal.ITIMER_REAL)[0] < 600
        """
    )
    ended = runs.pytest("--fence-scope=test")
    assert ended.status == 0, ended


def test_randomly(pytester: pytest.Pytester, runs: Runs) -> None:
    """The order and the numbers of a seed are the same; without the plugin no two tests get the same numbers."""
    pytester.makepyfile(
        test_it="""
        import json, random
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(n):
            with open("drawn", "a") as file:
                print(n, random.random(), file=file)
        """
    )
    drawn = runs.directory / "drawn"
    found = []
    for more in ((), ("--fence-scope=test",)):
        assert runs.pytest("-p", "pytest_randomly", "--randomly-seed=7", *more).status == 0
        found.append(drawn.read_text())
        drawn.unlink()
    assert found[0] == found[1]
    assert runs.pytest("--fence-scope=test").status == 0
    assert len({line.split()[1] for line in drawn.read_text().splitlines()}) == 4


def test_a_live_server(pytester: pytest.Pytester, runs: Runs) -> None:
    """Threads of wider fixtures go on in pytest's own process, and serve."""
    pytester.makepyfile(
        test_it="""
        import http.server, threading, urllib.request
        import pytest

        @pytest.fixture(scope="session")
        def url():
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(self.path.encode())

                def log_message(self, *args):
                    pass

            with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                yield f"http://127.0.0.1:{server.server_port}"
                server.shutdown()
                thread.join()

        @pytest.mark.parametrize("n", range(5))
        def test_it(url, n):
            with urllib.request.urlopen(f"{url}/{n}", timeout=10) as answer:
                assert answer.read() == f"/{n}".encode()
        """
    )
    ended = runs.pytest("--fence-scope=test", "-Werror")
    assert ended.status == 0, ended


@pytest.mark.parametrize("args", ["-rA", "-rA --capture=sys", "-v --capture=tee-sys", "-s"])
def test_a_thread_that_prints(pytester: pytest.Pytester, runs: Runs, args: str) -> None:
    """What a thread of a module's fixture prints and logs while a test runs is captured with that test."""
    pytester.makepyfile(
        test_it="""
        import logging, os, subprocess, sys, threading
        import pytest

        @pytest.fixture(scope="module")
        def speaker():
            asked, ask = os.pipe()
            heard, answer = os.pipe()

            def work():
                while word := os.read(asked, 100).decode():
                    print("said in the thread:", word)
                    print("and to stderr:", word, file=sys.stderr)
                    logging.getLogger("thread").warning("logged: %s", word)
                    if word == "failing":
                        subprocess.run(["echo", "said by its program"])
                    os.write(answer, b".")
            thread = threading.Thread(target=work)
            thread.start()

            def say(word):
                os.write(ask, word.encode())
                assert os.read(heard, 1) == b"."
            yield say
            os.close(ask)
            thread.join()

        @pytest.fixture
        def around(speaker):
            speaker("setup")
            yield speaker
            speaker("teardown")

        def test_passes(around):
            print("before")
            around("passing")
            print("after")

        def test_fails(around):
            around("failing")
            assert 0

        def test_plain():
            pass
        """
    )
    together, apart = (runs.pytest(*args.split(), *more) for more in ((), ("--fence-scope=test",)))
    assert together.status == 1
    together.has("said in the thread: failing")
    if args.endswith("sys"):
        # Two buffers: what both have in one phase does not come in the order in which it was printed.
        together, apart = (
            Ended(end.status, "\n".join(sorted(shown(end.out).splitlines())), end.err) for end in (together, apart)
        )
    assert_same(together, apart)


def test_async_tests(pytester: pytest.Pytester, runs: Runs) -> None:
    """Loops that live as long as a test."""
    runs.load("anyio.pytest_plugin")
    pytester.makepyfile(
        test_it="""
        import asyncio, os
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def own(anyio_backend):
            await asyncio.sleep(0)
            yield os.getpid()

        @pytest.mark.anyio
        @pytest.mark.parametrize("n", range(3))
        async def test_it(own, n):
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0
            assert own == os.getpid()
        """
    )
    plain, apart = runs.pytest("-rA", "-q"), runs.pytest("-rA", "-q", "--fence-scope=test")
    assert apart.status == 0, apart
    assert_same(plain, apart)


def test_a_loop_for_the_session(pytester: pytest.Pytester, runs: Runs) -> None:
    """Each test's process has a copy of it, with its tasks and servers as they were before the first test."""
    runs.load("anyio.pytest_plugin")
    pytester.makepyfile(
        test_it="""
        import asyncio
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="session")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="session")
        async def server():
            async def echo(reader, writer):
                while line := await reader.readline():
                    writer.write(line)
                    await writer.drain()
                writer.close()
            print("server up")
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            yield asyncio.get_running_loop(), server.sockets[0].getsockname()
            server.close()
            print("server down")

        @pytest.fixture(scope="module")
        async def ticks(server):
            seen = []

            async def work():
                while True:
                    await asyncio.sleep(0)
                    seen.append(1)
            task = asyncio.create_task(work())
            yield seen
            task.cancel()

        @pytest.fixture
        async def client(server):
            assert asyncio.get_running_loop() is server[0]
            reader, writer = await asyncio.open_connection(*server[1])
            yield reader, writer
            writer.close()

        @pytest.mark.parametrize("n", range(3))
        async def test_asks(client, n):
            client[1].write(b"%d\\n" % n)
            assert await client[0].readline() == b"%d\\n" % n

        async def test_ticks(ticks):
            before = len(ticks)
            await asyncio.sleep(0.01)
            assert len(ticks) > before

        async def test_fails():
            assert await asyncio.to_thread(int) == 1
        """
    )
    together, apart = runs.pytest("-rA"), runs.pytest("-rA", "--fence-scope=test")
    assert together.status == 1
    together.has("^FAILED .*::test_fails - ", "^server down$", "1 failed, 4 passed")
    assert_same(together, apart)


def test_other_hooks_see_every_report(pytester: pytest.Pytester, runs: Runs) -> None:
    """Once, in pytest's own process, with what other hooks have hung on them."""
    pytester.makeconftest(
        """
        import json, os
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.mine = {"pid": os.getpid(), "list": [1, "two", None], "odd": object}
            return report

        def pytest_runtest_logreport(report):
            with open("seen", "a") as file:
                print(json.dumps([report.when, os.getpid(), report.mine, report.keywords]), file=file)

        def pytest_warning_recorded(warning_message, nodeid, when):
            with open("warned", "a") as file:
                print(warning_message.category.__name__, nodeid, when, file=file)
        """
    )
    pytester.makepyfile(
        test_it="""
        import warnings
        import pytest

        class Mine(Warning):
            def __init__(self, a, b):
                super().__init__(f"{a}{b}")

        @pytest.mark.some
        def test_it():
            warnings.warn(Mine(1, 2))
            warnings.warn("old", DeprecationWarning)
        """
    )
    ended = runs.pytest("--fence-scope=test")
    assert ended.status == 0, ended
    seen = [json.loads(line) for line in (pytester.path / "seen").read_text().splitlines()]
    assert [when for when, *_ in seen] == ["setup", "call", "teardown"]
    for _, pid, mine, keywords in seen:
        assert mine["pid"] != pid
        assert mine["list"] == [1, "two", None]
        assert keywords["some"] == 1
    warned = (pytester.path / "warned").read_text().splitlines()
    assert sorted(line for line in warned if line.endswith("runtest")) == [
        "DeprecationWarning test_it.py::test_it runtest",
        "Warning test_it.py::test_it runtest",
    ]
    assert re.search(r"test_it.Mine: 12", ended.out), ended
