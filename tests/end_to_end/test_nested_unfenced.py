"""The plugin is installed, as by pip, and not used: nobody finds a trace of it."""

from __future__ import annotations

import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fence_core", "pytest_fence")


@pytest.fixture
def installed(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """An environment in which the plugin is installed file by file: a checkout hides its packages from pytest."""
    site = tmp_path_factory.mktemp("site")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "pytest_fence-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-fence\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[pytest11]\nfence = pytest_fence.plugin\n")
    files = [path.relative_to(site) for package in PACKAGES for path in (site / package).rglob("*.py")]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    runs.load()
    # Each of the others takes its time, in inner sessions too.
    others = {entry.name for entry in entry_points(group="pytest11")} - {"fence"}
    without = " ".join(f"-p no:{name}" for name in sorted(others))
    return {"PYTHONPATH": str(site), "PYTEST_ADDOPTS": without, "OTHERS": without}


# What an inner session finds, and leaves, in the process.
NESTED = """
import os, signal, sys, warnings
import pytest

OTHERS = os.environ["OTHERS"].split()

def state():
    known = ("fence_core", "pytest_fence")
    return {
        "meta_path": list(sys.meta_path),
        "path": list(sys.path),
        "environ": {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "filters": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "modules": sorted(name for name in sys.modules if name.startswith(known)),
    }

def test_no_warnings(pytester):
    pytester.makepyfile("def test(): pass")
    before = state()
    pytester.runpytest_inprocess(*OTHERS).assert_outcomes(passed=1, warnings=0)
    assert state() == before

def test_inner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pytest.main(["-h", *OTHERS]) == 0
    before = state()
    assert pytest.main(["-q", "-W", "error", "--strict-markers", *OTHERS]) == 5
    assert state() == before

def test_items(pytester):
    items = pytester.getitems("def test(): pass")
    config = pytester.parseconfigure("-W", "error", *OTHERS)
    assert [item.name for item in items] == ["test"]
    ours = [name for name, _ in config.pluginmanager.list_name_plugin() if name.startswith("fence-")]
    assert ours == ["fence-overlooked"], "which only looks for configurations that ask for a fence"

def test_recorded(pytester):
    record = pytester.inline_run(pytester.makepyfile("def test(): pass"), *OTHERS)
    record.assertoutcome(passed=1)
    assert not record.getcalls("pytest_warning_recorded")
"""


@pytest.mark.parametrize("fenced", [False, True])
def test_nested_sessions(runs: Runs, installed: dict[str, str | None], fenced: bool) -> None:
    (runs.directory / "conftest.py").write_text("pytest_plugins = ['pytester']\n")
    (runs.directory / "test_it.py").write_text(NESTED)
    (runs.directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    ended = runs.pytest("-p", "no:cacheprovider", fenced=fenced, env=installed)
    assert ended.status == 0, ended
    ended.has(r"^=+ 4 passed in")
    assert "PytestAssertRewriteWarning" not in ended.out + ended.err


def test_it_is_installed_there(runs: Runs, installed: dict[str, str | None]) -> None:
    """The positive control: it is this copy that is used, and pytest means to rewrite it."""
    (runs.directory / "test_it.py").write_text(
        "import fence_core\n"
        "def test(pytestconfig):\n"
        "    assert '/site' in fence_core.__file__, fence_core.__file__\n"
        "    assert 'fence_core' in pytestconfig.pluginmanager.rewrite_hook._must_rewrite\n"
    )
    ended = runs.pytest(fenced=False, env=installed)
    assert ended.status == 0, ended
