"""``FILE:LINE: MESSAGE [RULE]``, one line for each violation: for editors and whatever reads compilers' messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fence_core.report.files.groups import groups
from fence_core.text import escape

__all__ = ["render"]


def render(report: dict[str, Any], environ: Mapping[str, str]) -> str:
    lines = []
    for group in groups(report):
        where = f"{escape(group.place.file)}:{group.place.line}" if group.place is not None else "-:0"
        for violation in group.violations:
            one = group._replace(violations=[violation])
            lines.append(f"{where}: {one.sentence} [{one.key}]\n")
    return "".join(sorted(lines))
