"""What runs in a process of tests uses nothing of Python's library by a name that a test may have replaced.

See `fence_core/untouched.py`. The modules that run there after collection has begun stand below; a function of theirs
that does not is named, with the reason.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BEFORE = "runs before the first conftest"
COLLECTING = "runs before the first test"
USAGE = "makes the text of a usage error, before the first test"
LAST = "runs after the last test"
SUPERVISOR = "runs in the supervisor"

INSIDE: dict[str, Mapping[str, str]] = {
    "fence_core/errors.py": {},
    "fence_core/events/model.py": {},
    "fence_core/events/phases.py": {},
    "fence_core/events/wire.py": {},
    "fence_core/kernel/libc.py": dict.fromkeys(("bare_fork", "variable_names", "set_name"), BEFORE),
    "fence_core/kernel/futex.py": {"prepare": COLLECTING},
    "fence_core/kernel/mapping.py": {"view": COLLECTING},
    "fence_core/launcher/handle.py": {"Fence.prepare_forks": COLLECTING},
    "fence_core/launcher/numbers.py": {},
    "fence_core/launcher/per_test.py": {},
    "fence_core/launcher/announced.py": {"bind_forks": BEFORE},
    "fence_core/launcher/join.py": {"maybe_join": BEFORE, "base_dir": BEFORE},
    "fence_core/link/control.py": {},
    "fence_core/link/doors.py": {},
    "fence_core/link/one_test.py": {},
    "fence_core/link/operations.py": {},
    "fence_core/link/page.py": {
        "Note.__init__": BEFORE,
        **dict.fromkeys(("read_note", "read_fork", "create"), SUPERVISOR),
    },
    "fence_core/report/stack.py": {"_stdlib_paths": BEFORE},
    "fence_core/report/terminal.py": {},
    "fence_core/report/fingerprint.py": {},
    "fence_core/report/rule.py": {},
    "fence_core/report/text.py": {},
    "fence_core/report/words.py": {},
    "fence_core/text.py": {},
    "pytest_fence/categories.py": {},
    "pytest_fence/failures.py": {"_code": BEFORE},
    "pytest_fence/forked.py": {},
    "pytest_fence/forked_capture.py": {},
    "pytest_fence/forked_child.py": {"Child.__init__": "imports where coverage is measured only, at the fork"},
    "pytest_fence/forked_crash.py": {},
    "pytest_fence/forked_watchdog.py": {},
    "pytest_fence/forked_wire.py": {},
    "pytest_fence/items.py": {"TestHooks.pytest_collection_finish": COLLECTING},
    "pytest_fence/junit.py": {},
    "pytest_fence/markers.py": {"_where": USAGE},
    "pytest_fence/packages.py": {},
    "pytest_fence/reporting.py": {
        "ReportHooks._variables": BEFORE,
        "ReportHooks._show": LAST,
        "ReportHooks._tell_of_ignored": LAST,
        "WarnOutsideTests.pytest_sessionfinish": LAST,
    },
    "pytest_fence/report_files.py": {"order": BEFORE},
    "pytest_fence/unusable.py": {},
    "pytest_fence/verdicts.py": {"view_of": BEFORE, "hidden_directories": BEFORE, "Verdicts.__init__": BEFORE},
    "pytest_fence/xdist.py": {
        "is_worker": BEFORE,
        "remote_scope": BEFORE,
        "ControllerHooks.pytest_xdist_setupnodes": COLLECTING,
    },
}

HARMLESS = frozenset({"__future__", "collections.abc", "contextlib", "types", "typing"})
"""Of these nothing is replaced: they do nothing outside of the process, nor ask what time it is."""
STREAMS = frozenset({"stdout", "stderr", "__stdout__", "__stderr__", "platform", "version_info", "_getframe"})
"""Of `sys`: a stream that was replaced is the one to write to."""
BUILTINS = frozenset({"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"})


def imported(tree: ast.Module) -> dict[str, str]:
    """Names in the module, and what of the standard library they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return {
        name: what
        for name, what in found.items()
        if what.partition(".")[0] in sys.stdlib_module_names and not what.startswith(tuple(HARMLESS))
    }


