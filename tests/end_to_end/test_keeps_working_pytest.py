"""What pytest itself offers gives the same outcomes, the same words and the same exit status inside a fence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs, assert_same, filters

SUITE = {
    "conftest.py": """
        import pytest

        @pytest.fixture(scope="session")
        def base(tmp_path_factory):
            path = tmp_path_factory.mktemp("base")
            yield path
            print("session torn down")
    """,
    "test_one.py": '''
        """
        >>> 1 + 1
        2
        """
        import logging, os, sys, unittest, warnings
        import pytest

        def test_passes(base, tmp_path, capfd):
            (tmp_path / "a").write_text("x")
            os.system("echo from a shell")
            assert capfd.readouterr().out == "from a shell\\n"

        def test_prints():
            print("out")
            print("err", file=sys.stderr)
            os.write(1, b"descriptor\\n")
            logging.getLogger("x").warning("logged")

        def test_fails(base):
            value = [1, 2, 3]
            print("before failing")
            assert value == [1, 2, 4]

        @pytest.mark.xfail(reason="known")
        def test_xfails():
            raise RuntimeError

        @pytest.mark.xfail
        def test_xpasses():
            pass

        @pytest.mark.skip(reason="not now")
        def test_skipped():
            pass

        @pytest.fixture
        def broken():
            raise RuntimeError("setup")

        def test_errors(broken):
            pass

        @pytest.mark.parametrize("n", range(3))
        def test_param(n, request):
            warnings.warn("careful")
            assert request.node.name == f"test_param[{n}]"

        class TestClass:
            def setup_method(self):
                self.x = 1
            def test_method(self):
                assert self.x == 1

        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.value = 3
            def setUp(self):
                self.addCleanup(lambda: None)
            def test_case(self):
                self.assertEqual(self.value, 3)
            def test_sub(self):
                for n in range(2):
                    with self.subTest(n=n):
                        self.assertEqual(n, 0)
            @unittest.expectedFailure
            def test_expected(self):
                self.fail("yes")

        class Async(unittest.IsolatedAsyncioTestCase):
            async def test_async(self):
                import asyncio
                await asyncio.sleep(0)
    ''',
    "test_two.py": '''
        def double(n):
            """
            >>> double(2)
            4
            >>> double(3)
            7
            """
            return 2 * n

        def test_last():
            pass
    ''',
}

SUBTESTS = """
    def test_subtests(subtests):
        for n in range(3):
            with subtests.test(n=n):
                assert n != 1
"""


def write(pytester: pytest.Pytester, files: dict[str, str]) -> None:
    for name, text in files.items():
        pytester.makefile(Path(name).suffix, **{Path(name).stem: text})


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ("-rA", 1),
        ("-s -p no:cacheprovider", 1),
        ("-v -x --capture=sys", 1),
        ("-q --maxfail=2 --capture=tee-sys --doctest-modules", 1),
        ("--doctest-modules -vv --tb=short --show-capture=log", 1),
        ("-p no:capture --tb=line -k param", 0),
        ("-p no:terminal", 1),
        ("--co -q", 0),
        ("--setup-plan -q", 0),
        ("-k nothing_of_this_name", 5),
        ("test_two.py --no-header --no-summary", 0),
        ("--help", 0),
        ("--version", 0),
        ("-VV", 0),
        ("--markers", 0),
        ("--fixtures -q", 0),
        ("--no-such-option", 4),
        ("no_such_file.py", 4),
        ("-W error -rfE test_one.py::test_param", 1),
        ("--debug -q test_two.py", 0),
    ],
)
def test_options(pytester: pytest.Pytester, runs: Runs, args: str, status: int) -> None:
    """A suite with every kind of outcome, under pytest's options."""
    write(pytester, SUITE)
    if hasattr(pytest, "Subtests") and "no:" not in args:
        pytester.makepyfile(test_sub=SUBTESTS)
    plain, fenced = runs.both(*args.split())
    assert plain.status == status, plain
    if args == "--markers":  # an `addinivalue_line` of ours is there in both
        assert "@pytest.mark.fence(" in plain.out
    assert_same(_without_usage(plain), _without_usage(fenced))


