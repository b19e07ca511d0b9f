"""What pytest and its plugins have around a test in their own process, a thread or a timer, and a fork beside it."""

from __future__ import annotations

import pytest

from tests.end_to_end.support import Runs

FORKED = "--fence-scope=test"


@pytest.mark.parametrize("how", ["option", "marker"])
def test_faulthandler_timeout(runs: Runs, pytester: pytest.Pytester, how: str) -> None:
    pytester.makeini("[pytest]\nfaulthandler_timeout = 30\n")
    pytester.makepyfile(
        "import pytest\n"
        + ("" if how == "option" else "pytestmark = pytest.mark.fence(scope='test')\n")
        + "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass\n"
    )
    run = runs.pytest("-q", *([FORKED] if how == "option" else []))
    assert run.status == 1, run
    run.has("^1 failed, 2 passed")
    assert "Timeout" not in run.err, run


def test_the_stack_is_that_of_the_test(runs: Runs, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nfaulthandler_timeout = 0.5\n")
    pytester.makepyfile("import time\ndef test_slow():\n    time.sleep(2)\ndef test_after(): pass\n")
    run = runs.pytest("-q", FORKED)
    assert run.status == 0, run
    assert run.err.count("Timeout (") == 1, run
    assert "in test_slow" in run.err, run


def test_a_watchdog_of_a_conftest(runs: Runs, pytester: pytest.Pytester) -> None:
    """By a wrapper, by a fixture of the session, by the test itself: each is ended where nothing runs any more."""
    pytester.makeconftest(
        """
        import faulthandler
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol():
            faulthandler.dump_traceback_later(60)
            yield
            faulthandler.cancel_dump_traceback_later()

        @pytest.fixture(scope="session")
        def watched():
            faulthandler.dump_traceback_later(60)
            yield
            faulthandler.cancel_dump_traceback_later()
        """
    )
    pytester.makepyfile(
        """
        import faulthandler
        def test_a(watched): pass
        def test_b(watched):
            faulthandler.dump_traceback_later(60)
            faulthandler.cancel_dump_traceback_later()
        def test_c(): pass
        """
    )
    run = runs.pytest("-q", FORKED)
    assert run.status == 0, run


def test_threads_timers_and_locks_of_a_wrapper(runs: Runs, pytester: pytest.Pytester) -> None:
    """Begun around the test in pytest's process, ended there, and there only."""
    pytester.makeconftest(
        """
        import os, signal, threading
        import pytest

        LOCK = threading.Lock()
        HERE = os.getpid()

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item):
            over = threading.Event()
            busy = threading.Event()
            def hold():
                with LOCK:
                    busy.set()
                    over.wait()
            thread = threading.Thread(target=hold)
            thread.start()
            busy.wait()
            timer = threading.Timer(60, os.abort)
            timer.start()
            signal.setitimer(signal.ITIMER_REAL, 60)
            yield
            signal.setitimer(signal.ITIMER_REAL, 0)
            over.set()
            thread.join()
            timer.cancel()
            timer.join()
            with LOCK, open("ends", "a") as ends:
                ends.write(f"{item.name} {os.getpid() == HERE}\\n")
        """
    )
    pytester.makepyfile(
        "import warnings\ndef test_a(): warnings.warn('told')\ndef test_b(): assert 0\ndef test_c(): pass\n"
    )
    run = runs.pytest("-q", FORKED, "-p", "no:randomly")
    assert run.status == 1, run
    run.has("^1 failed, 2 passed, 1 warning", "UserWarning: told")
    assert (pytester.path / "ends").read_text() == "test_a True\ntest_b True\ntest_c True\n"


@pytest.mark.parametrize("func_only", [False, True], ids=["whole", "function"])
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_pytest_timeout(runs: Runs, pytester: pytest.Pytester, method: str, func_only: bool) -> None:
    """Of the thread method the end is abrupt by design: plain, the whole run ends by it."""
    runs.load("pytest_timeout")
    pytester.makeini(f"[pytest]\ntimeout = 60\ntimeout_method = {method}\ntimeout_func_only = {func_only}\n")
    pytester.makepyfile(
        """
        import time
        import pytest
        def test_a(): pass
        def test_b(): assert 0
        @pytest.mark.timeout(0.5)
        def test_slow(): time.sleep(60)
        """
    )
    run = runs.pytest("-q", "-rA", FORKED, "-p", "no:randomly")
    assert run.status == 1, run
    if method == "signal" or func_only:
        run.has("^FAILED test_pytest_timeout.py::test_slow", "2 failed, 1 passed")
    else:
        assert "Timeout" in run.out + run.err, run
