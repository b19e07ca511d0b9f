"""`strict` writes nothing but what this run was asked to write, by whatever it is named: also a plugin's default."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs

ROOT = Path(__file__).resolve().parents[2]

KINDS = ["xml", "html", "json", "lcov", "annotate"]
DEFAULTS = ["coverage.xml", "htmlcov/index.html", "coverage.json", "coverage.lcov", "mine.py,cover", ".coverage"]
CONFIGURED = """
[tool.coverage.run]
data_file = "data/measured"
[tool.coverage.xml]
output = "out/cov.xml"
[tool.coverage.html]
directory = "out/html"
"""
TEST = """
import mine

def test_mine():
    assert mine.one() == 1

def test_other():
    for name in ("coverage.txt", "out/other"):
        try:
            open(name, "w").close()
        except OSError:
            pass
"""


@pytest.fixture
def project() -> Iterator[Runs]:
    """Runs of a project outside of temporary directories, in which everything may be written."""
    if ROOT.is_relative_to("/tmp") or ROOT.is_relative_to("/var/tmp"):
        pytest.skip("elsewhere: this checkout lies in a temporary directory")
    (ROOT / ".pytest_cache").mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="strict-", dir=ROOT / ".pytest_cache"))
    runs = Runs(directory)
    yield runs
    runs.close()
    shutil.rmtree(directory)


@pytest.mark.needs("module:pytest_cov")
@pytest.mark.parametrize(
    ("config", "env", "args", "made"),
    [
        ("", {}, [], DEFAULTS),
        (CONFIGURED, {}, [], ["data/measured", "out/cov.xml", "out/html/index.html", "coverage.json", "coverage.lcov"]),
        ("", {"COVERAGE_FILE": "data/c"}, [], ["data/c", "coverage.xml"]),
        (CONFIGURED, {}, ["--cov-report=xml:named.xml"], ["data/measured", "named.xml"]),
    ],
)
def test_coverage_reports(project: Runs, config: str, env: dict[str, str], args: list[str], made: list[str]) -> None:
    project.load("pytest_cov")
    (project.directory / "mine.py").write_text("def one():\n    return 1\n")
    (project.directory / "test_it.py").write_text(TEST)
    (project.directory / "pyproject.toml").write_text(
        f'[tool.fence]\nextends = "strict"\n[tool.pytest.ini_options]\n{config}'
    )
    reports = args or [f"--cov-report={kind}" for kind in KINDS]
    ended = project.pytest("-p", "no:cacheprovider", "--cov=mine", *reports, env=env)
    assert ended.status == 1, ended  # for the control: what nobody has asked for
    ended.has(r"^E   call: write .*/coverage.txt$", r"^=+ 1 failed, 1 passed in")
    assert not [name for name in made if not (project.directory / name).is_file()], ended
    assert not (project.directory / "coverage.txt").exists()
