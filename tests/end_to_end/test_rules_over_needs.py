"""Rules that cover what Python and pytest need: one error that names all of them, before anything is run."""

from __future__ import annotations

import os
import re
import sys

import pytest

from tests.end_to_end.support import Ended, Runs

IMPORTED = "open('imported', 'w')\nimport subprocess, sys\n"
STARTS_PYTHON = IMPORTED + "def test_x(tmp_path): subprocess.run([sys.executable, '-c', 'import json'], check=True)\n"


def run(runs: Runs, policy: str, *args: str, env: dict[str, str | None] | None = None) -> Ended:
    (runs.directory / "imported").unlink(missing_ok=True)
    (runs.directory / "test_it.py").write_text(STARTS_PYTHON)
    (runs.directory / "pyproject.toml").write_text(f"[tool.fence]\n{policy}\n")
    return runs.pytest("-q", "-p", "no:cacheprovider", *args, env=env)


def refused(runs: Runs, ended: Ended, *says: str) -> None:
    assert ended.status == 4, ended
    assert "the fence's policy cannot be used:" in ended.err, ended
    assert "Traceback" not in ended.err + ended.out, ended
    for text in says:
        where = r"  pyproject\.toml \[tool\.fence\](, line [23])?: filesystem\."
        assert re.search(where + re.escape(text), ended.err), ended
    assert not (runs.directory / "imported").exists()


def passed(runs: Runs, ended: Ended) -> None:
    assert ended.status == 0, ended
    assert (runs.directory / "imported").exists()


@pytest.mark.parametrize(
    ("rule", "covers"),
    [
        (os.path.realpath(sys.executable), "Python itself ("),
        (os.path.dirname(os.path.realpath(os.__file__)), "Python's own modules ("),
        ("token*.py", f"Python's own modules ({os.path.dirname(os.path.realpath(os.__file__))}/"),
        (os.path.dirname(pytest.__file__), "modules of this run ("),
        (".", "pytest's root directory ("),
        ("/dev", "the null device (/dev/null)"),
    ],
)
def test_not_to_be_read(runs: Runs, rule: str, covers: str) -> None:
    refused(runs, run(runs, f"deny_read = ['{rule}']"), f'deny_read: "{rule}" covers {covers}')


def test_shared_libraries(runs: Runs) -> None:
    """The C library is one of them, wherever it lies."""
    refused(runs, run(runs, "deny_read = ['libc.so*', 'libc.*']"))


def test_what_is_to_be_tested(runs: Runs) -> None:
    """A file that is named on the command line; found by collection it is a report of what was refused."""
    policy = "deny_read = ['test_it.py']"
    refused(runs, run(runs, policy, "test_it.py::test_x"), 'deny_read: "test_it.py" covers what is to be tested (')
    ended = run(runs, policy)
    assert ended.status == 2, ended
    ended.has(f"read {runs.directory}/test_it.py")


def test_rules_beside_it(runs: Runs) -> None:
    """The controls: rules that cover nothing of it, and a preset of sixty."""
    passed(runs, run(runs, "deny_read = ['/dev/mem', '*.key', 'secrets']\ndeny_write = ['forbidden']"))
    passed(runs, run(runs, "extends = 'no-secrets'"))


def test_all_at_once(runs: Runs) -> None:
    """Each rule has its line, those that cover nothing needed have none."""
    python = os.path.realpath(sys.executable)
    ended = run(runs, f"deny_read = ['*.key', '/dev/null', '{python}']\ndeny_write = ['/dev/null']")
    refused(
        runs,
        ended,
        'deny_read: "/dev/null" covers the null device',
        f'deny_read: "{python}" covers Python itself',
        'deny_write: "/dev/null" covers the null device',
    )
    assert ended.err.count(" covers ") == 3
    assert ended.err.count("line 2: filesystem.deny_read: ") == 2
    assert ended.err.count("line 3: filesystem.deny_write: ") == 1


def test_directory_for_temporary_files(runs: Runs) -> None:
    """pytest keeps in it what the tests print. `TMPDIR` names another, and nobody needs one with `-s`."""
    for name in ("denied", "other"):
        (runs.directory / name).mkdir()
    denied, other = (str(runs.directory / name) for name in ("denied", "other"))
    policy = f"deny_write = ['{denied}']"
    says = f'deny_write: "{denied}" covers the directory for temporary files ({denied}); accepted: '
    refused(runs, run(runs, policy, env={"TMPDIR": denied}), says)
    passed(runs, run(runs, policy, env={"TMPDIR": other}))
    passed(runs, run(runs, policy, "-s", f"--basetemp={other}/base", env={"TMPDIR": denied}))


def test_variable_that_is_withheld(runs: Runs) -> None:
    """What `env_deny` takes away names no directory: that is tempfile's next choice."""
    (runs.directory / "denied").mkdir()
    denied = str(runs.directory / "denied")
    policy = f"deny_write = ['{denied}']\nenv_deny = ['TMPDIR']"
    passed(runs, run(runs, policy, env={"TMPDIR": denied, "TEMP": None, "TMP": None}))


def test_no_directory_at_all(runs: Runs) -> None:
    """A policy from nothing has to name one."""
    policy = "extends = 'default-deny'\nallow_write = ['imported', '/somewhere/else', '{}']"
    env: dict[str, str | None] = {"TMPDIR": str(runs.directory)}
    ended = run(runs, policy.format("build"), env=env)
    refused(runs, ended, f"allow_write: does not allow the directory for temporary files ({runs.directory})")
    passed(runs, run(runs, policy.format("./*"), f"--basetemp={runs.directory}/base", env=env))


def test_an_audit_refuses_nothing(runs: Runs) -> None:
    ended = run(runs, "mode = 'audit'\ndeny_read = ['/dev/null']")
    passed(runs, ended)
    assert "read /dev/null" in ended.out


@pytest.mark.parametrize("workers", [False, True], ids=["one process", "workers"])
def test_no_variable_is_needed(runs: Runs, workers: bool) -> None:
    """Without a single one of the user's variables: pytest, its workers and the Python that a test starts all run."""
    if workers:
        runs.load()
    ended = run(runs, "env_deny = ['*']", *(["-n1"] if workers else []))
    passed(runs, ended)


def test_variables_that_workers_need(runs: Runs) -> None:
    """Without this one they would load every plugin there is, some of them a second time."""
    runs.load("xdist.plugin")
    ended = run(runs, "extends = 'no-secrets'\nenv_deny = ['PATH', 'PYTEST_*']", "-n1")
    refused(runs, ended)
    says = 'env_deny: "PYTEST_*" takes PYTEST_DISABLE_PLUGIN_AUTOLOAD away, and workers of pytest-xdist '
    assert f"  pyproject.toml [tool.fence], line 3: {says}" in ended.err
    passed(runs, run(runs, "env_deny = ['PATH', 'PYTEST_?']", "-n1"))
