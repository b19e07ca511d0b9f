"""The sentence that says which rule decided, and where that is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy.requests import printable

if TYPE_CHECKING:
    from fence_core.policy.decision import Decision

__all__ = ["sentence"]


def sentence(decision: Decision) -> str:
    """For the user. What came from a test or a file is escaped."""
    rule = decision.rule
    entry = f' "{printable(rule.entry)}"' if rule.entry else ""
    where = f" ({rule.source})" if rule.source is not None else ""
    reason = printable(rule.reason)
    if decision.why == "protected":
        switch = f"; {rule.key} would allow it" if rule.key else ""
        return f"protected:{entry}: {reason} (built in{switch})"
    if decision.why == "impossible":
        item = f" with {printable(rule.entry)}" if rule.entry else ""
        return f"{reason} ({rule.key}{item} would allow it)" if rule.key else reason
    because = f": {reason}" if reason else ""
    if decision.why != "unlisted":
        return f"{decision.why}: {rule.key}{entry}{where}{because}" if rule.key else reason
    if rule.source is not None:
        return f"{rule.key} is false{where}"
    tried = ", ".join(map(str, rule.tried)) or "the policy is empty"
    return f"no rule in {rule.key} allows it ({tried}){because}"
