"""Each type of report file: from the report as data to the text of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["render"]


def render(kind: str, report: dict[str, Any], environ: Mapping[str, str]) -> str:
    """`kind`: one of `policy.reports.TYPES`, whose modules are called as they are. `environ`: of the run.

    The text has no lone surrogate, and ends with a newline unless it is empty.
    """
    if kind == "json":
        from fence_core.report.files.arrange import as_text

        return as_text(report)
    make: Callable[[dict[str, Any], Mapping[str, str]], str]
    make = import_module(f"fence_core.report.files.{kind}").render
    return make(report, environ)
