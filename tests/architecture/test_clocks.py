"""No test asserts how long something took: a busy machine fails it for no reason, and a fast one learns nothing by it.

What is meant is an order of events, a count, an error that only a time-out gives, or what the plain run does. A bound
that only ends a hang compares two moments (`assert time.monotonic() < deadline`), and stays.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLOCKS = {f"{name}{unit}" for name in ("monotonic", "perf_counter", "time", "clock_gettime") for unit in ("", "_ns")}


def is_clock(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Attribute):
        return called.attr in CLOCKS and isinstance(called.value, ast.Name) and called.value.id == "time"
    return isinstance(called, ast.Name) and called.id in CLOCKS - {"time"}


def offences(source: str) -> Iterator[int]:
    """Lines of asserts about a span of time: between two looks at a clock, whatever names it has gone through."""
    if not any(clock in source for clock in CLOCKS - {"time"}) and "time.time" not in source:
        return
    tree = ast.parse(source)
    moments: set[str] = set()
    spans: set[str] = set()

    def holds(node: ast.AST, names: set[str]) -> bool:
        return any(isinstance(one, ast.Name) and one.id in names for one in ast.walk(node))

    def is_span(node: ast.AST) -> bool:
        if holds(node, spans):
            return True
        return any(
            isinstance(one, ast.BinOp)
            and isinstance(one.op, ast.Sub)
            and any(map(is_clock, ast.walk(one)))
            and (holds(one, moments) or sum(map(is_clock, ast.walk(one))) > 1)
            for one in ast.walk(node)
        ) or any(
            isinstance(one, ast.BinOp)
            and isinstance(one.op, ast.Sub)
            and holds(one.left, moments)
            and holds(one.right, moments)
            for one in ast.walk(node)
        )

    before = -1
    while before != len(moments) + len(spans):
        before = len(moments) + len(spans)
        for node in ast.walk(tree):
            targets: list[ast.expr] = []
            value: ast.AST | None = None
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                value = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
                targets, value = [node.func.value], node.args[0] if node.args else None
            if value is None:
                continue
            names = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            if is_span(value):
                spans |= names
            elif is_clock(value):
                moments |= names
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and is_span(node.test):
            yield node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "assert" in node.value:
            yield from (node.lineno + line - 1 for line in in_program(node.value))


def in_program(text: str) -> Iterator[int]:
    """The same in a program that a test starts, if this is one."""
    try:
        yield from offences(textwrap.dedent(text))
    except SyntaxError:
        return


def test_no_assert_on_elapsed_time() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__)
        for line in offences(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["", *found, "", "assert an order of events, a count, or what the plain run does"])


@pytest.mark.parametrize(
    "source",
    [
        "start = time.monotonic()\nf()\nassert time.monotonic() - start < 5",
        "start = monotonic()\nf()\nassert 0.1 < monotonic() - start < 5, 'slow'",
        "start = time.perf_counter_ns()\nf()\ntook = time.perf_counter_ns() - start\nassert took < 5",
        "start = time.time()\nend = time.time()\nassert end - start < 5",
        "times = []\nstart = time.monotonic()\ntimes.append(time.monotonic() - start)\nassert max(times) < 1",
        "program = '''\n    start = time.monotonic()\n    assert time.monotonic() - start < 4\n    '''",
    ],
)
def test_an_assert_on_elapsed_time_is_found(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    [
        "deadline = time.monotonic() + 20\nwhile f():\n    assert time.monotonic() < deadline, 'it hangs'",
        "deadline = time.monotonic() + 20\nselect(deadline - time.monotonic())\nassert f()",
        "assert time.time() < 1e9",
        "assert took - 1 < 5",
    ],
)
def test_what_only_ends_a_hang_is_left_alone(source: str) -> None:
    assert not list(offences(source))
