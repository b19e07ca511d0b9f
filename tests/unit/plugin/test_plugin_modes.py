"""enforce fails, warn warns, audit notes; and what chooses among them."""

from __future__ import annotations

import pytest

from tests.unit.plugin.faked_pytest import FakedPytest

WARNING = "pytest_fence.FenceWarning"
SOURCE = """
from tests.unit.plugin.fakes import violate
def test_a():
    violate()
"""


@pytest.fixture
def warned(faked: FakedPytest) -> FakedPytest:
    faked.pytester.makepyfile(test_it=SOURCE)
    return faked


def test_warn_warns_and_passes(warned: FakedPytest) -> None:
    result = warned.run("--fence-mode=warn")
    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_a",
            "  *FenceWarning: connect 93.184.216.34:443/tcp: no rule in network.allowed_domains*",
            "*= fence: 1 violation in 1 test =*",
        ]
    )


def test_a_warning_can_be_ignored(warned: FakedPytest) -> None:
    warned.run("--fence-mode=warn", "-W", f"ignore::{WARNING}").assert_outcomes(passed=1, warnings=0)


@pytest.mark.parametrize("what", [WARNING, "UserWarning", ""])
def test_a_warning_made_an_error_fails_the_test(warned: FakedPytest, what: str) -> None:
    result = warned.run("--fence-mode=warn", "-W", f"error::{what}" if what else "error")
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["E   call: connect *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_filter_of_one_test_counts_for_that_test(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        """
        import pytest
        from tests.unit.plugin.fakes import violate
        @pytest.mark.filterwarnings("ignore:.*/mine")
        def test_a():
            violate("write /mine")
            violate("write /other")
        @pytest.mark.filterwarnings("error")
        def test_b():
            violate("write /mine")
        """
    )
    faked.run("--fence-mode=warn").assert_outcomes(passed=1, failed=1, warnings=1)


def test_without_pytests_warnings_nothing_breaks(warned: FakedPytest) -> None:
    assert warned.spawn("--fence-mode=warn", "-p", "no:warnings").ret == 0


OUTSIDE = """
from tests.unit.plugin.fakes import violate
violate("resolve api.example.com")
def test_a(): pass
"""


def test_warn_warns_of_what_no_test_did(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=OUTSIDE)
    result = faked.run("--fence-mode=warn")
    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_it.py:2: FenceWarning: collecting test_it.py: resolve api.example.com: *"])
    faked.run("--fence-mode=warn", "-W", f"ignore::{WARNING}").assert_outcomes(passed=1, warnings=0)


def test_an_error_of_what_no_test_did_fails_the_run(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=OUTSIDE)
    result = faked.run("--fence-mode=warn", "-W", f"error::{WARNING}")
    result.assert_outcomes(passed=1)
    assert result.ret == 1


def test_audit_notes_and_changes_nothing(warned: FakedPytest) -> None:
    result = warned.run("--fence-mode=audit")
    result.assert_outcomes(passed=1, warnings=0)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*= fence: 1 note (audit: nothing was refused) =*", "test_it.py::test_a", "*let through (audit): *"]
    )


def test_what_a_failed_test_does_not_say_the_section_does(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=SOURCE + "    assert 0\n")
    for mode, verdict in (("audit", "let through"), ("warn", "refused")):
        result = faked.run(f"--fence-mode={mode}")
        result.assert_outcomes(failed=1, warnings=int(mode == "warn"))
        assert any(f"    {verdict}" in line for line in faked.section(result))


def test_a_clean_run_has_no_section(faked: FakedPytest) -> None:
    faked.pytester.makepyfile("def test_a(): pass")
    result = faked.run()
    assert result.ret == 0
    assert not faked.section(result)
    assert faked.fence is not None
    assert faked.fence.settled == 0
    assert faked.fence.closed


def test_flag_over_file_over_default(warned: FakedPytest) -> None:
    def mode(*args: str) -> str:
        warned.run(*args)
        assert warned.fence is not None
        return warned.fence.mode

    assert mode() == "enforce"
    warned.pytester.makepyprojecttoml("[tool.fence]\nmode = 'warn'\n")
    assert mode() == "warn"
    assert mode("--fence-mode=audit") == "audit"


def test_the_file_can_switch_the_fence_on(warned: FakedPytest) -> None:
    warned.pytester.makepyprojecttoml("[tool.fence]\nenabled = false\n")
    warned.run(fence=False)
    assert warned.fence is None
    warned.pytester.makepyprojecttoml("[tool.fence]\nenabled = true\n")
    assert warned.run(fence=False).ret == 1
    assert warned.fence is not None


def test_no_fence_beats_all(warned: FakedPytest) -> None:
    warned.pytester.makepyprojecttoml("[tool.fence]\nenabled = true\n")
    result = warned.run("--no-fence")
    assert result.ret == 1  # the test itself, which has no fence to be refused by
    assert warned.fence is None
    result.stdout.fnmatch_lines(["fence: off (--no-fence)"])


def test_a_flag_without_a_fence_says_that_it_does_nothing(faked: FakedPytest) -> None:
    faked.pytester.makepyfile("def test_a(): pass")
    result = faked.run("--fence-mode=warn", fence=False)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["fence: off (--fence-mode does nothing without --fence)"])
