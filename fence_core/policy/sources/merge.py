"""Several sources, one policy: template, then file, then command line, then outer markers, then the closest marker.

How two of them are merged each row of `keys.py` says: lists add up, scalars are replaced by the closest source. That a
denial wins over every permission, wherever each was written, is not settled here: the `Judge` asks the deny lists
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from fence_core.policy.keys import KEYS, of_section
from fence_core.policy.model import CommandRules, Entry, FilesystemRules, NetworkRules, Policy, Settings, Source
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Overlay", "Parsed", "merge", "merge_settings"]

_SHORT_FOR_WRITES = tuple(key for key in KEYS if key.writes or key.adds_to)
_Rules = TypeVar("_Rules", NetworkRules, FilesystemRules, CommandRules, Settings)


class Overlay(Record):
    """What one source says: nothing but what is written there."""

    source: Source
    values: Mapping[str, Any]
    """By the path of the key: "network.allowed_domains"."""
    sources: Mapping[str, Source]
    """Where each of them is; and, as "network.expose_ports 80", each item that is no entry."""


Parsed = tuple[tuple[Overlay, ...], tuple[str, ...], str]
"""What a config and those that it extends say, in the order of merging; their files, its own first; the template."""


def merge(base: Policy, *overlays: Overlay) -> Policy:
    """The policy with each overlay on top of it, in this order. It is a new value; nothing is changed."""
    policy = base
    for overlay in overlays:
        policy = Policy(
            network=_merge(policy.network, "network", overlay),
            filesystem=_merge(policy.filesystem, "filesystem", overlay),
            command=_merge(policy.command, "command", overlay),
            sources=tuple(dict.fromkeys((*policy.sources, overlay.source))),
        )
    for key in _SHORT_FOR_WRITES:
        saying = [each for each in overlays if key.path in each.values]
        more: list[Entry] = []
        if key.adds_to:
            more = [entry for each in saying for entry in each.values[key.path]]
        elif saying and saying[-1].values[key.path]:
            more = [Entry(path, saying[-1].sources[key.path]) for path in key.writes]
        if more:
            files = policy.filesystem
            written = tuple(dict.fromkeys((*files.allow_write, *more)))
            policy = policy._replace(filesystem=files._replace(allow_write=written))
    return policy


def merge_settings(base: Settings, *overlays: Overlay) -> Settings:
    """The settings with those of each overlay on top, in this order."""
    settings = base
    for overlay in overlays:
        settings = _merge(settings, "", overlay)
    return settings


def _merge(base: _Rules, section: str, over: Overlay) -> _Rules:
    changes: dict[str, Any] = {}
    sources = dict(base.sources)
    for key in of_section(section):
        path = key.path
        if path in over.values and key.name in base._fields:  # `extends`, and what is short for others, is no rule
            changes[key.name] = key.kind.merge(getattr(base, key.name), over.values[path])
            if not key.kind.entries:
                written = {each: over.sources[each] for each in over.sources if f"{each} ".startswith(f"{path} ")}
                sources.update({each.removeprefix(f"{section}."): source for each, source in written.items()})
        elif key.cleared_by in over.values:
            changes[key.name] = key.default
    return base._replace(**changes, sources=tuple(sources.items())) if changes else base
