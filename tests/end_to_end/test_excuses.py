"""xfail, skip, rerun and other ways to make light of a failure excuse no violation."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

CONNECT = """
import socket, unittest
import pytest
from here import AWAY

def call_home():
    socket.create_connection((AWAY, 443), timeout=5)

def call_home_quietly():
    try:
        call_home()
    except OSError:
        pass
"""
WHAT = "connect 198.51.100.7:443/tcp"


def test_xfail_and_skip(fenced: Fenced) -> None:
    run = fenced.run(
        CONNECT
        + """
@pytest.mark.xfail(reason="known bug")
def test_xfail():
    call_home()

@pytest.mark.xfail(reason="known bug")
def test_xpass():
    call_home_quietly()

@pytest.mark.xfail(strict=True, raises=OSError)
def test_xfail_strict():
    call_home()

def test_xfail_from_inside():
    call_home_quietly()
    pytest.xfail("no network here")

def test_skip_from_inside():
    try:
        call_home()
    except OSError:
        pytest.skip("no network here")

class TestCase(unittest.TestCase):
    @unittest.expectedFailure
    def test_expected_failure(self):
        call_home()

    def test_unittest_skip(self):
        call_home_quietly()
        raise unittest.SkipTest("no network here")

@pytest.mark.skip
def test_skipped_before_it_ran():
    call_home()

@pytest.mark.xfail(run=False)
def test_not_run():
    call_home()

@pytest.mark.xfail
def test_plain_xfail():
    assert 0

def test_plain_skip():
    pytest.skip("control")
"""
    )
    guilty = [
        "test_xfail",
        "test_xpass",
        "test_xfail_strict",
        "test_xfail_from_inside",
        "test_skip_from_inside",
        "test_expected_failure",
        "test_unittest_skip",
    ]
    for test in guilty:
        run.refused(test, WHAT)
        assert not run.report(test)["wasxfail"], test
    run.nothing_else(*guilty)
    assert run.report("test_plain_xfail")["wasxfail"]
    assert run.report("test_plain_skip")["outcome"] == "skipped"
    run.has(r"7 failed, 2 skipped, 2 xfailed")


@pytest.mark.needs("module:pytest_rerunfailures")
def test_rerun(fenced: Fenced) -> None:
    """The second attempt is clean, and passes; the run does not."""
    run = fenced.run(
        CONNECT
        + """
import pathlib

def test_flaky():
    if not pathlib.Path("tried").exists():
        pathlib.Path("tried").touch()
        call_home()

def test_never_tries():
    pass
""",
        "--reruns=2",
        plugins=["pytest_rerunfailures"],
    )
    run.has("1 rerun")
    assert [v.what for v in run.attempts("test_flaky")] == [WHAT]
    assert run.status == 1
    assert WHAT in run.out
    run.clean("test_never_tries")


@pytest.mark.needs("module:pytest_rerunfailures")
def test_rerun_that_does_it_each_time(fenced: Fenced) -> None:
    run = fenced.run(CONNECT + "def test_it(): call_home_quietly()\n", "--reruns=2", plugins=["pytest_rerunfailures"])
    run.has("1 failed, 2 rerun")
    assert sum(v.count for v in run.attempts("test_it")) == 3
    assert run.status == 1


def test_a_test_that_failed_anyway_shows_both(fenced: Fenced) -> None:
    run = fenced.run(
        CONNECT
        + """
def test_it():
    call_home_quietly()
    assert 1 == 2, "its own reason"
"""
    )
    run.refused("test_it", WHAT, fails_itself=True)
    assert "its own reason" in run.report("test_it")["text"]
    assert WHAT in "".join(text for _, text in run.report("test_it")["sections"])
    run.has("its own reason", WHAT)


def test_flags_that_look_at_outcomes(fenced: Fenced) -> None:
    """-x stops at a violation, --maxfail counts it, --lf runs it again."""
    tests = CONNECT + "\n".join(f"def test_{n}(): call_home_quietly()" for n in range(4)) + "\n"
    first = fenced.run(tests, "-x", cache=True)
    first.has("1 failed in")
    assert {v.nodeid for v in first.ledger} == {"test_it.py::test_0"}
    second = fenced.run(None, "--maxfail=2", cache=True)
    second.has("2 failed in")
    third = fenced.run(None, "--lf", cache=True)
    third.has("rerun previous 2 failures", "2 failed in")
    assert (first.status, second.status, third.status) == (1, 1, 1)


def test_a_plugin_that_hides_reports(fenced: Fenced) -> None:
    run = fenced.run(
        CONNECT + "def test_it(): call_home_quietly()\n",
        files={
            "conftest.py": """
            import pytest

            @pytest.hookimpl(tryfirst=True)
            def pytest_report_teststatus(report):
                return "passed", ".", "PASSED"

            @pytest.hookimpl(trylast=True)
            def pytest_sessionfinish(session):
                session.exitstatus = 0
            """
        },
    )
    assert run.status == 1
    assert WHAT in run.out
