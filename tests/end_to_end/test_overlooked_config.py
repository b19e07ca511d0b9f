"""A fence config below pytest's root directory is never silently not in force for the tests that lie with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.support import Ended, Runs

PYPROJECT = "[tool.fence]\ndeny_write = ['forbidden']\n"


@pytest.fixture
def package(runs: Runs) -> Path:
    """`packages/a/tests/test_a.py` below a root with tests of its own; both tell by a file that they were imported."""
    (runs.directory / "pytest.ini").write_text("[pytest]\n")
    for place in ("", "packages/a/tests"):
        directory = runs.directory / place
        directory.mkdir(parents=True, exist_ok=True)
        name = "a" if place else "top"
        (directory / f"test_{name}.py").write_text(f"open({str(runs.directory / name)!r}, 'w')\ndef test_x(): pass\n")
    return runs.directory / "packages" / "a"


def imported(runs: Runs) -> set[str]:
    return {name for name in ("a", "top") if (runs.directory / name).exists()}


def refused(ended: Ended, source: str) -> bool:
    assert ended.status == 4, ended
    assert f"  {source}: is not read, since pytest's rootdir is " in ended.err, ended
    assert "Traceback" not in ended.err + ended.out, ended
    return True


@pytest.mark.parametrize("argument", ["packages/a", "packages/a/tests/test_a.py::test_x", "packages"])
@pytest.mark.parametrize("name", ["pyproject.toml", "fence.yaml"])
def test_given_by_an_argument(runs: Runs, package: Path, argument: str, name: str) -> None:
    """Nothing of the package is imported; without the config it runs."""
    assert runs.pytest("-q", argument).status == 0
    assert imported(runs) == {"a"}
    (runs.directory / "a").unlink()
    text = PYPROJECT if name == "pyproject.toml" else "filesystem:\n  deny_write: [forbidden]\n"
    (package / name).write_text(text)
    ended = runs.pytest("-q", argument)
    assert refused(ended, f"packages/a/{name}" + (" [tool.fence]" if name == "pyproject.toml" else ""))
    assert "(policy of this run: preset pytest)" in ended.err
    assert not imported(runs)


@pytest.mark.parametrize("plugins", [(), ("xdist.plugin",)], ids=["one process", "workers"])
def test_found_by_collection(runs: Runs, package: Path, plugins: tuple[str, ...]) -> None:
    """A run from the top that comes upon it stops there, before it imports anything of that directory."""
    (package / "pyproject.toml").write_text(PYPROJECT)
    args = ["-q"]
    if plugins:
        runs.load(*plugins)
        args += ["-n1"]
    assert refused(runs.pytest(*args), "packages/a/pyproject.toml [tool.fence]")
    assert "a" not in imported(runs)
    (package / "pyproject.toml").unlink()
    assert runs.pytest(*args).status == 0
    assert imported(runs) == {"a", "top"}


def test_started_in_the_directory(runs: Runs, package: Path) -> None:
    """Where pytest finds its own configuration further up, that is the root."""
    (package / "pyproject.toml").write_text(PYPROJECT)
    assert refused(runs.pytest("-q", cwd=package), "pyproject.toml [tool.fence]")
    (package / "pyproject.toml").write_text(f"{PYPROJECT}[tool.pytest.ini_options]\n")
    ended = runs.pytest(cwd=package)
    assert ended.status == 0, ended
    ended.has(r"^fence: enforce; .*pyproject.toml \[tool.fence\]$")


def test_root_somewhere_else(runs: Runs, package: Path) -> None:
    """`-c` moves the root away from the project's own config."""
    (runs.directory / "fence.json").write_text('{"extends": "strict"}')
    (runs.directory / "ci").mkdir()
    (runs.directory / "ci" / "pytest.ini").write_text("[pytest]\n")
    assert refused(runs.pytest("-q", "-c", "ci/pytest.ini", "test_top.py"), "fence.json")


@pytest.mark.parametrize(
    "choose",
    [
        lambda: "--fence-config=packages/a/pyproject.toml",
        lambda: "--rootdir=packages/a",
        lambda: "--no-fence",
    ],
    ids=["config", "root", "none"],
)
def test_saying_which_one_counts(runs: Runs, package: Path, choose: Callable[[], str]) -> None:
    (package / "pyproject.toml").write_text(PYPROJECT)
    ended = runs.pytest(choose(), "packages/a")
    assert ended.status == 0, ended
    assert imported(runs) == {"a"}
    ended.has(r"^fence: off" if choose() == "--no-fence" else r"^fence: enforce; .*pyproject.toml \[tool.fence\]$")


