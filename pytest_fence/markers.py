"""``@pytest.mark.fence(...)``: from the markers of an item to the number of its policy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from fence_core.policy.model import Source
from fence_core.untouched import real
from pytest_fence import engine

if TYPE_CHECKING:
    from _pytest.nodes import Node

    from pytest_fence.packages import Packages

NAME = "fence"
_SCOPE = "scope"
IGNORED = "ignore"
"""What all keys begin with that make no violation of a refusal."""


class MarkedPolicies:
    """The policies of tests that are marked, or in a package; each distinct set of markers is registered once, when
    first needed."""

    def __init__(self, fence: engine.Fence, base_dir: str, packages: Packages) -> None:
        self._fence = fence
        self._packages = packages
        self._base_dir = base_dir
        self._of_item: dict[int, _MarkerSet] = {}
        """By the identity of the item, all of which live as long as the session."""
        self.ignores = False
        """Whether any of them has refusals that are no violations."""

    def read(self, items: Sequence[pytest.Item]) -> list[str]:
        """Take note of all markers; what is wrong with them, with file and line."""
        known: dict[int, _Marker] = {}
        sets: dict[tuple[int, ...], _MarkerSet] = {}
        problems: list[str] = []
        for item in items:
            # Closest first, as pytest has it; policies are merged from the outermost inwards.
            found = list(item.iter_markers_with_node(NAME))[::-1]
            package = self._packages.number(real.fspath(item.path))
            if not found and not package:
                continue
            # The mark itself is shared by all items of a module, a class or a parametrized function.
            key = (package, *(id(mark) for _, mark in found))
            for node, mark in found:
                marker = known.get(id(mark))
                if marker is None:
                    known[id(mark)] = _Marker(mark, node)
                    self.ignores |= _ignores(mark.kwargs)
                    problems += self._check(node, mark)
                else:
                    marker.is_at(node)
            if key not in sets:
                sets[key] = _MarkerSet([known[each] for each in key[1:]], package, self._packages.scope(package))
            self._of_item[id(item)] = sets[key]
        return problems

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
        """Whether any test has another policy than the session's."""
        return bool(self._of_item)

    def package(self, item: pytest.Item) -> int:
        """The number of the policy that its markers add to."""
        marked = self._of_item.get(id(item))
        return 0 if marked is None else marked.package

    def said_of(self, item: pytest.Item) -> tuple[int, list[tuple[dict[str, object], Source]]]:
        """The number of its package, and what each of its markers says of what is allowed."""
        marked = self._of_item.get(id(item))
        return (0, []) if marked is None else (marked.package, marked.layers())

    def number(self, item: pytest.Item) -> int:
        """The number of the policy for this item. Raises PolicyError if the engine does not take it."""
        marked = self._of_item.get(id(item))
        if marked is None:
            return 0
        if marked.number is None:
            layers = marked.layers()
            marked.number = self._fence.register_policy(layers, marked.package) if layers else marked.package
        return marked.number

    def _check(self, node: Node, mark: pytest.Mark) -> list[str]:
        where = _where(node)
        if mark.args:
            return [f"{where}: @pytest.mark.fence takes keyword arguments only, found {_shorten(mark.args[0])}"]
        if not mark.kwargs:
            return [f"{where}: @pytest.mark.fence without arguments says nothing"]
        try:
            engine.parse_marker(
                plain(mark.kwargs),
                source=Source("@pytest.mark.fence"),
                base_dir=self._base_dir,
                watches_reads=self._fence.watches_reads,
            )
        except engine.PolicyError as error:
            return [f"{where}: {problem}" for problem in error.problems]
        return []


class _Marker:
    """One marker, and where it is: on what it marks, or on several things, of which none can be named then."""

    __slots__ = ("_node", "_several", "mark")

    def __init__(self, mark: pytest.Mark, node: Node) -> None:
        self.mark = mark
        self._node = node
        self._several = False

    def is_at(self, node: Node) -> None:
        """It was found here, too; all items of a parametrized function are one place."""
        self._several |= getattr(node, "function", node) is not getattr(self._node, "function", self._node)

    def layer(self) -> tuple[dict[str, object], Source]:
        """What it says of what is allowed, and where."""
        raw = plain(self.mark.kwargs)
        raw.pop(_SCOPE, None)  # it chooses a process, not a policy
        node = self._node
        kind = "module" if isinstance(node, pytest.Module) else "class" if isinstance(node, pytest.Class) else "test"
        place = ("", None) if self._several else _place(node)
        return raw, Source(f"@pytest.mark.fence of the {kind}", *place)


class _MarkerSet:
    """The markers of one item from the outermost to the closest, its package, and the number they were registered
    under."""

    __slots__ = ("_markers", "number", "package", "scope")

    def __init__(self, markers: Sequence[_Marker], package: int, scope: str | None) -> None:
        self._markers = markers
        self.package = package
        self.number: int | None = None
        said = (each.mark.kwargs[_SCOPE] for each in reversed(markers) if _SCOPE in each.mark.kwargs)
        self.scope: object = next(said, scope)

    def layers(self) -> list[tuple[dict[str, object], Source]]:
        """What each of them says of what is allowed, and where."""
        return [layer for layer in (each.layer() for each in self._markers) if layer[0]]


def _ignores(said: Mapping[str, Any]) -> bool:
    """Whether any key in it, at whatever depth, is one of refusals that are no violations."""
    return any(
        str(key).startswith(IGNORED) or (isinstance(item, Mapping) and _ignores(item)) for key, item in said.items()
    )


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


def _place(node: Node) -> tuple[str, int | None]:
    """The file, and the line of the marked thing, as marks have none."""
    if not isinstance(node, pytest.Item | pytest.Class):
        return real.fspath(node.path), None
    path, line, _ = node.reportinfo()
    return real.fspath(path), None if line is None else line + 1


def _where(node: Node) -> str:
    """``tests/test_x.py:12 (tests/test_x.py::test_y)``."""
    path, line = _place(node)
    path = os.path.relpath(path, node.config.invocation_params.dir)
    return f"{path}:{line} ({node.nodeid})" if line is not None else path


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
