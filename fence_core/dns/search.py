"""Which name a program meant: resolvers try a name with each suffix of resolv.conf's search list as well.

A name with fewer dots than `ndots` is tried with the suffixes first and bare at last; any other name bare first, and
with the suffixes when that found nothing. Both look the same to whoever gets a single query:

* `api.corp.example` may be `api` with its suffix, or meant as it is. Refused, it is reported as `api`, since the suffix
  belongs to the machine and not to the test. If it was meant as it is, `api.corp.example.corp.example` comes next, and
  is reported as `api.corp.example`.
* Where the rules allow the bare name, the suffixed one does not exist: the resolver comes to the bare one by itself.
* Where the rules allow the suffixed name (`*.corp.example`), it is answered. But not as second try for a name that has
  just been refused: the program would connect to a stranger, `api.example.org.corp.example`.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence

from fence_core.policy import domains
from fence_core.policy.domains import DomainError

__all__ = ["Judge", "SearchList", "Verdict", "is_special"]


class Verdict(enum.Enum):
    """What becomes of a name."""

    ALLOW = "allow"
    REFUSE = "refuse"
    """It does not exist for this program, and asking for it is a violation."""
    QUIET = "quiet"
    """It does not exist for this program; that is all."""
    HERE = "here"
    """It is this machine's own name: loopback."""


Judge = Callable[[str], Verdict]

# Names that mean nothing outside this machine or that programs ask in passing (RFC 6761, 6303, 7050, 9462).
_SPECIAL = ("invalid", "in-addr.arpa", "ip6.arpa", "ipv4only.arpa", "resolver.arpa")
_SECOND_TRY = 5.0
"""Seconds. A resolver goes on to the suffixes at once when a name does not exist."""
_REMEMBERED = 256


def is_special(name: str) -> bool:
    """Names that lead nowhere by definition: asking for them is no attempt to get out."""
    return domains.is_loopback_name(name) or any(
        name == special or name.endswith(f".{special}") for special in _SPECIAL
    )


class SearchList:
    """Decides about names as they are asked, by the verdicts on the names they may have been meant as."""

    def __init__(self, suffixes: Sequence[str], ndots: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        named = {"." + suffix.strip(".").lower() for suffix in suffixes} - {"."}
        self._suffixes = sorted(named, key=len, reverse=True)
        self._ndots = ndots
        self._clock = clock
        self._refused: dict[str, float] = {}
        """Names with a dot that were refused, and when: the oldest first, no more than `_REMEMBERED`."""

    def bases(self, name: str) -> list[str]:
        """The names that become this one by a suffix, the shortest first."""
        return [name[: -len(suffix)] for suffix in self._suffixes if name.endswith(suffix) and len(name) > len(suffix)]

    def decide(self, name: str, judge: Judge) -> tuple[Verdict, str]:
        """The verdict on this canonical name, and the name that the program meant."""
        bases = [base for base in self.bases(name) if _is_name(base)]
        if any(is_special(base) for base in bases):
            return Verdict.QUIET, name
        verdict = judge(name)
        if verdict is Verdict.HERE or any(judge(base) is Verdict.HERE for base in bases):
            return Verdict.HERE, name
        if verdict is Verdict.ALLOW:
            for base in bases:
                if self._was_refused(base):
                    return Verdict.REFUSE, base
                if 0 < base.count(".") < self._ndots and judge(base) is Verdict.ALLOW:
                    return Verdict.QUIET, base  # tried with its suffixes first
            return verdict, name
        verdicts = [judge(base) for base in bases]
        if verdict is Verdict.QUIET or Verdict.ALLOW in verdicts or Verdict.QUIET in verdicts:
            return Verdict.QUIET, name
        self._remember(name)
        return verdict, next((base for base in bases if self._was_refused(base)), bases[0] if bases else name)

    def _remember(self, name: str) -> None:
        if "." in name:
            self._refused.pop(name, None)
            self._refused[name] = self._clock()
            if len(self._refused) > _REMEMBERED:
                del self._refused[next(iter(self._refused))]

    def _was_refused(self, name: str) -> bool:
        when = self._refused.get(name)
        return when is not None and self._clock() - when <= _SECOND_TRY


def _is_name(text: str) -> bool:
    """Not an address: `10.0.0.1.corp.example` was not meant as 10.0.0.1, which nobody looks up."""
    try:
        return isinstance(domains.canonical_host(text), str)
    except DomainError:
        return False
