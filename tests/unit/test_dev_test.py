"""`dev.py test`: which tests it runs when, and which of them once more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUITE = """
import pathlib
import pytest

def first(name):
    path = pathlib.Path(__file__).with_name(name)
    was_there = path.exists()
    path.touch()
    return not was_there

@pytest.mark.deadline("the first time")
def test_late_once():
    assert not first("late")

@pytest.mark.deadline("the second time")
@pytest.mark.parametrize("text", ["a b", "c::d\\n"])
def test_in_time(text):
    pass

def test_plain():
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with our conftest; `dev.test` runs in it what it would run here."""
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.setattr(dev, "ROOT", pytester.path)
    monkeypatch.setattr(dev, "setup", lambda *extras, newest: Path(sys.executable))
    monkeypatch.delenv("FENCE_FLAKY", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # many runs of nothing
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist.plugin")
    return pytester


def test_what_passes_the_second_time_is_named(
    suite: pytest.Pytester, dev: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FENCE_FLAKY", str(suite.path / "flaky"))
    assert dev.test(["-q"]) == 0
    said = capfd.readouterr().out
    assert said.endswith("dev.py: flaky, since they passed the second time only:\n  test_it.py::test_late_once\n"), said
    assert "1 failed, 2 passed" in said
    assert "1 passed, 3 deselected" in said
    assert (suite.path / "flaky").read_text() == "  test_it.py::test_late_once\n"
    assert dev.test(["-q"]) == 0
    assert "flaky" not in capfd.readouterr().out


def test_what_is_not_marked_has_no_second_chance(suite: pytest.Pytester, dev: ModuleType) -> None:
    suite.makepyfile(test_more="from test_it import first\ndef test_other(): assert not first('other')")
    assert dev.test(["-q", "test_more.py"]) == 1
    assert dev.test(["-q", "test_more.py"]) == 0


def test_what_fails_twice_has_failed(
    suite: pytest.Pytester, dev: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    suite.makepyfile(test_more="import pytest\n@pytest.mark.deadline('any')\ndef test_never(): assert False")
    assert dev.test(["-q"]) == 1
    said = capfd.readouterr().out
    assert said.endswith("second time only:\n  test_it.py::test_late_once\n"), said
    assert "2 passed" in said, "the others are run all the same"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-k", "plain"], 0),
        (["-k", "in_time"], 0),
        (["test_it.py::test_in_time"], 0),
        (["-k", "nothing"], 5),
        (["--no-such-option"], 4),
        (["--collect-only"], 0),
    ],
)
def test_arguments_go_to_pytest(suite: pytest.Pytester, dev: ModuleType, words: list[str], status: int) -> None:
    assert dev.test(["-q", *words]) == status


def test_what_the_tests_start_is_compiled_once(
    suite: pytest.Pytester, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    suite.mkdir("fence_core").joinpath("loop.py").touch()
    assert dev.test(["-q", "-k", "plain"]) == 0
    assert [path.name for path in (suite.path / "fence_core" / "__pycache__").iterdir()]


def test_the_mark_gives_a_reason(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_more="import pytest\n@pytest.mark.deadline\ndef test_a(): pass")
    result = suite.runpytest_subprocess("test_more.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_more.py::test_a: deadline(...) takes one text: what the test races"])
