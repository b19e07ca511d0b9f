"""How a question of one process to another is described: by a row that both sides read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, "type | tuple[type, ...]"]
"""By name, the types of the fields that must be there. One that may be None may be missing."""
OPTIONAL_TEXT, OPTIONAL_LIST = (str, type(None)), (list, type(None))


class Operation:
    """One question. A value: the row itself, by which both sides know what is meant."""

    __slots__ = ("answers", "asks", "name")

    def __init__(self, name: str, asks: Shape, answers: Shape) -> None:
        self.name = name
        self.asks = asks
        self.answers = answers


def by_name(*operations: Operation) -> dict[str, Operation]:
    return {operation.name: operation for operation in operations}


def misfit(found: Any, shape: Shape) -> str:
    """The name of a field that is not as the shape says; empty if all are. Whatever else is there does not matter."""
    return next((name for name, kind in shape.items() if not isinstance(found.get(name), kind)), "")
