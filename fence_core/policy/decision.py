"""The answer to a request, and the few ways to come to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fence_core.policy.model import Rule
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from fence_core.policy.model import Entry, Policy, Source

__all__ = ["Decision", "Why", "allowed", "denied", "free", "impossible", "unlisted"]

Why = Literal["allowed", "denied", "protected", "unlisted", "ignored", "impossible"]
"""Of a refusal: `denied` by a deny rule, `protected` whatever the lists say, `unlisted` since no rule allows it (the
only one that has a remedy), `ignored` for the same reason where the policy says that it is known, `impossible` since no
rule could: at most a switch, which `rule.key` then names."""


class Decision(Record):
    """The answer to a request."""

    allowed: bool
    rule: Rule
    """The rule that decided and where it was written, or which list it is missing from."""
    why: Why = "allowed"
    quiet: bool = False
    """Refuse it, but it is no violation: programs ask such things in passing."""
    always: bool = False
    """An audit refuses it, too."""
    guarded: bool = False
    """Learning refuses it, too, although a rule could allow it: what it changes is run or obeyed outside of the
    fence."""

    def may_be_learnt(self) -> bool:
        """Whether it is refused for no more than want of a rule, which could be written."""
        return self.why == "unlisted" and not (self.quiet or self.always or self.guarded)


def allowed(key: str, entry: Entry | None = None, *, where: Source | None = None, item: str = "") -> Decision:
    """By an entry of this list; or by this scalar, which was set there, or its `item`."""
    if entry is not None:
        return Decision(True, Rule(key, entry.text, entry.source))
    return Decision(True, Rule(key, item, where))


def free(reason: str) -> Decision:
    """No rule speaks of it."""
    return Decision(True, Rule(reason=reason))


def denied(key: str, entry: Entry) -> Decision:
    return Decision(False, Rule(key, entry.text, entry.source), "denied")


def impossible(reason: str, *, switch: str = "", item: str = "", quiet: bool = False, always: bool = False) -> Decision:
    return Decision(False, Rule(switch, item, reason=reason), "impossible", quiet, always)


def unlisted(policy: Policy, key: str, reason: str = "") -> Decision:
    """With where such a rule could stand (preset, file, markers), and whatever else has one of this key."""
    section, _, name = key.partition(".")
    rules = getattr(policy.network if section == "network" else policy.filesystem, name, ())
    others = [each.source for each in rules if hasattr(each, "source")] if isinstance(rules, tuple) else []
    tried: dict[str, Source] = {}
    for each in (*policy.sources, *others):
        tried.setdefault(each.name, each)
    return Decision(False, Rule(key, "", None, reason, tuple(tried.values())), "unlisted")
