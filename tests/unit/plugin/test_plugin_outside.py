"""What happens outside of tests is listed under its place and fails the run, but aborts nothing."""

from __future__ import annotations

import pytest

from tests.unit.plugin.faked_pytest import FakedPytest

IMPORT = "from tests.unit.plugin.fakes import violate\n"
PASSES = "def test_a(): pass\n"


def one_violation(faked: FakedPytest, place: str, *args: str, ret: int = 1) -> pytest.RunResult:
    result = faked.run(*args)
    assert result.ret == ret
    assert faked.section(result)[1] == place
    return result


def test_importing_a_test_module(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=IMPORT + "violate()\n" + PASSES)
    result = one_violation(faked, "collecting test_it.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "  connect 93.184.216.34:443/tcp",
            "    test_it.py:2: in <module>",
            "        violate()",
            "    refused: *",
            "*= 1 passed, 1 violation in *",
        ]
    )


def test_importing_a_module_of_a_directory(faked: FakedPytest) -> None:
    """Collectors lie in each other: what comes after the inner one is the outer one's again."""
    faked.pytester.mkpydir("sub").joinpath("test_it.py").write_text(PASSES)
    faked.pytester.path.joinpath("sub", "conftest.py").write_text(IMPORT + "violate('write /conftest')\n")
    assert faked.run().ret == 1
    assert faked.fence is not None
    collected = [(nodeid, phase) for nodeid, phase, _ in faked.fence.entered if phase == "collect"]
    inner = collected.index(("sub/test_it.py", "collect"))
    assert collected[inner + 1][0] != "sub/test_it.py"
    assert collected[-1] == ("", "collect")


def test_the_root_conftest(faked: FakedPytest) -> None:
    faked.pytester.makeconftest(IMPORT + "violate()\n")
    faked.pytester.makepyfile(test_it=PASSES)
    result = one_violation(faked, "starting (plugins and conftest files)")
    result.stdout.fnmatch_lines(["    conftest.py:2: in <module>"])


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("pytest_configure(config)", "starting (plugins and conftest files)"),
        ("pytest_collection_modifyitems(items)", "collecting tests"),
        ("pytest_sessionfinish(session)", "finishing the session"),
        ("pytest_runtestloop(session)", "outside any test"),
    ],
)
def test_hooks(faked: FakedPytest, hook: str, place: str) -> None:
    faked.pytester.makeconftest(IMPORT + f"def {hook}: violate()\n")
    faked.pytester.makepyfile(test_it=PASSES)
    one_violation(faked, place)


def test_what_comes_after_the_summary_is_still_shown(faked: FakedPytest) -> None:
    faked.pytester.makeconftest(
        IMPORT + "def pytest_unconfigure(): violate('write /late')\ndef pytest_runtest_call(): violate('write /early')"
    )
    faked.pytester.makepyfile(test_it=PASSES)
    result = faked.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*= fence: 1 violation in 1 test =*",
            "*= 1 failed in *",
            "*= fence: 1 violation outside any test, after the summary =*",
            "finishing the session",
            "  write /late",
        ]
    )
    assert faked.fence is not None
    assert faked.fence.settled == 2


def test_only_after_the_summary(faked: FakedPytest) -> None:
    faked.pytester.makeconftest(IMPORT + "def pytest_unconfigure(): violate('write /late')\n")
    faked.pytester.makepyfile(test_it=PASSES)
    result = faked.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*= 1 passed in *", "*= fence: 1 violation outside any test =*", "  write /late"])


