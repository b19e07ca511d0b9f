"""Fixtures of the plugin's tests: pytest runs inside a fence that is a fake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.plugin import fakes
from tests.unit.plugin.faked_pytest import FakedPytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def faked(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakedPytest]:
    directory = tmp_path / "fake-fence"
    directory.mkdir()
    monkeypatch.setenv(fakes.DIRECTORY, str(directory))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for name in ("TEST_RUN_PIPE", "RUN_TEST_IDS_PIPE", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    yield FakedPytest(pytester, directory)
    assert not fakes.live
