"""Importing our own modules past pytest's assertion rewriting.

pytest rewrites every module of a distribution that has a plugin: it reads source and byte code of each with Python
code of its own, which takes several times as long as the import itself (0.4 ms a module; a fenced run has sixty). We
have nothing to rewrite. So while our modules are imported, this finder comes before pytest's.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_OURS = frozenset({"fence_core", "pytest_fence"})


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, path, target) if name.partition(".")[0] in _OURS else None


@contextmanager
def unrewritten() -> Generator[None, None, None]:
    """In this block our modules are imported as Python imports them. In the supervisor it lasts for good."""
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)
