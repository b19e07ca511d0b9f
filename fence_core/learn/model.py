"""What is proposed, and with which evidence. Data; `comments.py` and `text.py` write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fence_core.policy.record import Record

__all__ = ["Evidence", "Outcome", "Place", "Proposal", "Unlearnt"]


class Place(Record):
    """What is known of the machine on which a run was watched."""

    names_in: Callable[[str], Sequence[str] | None]
    """What lies in a directory now; None if that cannot be told."""
    searched: tuple[str, ...] = ()
    """Directories in which programs are found (`$PATH`)."""
    wildcards: bool = False
    """Names that differ in a first label like a hash become one wildcard."""


class Evidence(Record):
    """What a rule was made from. No numbers that differ from one run to the next but `requests`."""

    requests: int = 0
    """Different things that it allows and that were asked for."""
    tests: tuple[str, ...] = ()
    """Node ids, sorted; an empty one stands for what no test has asked for."""
    programs: tuple[str, ...] = ()
    """Names of those that asked, sorted; none for the pytest processes themselves."""
    example: str = ""
    """One of the things, if the rule covers more than it names."""
    why: str = ""
    """Why it is wider than what was asked for: ``made by the run``."""
    opens: tuple[str, ...] = ()
    """What lies there, and nobody has touched: the rule opens it as well."""


class Proposal(Record):
    """One entry of a list, or one switch."""

    key: str
    """``filesystem.allow_write``; ``allow_pty``."""
    value: str | int | bool
    """The entry, or what the switch is to be. Of `network.hosts`, a name that does not exist."""
    evidence: Evidence


class Unlearnt(Record):
    """What was tried, and for which no rule is proposed."""

    what: str
    """In words: ``write ~/.gitconfig``."""
    why: str
    tests: tuple[str, ...] = ()


class Outcome(Record):
    """All that is to be said about a run."""

    proposals: tuple[Proposal, ...] = ()
    unlearnt: tuple[Unlearnt, ...] = ()
    remarks: tuple[str, ...] = ()
    """Wider rules that somebody may want, and the like: sentences."""
    requests: int = 0
    """Different things that no rule lists."""
