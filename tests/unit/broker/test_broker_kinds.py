"""Kinds of violations are data that others evaluate: not the names of our classes, and all of them documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import get_args

from fence_core.broker import calls
from fence_core.policy import requests

ROOT = Path(__file__).resolve().parents[3]
KINDS = set(get_args(requests.Kind))


def test_each_request_is_of_a_documented_kind() -> None:
    modules = [requests, *(importlib.import_module(f"{calls.__name__}.{each.name}") for each in
                           pkgutil.iter_modules(calls.__path__))]  # fmt: skip
    found = {
        one.__name__: getattr(one, "kind", None)
        for module in modules
        for _, one in inspect.getmembers(module, inspect.isclass)
        if hasattr(one, "kind") and one.__module__.startswith("fence_core")
    }
    assert len(found) > 9
    assert {name: kind for name, kind in found.items() if kind not in KINDS} == {}
    assert set(found.values()) == KINDS


def test_documented() -> None:
    text = (ROOT / "docs" / "reference" / "report.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.split("\n\n") if line.startswith("Each violation is of a **kind**")]
    assert [kind for kind in sorted(KINDS) if f"`{kind}`" not in line] == []
