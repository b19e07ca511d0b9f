"""What is said about a run that was learnt from, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.learn.comments import needed_by, plain
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fence_core.learn.model import Outcome, Proposal, Unlearnt

__all__ = ["entries", "summary", "without_rule"]

_SHOWN_MAX = 200
_WIDTH_MAX = 60


def summary(outcome: Outcome) -> str:
    """One sentence."""
    if not outcome.requests:
        return "nothing to learn: the policy allows all that this run did"
    things = "1 thing" if outcome.requests == 1 else f"{outcome.requests} things"
    rules = "1 rule" if len(outcome.proposals) == 1 else f"{len(outcome.proposals)} rules"
    return f"learnt from this run: {things} that no rule lists, and {rules} for that"


def entries(proposals: Sequence[Proposal], *, tests: bool) -> Iterator[str]:
    """A line for each rule, and one for what it opens besides. `tests`: a test run was watched."""
    shown = proposals[:_SHOWN_MAX]
    names = [f"{each.key} {_value(each)}" for each in shown]
    width = min(max((len(name) for name in names), default=0), _WIDTH_MAX)
    for name, each in zip(names, shown, strict=True):
        yield f"  {name:<{width}}  {_why(each, tests=tests)}"
        if each.evidence.opens:
            yield f"  {'':<{width}}  opens as well: {', '.join(map(plain, each.evidence.opens))}, ..."
    if len(proposals) > len(shown):
        yield f"  and {len(proposals) - len(shown)} more"


def without_rule(unlearnt: Sequence[Unlearnt]) -> Iterator[str]:
    """A line for each thing that no rule was made for."""
    for each in unlearnt[:_SHOWN_MAX]:
        tests = [test for test in each.tests if test]
        more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
        where = f" ({plain(tests[0])}{more})" if tests else ""
        yield f"  {escape(each.what)}{where}: {escape(each.why)}"
    if len(unlearnt) > _SHOWN_MAX:
        yield f"  and {len(unlearnt) - _SHOWN_MAX} more"


def _value(proposal: Proposal) -> str:
    if proposal.key == "network.hosts":
        return f"{proposal.value} = false"
    return "true" if proposal.value is True else escape(str(proposal.value))


def _why(proposal: Proposal, *, tests: bool) -> str:
    evidence = proposal.evidence
    by = f" by {', '.join(map(escape, evidence.programs))}" if evidence.programs else ""
    things = "1 thing" if evidence.requests == 1 else f"{evidence.requests} things"
    parts = [needed_by(evidence)] if tests else []
    if evidence.why:
        parts += [evidence.why, f"{things}{by}, such as {plain(evidence.example)}"]
    elif by:
        parts.append(by.strip())
    return "; ".join(map(plain, parts))
