"""``scope = "test"``: a test's process that ends before its test does, and what ends the whole run."""

from __future__ import annotations

import re
import signal
import termios
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced, what_of
from tests.end_to_end.support import Runs, Terminal, assert_same, until

FORKED = ("--fence", "--fence-scope=test")

CRASHES = """
    import ctypes, os, signal, sys, time
    import pytest

    @pytest.fixture(scope="session")
    def base():
        yield os.getpid()
        print("base down")

    @pytest.fixture
    def own():
        yield
        print("never seen")

    @pytest.fixture
    def ends_in_setup():
        print("in setup")
        os.kill(os.getpid(), signal.SIGKILL)

    @pytest.fixture
    def ends_in_teardown():
        yield
        os._exit(0)

    def test_reads_nowhere(base, own):
        print("before the end")
        os.write(2, b"at the end\\n")
        ctypes.string_at(0)

    def test_leaves(base):
        os._exit(3)

    def test_leaves_well(base):
        os._exit(0)

    def test_aborts():
        os.abort()

    def test_real_time():
        os.kill(os.getpid(), signal.SIGRTMIN + 1)

    def test_setup(ends_in_setup):
        pass

    def test_teardown(ends_in_teardown):
        pass

    @pytest.mark.xfail
    def test_expected():
        os.kill(os.getpid(), signal.SIGSEGV)

    @pytest.mark.xfail(raises=ValueError)
    def test_not_expected():
        os.kill(os.getpid(), signal.SIGSEGV)

    def test_goes_on(base):
        assert os.getppid() == base
"""


def test_a_crash_is_that_tests_failure(fenced: Fenced) -> None:
    run = fenced.run(CRASHES, "-p", "no:faulthandler", "--junitxml=out.xml", "-rA", flags=FORKED)
    for test, phase, text in (
        ("test_reads_nowhere", "call", "ended by SIGSEGV"),
        ("test_leaves", "call", "ended by itself with status 3"),
        ("test_leaves_well", "call", "ended by itself with status 0"),
        ("test_aborts", "call", "ended by SIGABRT"),
        ("test_real_time", "call", f"ended by signal {signal.SIGRTMIN + 1}"),
        ("test_setup", "setup", "ended by SIGKILL .*out-of-memory killer"),
        ("test_teardown", "teardown", "ended by itself with status 0"),
        ("test_not_expected", "call", "ended by SIGSEGV"),
    ):
        report = run.report(test, phase)
        assert report["outcome"] == "failed", run
        assert re.search(f"the test's process was {text}|the test's process {text}", report["text"]), report
        run.report(test, "teardown")
    expected = run.report("test_expected")
    assert (expected["outcome"], expected["wasxfail"]) == ("skipped", True)
    assert dict(run.report("test_reads_nowhere")["sections"]) == {
        "Captured stdout call": "before the end\n",
        "Captured stderr call": "at the end\n",
    }
    assert run.report("test_goes_on")["outcome"] == "passed"
    assert dict(run.report("test_goes_on", "teardown")["sections"])["Captured stdout teardown"] == "base down\n"
    assert "never seen" not in run.out
    xml = (fenced.directory / "out.xml").read_text()
    assert xml.count("<testcase") == 10
    assert "SIGSEGV" in xml
    run.has("^FAILED .*test_reads_nowhere - the test's process was ended by SIG")
    assert run.status == 1


def test_a_crash_hides_no_violation(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, pathlib
        from here import OUTSIDE

        def test_it():
            try:
                pathlib.Path(OUTSIDE, "f").touch()
            finally:
                os._exit(0)

        def test_after():
            pass
        """,
        policy=ONLY_HERE,
        flags=FORKED,
    )
    assert [what_of(v) for v in run.report("test_it")["fence"]] == [f"write {fenced.outside}/f"], run
    run.clean("test_after")
    assert fenced.untouched()


def test_out_of_memory(fenced: Fenced) -> None:
    """What the kernel does to a process that is too big, made small: a limit of its own, and SIGKILL."""
    run = fenced.run(
        """
        import os, resource, signal

        def test_big():
            resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
            while True:
                pass

        def test_after():
            assert resource.getrlimit(resource.RLIMIT_CPU)[0] != 1
        """,
        flags=FORKED,
    )
    assert re.search("ended by SIG(KILL|XCPU)", run.report("test_big")["text"]), run
    run.clean("test_after")


ENDS = {
    "exit": ("pytest.exit('enough', returncode=9)", 9),
    "interrupt": ("raise KeyboardInterrupt", 2),
    "stop": ("request.session.shouldstop = 'that will do'", 2),
    "fail": ("request.session.shouldfail = 'that is bad'", 1),
    "system_exit": ("raise SystemExit(3)", 1),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_test_ends_the_run(pytester: pytest.Pytester, runs: Runs, case: str) -> None:
    """As it does in one process: same words, same status, fixtures torn down."""
    line, status = ENDS[case]
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def base():
            yield
            open("base", "a").write("x")

        @pytest.fixture
        def own():
            yield
            open("own", "a").write("x")

        def test_before(): pass

        def test_it(request, own):
            {line}

        def test_never():
            open("never", "w")
        """
    )
    ends = []
    for more in ((), ("--fence-scope=test",)):
        ends.append(runs.pytest("-rA", *more))
        assert ends[-1].status == status, ends[-1]
        for name in ("base", "own"):
            assert (pytester.path / name).read_text() == "x"
            (pytester.path / name).unlink()
        never = pytester.path / "never"
        assert never.exists() == (case == "system_exit")
        never.unlink(missing_ok=True)
    assert_same(*ends)