def test_no_tests_at_all_is_one_too(faked: FakedPytest) -> None:
    assert faked.run().ret == 5
    faked.pytester.makeconftest(IMPORT + "violate()\n")
    assert faked.run().ret == 1


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("def pytest_runtest_call():\n    raise KeyboardInterrupt\n", 2),
        ("def pytest_runtest_protocol():\n    raise RuntimeError('internal')\n", 3),
        ("import pytest\ndef pytest_collection():\n    raise pytest.UsageError('wrong')\n", 4),
        ("import pytest\ndef pytest_runtest_call():\n    pytest.exit('enough', returncode=9)\n", 9),
    ],
)
def test_other_exit_statuses_stay_what_they_are(
    faked: FakedPytest, source: str, plain: int, capfd: pytest.CaptureFixture[str]
) -> None:
    faked.pytester.makepyfile(test_it=PASSES)
    for extra in ("", IMPORT + "violate()\n"):
        faked.pytester.makeconftest(extra + source)
        result = faked.spawn()
        assert result.ret == plain
        shown = [line for line in result.outlines + result.errlines if "connect 93.184.216.34" in line]
        assert bool(shown) == bool(extra)


def test_a_conftest_that_cannot_be_imported_shows_why(faked: FakedPytest) -> None:
    faked.pytester.makeconftest(IMPORT + "violate()\nraise OSError(13, 'Permission denied')\n")
    result = faked.spawn()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["fence: 1 violation outside any test", "  connect *", "*Permission denied*"])


@pytest.mark.parametrize(
    "args",
    [["--help"], ["--markers"], ["--fixtures"], ["-VV"], ["--collect-only"], ["--cache-show"], ["--setup-plan"]],
    ids=" ".join,
)
def test_what_runs_no_tests_works_and_imports_conftests_fenced(faked: FakedPytest, args: list[str]) -> None:
    faked.pytester.makepyfile(test_it=PASSES)
    assert faked.spawn(*args).ret == 0
    faked.pytester.makeconftest(IMPORT + "violate()\n")
    result = faked.spawn(*args)
    assert result.ret == 1
    assert any("connect 93.184.216.34" in line for line in result.outlines + result.errlines)


def test_version_needs_no_fence(faked: FakedPytest) -> None:
    assert faked.spawn("--version").ret == 0


@pytest.mark.parametrize(
    "args", [["-q"], ["-qq"], ["--no-summary"], ["--no-header"], ["-p", "no:terminal"]], ids=" ".join
)
def test_less_output_hides_no_violation(faked: FakedPytest, args: list[str]) -> None:
    faked.pytester.makepyfile(test_it=IMPORT + "violate()\ndef test_a(): violate('write /a')\n")
    result = faked.spawn(*args)
    assert result.ret == 1
    shown = "\n".join(result.outlines + result.errlines)
    assert "connect 93.184.216.34" in shown
    assert "write /a" in shown


def test_a_ledger_that_cannot_be_read_is_no_pass(faked: FakedPytest, monkeypatch: pytest.MonkeyPatch) -> None:
    faked.pytester.makepyfile(test_it=PASSES)
    monkeypatch.setenv("FAKE_FENCE_BROKEN", "1")
    result = faked.run()
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    result.stderr.fnmatch_lines(["fence: the ledger cannot be read any more: the broker is gone"])


def test_everything_shown_is_settled(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=IMPORT + "violate()\ndef test_a(): violate('write /a')\n")
    faked.run()
    assert faked.fence is not None
    assert faked.fence.settled == 2


def test_phases_of_a_test_in_order(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=PASSES)
    faked.run()
    assert faked.fence is not None
    entered = faked.fence.entered
    begin = entered.index(("test_it.py::test_a", "setup", 0))
    phases = [phase for nodeid, phase, _ in entered[begin:] if nodeid]
    assert sorted(set(phases), key=phases.index) == ["setup", "call", "teardown"]
    assert entered[-2:] == [("", "session", 0), ("", "finish", 0)]
    assert entered[0] == ("", "startup", 0)


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_wrappers_of_other_plugins_run_in_the_phase_they_wrap(faked: FakedPytest, phase: str) -> None:
    faked.pytester.makeconftest(
        IMPORT
        + f"""
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtest_{phase}():
    violate()
    return (yield)
"""
    )
    faked.pytester.makepyfile(test_it=PASSES)
    assert f"  {phase}: connect 93.184.216.34:443/tcp" in faked.section(faked.run("--tb=no"))
