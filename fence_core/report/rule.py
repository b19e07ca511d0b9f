"""The sentence that says which rule decided, and where that is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.policy.decision import Decision
    from fence_core.policy.model import Rule

__all__ = ["because", "camel", "sentence"]


def camel(key: str) -> str:
    """A key as JSON files have it: ``allowWrite``."""
    first, *rest = key.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def sentence(decision: Decision, syntax: str = "toml") -> str:
    """For the user. What came from a test or a file is escaped. `syntax`: of the config, whose spelling keys have."""
    return because(decision.rule, decision.why, syntax)


def because(rule: Rule, why: str, syntax: str = "toml") -> str:
    """The same, where the rule is kept with a violation."""
    if syntax == "json":
        rule = rule._replace(key=camel(rule.key))
    entry = f' "{escape(rule.entry)}"' if rule.entry else ""
    where = f" ({rule.source})" if rule.source is not None else ""
    reason = escape(rule.reason)
    if why == "protected":
        switch = f"; {rule.key} would allow it" if rule.key else ""
        return f"protected:{entry}: {reason} (built in{switch})"
    if why == "impossible":
        item = f" with {escape(rule.entry)}" if rule.entry else ""
        return f"{reason} ({rule.key}{item} would allow it)" if rule.key else reason
    more = f": {reason}" if reason else ""
    if why != "unlisted":
        return f"{why}: {rule.key}{entry}{where}{more}" if rule.key else reason
    if rule.source is not None:
        return f"{rule.key} is false{where}{more}"
    tried = ", ".join(map(str, rule.tried)) or "the policy is empty"
    return f"no rule in {rule.key} allows it ({tried}){more}"
