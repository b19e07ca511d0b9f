"""The violations of a run as they are kept for `fence explain last`: in pytest's cache, by the run, for a reader.

What is kept may have been written by a test: it explains something to a user, and decides nothing.
"""

from __future__ import annotations

from typing import Any

from fence_core.events.model import Violation
from fence_core.events.wire import from_wire, to_wire

CACHED = "fence/last"
"""The key in pytest's cache."""
_VERSION = 1
_KEPT_MAX = 500


def written(violations: list[Violation]) -> dict[str, Any]:
    """Plain data, for JSON."""
    return {"v": _VERSION, "violations": [to_wire(each) for each in violations[:_KEPT_MAX]]}


def read(plain: Any) -> list[Violation]:
    """The inverse. Raises ValueError for anything else."""
    if not isinstance(plain, dict) or plain.get("v") != _VERSION or not isinstance(plain.get("violations"), list):
        raise ValueError("it was not written by this version of pytest-fence")
    try:
        return [from_wire(Violation, each) for each in plain["violations"]]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it does not hold what pytest-fence keeps there") from None
