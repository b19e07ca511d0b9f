"""When the fence goes up, what may stand in its way, and what that costs a run that wants none."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_fence import plugin, session, xdist
from tests.unit.plugin import fakes
from tests.unit.plugin.faked_pytest import FakedPytest

PASSES = "def test_a(): pass\n"


def test_the_header_says_what_stands(faked: FakedPytest) -> None:
    faked.pytester.makepyprojecttoml("[tool.fence]\nmode = 'warn'\n")
    faked.run().stdout.fnmatch_lines(["fence: warn; seccomp, landlock 7; pyproject.toml [[]tool.fence[]]"])


def test_conftests_are_imported_fenced(faked: FakedPytest) -> None:
    faked.pytester.makeconftest("from tests.unit.plugin import fakes\nassert fakes.live\n")
    faked.pytester.makepyfile(PASSES)
    faked.run().assert_outcomes(passed=1)


def test_all_problems_of_a_policy_are_one_usage_error(faked: FakedPytest) -> None:
    faked.pytester.makepyprojecttoml("[tool.fence]\nallow_wriet = ['x']\nmode = 'strict'\n")
    result = faked.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: the fence's policy cannot be used:", "  *allow_wriet*allow_write*", "  *mode*enforce*"]
    )
    result.stderr.no_fnmatch_line("*Traceback*")
    assert not faked.fence


def test_a_broken_policy_that_might_enable_the_fence_is_an_error_without_the_flag(faked: FakedPytest) -> None:
    """Running on, unfenced, would be the one thing that `enabled = true` must not lead to."""
    faked.pytester.makepyprojecttoml("[tool.fence]\nenabled = true\nnonsense = 1\n")
    assert faked.run(fence=False).ret == pytest.ExitCode.USAGE_ERROR
    assert faked.run("--no-fence", fence=False).ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--fence-mode=strict"], "*--fence-mode: invalid choice: 'strict'*"),
        (["--fence-config=gone.toml"], "*gone.toml*cannot be read*"),
        (["--fence-require=moonshine"], "ERROR: this run cannot be fenced: moonshine: no such layer*"),
        (["--fence-require=seccomp, moonshine"], "ERROR: this run cannot be fenced: moonshine: *"),
    ],
)
def test_a_wrong_value_is_one_clear_usage_error(faked: FakedPytest, args: list[str], complaint: str) -> None:
    result = faked.run(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([complaint])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_config_named_on_the_command_line_counts(faked: FakedPytest) -> None:
    faked.pytester.makefile(".json", other='{"filesystem": {"allowWrite": ["/opt/x"]}}')
    faked.pytester.makepyprojecttoml("[tool.fence]\nnonsense = 1\n")
    result = faked.run("--fence-config=other.json")
    result.stdout.fnmatch_lines(["fence: enforce; *other.json"])


def test_a_config_named_on_the_command_line_can_enable_the_fence(faked: FakedPytest) -> None:
    faked.pytester.path.joinpath("fence-ci.toml").write_text("[tool.fence]\nenabled = true\n")
    faked.run("--fence-config=fence-ci.toml", fence=False)
    assert faked.fence is not None


# What stands in the way of a fork


@pytest.mark.parametrize(
    "obstacle",
    ["this is not the main thread but 'x'", "a child process exists already: sleep (pid 7)"],
)
def test_what_cannot_be_forked_is_a_usage_error(
    faked: FakedPytest, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    monkeypatch.setenv(fakes.OBSTACLES, obstacle)
    result = faked.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the fence starts with a fork*", f"  {obstacle}", "call pytest before that*"])


def test_threads_are_had_again_by_starting_the_command_anew(
    faked: FakedPytest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fakes.OBSTACLES, "another thread is running: queue (native id 8)")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "--fence"])
    faked.run().stderr.fnmatch_lines(["ERROR: this run cannot be fenced: respawn: with *'--fence'*"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "run_tests.py"])
    faked.run().stderr.fnmatch_lines(["  another thread is running: queue (native id 8)"])


@pytest.mark.parametrize(
    ("argv", "owns"),
    [
        ("python -m pytest tests", True),
        ("python -X dev -W error -I -m pytest", True),
        ("/venv/bin/python /venv/bin/pytest -q", True),
        ("/venv/bin/python /venv/bin/py.test", True),
        ("python /venv/lib/site-packages/pytest/__main__.py", True),
        ("python -m coverage run -m pytest", True),
        ("python /venv/bin/coverage run --branch -p -m pytest -q", True),
        ("python -m coverage run run_tests.py", False),
        ("python -m coverage report", False),
        ("python run_tests.py pytest", False),
        ("python -c import-pytest", False),
        ("python -", False),
        ("python -m nox -s tests", False),
        ("python", False),
    ],
)
def test_which_commands_are_pytests_own(argv: str, owns: bool) -> None:
    assert session.owns_command(argv.split()) is owns


# Sessions in sessions


INNER = """
pytest_plugins = ["pytester"]
from pytest_fence import plugin
def test_outer(pytester):
    pytester.makepyfile("def test_inner(): pass")
    result = pytester.runpytest_inprocess("-p", "fence", %s)
    print("INNER", int(result.ret), [line for line in result.stdout.lines + result.stderr.lines if "fence" in line])
