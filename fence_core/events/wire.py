"""One encoding of a violation for the control socket, xdist and report files: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fence_core.events.model import Frame, Violation

_FIELDS = tuple(name for name in Violation._fields if name not in ("chain", "argv", "stack"))


def to_wire(violation: Violation) -> dict[str, Any]:
    """Only str, int, bool, list and dict: survives JSON and execnet."""
    plain: dict[str, Any] = {name: getattr(violation, name) for name in _FIELDS}
    plain["chain"] = list(violation.chain)
    plain["argv"] = list(violation.argv)
    plain["stack"] = [[frame.path, frame.line, frame.function] for frame in violation.stack]
    return plain


def from_wire(plain: Mapping[str, Any]) -> Violation:
    """The inverse of `to_wire`. Raises KeyError or TypeError on anything else."""
    return Violation(
        **{name: plain[name] for name in _FIELDS},
        chain=tuple(plain["chain"]),
        argv=tuple(plain["argv"]),
        stack=tuple(Frame(path, line, function) for path, line, function in plain["stack"]),
    )
