"""``scope = "test"``: what a test does in a process of its own is reported as if it were pytest's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.support import Runs, assert_same

FORKED = ("--fence", "--fence-scope=test")

SUITE = """
    import logging, os, unittest, warnings
    import pytest

    @pytest.fixture(scope="session")
    def base():
        print("base up")
        yield os.getpid()
        print("base down")

    @pytest.fixture(scope="module", params=["a", "b"])
    def lettered(request, base):
        print("up", request.param)
        yield request.param
        print("down", request.param)

    @pytest.fixture(scope="class")
    def broken():
        print("trying")
        raise ValueError("cannot be had")

    @pytest.fixture(scope="class")
    def broken_later():
        yield
        print("trying to end it")
        raise ValueError("cannot be ended")

    @pytest.fixture
    def own(tmp_path):
        print("own up")
        yield tmp_path
        print("own down")

    def test_passes(lettered, own):
        (own / "x").write_text(lettered)

    def test_prints_and_fails(lettered):
        print("to stdout")
        os.write(2, b"to stderr\\n")
        logging.getLogger("here").error("to the log")
        assert lettered == "c", "not c"

    def test_warns():
        warnings.warn("careful")

    @pytest.mark.skip(reason="not today")
    def test_marked(broken):
        pass

    def test_skips():
        pytest.skip("when it runs")

    @pytest.mark.xfail(reason="known")
    def test_xfails():
        assert 0

    @pytest.mark.xfail(strict=True)
    def test_xpasses():
        pass

    @pytest.mark.xfail(run=False)
    def test_not_run(broken):
        pass

    class TestBroken:
        def test_first(self, broken):
            pass

        def test_second(self, broken):
            pass

    class TestBrokenLater:
        def test_fine(self, broken_later):
            pass

    class TestCase(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            print("class up")

        def test_method(self):
            self.assertEqual(1, 1)

        @unittest.expectedFailure
        def test_expected(self):
            self.fail()

    def test_caplog(caplog, capfd):
        logging.warning("seen")
        os.write(1, b"seen too")
        assert "seen" in caplog.text and capfd.readouterr().out == "seen too"

    def test_asks_later(request):
        assert request.getfixturevalue("base") > 0

    def documented():
        '''
        >>> 1 + 1
        2
        '''
"""


@pytest.mark.parametrize(
    "args",
    [
        "-rA --doctest-modules",
        "-v -rA --capture=sys",
        "-x -rA",
        "--maxfail=2 -rA --strict-markers",
        "-s -q --no-header",
        "--tb=line -vv",
        "--stepwise",
        "-p no:logging -rA --deselect=test_it.py::test_caplog",
    ],
)
def test_the_same_is_shown(pytester: pytest.Pytester, runs: Runs, args: str) -> None:
    """Fenced in one process, and with a process for each test."""
    pytester.makepyfile(test_it=SUITE)
    ends = []
    for more in ((), ("--fence-scope=test",)):
        shutil.rmtree(pytester.path / ".pytest_cache", ignore_errors=True)
        ends.append(runs.pytest(*args.split(), *more))
    together, apart = ends
    assert together.status in (1, 2)
    if "-s" in args.split():
        # What two processes print at the same time comes in any order.
        assert sorted(re.findall(r"^\w+ (?:up|down)|trying.*", together.out, re.MULTILINE)) == sorted(
            re.findall(r"^\w+ (?:up|down)|trying.*", apart.out, re.MULTILINE)
        )
        return
    assert_same(together, apart)


@pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="elsewhere: a pytest without subtests")
@pytest.mark.parametrize("args", ["-rA", "-v"])
def test_subtests(pytester: pytest.Pytester, runs: Runs, args: str) -> None:
    """They are counted in the test's process, and one that fails makes its test fail."""
    pytester.makepyfile(
        """
        def test_with(subtests):
            for n in range(3):
                with subtests.test(msg="each", n=n, text="it's"):
                    assert n != 1

        def test_that_passes(subtests):
            with subtests.test(n=1):
                pass
        """
    )
    together, apart = (runs.pytest(*args.split(), *more) for more in ((), ("--fence-scope=test",)))
    assert together.status == 1
    together.has("^FAILED .*::test_with - contains 1 failed subtest")
    assert_same(together, apart)


def test_what_fails_without_a_traceback(pytester: pytest.Pytester, runs: Runs) -> None:
    """The summary has no more of a doctest, or of a fixture that nobody knows, than in one process."""
    pytester.makepyfile(
        test_it="""
        def documented():
            '''
            >>> 1 + 1
            3
            '''

        def test_it(nobody_knows):
            pass
        """
    )
    together, apart = (runs.pytest("-rA", "--doctest-modules", *more) for more in ((), ("--fence-scope=test",)))
    assert together.status == 1
    together.has("^FAILED .*documented$", "^ERROR .*test_it$")
    assert_same(together, apart)


def test_a_class_fixture_of_a_function(pytester: pytest.Pytester, runs: Runs) -> None:
    """It is torn down with the function, and set up again for the next."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="class")
        def of_class():
            print("up")
            yield
            print("down")

        @pytest.fixture(scope="class", params=["a", "b"])
        def lettered(request, of_class):
            print("up", request.param)
            yield
            print("down", request.param)

        def test_one(of_class):
            pass

        def test_two(lettered):
            pass

        class TestThree:
            def test_three(self, of_class):
                pass

            def test_four(self, lettered):
                pass
        """
    )
    together, apart = (runs.pytest("-rA", *more) for more in ((), ("--fence-scope=test",)))
    assert together.status == 0
    together.has("^down$", "^down b$")
    assert_same(together, apart)


