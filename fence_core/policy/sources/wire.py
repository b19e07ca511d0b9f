"""Values of `model.py` as plain data and back: for the control socket, and for a supervisor that is started anew.

What comes back may have been written by test code: every field is checked against the type that the model gives it,
and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["from_wire", "to_wire"]

_T = TypeVar("_T")
_hints: dict[type, dict[str, Any]] = {}


def to_wire(value: Any) -> Any:
    """Only str, int, bool, None, list and dict, once it has been through JSON."""
    if hasattr(value, "_fields"):
        return {name: to_wire(item) for name, item in value._asdict().items()}
    return [to_wire(item) for item in value] if isinstance(value, tuple) else value


def from_wire(kind: type[_T], plain: Mapping[str, Any]) -> _T:
    """The inverse of `to_wire`. Raises KeyError, TypeError or ValueError on anything else."""
    value: _T = _read(kind, plain, kind.__name__)
    return value


def _read(wanted: Any, found: Any, name: str) -> Any:
    """What was found, as the annotation of its field wants it."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is tuple:
        items = _of(list, found, name)
        if args[1:] == (...,):
            return tuple(_read(args[0], item, name) for item in items)
        return tuple(_read(each, item, name) for each, item in zip(args, items, strict=True))
    if origin is Literal or isinstance(wanted, UnionType):
        choices = args if origin is Literal else tuple(each for each in args if each is type(found))
        if not choices or (origin is Literal and found not in choices):
            raise TypeError(f"{name}: {type(found).__name__} where {wanted} is wanted")
        return found
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
