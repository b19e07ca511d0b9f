"""The comment that stands behind a rule which was learnt: who needed it, and why it is as wide as it is.

It says nothing that differs between two runs of the same tests, and it is one printable line whatever tests and
programs are called.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.learn.model import Evidence

__all__ = ["comment", "needed_by"]

_LENGTH_MAX = 100
_PROGRAMS_SHOWN = 3


def comment(evidence: Evidence, *, tests: bool) -> str:
    """Without the sign that comments begin with. `tests`: a test run was watched."""
    who = needed_by(evidence) if tests else _programs(evidence)
    return plain("; ".join(filter(None, (who, evidence.why))) or "learnt")


def needed_by(evidence: Evidence) -> str:
    """Those who needed it: a test by its name, without its parameters."""
    functions = sorted({_without_parameters(test) for test in evidence.tests if test})
    if not functions:
        return "outside of tests"
    return functions[0] if len(functions) == 1 else "several tests"  # how many differs with workers, and with caches


def plain(text: str) -> str:
    """On one line, printable, and not too long."""
    shown = escape(text)
    return shown if len(shown) <= _LENGTH_MAX else f"{shown[: _LENGTH_MAX - 3]}..."


def _programs(evidence: Evidence) -> str:
    names = evidence.programs
    more = f" and {len(names) - _PROGRAMS_SHOWN} more" if len(names) > _PROGRAMS_SHOWN else ""
    return ", ".join(names[:_PROGRAMS_SHOWN]) + more


def _without_parameters(nodeid: str) -> str:
    return re.sub(r"\[.*\Z", "", nodeid, flags=re.DOTALL)