def test_a_fault_in_a_hook(pytester: pytest.Pytester, runs: Runs) -> None:
    """Of a plugin, or of pytest in a process that a test has spoilt: it is that test's, and the others are run."""
    pytester.makeconftest(
        "def pytest_runtest_makereport(item, call): 1 / 0 if call.when == 'call' and item.name == 'test_it' else None"
    )
    pytester.makepyfile("def test_it(): pass\ndef test_after(): pass")
    run = runs.pytest("--fence-scope=test", "-p", "no:randomly")
    assert run.status == 1, run
    run.has("^E +pytest itself failed in the test's process", "ZeroDivisionError", "1 failed, 1 passed")


SLOW = """
    import os, time
    import pytest

    @pytest.fixture(scope="session")
    def base():
        yield
        open("base", "a").write("x")

    @pytest.fixture
    def own(base):
        yield
        open("own", "a").write("x")

    def test_slow(own):
        open("started", "w").write(str(os.getpid()))
        time.sleep(60)

    def test_never():
        open("never", "w")
"""


@pytest.mark.parametrize("whom", ["terminal", "supervisor"])
def test_interrupted(pytester: pytest.Pytester, runs: Runs, whom: str) -> None:
    pytester.makepyfile(test_it=SLOW)
    terminal = Terminal(runs, runs.argv(["--fence-scope=test"], fenced=True))
    started = pytester.path / "started"
    until(lambda: started.exists() and started.read_text(), "the test runs")
    if whom == "terminal":
        terminal.key(termios.VINTR)
    else:
        terminal.process.send_signal(signal.SIGINT)
    ended = terminal.end()
    assert ended.status == 2, ended
    ended.has("KeyboardInterrupt", r"test_it.py:\d+: KeyboardInterrupt", "no tests ran")
    assert [(pytester.path / name).read_text() for name in ("base", "own")] == ["x", "x"]
    assert not (pytester.path / "never").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_from_outside(pytester: pytest.Pytester, runs: Runs, number: signal.Signals) -> None:
    """Nothing of a run that is ended by a signal goes on, the test's process included."""
    pytester.makepyfile(test_it=SLOW)
    process = runs.start(runs.argv(["--fence-scope=test"], fenced=True))
    started = pytester.path / "started"
    pid = int(until(lambda: started.exists() and started.read_text(), "the test runs"))
    process.send_signal(number)
    assert runs.finish(process).status == -number
    until(lambda: not Path(f"/proc/{pid}").exists(), "end of the test's process")


def test_debugger(pytester: pytest.Pytester, runs: Runs) -> None:
    """Post mortem and set_trace, in the process where the test is; then on, or out."""
    pytester.makepyfile(
        test_it="""
        def test_fails():
            here = 41
            assert here == 42

        def test_stops():
            there = 43
            breakpoint()

        def test_last():
            pass
        """
    )
    terminal = Terminal(runs, runs.argv(["--fence-scope=test", "--pdb"], fenced=True))
    terminal.expect(r"\(Pdb\) ")
    terminal.type("p here + 1000\n")
    terminal.expect("1041")
    terminal.expect(r"\(Pdb\) ")
    terminal.type("c\n")
    terminal.expect(r"\(Pdb\) ")
    terminal.type("p there + 1000\n")
    terminal.expect("1043")
    terminal.expect(r"\(Pdb\) ")
    terminal.type("c\n")
    ended = terminal.end()
    assert ended.status == 1, ended
    ended.has("1 failed, 2 passed")


def test_quitting_the_debugger(pytester: pytest.Pytester, runs: Runs) -> None:
    pytester.makepyfile(test_it="def test_a():\n    breakpoint()\ndef test_b():\n    pass")
    terminal = Terminal(runs, runs.argv(["--fence-scope=test"], fenced=True))
    terminal.expect(r"\(Pdb\) ")
    terminal.type("q\n")
    ended = terminal.end()
    assert ended.status == 2, ended
    ended.has("Exit: Quitting debugger")


def test_what_a_test_forks(fenced: Fenced) -> None:
    """A fork that comes back into pytest says nothing there; one that goes on holds nothing up."""
    run = fenced.run(
        """
        import os, signal, time

        def test_comes_back():
            if os.fork() == 0:
                raise RuntimeError("in the fork of a fork")
            assert os.wait()

        def test_goes_on():
            if os.fork() == 0:
                signal.pause()

        def test_after():
            pass
        """,
        flags=FORKED,
    )
    run.clean("test_comes_back", "test_goes_on", "test_after")
    run.has("3 passed")


def test_daemons_of_multiprocessing(fenced: Fenced) -> None:
    """End with the process that has made them, as they do with an interpreter; those of wider fixtures do not."""
    run = fenced.run(
        """
        import multiprocessing, signal
        import pytest

        def daemon():
            process = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
            process.start()
            return process

        @pytest.fixture(scope="session")
        def wide():
            process = daemon()
            yield process
            assert process.is_alive()
            process.terminate()
            process.join()

        def test_it(wide):
            assert daemon().is_alive()

        def test_after(wide):
            pass
        """,
        flags=FORKED,
    )
    assert run.status == 0, run
    assert "outlived" not in run.err, run


def test_no_more_processes(fenced: Fenced) -> None:
    """A test that cannot have a process fails, and the next one is tried."""
    run = fenced.run(
        """
        def test_cannot(): pass
        def test_can(): pass
        """,
        files={
            "conftest.py": """
                import errno, os
                from fence_core.launcher import per_test

                fork, refusals = per_test._os_fork, [OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))]

                def refusing():
                    if refusals:
                        raise refusals.pop()
                    return fork()

                per_test._os_fork = refusing
            """
        },
        flags=FORKED,
    )
    report = run.report("test_cannot", "setup")
    assert (report["outcome"], "no process could be started for this test" in report["text"]) == ("failed", True), run
    run.clean("test_can")
