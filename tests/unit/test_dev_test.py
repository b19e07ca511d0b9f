"""`dev.py test`: what it gives to pytest, and what it says of the outcome."""

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


@pytest.fixture
def suite(pytester: pytest.Pytester, dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with our conftest; `dev.test` runs in it what it would run here."""
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_it="import os\ndef test_plain(): pass\ndef test_fails(): assert os.path.exists('there')")
    monkeypatch.setattr(dev, "ROOT", pytester.path)
    monkeypatch.setattr(dev, "setup", lambda *extras, newest: Path(sys.executable))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # many runs of nothing
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist.plugin")
    return pytester


@pytest.mark.parametrize(
    ("words", "status"),
    [(["-k", "plain"], 0), ([], 1), (["-k", "nothing"], 5), (["--no-such-option"], 4), (["--collect-only"], 0)],
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