"""


def test_an_inner_session_cannot_fence_the_outer_one(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=INNER % "'--fence'")
    result = faked.spawn("-s", fence=False)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*INNER 4 *runpytest_subprocess*"])


def test_inside_a_fence_an_inner_session_has_its_own(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(test_it=INNER % "'--fence'")
    result = faked.spawn("-s")
    result.stdout.fnmatch_lines(["*INNER 0 *inside another fence*"])
    assert result.ret == 0


def test_an_inner_session_without_the_flag_says_nothing_to_the_fence(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        test_it=INNER % ""
        + "    from tests.unit.plugin import fakes\n"
        + "    assert len(fakes.live) == 1\n"
        + "    assert not [entry for entry in fakes.live[0].entered if 'test_inner' in entry[0]]\n"
    )
    faked.spawn().assert_outcomes(passed=1)


def test_a_session_that_is_over_is_not_live(faked: FakedPytest) -> None:
    before = len(plugin._live)
    faked.run()
    assert len(plugin._live) == before


# What pytest and its plugins write


def test_reports_named_on_the_command_line_may_be_written(faked: FakedPytest, tmp_path: object) -> None:
    faked.pytester.makeini("[pytest]\nlog_file = /var/log/from-ini.log\ncache_dir = /var/cache/tests\n")
    out = f"{tmp_path}/new/dir/out.xml"
    found = policy_of(faked, f"--junitxml={out}", "--basetemp=/var/tmp/base", "--log-file=logs/x.log")
    for path in (out, f"{tmp_path}/new", str(faked.pytester.path / "logs/x.log"), "/var/log/from-ini.log"):
        assert path in found, found
    assert "/var/cache/tests" in found
    assert any(path.startswith("/var/tmp/base") for path in found)


def policy_of(faked: FakedPytest, *args: str) -> list[str]:
    """What may be written in the run with these arguments."""
    from pytest_fence import options

    config = faked.pytester.parseconfig("-p", "no:randomly", *args)
    config.known_args_namespace.fence = True
    chosen = options.choose(config)
    assert chosen is not None
    return [entry.pattern or entry.text for entry in chosen.policy.filesystem.allow_write]


def test_what_vscode_reports_to_is_open_and_shown(faked: FakedPytest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_RUN_PIPE", "/run/user/1/vscode-x.sock")
    monkeypatch.setenv("RUN_TEST_IDS_PIPE", "/run/user/1/ids")
    faked.run().stdout.fnmatch_lines(
        [
            "fence: TEST_RUN_PIPE names /run/user/1/vscode-x.sock, which may be written to and connected to",
            "fence: RUN_TEST_IDS_PIPE names /run/user/1/ids, which may be removed",
        ]
    )
    assert {"/run/user/1/vscode-x.sock", "/run/user/1/ids"} <= set(policy_of(faked))


# Workers


@pytest.mark.parametrize(
    ("spec", "local"),
    [
        ("popen", True),
        ("3*popen", True),
        ("popen//python=python3.9", True),
        ("2*popen//chdir=/x", True),
        ("ssh=user@host//chdir=x", False),
        ("4*ssh=host", False),
        ("socket=192.0.2.1:8888", False),
        ("via=proxy//python=x", False),
    ],
)
def test_only_workers_of_this_machine_are_inside(spec: str, local: bool) -> None:
    assert xdist.is_local(spec) is local
    number, _, bare = spec.rpartition("*")
    asked = argparse.Namespace(tx=[spec], px=None, distload=True, numprocesses=None, collectonly=False)
    assert xdist.remote_specs(asked) == ([] if local else [bare] * int(number or 1))


@pytest.mark.parametrize("asked", [{"distload": False}, {"numprocesses": 2}, {"collectonly": True}])
def test_no_worker_is_started_that_pytest_xdist_would_not(asked: dict[str, object]) -> None:
    usual = {"tx": ["ssh=host"], "px": [], "distload": True, "numprocesses": None, "collectonly": False}
    assert xdist.remote_specs(argparse.Namespace(**{**usual, **asked})) == []


def test_workers_by_way_of_another_machine_are_refused_by_name(faked: FakedPytest) -> None:
    pytest.importorskip("xdist")
    result = faked.spawn("--px", "id=far//ssh=user@host", "--tx", "popen//via=far", "-d")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: workers started by id=far//ssh=user@host would run outside the fence: *"])


def test_the_environment_alone_makes_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    config = object()
    with ThreadPoolExecutor(1) as beside:  # this very test may run in a worker, and be called from one's code
        assert not beside.submit(xdist.is_worker, config, others=0).result()  # type: ignore[arg-type]
    code = compile("found = is_worker(config, others=others)", "<remote exec>", "exec")
    for others, expected in ((0, True), (1, False)):
        names = {"__name__": "__channelexec__", "is_worker": xdist.is_worker, "config": config, "others": others}
        exec(code, names)
        assert names["found"] is expected
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    names = {"__name__": "__channelexec__", "is_worker": xdist.is_worker, "config": config, "others": 0}
    exec(code, names)
    assert names["found"] is False


# Without a fence


def test_a_run_without_a_fence_loads_nothing_of_it(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        """
        import sys
        def test_a(request):
            ours = {name for name in sys.modules if name.startswith(("fence_core", "pytest_fence"))}
            assert ours <= {"pytest_fence", "pytest_fence.categories", "pytest_fence.imports",
                            "pytest_fence.overlooked", "pytest_fence.plugin",
                            "fence_core", "fence_core.config_files"}, ours
            plugins = [type(plugin) for plugin in request.config.pluginmanager.get_plugins()]
            found = [kind.__name__ for kind in plugins if kind.__module__.startswith("pytest_fence")]
            assert found == ["_UnfencedRun"]
        """
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cov", str(faked.pytester.path)],
        env=env,
        capture_output=True,
        text=True,
        cwd=faked.pytester.path,
    )
    assert ran.returncode == 0, ran.stdout
