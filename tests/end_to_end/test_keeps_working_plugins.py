"""Plugins that most suites use: same outcomes, same data, same exit status inside a fence."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs, assert_same

MANY = """
    import os, time
    import pytest

    @pytest.fixture(scope="session")
    def base(tmp_path_factory, worker_id):
        (tmp_path_factory.getbasetemp() / worker_id).touch()
        return worker_id

    @pytest.mark.parametrize("n", range(12))
    def test_many(n, base, tmp_path):
        (tmp_path / "x").write_text(str(n))
        assert n != 7

    @pytest.mark.xfail
    def test_xfails():
        assert 0

    @pytest.mark.skip
    def test_skipped():
        pass
"""


def test_xdist(pytester: pytest.Pytester, runs: Runs) -> None:
    """Two workers, every way of distributing; each test is run once, with the outcome it has without workers."""
    runs.load("xdist")
    pytester.makepyfile(test_a=MANY, test_b=MANY)
    for args in ("-n 2", "-n 2 --dist loadfile --maxfail=30", "-n 1 --dist each -x", "-n 0", "-n 2 "):
        plain, fenced = runs.both("-rA", "-q", *args.split())
        assert (fenced.status, fenced.outcomes(), fenced.err) == (plain.status, plain.outcomes(), plain.err), args
        assert plain.status in (1, 2)
    assert len(runs.pytest("-rA", "-q", "-n", "2").outcomes()) == 28


def test_xdist_worker_that_dies(pytester: pytest.Pytester, runs: Runs) -> None:
    """A worker that crashes is replaced, and its test is the one that failed."""
    runs.load("xdist")
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.parametrize("n", range(8))
        def test_it(n):
            if n == 3:
                os._exit(1)
        """
    )
    plain, fenced = runs.both("-rA", "-q", "-n", "2")
    assert (fenced.status, fenced.outcomes()) == (plain.status, plain.outcomes()), fenced
    fenced.has("worker 'gw[01]' crashed while running '.*test_it.3.'")


CODE = {
    "mine.py": """
        import subprocess, sys

        def double(n):
            return 2 * n

        def start():
            return subprocess.run([sys.executable, "-c", "import mine; mine.elsewhere()"]).returncode

        def elsewhere():
            text = "only in another process"
            return text

        def in_a_fork():
            import os
            pid = os.fork()
            if pid == 0:
                value = 1
                value += 1
                os._exit(0)
            os.waitpid(pid, 0)

        def never():
            return 0
    """,
    "conftest.py": """
        import mine

        def pytest_configure():
            mine.double(1)
    """,
    "test_it.py": """
        import mine

        def test_double():
            assert mine.double(2) == 4

        def test_start():
            assert mine.start() == 0
    """,
}


def write(directory: Path, files: dict[str, str]) -> None:
    import textwrap

    for name, text in files.items():
        (directory / name).write_text(textwrap.dedent(text), encoding="utf-8")


def lines(runs: Runs) -> dict[str, list[int]]:
    """Executed lines of each file by the data that a run has left; the data is removed."""
    left = sorted(path.name for path in runs.directory.glob(".coverage*"))
    if left != [".coverage"]:
        runs.command(sys.executable, "-m", "coverage", "combine", "-q")
    ended = runs.command(sys.executable, "-m", "coverage", "json", "-q", "-o", "-")
    assert ended.status == 0, (left, ended)
    for path in runs.directory.glob(".coverage*"):
        path.unlink()
    return {name: file["executed_lines"] for name, file in json.loads(ended.out)["files"].items() if name in CODE}


def coverage_of(runs: Runs, *argv: str, env: dict[str, str] | None = None) -> tuple[Ended, int, dict[str, list[int]]]:
    """How it ended, the number of data files it left, and what they say."""
    ended = runs.command(*argv, env=env)
    count = len(list(runs.directory.glob(".coverage*")))
    return ended, count, lines(runs)


@pytest.mark.parametrize(
    "args",
    ["--cov=. --cov-report=term-missing", "--cov=mine --cov-branch --cov-report= -n 2", "--cov=. --cov-append -n 0"],
)
def test_pytest_cov(runs: Runs, args: str) -> None:
    """All lines that run are there, conftest's too; one data file, and the same table."""
    runs.load("xdist", "pytest_cov")
    write(runs.directory, CODE)
    found = [coverage_of(runs, *runs.argv(args.split(), fenced=way)) for way in (False, True)]
    (plain, plain_count, plain_lines), (fenced, count, fenced_lines) = found
    assert fenced_lines == plain_lines
    assert count == plain_count == 1
    assert {5} <= set(fenced_lines["mine.py"])
    if "-n 2" in args:
        assert (fenced.status, fenced.err) == (plain.status, plain.err) == (0, "")
    else:
        assert_same(plain, fenced)