def _without_usage(ended: Ended) -> Ended:
    """Usage errors repeat the command line, and a debug log names its file by the process."""
    out = re.sub(r"pytestdebug\.log", "debug", ended.out)
    return Ended(ended.status, out, re.sub(r"unrecognized arguments: .*", "unrecognized", ended.err))


def test_memory_of_earlier_runs(pytester: pytest.Pytester, runs: Runs) -> None:
    """--lf, --ff, --nf, --sw and --cache-show: what one run leaves behind, the next one finds."""
    write(pytester, SUITE)
    ends: dict[bool, list[Ended]] = {}
    for fenced in (False, True):
        pytester.run("rm", "-rf", ".pytest_cache")
        steps = ["-q", "-q --lf", "--ff -v", "-q --sw", "--cache-show cache/*"]
        ends[fenced] = [runs.pytest(*step.split(), fenced=fenced) for step in steps]
    for plain, fenced_end in zip(ends[False], ends[True], strict=True):
        assert_same(plain, fenced_end)
    ends[True][1].has(r"^1 failed, .*1 error")


def test_junit(pytester: pytest.Pytester, runs: Runs) -> None:
    """The report file is written, complete, to a directory that did not exist before."""
    write(pytester, SUITE)
    found = []
    for fenced in (False, True):
        runs.pytest("--junitxml=made/for/it/report.xml", fenced=fenced)
        path = pytester.path / "made/for/it/report.xml"
        suite = next(iter(ElementTree.parse(path).getroot()))
        found.append(
            [
                {name: suite.get(name) for name in ("errors", "failures", "skipped", "tests")},
                [
                    (case.get("classname"), case.get("name"), [child.tag for child in case])
                    for case in suite.iter("testcase")  # what the fence says of itself stands in properties beside them
                ],
            ]
        )
        path.unlink()
        pytester.run("rm", "-r", "made")
    assert found[0] == found[1]


STATUSES = {
    "passes": ("def test(): pass", None, 0),
    "fails": ("def test(): assert 0", None, 1),
    "interrupted": ("def test(): raise KeyboardInterrupt", None, 2),
    "collection_error": ("import nothing_of_this_name", None, 2),
    "internal_error": ("def test(): pass", "def pytest_runtest_protocol(): 1 / 0", 3),
    "usage_error": ("def test(): pass", "import pytest\ndef pytest_configure(): raise pytest.UsageError('x')", 4),
    "conftest_error": ("def test(): pass", "1 / 0", 4),
    "nothing_collected": ("", None, 5),
    "exit_9": ("import pytest\ndef test(): pytest.exit('enough', returncode=9)", None, 9),
    "exit_in_conftest": ("def test(): pass", "import pytest\npytest.exit('enough', returncode=7)", 4),
    "sys_exit_in_conftest": ("def test(): pass", "import sys\nsys.exit(3)", 3),
    "sys_exit_text_in_conftest": ("def test(): pass", "import sys\nsys.exit('not today')", 1),
    "sessionfinish_raises": ("def test(): pass", "def pytest_sessionfinish(): raise RuntimeError", 1),
    "unconfigure_raises": ("def test(): pass", "def pytest_unconfigure(): raise RuntimeError", 1),
    "atexit_prints": ("def test(): pass", "import atexit\natexit.register(print, 'bye')", 0),
    "os_exit": ("import os\ndef test(): os._exit(17)", None, 17),
    "os_exit_large": ("import os\ndef test(): os._exit(255)", None, 255),
}


@pytest.mark.parametrize("case", STATUSES)
def test_exit_statuses(pytester: pytest.Pytester, runs: Runs, case: str) -> None:
    """0 to 5, what `pytest.exit` says, and what code outside of any test does to the exit status."""
    test, conftest, status = STATUSES[case]
    pytester.makepyfile(test_it=test)
    if conftest is not None:
        pytester.makeconftest(conftest)
    runs.same("-p", "no:cacheprovider", status=status)


