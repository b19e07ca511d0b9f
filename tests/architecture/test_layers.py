"""Imports go one way: the table in docs/internals/architecture.md, enforced over both packages."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "internals" / "architecture.md"
PACKAGES = ("fence_core", "pytest_fence")

# Packages of others, and who may import them. Everything else is the standard library.
THIRD_PARTY = {
    # tomllib is the standard library's, from 3.11 on; typing_extensions is for type checkers only.
    "policy": {"yaml", "idna", "tomli", "tomllib", "typing_extensions"},
    "dns": {"dns"},
    "edit": {"tomlkit", "yaml"},
    "proxy": {"proxy"},
    "pytest_fence": {"pytest", "_pytest", "pluggy", "xdist", "execnet", "coverage"},
}
# Imported inside functions only: they cost more than the whole budget for a run that does not need them.
LAZY = {"yaml", "idna", "tomlkit", "xdist", "execnet", "dns", "proxy", "coverage"}

# Plugins of other programs, which import them: nobody else imports these at the top.
PLUGINS = {"fence_core/proxy/plugin.py": "proxy"}

# Inner packages that are a door, each with its reason. All other inner __init__ files hold a docstring only.
DOORS = {
    "fence_core/kernel/arch/__init__.py",  # chooses between two tables, of which only one is ever imported
}

# These run in a freshly forked process, in which nothing but the kernel's own interface may be relied upon.
AFTER_THE_FORK = (
    "fence_core/launcher/child.py",
    "fence_core/launcher/guardian.py",
    "fence_core/launcher/witness.py",
)


def read_table(text: str) -> dict[str, set[str]]:
    """`a, b <- c <- d` means that c imports a and b, and d imports c. Keys are importers."""
    block = re.search(r"^## Imports\n.*?```text\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert block, f"{TABLE} has no table of imports"
    allowed: dict[str, set[str]] = {}
    everybody: set[str] = set()
    for line in block[1].splitlines():
        sides = [{re.sub(r"\s*\(.*?\)", "", name).strip() for name in side.split(",")} for side in line.split("<-")]
        for imported, importers in itertools.pairwise(sides):
            if importers == {"everything"}:
                everybody |= imported
            for importer in importers - {"everything"}:
                allowed.setdefault(importer, set()).update(imported)
    for names in [set(everybody), *list(allowed.values())]:
        for name in names:
            if not name.startswith("fence_core"):
                allowed.setdefault(name, set())
    for importer in allowed.keys() - everybody:
        allowed[importer] |= {f"fence_core.{name}" for name in everybody} if importer == "pytest_fence" else everybody
    return allowed


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every module that is imported: its dotted name, the line, and whether that is at the top level."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child.lineno, top
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    kept = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*kept, *([base] if base else [])])
                for alias in child.names:
                    yield f"{base}.{alias.name}", child.lineno, top
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                guard = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
                yield from walk(child, top and not inside and not guard)

    yield from walk(tree, True)


def inside(allowed: dict[str, set[str]]) -> dict[str, set[str]]:
    """What each package holds, or will by the table: the names of its modules and packages."""
    return {
        package: (allowed.keys() if package == "fence_core" else set())
        | {
            path.stem
            for path in (ROOT / package).iterdir()
            if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
        }
        for package in PACKAGES
    }


def layer(name: str, inside: dict[str, set[str]]) -> str:
    """The row of the table that a module belongs to: `policy`, `fence_core` (the front door), `pytest_fence`."""
    head, *rest = name.split(".")
    return rest[0] if head == "fence_core" and rest and rest[0] in inside[head] else head


def offences(path: Path, source: str, allowed: dict[str, set[str]], inside: dict[str, set[str]]) -> Iterator[str]:
    """What one module imports and may not, as `where: what is wrong`."""
    here = path.relative_to(ROOT).as_posix()
    package = here.partition("/")[0]
    own = layer(dotted(path), inside)
    front_door = here == f"{package}/__init__.py"
    if own not in allowed and not front_door:
        yield f"{here}: {own!r} is not in the table of imports; put it there"
        return
    for name, line, top in imports(ast.parse(source), path):
        where, head = f"{here}:{line}", name.partition(".")[0]
        if head in PACKAGES:
            target = layer(name, inside)
            said_there = name.startswith("fence_core.link.start")
            if here in AFTER_THE_FORK and target not in ("kernel", "errors", "untouched_calls") and not said_there:
                yield f"{where}: runs after the fork and imports {name}; kernel, errors and what is said there only"
            elif front_door and head == package:
                continue
            elif head == package and [*name.split("."), ""][1] not in inside[package]:
                yield f"{where}: imports {name} through the front door of its own package"
            elif own == "pytest_fence" and head == "fence_core":
                full = target if target == head else f"{head}.{target}"
                if full not in allowed[own]:
                    yield f"{where}: pytest_fence imports {name}; only {sorted(allowed[own])}"
            elif target != own and target not in allowed[own]:
                yield f"{where}: {own} imports {name}; only {sorted(allowed[own])}"
        elif head not in sys.stdlib_module_names:
            if head not in THIRD_PARTY.get(own, set()):
                yield f"{where}: {own} imports {head}, which tests/architecture/test_layers.py does not grant it"
            elif top and head in LAZY and PLUGINS.get(here) != head:
                yield f"{where}: {head} is imported at the top; it belongs inside the function that needs it"


@pytest.fixture(scope="module")
def allowed() -> dict[str, set[str]]:
    return read_table(TABLE.read_text(encoding="utf-8"))


def test_every_import_follows_the_table(allowed: dict[str, set[str]]) -> None:
    there = inside(allowed)
    found = [line for path in modules() for line in offences(path, path.read_text(encoding="utf-8"), allowed, there)]
    assert not found, "\n".join(["", *found])


def test_inner_init_files_hold_a_docstring_and_nothing_else() -> None:
    wrong = []
    for path in modules():
        here = path.relative_to(ROOT).as_posix()
        if path.name == "__init__.py" and path.parent.parent != ROOT and here not in DOORS:
            body = ast.parse(path.read_text(encoding="utf-8")).body
            if len(body) != 1 or not ast.get_docstring(ast.Module(body, [])):
                wrong.append(here)
    assert not wrong, wrong


def test_the_table_is_understood(allowed: dict[str, set[str]]) -> None:
    """If the page were reworded and nothing parsed any more, every import would be free."""
    assert allowed["kernel"] == {"errors", "text", "untouched", "untouched_calls"}
    assert allowed["policy"] == {"config_files", "errors", "text", "untouched", "untouched_calls"}
    assert {"policy", "events", "kernel", "errors"} <= allowed["broker"]
    assert "launcher" not in allowed["broker"]
    assert "fence_core" in allowed["pytest_fence"]


EXAMPLE = {
    "fence_core": {"errors", "policy", "events", "kernel", "link", "broker", "launcher", "report", "novelty"},
    "pytest_fence": {"plugin", "options"},
}


@pytest.mark.parametrize(
    ("where", "source", "complaint"),
    [
        ("fence_core/kernel/bpf.py", "from fence_core.policy.model import Policy", "kernel imports"),
        ("fence_core/policy/model.py", "from fence_core.kernel import libc", "policy imports"),
        ("fence_core/policy/model.py", "def f():\n    import fence_core.broker.loop", "policy imports"),
        ("fence_core/policy/load.py", "import yaml", "belongs inside"),
        ("fence_core/broker/loop.py", "import pytest", "does not grant"),
        ("fence_core/broker/loop.py", "from ..launcher import plan", "broker imports"),
        ("fence_core/broker/loop.py", "from fence_core import Fence", "front door"),
        ("fence_core/launcher/child.py", "from fence_core.broker import loop", "after the fork"),
        ("fence_core/launcher/child.py", "from fence_core.launcher import plan", "after the fork"),
        ("fence_core/launcher/guardian.py", "from fence_core.policy import model", "after the fork"),
        ("fence_core/novelty/x.py", "import os", "not in the table"),
        ("pytest_fence/plugin.py", "from fence_core.broker import loop", "pytest_fence imports"),
        ("pytest_fence/plugin.py", "from pytest_fence import something", "front door"),
    ],
)
def test_a_wrong_import_is_found(where: str, source: str, complaint: str, allowed: dict[str, set[str]]) -> None:
    found = list(offences(ROOT / where, source, allowed, EXAMPLE))
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("fence_core/policy/load.py", "def f():\n    import yaml"),
        (
            "fence_core/broker/loop.py",
            "from fence_core.kernel import seccomp\nfrom . import table\nimport os",
        ),
        (
            "fence_core/launcher/child.py",
            "from fence_core.kernel import landlock\nfrom fence_core import errors\nfrom fence_core.link import start",
        ),
        ("fence_core/__init__.py", "from fence_core.launcher.handle import Fence"),
        ("pytest_fence/plugin.py", "import pytest\nfrom fence_core import Fence"),
        (
            "pytest_fence/plugin.py",
            "from fence_core.report import terminal\nfrom pytest_fence import options",
        ),
    ],
)
def test_a_right_import_is_left_alone(where: str, source: str, allowed: dict[str, set[str]]) -> None:
    assert not list(offences(ROOT / where, source, allowed, EXAMPLE))