@pytest.mark.parametrize("patch", ["", "_exit", "subprocess", "fork", "execv"])
def test_coverage_run(runs: Runs, patch: str) -> None:
    """`coverage run -m pytest`, whatever it patches: the same lines, from as many data files."""
    parallel = "parallel = true\n" if patch in ("subprocess", "fork", "execv") else ""
    (runs.directory / "coveragerc").write_text(f"[run]\n{parallel}" + (f"patch = {patch}\n" if patch else ""))
    write(runs.directory, CODE)
    if patch == "fork":
        with (runs.directory / "test_it.py").open("a") as file:
            file.write("\ndef test_fork(): mine.in_a_fork()\n")
    found = []
    for fenced in (False, True):
        words = runs.argv(["-q"], fenced=fenced)
        found.append(coverage_of(runs, sys.executable, "-m", "coverage", "run", "--rcfile=coveragerc", *words[1:]))
    (plain, plain_count, plain_lines), (fenced_end, count, fenced_lines) = found
    assert_same(plain, fenced_end)
    assert fenced_lines == plain_lines
    assert count == plain_count
    assert fenced_end.status == 0


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeout(pytester: pytest.Pytester, runs: Runs, method: str) -> None:
    """pytest-timeout interrupts sleeping, computing and connecting tests; the thread method ends the run."""
    runs.load("pytest_timeout")
    pytester.makepyfile(
        test_it="""
        import socket, time

        def test_sleeps():
            time.sleep(60)

        def test_computes():
            while True:
                pass

        def test_connects():
            with socket.socket() as server:
                server.bind(("127.0.0.1", 0))
                server.listen(0)
                waiting = [socket.socket() for _ in range(3)]
                for client in waiting:
                    client.setblocking(False)
                    client.connect_ex(server.getsockname())
                with socket.socket() as client:
                    client.connect(server.getsockname())

        def test_passes():
            pass
        """
    )
    plain, fenced = runs.both("-rA", "-p", "no:cacheprovider", "--timeout=0.4", f"--timeout-method={method}")
    assert fenced.status == plain.status == 1
    if method == "signal":
        assert fenced.outcomes() == plain.outcomes()
        assert len(fenced.outcomes()) == 4
    else:
        for ended in (plain, fenced):
            assert re.search(r'File ".*test_it\.py", line 4, in test_sleeps', ended.out + ended.err), ended


def test_rerunfailures(pytester: pytest.Pytester, runs: Runs) -> None:
    """Tests that pass on their second attempt; also with workers, which ask a server of the plugin's."""
    runs.load("xdist", "pytest_rerunfailures")
    pytester.makepyfile(
        """
        import pathlib, pytest

        @pytest.mark.parametrize("n", range(3))
        def test_flaky(n, request, tmp_path_factory):
            mark = pathlib.Path(str(request.config.rootpath), f"mark-{n}-{request.config.getoption('--fence')}")
            if not mark.exists():
                mark.touch()
                assert 0

        @pytest.mark.flaky(reruns=2)
        def test_never():
            assert 0
        """
    )
    for args in ("--reruns 1", "--reruns 1 -n 2"):
        plain, fenced = runs.both("-rAR", "-q", *args.split())
        assert (fenced.status, fenced.outcomes()) == (plain.status, plain.outcomes()), (plain, fenced)
        fenced.has("1 failed, 3 passed, [45] rerun")
        for path in pytester.path.glob("mark-*"):
            path.unlink()


def test_randomly(pytester: pytest.Pytester, runs: Runs) -> None:
    """The order of a seed is the order of that seed."""
    runs.load("pytest_randomly")
    pytester.makepyfile(
        test_a="import pytest, random\n@pytest.mark.parametrize('n', range(20))\n"
        "def test_a(n): print(random.random())\n",
        test_b="def test_b(): pass\ndef test_c(): pass\n",
    )
    runs.same("-v", "-s", "-p", "no:cacheprovider", "--randomly-seed=42")


def test_hypothesis(pytester: pytest.Pytester, runs: Runs) -> None:
    """Examples are kept in a directory beside the project, and found again."""
    runs.load("_hypothesis_pytestplugin")
    pytester.makepyfile(
        """
        from hypothesis import given, settings, strategies

        @settings(derandomize=True, database=None, deadline=None)
        @given(strategies.integers())
        def test_passes(n):
            assert n + 1 > n

        @settings(deadline=None)
        @given(strategies.lists(strategies.integers()))
        def test_fails(found):
            assert sum(found) < 1000
        """
    )
    fenced = runs.pytest("-rA", "-q")
    assert (fenced.status, fenced.outcomes()) == (
        1,
        [f"FAILED {pytester.path.name[:-1]}.py::test_fails", f"PASSED {pytester.path.name[:-1]}.py::test_passes"],
    )
    assert (pytester.path / ".hypothesis").is_dir()


def test_everything_installed(pytester: pytest.Pytester, runs: Runs) -> None:
    """Plugins as users have them, found by their entry points, many at once; warnings made errors."""
    runs.load()
    pytester.makepyfile(test_a=MANY)
    args = "-rA -q -n 2 --cov=. --timeout=50 --reruns=1 -p no:randomly -W error -W ignore::ResourceWarning"
    plain, fenced = runs.both(*args.split(), before=lambda: None)
    assert (fenced.status, fenced.err, fenced.outcomes()) == (plain.status, plain.err, plain.outcomes()), fenced
    assert "1 failed" in fenced.out
    assert (pytester.path / ".coverage").exists()
