"""`fence --features`: what this kernel offers for a fence. Asks the kernel, by trying."""

from __future__ import annotations

import os

from fence_core.errors import FenceUnavailable
from fence_core.kernel import features
from fence_core.launcher.obstacles import check_layers
from fence_core.text import escape

__all__ = ["table"]


def table() -> tuple[list[str], bool]:
    """Lines for the user, and whether commands can be fenced here."""
    found = features.detect()
    system = os.uname()
    lines = [f"kernel {escape(system.release)} {escape(system.machine)}"]
    width = max(map(len, features.NAMES))
    for name in features.NAMES:
        each = found[name]
        detail = f"  {escape(each.detail)}" if each.detail else ""
        lines.append(f"  {name:<{width}}  {'yes' if each.available else 'no '}{detail}".rstrip())
    try:
        check_layers(())
    except FenceUnavailable as error:
        return [*lines, f"commands cannot be fenced here: {error}"], False
    return [*lines, "commands can be fenced here"], True