@pytest.mark.parametrize(("enabled", "status"), [("true", 4), ("false", 0)])
def test_asking_for_a_fence(runs: Runs, package: Path, enabled: str, status: int) -> None:
    """Without a flag: tests whose own config switches the fence on are not run without one."""
    (package / "pyproject.toml").write_text(f"[tool.fence]\nenabled = {enabled}\n")
    ended = runs.pytest("-q", "packages/a", fenced=False)
    assert ended.status == status, ended
    if status:
        assert refused(ended, "packages/a/pyproject.toml [tool.fence]")
        assert "(this run has no fence)" in ended.err
    assert imported(runs) == (set() if status else {"a"})


@pytest.mark.parametrize("plugins", [(), ("xdist.plugin",)], ids=["one process", "workers"])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pyproject.toml", "[tool.fence]\nenabled = true\n", "pyproject.toml [tool.fence]: is not read, since"),
        ("fence.json", '{"enabled": true}', "fence.json: is not read, since"),
        ("fence.yaml", "enabled: true\n", "fence.yaml: is not read, since"),
        ("fence.yaml", "enabled: {", "is not valid YAML"),
    ],
)
def test_asking_for_a_fence_below(
    runs: Runs, package: Path, name: str, text: str, said: str, plugins: tuple[str, ...]
) -> None:
    """Without a flag and without an argument: a run that comes upon such a config stops there, and names it. So it does
    where it cannot tell what is written there. Nothing of that directory is imported."""
    (package / "conftest.py").write_text(f"open({str(runs.directory / 'a')!r}, 'w')\n")
    args = ["-q"]
    if plugins:
        runs.load(*plugins)
        args += ["-n1"]
    (package / name).write_text(text)
    ended = runs.pytest(*args, fenced=False)
    assert ended.status == 4, ended
    assert said in ended.err, ended
    assert "Traceback" not in ended.err + ended.out, ended
    assert "a" not in imported(runs)
    assert runs.pytest(*args, "--no-fence", fenced=False).status == 0
    assert imported(runs) == {"a", "top"}


def test_not_asking_for_a_fence_below(runs: Runs, package: Path) -> None:
    """A config that does not switch the fence on is missed in fenced runs only."""
    (package / "fence.yaml").write_text("enabled: false\nmode: warn\n")
    assert runs.pytest("-q", fenced=False).status == 0
    assert imported(runs) == {"a", "top"}


def test_conftests_that_are_imported_early(runs: Runs, package: Path) -> None:
    """pytest imports those of `test*` in each directory that it is given, before it collects anything."""
    (package / "tests" / "conftest.py").write_text(f"open({str(runs.directory / 'a')!r}, 'w')\n")
    (package / "tests" / "pyproject.toml").write_text("[tool.fence]\nenabled = true\n")
    for fenced in (False, True):
        assert refused(runs.pytest("packages/a", fenced=fenced), "packages/a/tests/pyproject.toml [tool.fence]")
        assert not imported(runs)


def test_file_of_another_program(runs: Runs, package: Path) -> None:
    """`fence.json` may be anybody's: it counts if it holds one of our keys. So does a pyproject.toml without our
    table."""
    (package / "fence.json").write_text('{"type": "FeatureCollection", "features": []}')
    (package / "pyproject.toml").write_text("[project]\nname = 'a'\ndependencies = ['pytest-fence']\n")
    assert runs.pytest("-q", "packages/a").status == 0
    (package / "fence.json").write_text('{"filesystem": {}}')
    assert refused(runs.pytest("-q", "packages/a"), "packages/a/fence.json")


def test_cannot_be_read(runs: Runs, package: Path) -> None:
    """What it says is not known: that is told as for the root's own config."""
    (package / "fence.json").write_text("{")
    ended = runs.pytest("-q", "packages/a")
    assert ended.status == 4, ended
    assert "fence.json" in ended.err
    assert "not valid JSON" in ended.err
    assert "Traceback" not in ended.err


def test_config_above_the_root(runs: Runs, package: Path) -> None:
    """A package that is a root of its own has its own policy, whatever lies above it."""
    (runs.directory / "fence.json").write_text('{"extends": "strict"}')
    (package / "pytest.ini").write_text("[pytest]\n")
    ended = runs.pytest("packages/a")
    assert ended.status == 0, ended
    ended.has("^fence: enforce; .*; preset pytest$")


@pytest.mark.parametrize(("fenced", "found"), [(False, "this run has no fence"), (True, "policy of this run")])
def test_root_moved_by_an_empty_file(runs: Runs, fenced: bool, found: str) -> None:
    """Without pytest's own configuration a `setup.py` that appears in `tests` makes that the root."""
    (runs.directory / "fence.json").write_text('{"enabled": true}')
    tests = runs.directory / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text("def test(): pass\n")
    assert runs.pytest("-q", "tests", fenced=fenced).status == 0
    (tests / "setup.py").write_text("")
    ended = runs.pytest("-q", "tests", fenced=fenced)
    assert refused(ended, "fence.json")
    assert found in ended.err
