"""What is to be added to a config, by the place that it has there already or is to get. Pure."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from fence_core.policy.keys import FLAT_SECTIONS, KEYS, SECTIONS
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fence_core.policy.keys import Key

__all__ = ["Addition", "EditError", "Item", "expected", "place"]


class EditError(Exception):
    """The file cannot be edited by machine; the text says why, for the user."""


class Item(Record):
    """One entry of a list or table, or the value of a switch."""

    value: str | int | bool
    comment: str
    """One line without its sign; may be empty."""


class Addition(Record):
    """Everything that is new for one key."""

    at: tuple[str, ...]
    """Names from the top of our part of the file: ("filesystem", "allowWrite")."""
    shape: str
    """``list``, ``table`` (names with the value false) or ``switch``."""
    items: tuple[Item, ...]
    there: bool
    """Whether the key is in the file already."""


_BY_PATH = {key.path: key for key in KEYS}


def place(
    raw: Mapping[str, Any], wanted: Iterable[tuple[str, str | int | bool, str]], *, flat: bool, camel: bool
) -> tuple[Addition, ...]:
    """Where each of these goes: key, value and comment. What is in the list already is left out.

    `flat`: new keys of sections that may be left out stand beside them; `camel`: new keys are spelled as the Go tool
    spells them. Both give way to how the file does it. Raises EditError.
    """
    camel = _spells_camel(raw, camel)
    grouped: dict[str, list[Item]] = {}
    for path, value, comment in wanted:
        grouped.setdefault(path, []).append(Item(value, comment))
    return tuple(
        found for path, items in grouped.items() if (found := _addition(raw, _BY_PATH[path], items, flat, camel))
    )


def _addition(raw: Mapping[str, Any], key: Key, items: Sequence[Item], flat: bool, camel: bool) -> Addition | None:
    shape = "table" if key.path == "network.hosts" else "switch" if isinstance(items[0].value, bool) else "list"
    known = _where(raw, key)
    value: Any = None
    if known is not None:
        value = raw
        for name in known:
            value = value[name]
    if value is not None and not isinstance(value, {"list": list, "table": dict, "switch": bool}[shape]):
        raise EditError(f"{'.'.join(known or ())} is no {shape}")
    if shape == "switch":
        if value is True:
            return None
    elif isinstance(value, (list, dict)):
        items = [item for item in items if item.value not in value]
    if not items:
        return None
    name = key.camel if camel else key.name
    in_section = bool(key.section) and (
        isinstance(raw.get(key.section), dict) or key.section not in FLAT_SECTIONS or not flat
    )
    at = known if known is not None else (key.section, name) if in_section else (name,)
    return Addition(at, shape, tuple(items), value is not None)


def _where(raw: Mapping[str, Any], key: Key) -> tuple[str, ...] | None:
    """Where the file has this key, however it is spelled."""
    section = raw.get(key.section) if key.section else None
    for name in (key.name, key.camel):
        if isinstance(section, dict) and name in section:
            return key.section, name
        if name in raw:
            return (name,)
    return None


def _spells_camel(raw: Mapping[str, Any], otherwise: bool) -> bool:
    """Whether the file uses the spelling of the Go tool, as far as it shows."""
    names = [
        name
        for table in (raw, *(raw.get(section) for section in SECTIONS))
        if isinstance(table, dict)
        for name in table
    ]
    if any(key.camel != key.name and key.name in names for key in KEYS):
        return False
    return otherwise or any(key.camel != key.name and key.camel in names for key in KEYS)


def expected(raw: Mapping[str, Any], additions: Iterable[Addition]) -> dict[str, Any]:
    """What the file is to say afterwards."""
    result: dict[str, Any] = copy.deepcopy(dict(raw))
    for each in additions:
        table = result
        for name in each.at[:-1]:
            if table.get(name) is None:
                table[name] = {}
            table = table[name]
        last = each.at[-1]
        if each.shape == "switch":
            table[last] = each.items[0].value
        elif each.shape == "table":
            table[last] = {**(table.get(last) or {}), **{str(item.value): False for item in each.items}}
        else:
            table[last] = [*(table.get(last) or []), *(item.value for item in each.items)]
    return result
