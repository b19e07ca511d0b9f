"""One encoding of a violation for the control socket, xdist and report files: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fence_core.events.model import Doing, Frame, Owner, Program, Target
from fence_core.policy.model import Remedy, Rule, Source
from fence_core.text import encodable

_Value = TypeVar("_Value")
_PARTS: dict[str, Any] = {
    "target": Target,
    "rule": Rule,
    "source": Source,
    "tried": Source,
    "program": Program,
    "owner": Owner,
    "started_by": Owner,
    "during": Doing,
    "stack": Frame,
    "remedy": Remedy,
}
"""What the fields of these names are, or hold."""


def to_wire(value: Any) -> Any:
    """Only str, int, float, bool, None, list and dict: survives JSON, and execnet, which takes no lone surrogate."""
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            return {name: to_wire(each) for name, each in zip(value._fields, value, strict=True)}
        return [to_wire(each) for each in value]
    return encodable(value) if isinstance(value, str) else value


def from_wire(kind: type[_Value], plain: Mapping[str, Any]) -> _Value:
    """The inverse of `to_wire`, for a Violation or a part of one. Raises KeyError or TypeError on anything else."""
    return kind(**{name: _value(name, plain[name]) for name in kind._fields})  # type: ignore[attr-defined]


def _value(name: str, plain: Any) -> Any:
    if isinstance(plain, list):
        return tuple(_value(name, each) for each in plain)
    return from_wire(_PARTS[name], plain) if isinstance(plain, dict) else plain
