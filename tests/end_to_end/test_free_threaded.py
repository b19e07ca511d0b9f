"""Builds of Python without the interpreter's lock: no fence is put up in them, and the run says so.

Imitated here by what such a build says of itself: `sys.abiflags`.
"""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.support import Ended, Runs

FREE_THREADED = """\
import sys, pytest
sys.abiflags = "t"
sys.exit(pytest.main(sys.argv[1:]))
"""
REFUSAL = (
    "ERROR: this run cannot be fenced: free-threaded Python: the fence does not support this build. "
    "Use the ordinary build of the same version."
)


@pytest.fixture
def suite(runs: Runs) -> Runs:
    (runs.directory / "free_threaded.py").write_text(FREE_THREADED)
    (runs.directory / "test_it.py").write_text("def test_it(): pass\n")
    return runs


def run(suite: Runs, *args: str) -> Ended:
    return suite.command(sys.executable, "free_threaded.py", "-p", "no:cacheprovider", *suite.plugins, *args)


@pytest.mark.parametrize("how", ["flag", "configuration"])
def test_refused(suite: Runs, how: str) -> None:
    """Before anything of the project is imported."""
    (suite.directory / "conftest.py").write_text("print('imported')\n")
    if how == "configuration":
        (suite.directory / "pyproject.toml").write_text("[tool.fence]\nenabled = true\n[tool.pytest.ini_options]\n")
    ended = run(suite, *(["--fence"] if how == "flag" else []))
    assert ended.status == 4, ended
    assert REFUSAL in ended.err, ended
    assert "imported" not in ended.out
    assert "Traceback" not in ended.err + ended.out


def test_runs_without_a_fence(suite: Runs) -> None:
    ended = run(suite)
    assert ended.status == 0, ended
    assert "1 passed" in ended.out