def functions(node: ast.AST, above: str = "") -> Iterator[tuple[str, ast.AST]]:
    """The outermost functions, by their qualified name; a lambda belongs to what it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield above + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{above}{child.name}.")
        else:
            yield from functions(child, above)


def executed(node: ast.AST, *, outermost: bool = True) -> Iterator[ast.AST]:
    """All of a function that is run when it is called: no annotations, and of the outermost no defaults."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (outermost and name in ("args", "decorator_list")):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from executed(child, outermost=False)


def offences(source: str, exempt: Mapping[str, str]) -> Iterator[str]:
    tree = ast.parse(source)
    names = imported(tree)
    for statement in tree.body:
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Attribute):
            owner = value.value
            if (
                isinstance(owner, ast.Name)
                and owner.id in names
                and value.attr.islower()
                and not value.attr.startswith("c_")
            ):
                yield f"{statement.lineno}: keeps {ast.unparse(value)} in the module, where it can be replaced"
    for name, function in functions(tree):
        if name in exempt:
            continue
        streams: set[ast.AST] = set()
        for node in executed(function):
            if isinstance(node, ast.Attribute) and node.attr in STREAMS:
                streams.add(node.value)
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield f"{node.lineno}: {name} imports: {ast.unparse(node)}"
            elif isinstance(node, ast.Name) and node not in streams:
                if node.id in names:
                    yield f"{node.lineno}: {name} uses {names[node.id]}"
                elif node.id in BUILTINS and isinstance(node.ctx, ast.Load):
                    yield f"{node.lineno}: {name} uses builtins.{node.id}"


@pytest.mark.parametrize("path", INSIDE)
def test_nothing_that_can_be_replaced_is_used(path: str) -> None:
    found = [f"{path}:{text}" for text in offences((ROOT / path).read_text(encoding="utf-8"), INSIDE[path])]
    assert not found, "\n".join(["", *found, "", "take it from fence_core.untouched, or say in INSIDE why it may"])


@pytest.mark.parametrize("path", INSIDE)
def test_what_is_exempt_is_there(path: str) -> None:
    there = {name for name, _ in functions(ast.parse((ROOT / path).read_text(encoding="utf-8")))}
    assert set(INSIDE[path]) <= there, set(INSIDE[path]) - there


def test_all_modules_of_the_plugin_are_known() -> None:
    """Those that are not in the list run before the first conftest, and say so here."""
    before = {
        "__init__",
        "asked",  # in a process that runs no tests
        "doctor",
        "forked_coverage",
        "elsewhere",
        "engine",
        "imports",
        "options",
        "overlooked",
        "plugin",
        "remote",  # in a controller, which runs no tests
        "remote_carrier",  # in a process that is not fenced
        "remote_start",  # on another machine, in one that is not
        "session",
    }
    there = {path.stem for path in (ROOT / "pytest_fence").glob("*.py")}
    inside = {Path(path).stem for path in INSIDE if path.startswith("pytest_fence/")}
    assert there == before | inside, there ^ (before | inside)


EXAMPLE = """
import os, json as j
from time import time
from typing import Any
FLAGS = os.O_RDONLY
write = os.write
def a(fd: os.PathLike = os.fspath("x")) -> j.JSONDecoder:
    def inner(x=os.getpid()): return time()
    return [lambda: j.dumps(Any)]
class B:
    own = os.write
    def c(self):
        import io
        with open("x"): pass
    def exempt(self): os.close(1)
"""


def test_offences_are_found() -> None:
    assert list(offences(EXAMPLE, {"B.exempt": BEFORE})) == [
        "6: keeps os.write in the module, where it can be replaced",
        "8: a uses os",
        "8: a uses time.time",
        "9: a uses json",
        "13: B.c imports: import io",
        "14: B.c uses builtins.open",
    ]
