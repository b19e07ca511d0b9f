"""Patterns of environment variables' names: `*` is any number of characters, `?` is one; case matters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fence_core.policy.model import Entry

__all__ = ["matcher"]


def matcher(entries: Iterable[Entry]) -> Callable[[str], bool]:
    """A test for names that any of the patterns matches."""
    found = [_regex(entry.text) for entry in entries]
    if not found:
        return lambda name: False
    match = re.compile("|".join(found), re.DOTALL).fullmatch
    return lambda name: match(name) is not None


def _regex(pattern: str) -> str:
    return "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