def test_failures_are_remembered(pytester: pytest.Pytester, runs: Runs) -> None:
    pytester.makepyfile("def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass")
    assert runs.pytest("--fence-scope=test").status == 1
    again = runs.pytest("--fence-scope=test", "--lf", "-rA")
    assert again.outcomes() == ["FAILED test_failures_are_remembered.py::test_b"]


def test_junit(pytester: pytest.Pytester, runs: Runs) -> None:
    pytester.makepyfile(test_it=SUITE)
    found = []
    for more in ((), ("--fence-scope=test",)):
        runs.pytest("--junitxml=out.xml", *more)
        text = (pytester.path / "out.xml").read_text(encoding="utf-8")
        text = re.sub(r'(?:time|timestamp|hostname)="[^"]*"', "", text)
        found.append(re.sub(r"0x[0-9a-f]+", "<address>", text))
    assert found[0] == found[1]


def test_each_has_a_process_of_its_own(fenced: Fenced) -> None:
    """What it leaves behind in memory, in the environment and in the directory is gone; wider fixtures remain."""
    run = fenced.run(
        """
        import os
        import pytest

        seen = []
        here = os.getcwd()

        @pytest.fixture(scope="session")
        def base():
            yield os.getpid()
            print("ended in", os.getpid())

        @pytest.mark.parametrize("n", range(3))
        def test_many(n, base, tmp_path):
            assert os.getppid() == base != os.getpid()
            assert not seen and "LEFT" not in os.environ and os.getcwd() == here
            seen.append(n)
            os.environ["LEFT"] = "1"
            os.chdir(tmp_path)

        @pytest.mark.fence(scope="session")
        def test_with_the_others(base):
            assert os.getpid() == base
            seen.append("here")

        def test_after(base):
            assert seen == ["here"]
            print("base is", base)

        def test_last(base):
            assert os.getppid() == base
        """,
        flags=FORKED,
    )
    assert run.status == 0, run
    run.clean(*(f"test_many[{n}]" for n in range(3)), "test_with_the_others", "test_after", "test_last")
    base = dict(run.report("test_after")["sections"])["Captured stdout call"].split()[-1]
    assert dict(run.report("test_last", "teardown")["sections"])["Captured stdout teardown"] == f"ended in {base}\n"


