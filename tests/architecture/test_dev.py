"""dev.py: what it installs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(dev: ModuleType, *sets: str) -> list[Requirement]:
    """What pip is given for these sets."""
    text = dev.locked(dev.LOCK.read_text(encoding="utf-8"), set(sets))
    lines = [line.rstrip("\\ ") for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    return [Requirement(line) for line in lines]


def wanted(dev: ModuleType, name: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if name == "run":
        return [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    return list(project["project"]["optional-dependencies"][name])


@pytest.mark.parametrize("name", ["run", "test", "lint", "bench", "changelog"])
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_lock_holds_one_version_of_all_that_is_asked_for(dev: ModuleType, name: str, version: str) -> None:
    environment = {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}
    locked: dict[str, str] = {}
    for requirement in requirements(dev, "run", name):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            key = canonicalize_name(requirement.name)
            assert key not in locked, f"two versions of {key} on Python {version}"
            (exactly,) = requirement.specifier
            assert exactly.operator == "=="
            locked[key] = exactly.version
    for text in wanted(dev, name):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version_there = locked.get(canonicalize_name(requirement.name))
            assert version_there, f"{text} is not in {dev.LOCK.name}: run `python3 dev.py lock`"
            assert requirement.specifier.contains(version_there), f"{text}, and locked is {version_there}"


def test_the_lock_has_hashes_and_names_no_host(dev: ModuleType) -> None:
    text = dev.LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    entries = text.split(dev.NEEDED_BY)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    assert {name for entry in entries for name in entry.splitlines()[0].split()} == {"run", *dev.EXTRAS}


def test_an_extra_that_is_unknown_is_refused(dev: ModuleType) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "dev.py", "setup", "tests"], capture_output=True, text=True, env={**os.environ}
    )
    assert ended.returncode == 1
    assert ended.stderr == "dev.py: tests: extras are test, lint, bench, changelog\n"
