"""A policy as plain data and back: for the control socket and for a supervisor that is started anew.

What comes back may have been written by test code: every field is checked for its kind, and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from fence_core.policy.model import CommandRules, Entry, FilesystemRules, NetworkRules, Policy

_Rules = TypeVar("_Rules", NetworkRules, FilesystemRules, CommandRules)


def policy_to_wire(policy: Policy) -> dict[str, Any]:
    """Only str, int, bool, None, list and dict, once it has been through JSON."""
    return asdict(policy)


def policy_from_wire(plain: Mapping[str, Any]) -> Policy:
    """The inverse of `policy_to_wire`. Raises KeyError, TypeError or ValueError on anything else."""
    return Policy(
        network=_rules(NetworkRules, plain["network"]),
        filesystem=_rules(FilesystemRules, plain["filesystem"]),
        command=_rules(CommandRules, plain["command"]),
        sources=tuple(str(source) for source in plain["sources"]),
    )


def _rules(kind: type[_Rules], plain: Mapping[str, Any]) -> _Rules:
    default = kind()
    values: dict[str, Any] = {}
    for field in fields(kind):
        values[field.name] = _value(plain[field.name], getattr(default, field.name), field.name)
    return kind(**values)


def _value(found: Any, default: object, name: str) -> Any:
    if isinstance(default, tuple):
        return tuple(_item(item, name) for item in found)
    if found is None or isinstance(found, bool | int | str):
        return found
    raise TypeError(f"{name}: {type(found).__name__} is no value of a policy")


def _item(item: Any, name: str) -> Any:
    if isinstance(item, Mapping):
        return Entry(text=str(item["text"]), source=str(item["source"]), pattern=str(item["pattern"]))
    if isinstance(item, list | tuple):
        return tuple(str(part) for part in item)
    if isinstance(item, int | str):
        return item
    raise TypeError(f"{name}: {type(item).__name__} is no item of a policy's list")
