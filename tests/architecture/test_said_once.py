"""What two processes say to one another stands in `fence_core/link`, and nowhere else is it written out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fence_core.link import control, filter
from tests.architecture.test_layers import ROOT, dotted, modules

OPERATIONS = control.OPERATIONS.keys() | filter.OPERATIONS.keys()


def texts(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Strings that are no docstrings, bytes included."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in documentation:
            value = node.value
            yield value if isinstance(value, str) else value.decode("latin-1"), node.lineno


def offences(tree: ast.AST) -> Iterator[str]:
    for text, line in texts(tree):
        if "/proc/fence" in text:
            yield f"{line}: a door; use a constant of link/doors.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if "op" in keys:
                yield f"{node.lineno}: a request; use a row of link/control.py or link/filter.py"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
            first = node.args[0]
            if node.func.attr in ("ask", "tell", "_ask") and isinstance(first, ast.Constant):
                yield f"{node.lineno}: asks by name; use a row of link/control.py or link/filter.py"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_contracts_are_not_written_out(path: Path) -> None:
    here = path.relative_to(ROOT).as_posix()
    if not here.startswith("fence_core/link/"):
        found = list(offences(ast.parse(path.read_text(encoding="utf-8"))))
        assert not found, "\n".join(["", *(f"{here}:{text}" for text in found)])


@pytest.mark.parametrize(
    "source", ['open("/proc/fence/page")', 'x = raw == b"/proc/fence/test/"', 'f({"op": "take"})', 'r.ask("who", a=1)']
)
def test_an_offence_is_found(source: str) -> None:
    assert list(offences(ast.parse(source)))


def test_names_mean_one_thing() -> None:
    assert len(OPERATIONS) == len(control.OPERATIONS) + len(filter.OPERATIONS)
