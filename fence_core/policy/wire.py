"""A policy as plain data and back: for the control socket and for a supervisor that is started anew.

What comes back may have been written by test code: every field is checked against the type that `model.py` gives it,
and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from fence_core.policy.model import Policy

__all__ = ["policy_from_wire", "policy_to_wire"]

_hints: dict[type, dict[str, Any]] = {}


def policy_to_wire(policy: Policy) -> dict[str, Any]:
    """Only str, int, bool, None, list and dict, once it has been through JSON."""
    plain: dict[str, Any] = _plain(policy)
    return plain


def policy_from_wire(plain: Mapping[str, Any]) -> Policy:
    """The inverse of `policy_to_wire`. Raises KeyError, TypeError or ValueError on anything else."""
    policy: Policy = _read(Policy, plain, "policy")
    return policy


def _plain(value: Any) -> Any:
    if hasattr(value, "_fields"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(wanted: Any, found: Any, name: str) -> Any:
    """What was found, as the annotation of its field wants it."""
    if get_origin(wanted) is tuple:
        items, kinds = _of(list, found, name), get_args(wanted)
        if kinds[1:] == (...,):
            return tuple(_read(kinds[0], item, name) for item in items)
        return tuple(_read(kind, item, name) for kind, item in zip(kinds, items, strict=True))
    if isinstance(wanted, UnionType):
        return _of(next((kind for kind in get_args(wanted) if kind is type(found)), get_args(wanted)[0]), found, name)
    if hasattr(wanted, "_fields"):
        if wanted not in _hints:
            _hints[wanted] = get_type_hints(wanted)
        return wanted(**{field: _read(hint, found[field], field) for field, hint in _hints[wanted].items()})
    return _of(wanted, found, name)


def _of(kind: type, found: Any, name: str) -> Any:
    # type(), not isinstance: True is no port.
    if type(found) is not kind:
        raise TypeError(f"{name}: {type(found).__name__} where {kind.__name__} is wanted")
    return found
