"""FENCE_MUST_WORK: what the root conftest makes of a skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import pytest

def test_plain():
    pytest.skip("kernel: no seccomp")

@pytest.mark.needs("program:no-such-program")
def test_program(): ...

@pytest.mark.needs("user:root", "user:ordinary")
def test_elsewhere(): ...

@pytest.mark.needs("module:os")
def test_there(): ...

@pytest.mark.xfail
def test_expected():
    assert False
"""


@pytest.mark.parametrize(
    ("value", "outcomes"),
    [
        ("", {"passed": 1, "skipped": 3, "xfailed": 1}),
        ("1", {"passed": 1, "skipped": 2, "failed": 1, "xfailed": 1}),
        ("all", {"passed": 1, "skipped": 1, "failed": 1, "errors": 1, "xfailed": 1}),
    ],
)
def test_a_skip_is_a_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, outcomes: dict[str, int]
) -> None:
    monkeypatch.setenv("FENCE_MUST_WORK", value)
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(SUITE)
    pytester.runpytest_subprocess().assert_outcomes(**outcomes)


def test_a_module_that_skips_itself_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FENCE_MUST_WORK", "1")
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile("import pytest\npytest.importorskip('no_such_module')")
    result = pytester.runpytest_subprocess()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*FENCE_MUST_WORK is set and this was skipped: could not import*"])


def test_a_value_that_means_nothing_is_refused(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FENCE_MUST_WORK", "yes")
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR, os.linesep.join(result.errlines)
