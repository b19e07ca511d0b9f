"""Beside pytest-xdist: workers fail their tests, the controller alone tells of it, once."""

from __future__ import annotations

import pytest

from tests.unit.plugin.faked_pytest import FakedPytest

pytest.importorskip("xdist")

IMPORT = "import pytest\nfrom tests.unit.plugin.fakes import violate\n"


def test_each_violation_is_on_its_test(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        test_it=IMPORT
        + """
@pytest.mark.parametrize("n", range(20))
def test_a(n):
    if n % 5 == 0: violate(f"write /{n}")

@pytest.mark.xfail
def test_x():
    violate("write /x")
    assert 0
"""
    )
    result = faked.spawn("-n2", "-p", "no:terminalprogress")
    result.assert_outcomes(passed=16, failed=5)
    assert result.ret == 1
    section = faked.section(result)
    assert "fence: 5 violations in 5 tests" in section[0]
    for n in (0, 5, 10, 15):
        assert section[section.index(f"test_it.py::test_a[{n}]") + 1].startswith(f"  call: write /{n}, test_it.py:6")
        result.stdout.fnmatch_lines([f"FAILED test_it.py::test_a[[]{n}[]] - fence: write /{n}"])
        result.stdout.fnmatch_lines([f"E   call: write /{n}"])


def test_what_every_worker_does_is_told_once(faked: FakedPytest) -> None:
    faked.pytester.makeconftest(IMPORT + "violate('write /conftest')\n")
    faked.pytester.makepyfile(test_it=IMPORT + "violate('write /module')\ndef test_a(): pass\n")
    result = faked.spawn("-n2")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    section = faked.section(result)
    assert "fence: 2 violations outside any test" in section[0]
    assert "  write /conftest, 3 times" in section  # the controller imports it too
    assert "  write /module, 2 times" in section


def test_a_clean_run_is_clean(faked: FakedPytest) -> None:
    faked.pytester.makepyfile("def test_a(): pass\ndef test_b(): pass\n")
    result = faked.spawn("-n2")
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    assert not faked.section(result)
    result.stdout.fnmatch_lines(["fence: enforce; *"])


def test_warnings_of_workers_reach_the_controller(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=IMPORT + "def test_a(): violate()\n")
    faked.spawn("-n2", "--fence-mode=warn").assert_outcomes(passed=1, warnings=1)
    result = faked.spawn("-n2", "--fence-mode=warn", "-W", "ignore::pytest_fence.FenceWarning")
    result.assert_outcomes(passed=1, warnings=0)
    assert result.ret == 0


def test_a_crash_keeps_what_was_recorded(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=IMPORT + "import os\ndef test_a():\n    violate()\n    os._exit(1)\n")
    result = faked.spawn("-n1", "--max-worker-restart=0")
    assert result.ret == 1
    assert "test_it.py::test_a" in faked.section(result)


@pytest.mark.parametrize("dist", ["load", "each"])
def test_wrong_markers_are_one_usage_error(faked: FakedPytest, dist: str) -> None:
    faked.pytester.makepyfile(
        test_it=IMPORT + "@pytest.mark.fence(nonsense=1)\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    result = faked.spawn("-n2", f"--dist={dist}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.errlines if "nonsense" in line]) == 1
    result.stdout.no_fnmatch_line("*passed*")
    result.stdout.no_fnmatch_line("*crashed*")


def test_a_worker_outside_the_fence_is_refused_by_name(faked: FakedPytest) -> None:
    """A worker that forked a fence of its own would hang: execnet talks to the process that is then its supervisor."""
    faked.pytester.makeconftest(
        """
import os, pathlib
if "PYTEST_XDIST_WORKER" not in os.environ:  # the fake's way to be inside
    pathlib.Path(os.environ["FAKE_FENCE"], "mode").unlink()
"""
    )
    faked.pytester.makepyfile("def test_a(): pass")
    result = faked.spawn("-n1", "--max-worker-restart=0")
    assert result.ret != 0
    shown = "\n".join(result.outlines + result.errlines)
    assert "was not started inside the fence" in shown


def test_maxfail_counts_violations_of_all_workers(faked: FakedPytest) -> None:
    """How many tests the workers have begun by then is a race between them and the controller."""
    faked.pytester.makepyfile(test_it=IMPORT + "@pytest.mark.parametrize('n', range(200))\ndef test_a(n): violate()\n")
    result = faked.spawn("-n2", "--maxfail=3")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*stopping after 3 failures*"])


def test_subtests_cross_over(faked: FakedPytest) -> None:
    if pytest.version_tuple < (9, 0):
        pytest.importorskip("pytest_subtests", reason="elsewhere: subtests came with pytest 9")
    faked.pytester.makepyfile(
        test_it=IMPORT + "def test_a(subtests):\n    with subtests.test('one'): violate('write /one')\n"
    )
    result = faked.spawn("-n1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["E   call: write /one"])
