"""A policy as plain data and back: for the control socket and for a supervisor that is started anew.

What comes back may have been written by test code: every field is checked for its kind, and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fence_core.policy.model import CommandRules, Entry, FilesystemRules, NetworkRules, Policy

__all__ = ["policy_from_wire", "policy_to_wire"]

_Rules = TypeVar("_Rules", NetworkRules, FilesystemRules, CommandRules)

# Fields whose default does not tell what else they may hold.
_OPTIONAL: dict[str, type] = {
    "allow_local_outbound": bool,
    "upstream_proxy": str,
    "http_proxy_port": int,
    "socks_proxy_port": int,
}
_PORTS = ("allow_local_outbound_ports", "expose_ports")
_PAIRS = ("hosts", "sources")
_PLAIN = ("scratch", "locked", "environment")
_NAMES = "early_names"


def policy_to_wire(policy: Policy) -> dict[str, Any]:
    """Only str, int, bool, None, list and dict, once it has been through JSON."""
    return {
        "network": _plain(policy.network),
        "filesystem": _plain(policy.filesystem),
        "command": _plain(policy.command),
        "sources": list(policy.sources),
    }


def policy_from_wire(plain: Mapping[str, Any]) -> Policy:
    """The inverse of `policy_to_wire`. Raises KeyError, TypeError or ValueError on anything else."""
    return Policy(
        network=_rules(NetworkRules, plain["network"]),
        filesystem=_rules(FilesystemRules, plain["filesystem"]),
        command=_rules(CommandRules, plain["command"]),
        sources=tuple(_of(str, source, "sources") for source in plain["sources"]),
    )


def _plain(rules: NetworkRules | FilesystemRules | CommandRules) -> dict[str, Any]:
    return {name: _plain_value(getattr(rules, name)) for name in rules._fields}


def _plain_value(value: object) -> object:
    if isinstance(value, Entry):
        return value._asdict()
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return value


def _rules(kind: type[_Rules], plain: Mapping[str, Any]) -> _Rules:
    default = kind()
    return kind(**{name: _value(plain[name], getattr(default, name), name) for name in kind._fields})


def _value(found: Any, default: object, name: str) -> Any:
    if name in _OPTIONAL:
        return None if found is None else _of(_OPTIONAL[name], found, name)
    if not isinstance(default, tuple):
        return _of(type(default), found, name)
    items = _of(list, found, name)
    if name in _PORTS:
        return tuple(_of(int, item, name) for item in items)
    if name in _PLAIN:
        return tuple(_of(str, item, name) for item in items)
    if name == _NAMES:
        return tuple(
            (_of(str, place, name), tuple(_of(str, each, name) for each in _of(list, names, name)))
            for place, names in items
        )
    if name in _PAIRS:
        return tuple((_of(str, key, name), _of(str, value, name)) for key, value in items)
    return tuple(Entry(*(_of(str, item[field], name) for field in Entry._fields)) for item in items)


def _of(kind: type, found: Any, name: str) -> Any:
    # type(), not isinstance: True is no port.
    if type(found) is not kind:
        raise TypeError(f"{name}: {type(found).__name__} where {kind.__name__} is wanted")
    return found