def test_pytester(pytester: pytest.Pytester, runs: Runs) -> None:
    """Suites of plugins: an inner pytest in the same process and in another one."""
    pytester.makeconftest("pytest_plugins = ['pytester']")
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.parametrize("how", ["inprocess", "subprocess"])
        def test_inner(pytester, how):
            pytester.makepyfile("def test_a(tmp_path): (tmp_path / 'x').touch()\\ndef test_b(): assert 0")
            result = getattr(pytester, f"runpytest_{how}")("-p", "no:randomly")
            result.assert_outcomes(passed=1, failed=1)
            assert "fence:" not in result.stdout.str()

        def test_hooks_are_recorded(pytester):
            recorder = pytester.inline_runsource("def test_a(): pass", "-p", "no:randomly")
            recorder.assertoutcome(passed=1)

        def test_after(request):
            assert os.environ["PYTEST_CURRENT_TEST"].startswith(request.node.nodeid)
        """
    )
    runs.same("-rA")


def test_faulthandler(pytester: pytest.Pytester, runs: Runs) -> None:
    """A crash shows the Python stack, once, and the run ends by the signal."""
    pytester.makepyfile(
        """
        import ctypes

        def test_crash():
            ctypes.string_at(0)
        """
    )
    plain, fenced = runs.both("-p", "no:cacheprovider")
    assert plain.status == fenced.status == -11
    for ended in (plain, fenced):
        assert ended.err.count("Fatal Python error: Segmentation fault") == 1
        assert re.search(r"test_faulthandler\.py\W+ line 4 in test_crash", ended.err), ended
    assert "fence:" not in fenced.err
    dump = [
        line
        for line in fenced.err.splitlines()
        if line.startswith("  File") and line not in plain.err.splitlines() and "pytest_fence" not in line
    ]
    assert not dump, fenced


def test_faulthandler_timeout(pytester: pytest.Pytester, runs: Runs) -> None:
    """`faulthandler_timeout` shows all threads, to the standard error that pytest found."""
    pytester.makepyfile("import time\ndef test_slow(): time.sleep(0.5)")
    plain, fenced = runs.both("-o", "faulthandler_timeout=0.1", "-p", "no:cacheprovider")
    for ended in (plain, fenced):
        assert ended.status == 0
        assert "line 2 in test_slow" in ended.err, ended


def test_files_are_written_once(pytester: pytest.Pytester, runs: Runs) -> None:
    """What lies in a buffer when the fence goes up, and at the end, is written by one of the two processes only."""
    pytester.makepyfile(
        early="""
        import atexit, os, sys
        log = open("log.txt", "a")
        log.write("buffered before the fence\\n")
        atexit.register(lambda: log.write(f"exit handler in {os.getpid()}\\n"))
        """,
        test_it="""
        import early
        def test_write():
            early.log.write("in a test\\n")
        """,
    )
    plain, fenced = runs.both("-p", "early", before=lambda: (pytester.path / "log.txt").unlink(missing_ok=True))
    assert plain.status == fenced.status == 0
    lines = (pytester.path / "log.txt").read_text().splitlines()
    assert lines[:2] == ["buffered before the fence", "in a test"]
    assert len(lines) == 3


def test_nobody_notices_the_fork(pytester: pytest.Pytester, runs: Runs) -> None:
    """What a plugin prepared at its import is there: random numbers of its seed, and no at-fork handler has run."""
    pytester.makepyfile(
        early="""
        import multiprocessing, os, random, tempfile, threading
        random.seed(7)
        forks = []
        os.register_at_fork(before=lambda: forks.append("before"), after_in_child=lambda: forks.append("child"),
                            after_in_parent=lambda: forks.append("parent"))
        lock = threading.Lock()
        local = threading.local()
        local.value = 5
        """,
        test_it="""
        import multiprocessing, os, random, subprocess, sys, threading, early

        def test_it():
            print(random.random(), early.forks, early.lock.locked(), early.local.value)
            main = threading.main_thread()
            assert main.native_id == threading.get_native_id() == os.getpid()
            assert main is threading.current_thread() and main.is_alive()
            assert multiprocessing.parent_process() is None
            done = []
            thread = threading.Thread(target=done.append, args=(1,))
            thread.start(), thread.join()
            pid = os.fork()
            if pid == 0:
                os._exit(len(early.forks))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
            assert early.forks == ["before", "parent"]
            assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"]).returncode == 3
        """,
    )
    # Python 3.12 warns where the thread that was joined has not quite ended when the fork comes.
    runs.same("-s", "-p", "early", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning")


def test_standard_output_is_in_order(pytester: pytest.Pytester, runs: Runs) -> None:
    """Both streams into one pipe: nothing of ours comes between, whatever is written before and after the fork."""
    pytester.makepyfile(
        early="print('printed before the fence', end=' ')\nimport sys\nprint('and this', file=sys.stderr)",
        test_it="def test(): print('in a test')",
    )
    plain, fenced = runs.both("-s", "-p", "early", "-p", "no:cacheprovider", stderr=subprocess.STDOUT)
    assert_same(plain, fenced)
    assert fenced.out.count("printed before the fence") == 1


def test_surroundings_are_the_same(pytester: pytest.Pytester, runs: Runs) -> None:
    """Environment, signals, limits, children and terminal are as without a fence; one pipe more is open."""
    pytester.makepyfile(
        """
        import json, os, re, resource, signal, sys, threading

        def test_it():
            kinds = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    kinds.append(re.sub("[0-9]+", "", os.readlink(f"/proc/self/fd/{name}")))
                except OSError:
                    pass  # the one with which this directory is listed
            status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
            handlers = [(n, str(signal.getsignal(n)).split(" at ")[0]) for n in range(1, 32)]
            children = open(f"/proc/self/task/{os.getpid()}/children").read()
            seen = {
                "environ": sorted(set(os.environ) - {"SEEN"}),
                "descriptors": sorted(kinds),
                "handlers": handlers,
                "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
                "ignored": status["SigIgn"],
                "limits": [resource.getrlimit(n) for n in range(16) if n != 10],  # RLIMIT_LOCKS: the mark of accounts
                "threads": [threading.active_count(), status["Threads"], threading.main_thread().name],
                "directory": os.getcwd(),
                "umask": os.umask(0o22),
                "session": os.getsid(0) == os.getpgid(0),
                "children": children,
                "argv": [sys.argv, sys.orig_argv.count("--fence")],
                "priority": os.getpriority(os.PRIO_PROCESS, 0),
                "affinity": sorted(os.sched_getaffinity(0)),
                "comm": open("/proc/self/comm").read(),
                "dumpable": os.stat("/proc/self/environ").st_uid == os.getuid(),
            }
            with open(os.environ["SEEN"], "w") as file:
                json.dump(seen, file)
        """
    )
    seen = []
    for fenced in (False, True):
        path = pytester.path / f"seen-{fenced}"
        assert runs.pytest("-p", "no:cacheprovider", fenced=fenced, env={"SEEN": str(path)}).status == 0
        seen.append(json.loads(path.read_text()))
    plain, with_fence = seen
    assert plain["argv"].pop() + 1 == with_fence["argv"].pop()
    if "fence" in str(with_fence["argv"]):
        with_fence["argv"][0].remove("--fence")
    more = Counter(with_fence.pop("descriptors")) - Counter(plain.pop("descriptors"))
    # libffi keeps its own file open, where it is built so, once ctypes has been imported.
    more = Counter({kind: number for kind, number in more.items() if "/libffi.so" not in kind})
    assert more == {"pipe:[]": 1}  # for the Python stacks of what is refused
    assert with_fence == plain


def test_help_of_this_option(runs: Runs) -> None:
    """`--fence --help` shows the options of a conftest, imported fenced."""
    Path(runs.directory, "conftest.py").write_text(
        "import os\ndef pytest_addoption(parser):\n    parser.addoption('--of-the-conftest')\n"
        f"print('fenced' if {filters(fenced=True)!r} in open('/proc/self/status').read() else 'open')\n",
        encoding="utf-8",
    )
    ended = runs.pytest("--help", env={"COLUMNS": "200"})
    assert ended.status == 0
    ended.has("^fenced$", "--of-the-conftest", "--fence-mode")
    assert os.path.isabs(runs.directory)
