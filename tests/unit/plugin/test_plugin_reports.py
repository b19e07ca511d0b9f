"""What a violation does to the report of the test that it happened in."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from tests.unit.plugin.faked_pytest import FakedPytest

HEAD = """
import pytest, unittest
from tests.unit.plugin.fakes import violate
"""


def write(faked: FakedPytest, source: str) -> None:
    faked.pytester.makepyfile(test_it=HEAD + source)


def test_a_test_that_swallows_the_error_fails(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    violate()\ndef test_b(): pass\n")
    result = faked.run()
    result.assert_outcomes(failed=1, passed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "test_it.py:4: in test_a",
            "    violate()",
            "E   call: connect 93.184.216.34:443/tcp",
            "E     refused: no rule in network.allowed_domains allows it (preset pytest)",
            '      to allow it: @pytest.mark.fence(allowed_domains=["93.184.216.34:443"])',
            "      or: *",
            "*= fence: 1 violation in 1 test =*",
            "FAILED test_it.py::test_a - fence: connect 93.184.216.34:443/tcp",
            "*= 1 failed, 1 passed in *",
        ]
    )


def test_the_failure_is_located_at_the_line_that_did_it(faked: FakedPytest) -> None:
    """This is what an IDE jumps to, and what --tb=line prints."""
    faked.pytester.makepyfile(helper="from tests.unit.plugin.fakes import violate\n\ndef fetch():\n    violate()\n")
    write(faked, "from helper import fetch\ndef test_a():\n    fetch()\n")
    result = faked.run("--tb=line")
    result.stdout.fnmatch_lines(["*helper.py:4: fence: connect 93.184.216.34:443/tcp"])
    result.stdout.no_fnmatch_line("E *")


def test_without_a_stack_the_failure_is_located_at_the_test(faked: FakedPytest) -> None:
    write(
        faked,
        """
def test_a():
    from tests.unit.plugin import fakes
    fence = fakes.live[-1]
    fence.add(fakes.violation("write /x", nodeid=fence.now[0], program=fakes.Program("sh")))
""",
    )
    result = faked.run("--tb=line")
    result.stdout.fnmatch_lines(["test_it.py:4: fence: write /x"])


def test_a_test_that_failed_anyway_shows_both(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    violate()\n    assert 'own' == 'failure'\n")
    result = faked.run("-vv")
    result.stdout.fnmatch_lines(
        [
            "E * assert 'own' == 'failure'",
            "*- fence -*",
            "call: connect 93.184.216.34:443/tcp",
            "  test_it.py:4: in test_a",
            "*= fence: 1 violation in 1 test =*",
            "FAILED test_it.py::test_a - fence: connect 93.184.216.34:443/tcp (Asser*",
        ]
    )
    # Shown in full above, so the section at the end is brief.
    assert not any("refused" in line for line in faked.section(result))


def test_a_test_that_failed_anyway_shows_both_without_what_was_captured(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    violate()\n    print('captured')\n    assert 0\n")
    result = faked.run("--show-capture=no")
    result.stdout.fnmatch_lines(["*- fence -*", "call: connect *", "  refused: no rule in *"])
    result.stdout.no_fnmatch_line("captured")
    assert not any("refused" in line for line in faked.section(result))


@pytest.mark.parametrize("option", ["--tb=no", "--tb=line"])
def test_what_pytest_does_not_show_the_section_does(faked: FakedPytest, option: str) -> None:
    write(faked, "def test_a():\n    violate()\n    assert 0\n")
    assert any("refused: no rule in" in line for line in faked.section(faked.run(option)))


@pytest.mark.parametrize(
    ("source", "plain", "note"),
    [
        ("def test_a():\n    violate()\n    pytest.skip('later')\n", "skipped", "the test was skipped: later"),
        ("@pytest.mark.xfail(reason='bug 3')\ndef test_a():\n    violate()\n    assert 0\n", "xfailed",
         "the test xfailed: bug 3"),
        ("@pytest.mark.xfail\ndef test_a():\n    violate()\n", "xpassed", "the test xpassed"),
        ("def test_a():\n    violate()\n    pytest.xfail('given up')\n", "xfailed", "the test xfailed: given up"),
    ],
)  # fmt: skip
def test_nothing_excuses_a_violation(faked: FakedPytest, source: str, plain: str, note: str) -> None:
    write(faked, source)
    result = faked.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E   ({note}; that excuses nothing)"])
    # The control: without violations the same test is what pytest makes of it.
    write(faked, source.replace("violate()", "pass"))
    faked.run().assert_outcomes(**{plain: 1})


def test_a_strict_xpass_shows_both(faked: FakedPytest) -> None:
    write(faked, "@pytest.mark.xfail(strict=True)\ndef test_a():\n    violate()\n")
    result = faked.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E   call: connect *", "E   ([[]XPASS(strict)[]] *"])


def test_setup_and_teardown_are_errors_that_name_the_fixture(faked: FakedPytest) -> None:
    write(
        faked,
        """
@pytest.fixture(scope="module")
def db():
    violate("write /a")
    yield
    violate("write /b")