def test_a_marker_asks_for_it(fenced: Fenced) -> None:
    """Without any setting; the closest marker counts, and one that says nothing else is no policy."""
    run = fenced.run(
        """
        import os
        import pytest

        PYTEST = os.getpid()

        def test_plain():
            assert os.getpid() == PYTEST

        @pytest.mark.fence(scope="test")
        def test_own():
            assert os.getppid() == PYTEST

        @pytest.mark.fence(scope="test", allow_write=["/nowhere"])
        class TestThese:
            def test_own(self):
                assert os.getppid() == PYTEST

            @pytest.mark.fence(scope="session")
            def test_not(self):
                assert os.getpid() == PYTEST
        """
    )
    assert run.status == 0, run


def test_config_asks_for_it(fenced: Fenced) -> None:
    suite = "import os\nPYTEST = os.getpid()\ndef test_it(): print('same' if os.getpid() == PYTEST else 'own')"
    for flags, expected in (((), "own"), (("--fence-scope=session",), "same")):
        run = fenced.run(suite, *flags, policy='[tool.fence]\nscope = "test"')
        assert dict(run.report("test_it")["sections"])["Captured stdout call"] == f"{expected}\n", run


@pytest.mark.parametrize(
    ("config", "marker", "found"),
    [
        ('scope = "module"', "", r'scope: is "module" \(a string\), "session" or "test" is accepted|"module"'),
        ("", 'scope="class"', r'"class"'),
        ("", "scope=1", r"scope"),
    ],
)
def test_a_wrong_scope_is_named(fenced: Fenced, config: str, marker: str, found: str) -> None:
    test = "import pytest\n@pytest.mark.fence(" + (marker or "allow_write=[]") + ")\ndef test_it(): pass"
    run = fenced.run(test, policy=f"[tool.fence]\n{config}")
    assert run.status == 4, run
    assert re.search(found, run.err), run
    assert '"session" or "test"' in run.err, run


def test_violations(fenced: Fenced) -> None:
    """Each is on its test's report, in its phase, with its line; markers hold in the fork too."""
    (fenced.outside / "allowed").mkdir()
    run = fenced.run(
        """
        import os, pathlib, subprocess, threading
        import pytest
        from here import OUTSIDE

        def write(name):
            try:
                pathlib.Path(OUTSIDE, name).write_text("x")
            except PermissionError:
                pass

        @pytest.fixture(scope="module")
        def wide():
            write("wide-setup")
            yield
            write("wide-teardown")

        @pytest.fixture
        def own():
            write("own-setup")
            yield
            write("own-teardown")

        def test_clean():
            pass

        def test_call():
            write("call")  # here

        def test_thread():
            thread = threading.Thread(target=write, args=["thread"])
            thread.start()
            thread.join()

        def test_program():
            subprocess.run(["touch", OUTSIDE + "/program"], stderr=subprocess.DEVNULL)

        def test_own(own):
            pass

        @pytest.mark.fence(allow_write=[OUTSIDE + "/allowed"])
        def test_allowed():
            pathlib.Path(OUTSIDE, "allowed", "f").write_text("x")

        def test_excused():
            pytest.xfail("known") if write("excused") is None else None

        def test_wide(wide):
            pass
        """,
        policy=ONLY_HERE,
        flags=FORKED,
    )
    out = fenced.outside
    run.clean("test_clean", "test_allowed")
    run.refused("test_call", f"write {out}/call", line='pathlib.Path(OUTSIDE, name).write_text("x")')
    run.refused("test_thread", f"write {out}/thread")
    run.refused("test_program", f"write {out}/program", by=["touch"])
    run.refused("test_excused", f"write {out}/excused")
    assert [(v.what.rpartition("/")[2], v.phase) for v in run.attempts("test_own")] == [
        ("own-setup", "setup"),
        ("own-teardown", "teardown"),
    ]
    assert [(v.what.rpartition("/")[2], v.phase) for v in run.attempts("test_wide")] == [
        ("wide-setup", "setup"),
        ("wide-teardown", "teardown"),
    ]
    for phase in ("setup", "teardown"):
        for test in ("test_own", "test_wide"):
            assert len(run.report(test, phase)["fence"]) == 1, run
    assert fenced.untouched(allowed=None)


