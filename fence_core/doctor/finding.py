"""What the doctor found about one part of the fence."""

from __future__ import annotations

from typing import Literal

from fence_core.policy.record import Record

__all__ = ["Finding", "Mark"]

Mark = Literal["yes", "no", "broken", "-"]
"""`yes`: it is there, and works. `no`: it is missing, and the fence does without. `broken`: there is no fence like
that. `-`: there is nothing to say against it, or it could not be tried."""


class Finding(Record):
    """One line of the page, and one more where something is missing."""

    name: str
    mark: Mark
    text: str = ""
    """What was tried and seen, or why it is missing."""
    cure: str = ""
    """How to get it."""