def test_a(db): pass
def test_b(): pass
""",
    )
    result = faked.run()
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_a*",
            "E   setup (fixture db, scope module): write /a",
            "*ERROR at teardown of test_b*",
            "E   teardown (fixture db, scope module): write /b",
        ]
    )


def test_each_attempt_is_on_the_phase_and_test_that_made_it(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    violate('write /a')\ndef test_b():\n    violate('write /b')\ndef test_c(): pass\n")
    section = faked.section(faked.run("--tb=no"))
    assert section.index("test_it.py::test_a") < section.index("  call: write /a")
    assert section.index("  call: write /a") < section.index("test_it.py::test_b") < section.index("  call: write /b")
    assert "test_it.py::test_c" not in section


def test_many_in_one_test_are_bounded(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    for n in range(300): violate(f'write /{n}')\n")
    result = faked.run()
    result.stdout.fnmatch_lines(["E   ... and 290 more in this test", "*fence: write /0, and 299 more"])
    assert len(result.stdout.lines) < 200


def test_unittest_and_doctest(faked: FakedPytest) -> None:
    write(
        faked,
        """
def double(x):
    '''
    >>> violate("write /doc")
    >>> double(2)
    4
    '''
    return 2 * x

class TestIt(unittest.TestCase):
    def test_bad(self): violate("write /unit")
    def test_good(self): pass
    @unittest.expectedFailure
    def test_expected(self):
        violate("write /expected")
        self.fail()
    @unittest.skip("not now")
    def test_skipped(self): violate("write /never")
""",
    )
    result = faked.run("--doctest-modules")
    result.assert_outcomes(failed=3, passed=1, skipped=1)
    for what in ("doc", "unit", "expected"):
        result.stdout.fnmatch_lines([f"E   call: write /{what}"])


SUBTESTS = """
def test_a(subtests):
    with subtests.test("one"): pass
    with subtests.test("two"): violate("write /two")
    with subtests.test("three"): pass
def test_b(): pass

class TestIt(unittest.TestCase):
    def test_c(self):
        for n in range(3):
            with self.subTest(n=n):
                if n == 1: violate("write /unit")
"""


def test_subtests(faked: FakedPytest) -> None:
    if pytest.version_tuple < (9, 0):
        pytest.importorskip("pytest_subtests", reason="elsewhere: subtests came with pytest 9")
    write(faked, SUBTESTS)
    result = faked.run("-rA")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["E   call: write /two", "E   call: write /unit"])
    result.stdout.fnmatch_lines(["*SUBFAIL*test_it.py::test_a*"])
    assert "fence: 2 violations in 2 tests" in faked.section(result)[0]


def test_exitfirst_and_maxfail_count_it(faked: FakedPytest) -> None:
    write(faked, "@pytest.mark.parametrize('n', range(9))\ndef test_a(n):\n    violate()\n")
    faked.run("-x").assert_outcomes(failed=1)
    faked.run("--maxfail=3").assert_outcomes(failed=3)


def test_last_failed_runs_it_again(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    violate()\ndef test_b(): pass\n")
    faked.spawn().assert_outcomes(failed=1, passed=1)
    faked.spawn("--lf").assert_outcomes(failed=1)


def test_reruns_excuse_nothing(faked: FakedPytest) -> None:
    pytest.importorskip("pytest_rerunfailures")
    write(
        faked,
        """
attempts = []
def test_a():
    attempts.append(1)
    if len(attempts) == 1: violate()
""",
    )
    result = faked.spawn("--reruns=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*= fence: 1 violation in 1 test =*", "test_it.py::test_a", "*refused: *"])
    result.stdout.fnmatch_lines(["*1 passed, 1 rerun, 1 violation*"])
    # The control.
    write(faked, "attempts = []\ndef test_a():\n    attempts.append(1)\n    assert len(attempts) > 1\n")
    assert faked.spawn("--reruns=2").ret == 0


def test_a_rerun_that_does_it_again_counts_each_attempt(faked: FakedPytest) -> None:
    pytest.importorskip("pytest_rerunfailures")
    write(faked, "def test_a():\n    violate()\n")
    result = faked.spawn("--reruns=2", "--tb=no")
    result.stdout.fnmatch_lines(["  call: connect 93.184.216.34:443/tcp, 3 times", "*1 failed, 2 rerun in *"])


def test_junit_sees_a_failure_with_the_whole_story(faked: FakedPytest) -> None:
    write(faked, "def test_a():\n    violate()\n")
    faked.run("--junitxml=out.xml")
    (failure,) = ElementTree.parse(faked.pytester.path / "out.xml").iter("failure")
    assert failure.attrib["message"] == "fence: connect 93.184.216.34:443/tcp"
    assert "to allow it" in (failure.text or "")


def test_reports_carry_plain_data(faked: FakedPytest) -> None:
    """For other plugins, and for the way from an xdist worker: nothing but what JSON knows."""
    faked.pytester.makeconftest(
        """
import json, pytest
def pytest_runtest_logreport(report):
    if hasattr(report, "fence"):
        print("PLAIN", report.when, json.dumps(report.fence))
        assert not report.user_properties
"""
    )
    write(faked, "def test_a():\n    violate()\n")
    result = faked.run("-s")
    (line,) = [line for line in result.stdout.lines if "PLAIN" in line]
    (plain,) = json.loads(line.partition("PLAIN call ")[2])
    assert plain["operation"] == "connect"
    assert plain["nodeid"] == "test_it.py::test_a"


def test_the_test_after_a_violation_is_left_alone(faked: FakedPytest) -> None:
    """A process that outlived its test is counted while the next one runs; the blame stays where it belongs."""
    write(
        faked,
        """
def test_a(): pass
def test_b():
    from tests.unit.plugin import fakes
    fakes.live[-1].add(fakes.violation("write /late", nodeid="test_it.py::test_a", late=True))
""",
    )
    result = faked.run()
    result.assert_outcomes(passed=2)
    assert result.ret == 1
    section = faked.section(result)
    assert section[1:3] == ["test_it.py::test_a", "  call, by a process that outlived it: write /late"]
    result.stdout.fnmatch_lines(["*= 2 passed, 1 violation in *"])
