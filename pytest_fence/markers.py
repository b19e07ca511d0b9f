"""``@pytest.mark.fence(...)``: from the markers of an item to the number of its policy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from fence_core.untouched import real
from pytest_fence import engine

if TYPE_CHECKING:
    from _pytest.nodes import Node

NAME = "fence"
_SCOPE = "scope"


class MarkedPolicies:
    """The policies of the marked tests; each distinct set of markers is registered once, when first needed."""

    def __init__(self, fence: engine.Fence, base_dir: str) -> None:
        self._fence = fence
        self._base_dir = base_dir
        self._of_item: dict[int, _MarkerSet] = {}
        """By the identity of the item, all of which live as long as the session."""

    def read(self, items: Sequence[pytest.Item]) -> list[str]:
        """Take note of all markers; what is wrong with them, with file and line."""
        sets: dict[tuple[int, ...], _MarkerSet] = {}
        problems: dict[int, list[str]] = {}
        for item in items:
            # Closest first, as pytest has it; policies are merged from the outermost inwards.
            found = list(item.iter_markers_with_node(NAME))[::-1]
            if not found:
                continue
            # The mark itself is shared by all items of a module, a class or a parametrized function.
            key = tuple(id(mark) for _, mark in found)
            if key not in sets:
                for node, mark in found:
                    if id(mark) not in problems:
                        problems[id(mark)] = self._check(node, mark)
                sets[key] = _MarkerSet([mark for _, mark in found], _source(*found[-1], len(found)))
            self._of_item[id(item)] = sets[key]
        return [text for found in problems.values() for text in found]

    @property
    def forking(self) -> bool:
        """Whether a marker wants a process of its own for any test."""
        return any(marked.scope == "test" for marked in self._of_item.values())

    def forks(self, item: pytest.Item, default: bool) -> bool:
        """Whether this test is to run in a process of its own: the closest marker that says so, or the run."""
        marked = self._of_item.get(id(item))
        return default if marked is None or marked.scope is None else marked.scope == "test"

    @property
    def any(self) -> bool:
        """Whether there is any marked test at all."""
        return bool(self._of_item)

    def number(self, item: pytest.Item) -> int:
        """The number of the policy for this item. Raises PolicyError if the engine does not take it."""
        marked = self._of_item.get(id(item))
        if marked is None:
            return 0
        if marked.number is None:
            raw = marked.raw()
            marked.number = self._fence.register_policy(raw, marked.source) if raw else 0
        return marked.number

    def _check(self, node: Node, mark: pytest.Mark) -> list[str]:
        where = _where(node)
        if mark.args:
            return [f"{where}: @pytest.mark.fence takes keyword arguments only, found {_shorten(mark.args[0])}"]
        if not mark.kwargs:
            return [f"{where}: @pytest.mark.fence without arguments says nothing"]
        try:
            engine.check_marker(plain(mark.kwargs), source="@pytest.mark.fence", base_dir=self._base_dir)
        except engine.PolicyError as error:
            return [f"{where}: {problem}" for problem in error.problems]
        if engine.denies_reading(plain(mark.kwargs)) and not self._fence.watches_reads:
            return [f"{where}: {engine.unwatched('@pytest.mark.fence')}"]
        return []


class _MarkerSet:
    """The markers of one item from the outermost to the closest, and the number they were registered under."""

    __slots__ = ("_marks", "number", "scope", "source")

    def __init__(self, marks: Sequence[pytest.Mark], source: str) -> None:
        self._marks = marks
        self.source = source
        self.number: int | None = None
        self.scope: object = next((mark.kwargs[_SCOPE] for mark in reversed(marks) if _SCOPE in mark.kwargs), None)

    def raw(self) -> dict[str, object]:
        """What they say together of what is allowed."""
        merged: dict[str, object] = {}
        for mark in self._marks:
            merged = merge(merged, engine.by_section(plain(mark.kwargs)))
        merged.pop(_SCOPE, None)  # it chooses a process, not a policy
        return merged


def merge(outer: Mapping[str, object], closer: Mapping[str, object]) -> dict[str, object]:
    """Lists add up, sections are merged, of other values the closer one counts."""
    merged = dict(outer)
    for key, value in closer.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            merged[key] = merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            merged[key] = known + [item for item in value if item not in known]
        else:
            merged[key] = value
    return merged


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Marker arguments as a config file would have them: lists for tuples, text for paths."""
    return {str(key): _plain(item) for key, item in value.items()}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, real.PathLike):
        return real.fspath(value)
    return value


def _where(node: Node) -> str:
    """``tests/test_x.py:12 (tests/test_x.py::test_y)``; the line is that of the marked thing, as marks have none."""
    path, line = os.fspath(node.path), None
    if isinstance(node, pytest.Item | pytest.Class):
        place, line, _ = node.reportinfo()
        path = os.fspath(place)
    path = os.path.relpath(path, node.config.invocation_params.dir)
    return f"{path}:{line + 1} ({node.nodeid})" if line is not None else path


def _source(node: Node, mark: pytest.Mark, count: int) -> str:
    """Names the closest marker. Items with equal markers share a policy, so it cannot name more than the kind."""
    kind = "module" if isinstance(node, pytest.Module) else "class" if isinstance(node, pytest.Class) else "test"
    return f"@pytest.mark.fence of the {kind}" + (" and what it lies in" if count > 1 else "")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
