"""Handlers that are imported with the first call of their family.

Run by the supervisor. Most runs make few kinds of calls, and a handler that is never asked for costs what its import
takes: in all a third of the supervisor's start. What is imported so late comes from the environment, which no test can
write (`launcher/early_modules.py`); and a handler that cannot be imported has refused its call, as one that raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.reply import Reply

    Handler = Callable[[Call], Reply]

__all__ = ["Family", "Handlers", "Later", "found"]


class Later:
    """A handler, by the names of its module and its function."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def find(self) -> Handler:
        """The handler itself. Raises whatever the import does."""
        handler: Handler = getattr(import_module(self.module), self.name)
        return handler

    def __call__(self, call: Call) -> Reply:
        return self.find()(call)


class Family:
    """A module of `fence_core.broker.calls` to the table: each of its names is that of a handler."""

    def __init__(self, name: str) -> None:
        self._module = f"fence_core.broker.calls.{name}"

    def __getattr__(self, name: str) -> Later:
        return Later(self._module, name)


def found(handler: Handler) -> Handler:
    """The function itself, imported if it was not yet."""
    return handler.find() if isinstance(handler, Later) else handler


class Handlers(dict[int, "Handler"]):
    """Handlers by the number of their call: each is looked for with its first call, and from then on in its place."""

    def __init__(self, known: Mapping[int, Handler], made: Callable[[Handler], Handler]) -> None:
        """`made`: what is done to each before it is used."""
        super().__init__()
        self._known = known
        self._made = made

    def __missing__(self, number: int) -> Handler:
        # First the import, as the user that the broker is: what is made of it may act as the caller's.
        handler = self[number] = self._made(found(self._known[number]))
        return handler
