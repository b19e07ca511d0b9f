"""The first line of a module says what it is for, and where that matters which process runs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for package in ("fence_core", "pytest_fence") for path in (ROOT / package).rglob("*.py"))
# A package whose modules all run in one process may say so once, in its own docstring.
ONE_PROCESS = {"broker": "supervisor"}
PROCESSES = ("supervisor", "fenced", "guardian", "witness", "any process")


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_first_line_says_what_the_module_is_for() -> None:
    wrong = []
    for path in MODULES:
        first = docstring(path).partition("\n")[0].rstrip()
        if len(first.split()) < 3 or not first.endswith((".", ":")):
            wrong.append(f"{name(path)}: not a sentence worth reading: {first!r}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize("package", ONE_PROCESS)
def test_a_package_of_one_process_names_it(package: str) -> None:
    path = ROOT / "fence_core" / package / "__init__.py"
    assert ONE_PROCESS[package] in docstring(path).lower()


def test_the_launcher_says_which_process_runs_a_module() -> None:
    """The launcher is the one package whose modules run in different processes."""
    wrong = [
        f"{name(path)}: its docstring names none of {PROCESSES}; write `Run by ...`"
        for path in MODULES
        if path.parent.name == "launcher" and path.name != "__init__.py"
        if not any(process in docstring(path).lower() for process in PROCESSES)
    ]
    assert not wrong, "\n".join(["", *wrong])


def test_one_concern_per_file() -> None:
    """A file named for nothing in particular collects everything."""
    assert not [name(path) for path in MODULES if path.stem in ("utils", "util", "helpers", "common", "misc")]