def test_modes(fenced: Fenced) -> None:
    suite = """
        import pathlib
        from here import OUTSIDE

        def test_it():
            try:
                pathlib.Path(OUTSIDE, "f").write_text("x")
            except PermissionError:
                print("refused")
    """
    warned = fenced.run(suite, policy=ONLY_HERE, flags=(*FORKED, "--fence-mode=warn"))
    assert warned.status == 0, warned
    assert re.search(r"test_it.py:\d+: FenceWarning: write", warned.out), warned
    assert fenced.untouched()
    audited = fenced.run(suite, policy=ONLY_HERE, flags=(*FORKED, "--fence-mode=audit"))
    assert audited.status == 0, audited
    assert [v.what for v in audited.attempts("test_it")] == [f"write {fenced.outside}/f"]
    assert fenced.untouched(f="x")


def test_a_session_inside_of_a_test(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pathlib
        import pytest
        from here import OUTSIDE

        pytest_plugins = "pytester"

        @pytest.mark.parametrize("how", ["inprocess", "subprocess"])
        def test_outer(pytester, how):
            pytester.makepyfile('''
                import os

                PYTEST = os.getpid()

                def test_own():
                    assert os.getppid() == PYTEST

                def test_fails():
                    assert 0
            ''')
            run = getattr(pytester, f"runpytest_{how}")(
                "--fence", "--fence-scope=test", "-p", "pytest_fence.plugin"
            )
            run.assert_outcomes(passed=1, failed=1)
        """,
        flags=FORKED,
    )
    run.clean("test_outer[inprocess]", "test_outer[subprocess]")


def test_unusual_items(pytester: pytest.Pytester, runs: Runs) -> None:
    """Items of other kinds than functions, which know no fixtures."""
    (pytester.path / "conftest.py").write_text(
        "import os\nimport pytest\n"
        "class Item(pytest.Item):\n"
        "    def runtest(self): assert self.name == 'good', os.getppid()\n"
        "class File(pytest.File):\n"
        "    def setup(self): print('file up')\n"
        "    def collect(self):\n"
        "        for name in ('good', 'bad'): yield Item.from_parent(self, name=name)\n"
        "def pytest_collect_file(file_path, parent):\n"
        "    if file_path.suffix == '.odd': return File.from_parent(parent, path=file_path)\n",
        encoding="utf-8",
    )
    (pytester.path / "a.odd").touch()
    run = runs.pytest("--fence-scope=test", "-rA")
    assert run.outcomes() == ["FAILED a.odd::bad", "PASSED a.odd::good"], run


def test_big_reports(fenced: Fenced) -> None:
    """More than a pipe holds, and odd characters."""
    run = fenced.run(
        """
        def test_big():
            print("x" * 3_000_000)
            print("\\udc80 \\x00 \\u2028 \\U0001f600")
        """,
        flags=FORKED,
    )
    text = dict(run.report("test_big")["sections"])["Captured stdout call"]
    assert text.startswith("x" * 3_000_000 + "\n")
    assert "\u2028 \U0001f600" in text


def test_threads_beside_a_fork_are_no_warning(fenced: Fenced) -> None:
    """Python 3.12 and newer would warn of them."""
    run = fenced.run(
        """
        import threading
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def busy():
            done = threading.Event()
            thread = threading.Thread(target=done.wait)
            thread.start()
            yield
            done.set()
            thread.join()

        def test_it():
            assert threading.active_count() == 1
        """,
        "-Werror",
        flags=FORKED,
    )
    run.clean("test_it")


def test_nothing_is_left_in_files(fenced: Fenced, tmp_path: Path) -> None:
    """What the parent had in a buffer is written once."""
    run = fenced.run(
        """
        import json, sys
        from here import HELLO

        file = open("buffered", "w")
        file.write("once")

        def test_a(): pass
        def test_b(): pass
        """,
        "-s",
        flags=FORKED,
    )
    assert run.status == 0
    assert (fenced.directory / "buffered").read_text() == "once"
    assert json.dumps(run.out).count("test_it.py ") == 1
