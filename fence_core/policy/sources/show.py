"""A policy as a file that says all of it: what `fence config show` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from fence_core.policy import paths
from fence_core.policy.keys import EXTENDS, KEYS, Key
from fence_core.policy.kinds import PATHS
from fence_core.policy.sources.lines import located
from fence_core.policy.sources.templates import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fence_core.policy.model import Config, Entry, Source

__all__ = ["as_text", "written"]

_BASE = "default-deny"
"""What every policy allows at least. Its entries come first, so that what is read again is shown in the same order."""


class _Leaf(NamedTuple):
    """A value of the file, and where it was written."""

    value: Any
    source: Source | None = None


_Tree = dict[str, Any]
"""Names, with a leaf each, a list of leaves, or another tree."""


def written(config: Config) -> dict[str, Any]:
    """The policy and how to run it, in the spelling of the Go tool; read again, it means the same.

    Paths are shown as they are meant, `~` being the home directory: what is read from elsewhere counts from elsewhere.
    """
    plain: dict[str, Any] = _plain(_tree(config))
    return plain


def as_text(config: Config, *, sources: bool = False) -> str:
    """The same as JSON; with `sources`, as JSON with a comment behind each value that says where it was written."""
    return "\n".join(_lines(_tree(config), "", sources))


def _tree(config: Config) -> _Tree:
    tree: _Tree = {EXTENDS.camel: _Leaf(_BASE)}
    for key in KEYS:
        rules: Any = getattr(config.policy, key.section, None) if key.section else config.settings
        if key.name not in getattr(rules, "_fields", ()) or key.refused:
            continue
        value, scalars = getattr(rules, key.name), dict(rules.sources)
        if key.kind.entries:
            found: Any = _entries(config, key, value)
        elif isinstance(value, tuple) and key.kind.words.startswith("table"):
            found = {name: _Leaf(at or False, scalars.get(f"{key.name} {name}")) for name, at in value}
        elif isinstance(value, tuple):
            found = [_Leaf(item, scalars.get(f"{key.name} {item}")) for item in value]
        else:
            found = _Leaf(value, scalars.get(key.name)) if value != key.default or key.name in scalars else None
        if found:
            (tree.setdefault(key.section, {}) if key.section else tree)[key.camel] = found
    return tree


def _entries(config: Config, key: Key, entries: Iterable[Entry]) -> list[_Leaf]:
    """Each once; those of the base first."""
    found: dict[str, Source] = {}
    for entry in entries:
        text = _path(entry.pattern or entry.text, config.policy.filesystem.home) if key.kind is PATHS else entry.text
        found.setdefault(text, entry.source)
    base = read(_BASE).get(key.section, {}).get(key.camel, ())
    order = {text: place for place, text in enumerate(base)}
    texts = sorted(found, key=lambda text: order.get(text, len(order)))
    return [_Leaf(text, found[text]) for text in texts]


def _path(pattern: str, home: str) -> str:
    around = paths.escape(home.rstrip("/"))
    return f"~{pattern[len(around) :]}" if around and pattern.startswith(f"{around}/") else pattern


def _plain(tree: Any) -> Any:
    if isinstance(tree, _Leaf):
        return tree.value
    if isinstance(tree, list):
        return [leaf.value for leaf in tree]
    return {name: _plain(inner) for name, inner in tree.items()}


def _lines(tree: Any, before: str, sources: bool, indent: str = "", after: str = "") -> Iterator[str]:
    if isinstance(tree, _Leaf):
        where = _where(tree.source) if sources and tree.source is not None else ""
        yield f"{indent}{before}{_json(tree.value)}{after}{f'  // {where}' if where else ''}"
        return
    inner = [("", leaf) for leaf in tree] if isinstance(tree, list) else [(f"{_json(n)}: ", t) for n, t in tree.items()]
    opening, closing = "[]" if isinstance(tree, list) else "{}"
    yield f"{indent}{before}{opening}"
    for place, (name, item) in enumerate(inner):
        yield from _lines(item, name, sources, f"{indent}  ", "," if place < len(inner) - 1 else "")
    yield f"{indent}{closing}{after}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _where(source: Source) -> str:
    """``fence.json:4``, on one line whatever the file is called."""
    found = located(source)
    return f"{found}:{found.line}" if found.line else str(found)
