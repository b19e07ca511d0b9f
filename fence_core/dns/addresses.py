"""Synthetic addresses: one of 198.18.0.0/15 for every allowed name that was looked up.

The range is meant for benchmarks of routers (RFC 2544), so no host on the internet has such an address. A program that
connects to one of them meant the name it stands for; an address that was never handed out stands for nothing, and
whoever asks for it made it up.
"""

from __future__ import annotations

from fence_core.errors import FenceError
from fence_core.policy import domains
from fence_core.policy.domains import Address, DomainError, Network

__all__ = ["LIMIT", "NamesUsedUp", "SyntheticAddresses"]

_RANGE = Network(4, 198 << 24 | 18 << 16, 15)
LIMIT = 131_000
"""How many names one run can have: fewer than the range has addresses."""


class NamesUsedUp(FenceError):  # noqa: N818 - says what happened
    """More names were looked up in one run than there are synthetic addresses."""

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self.name = name
        super().__init__(f"no synthetic address is left for {name}: {limit:,} names were looked up in this run")


class SyntheticAddresses:
    """Names and their addresses, for one run. An address never changes hands: a program may have kept it.

    In order of the first look-up, so that a run can be repeated. Not locked: one thread uses it.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = min(limit, LIMIT)
        self._address_of: dict[str, str] = {}
        self._name_of: dict[int, str] = {}
        self._next = _RANGE.value

    def __len__(self) -> int:
        return len(self._address_of)

    def address_of(self, name: str) -> str:
        """The address of this canonical name; a new one at its first look-up. Raises NamesUsedUp."""
        address = self._address_of.get(name)
        if address is None:
            if len(self._address_of) >= self._limit:
                raise NamesUsedUp(name, self._limit)
            # The first and last address of either /16: some programs take them for a network or a broadcast.
            while self._next & 0xFFFF in (0, 0xFFFF):
                self._next += 1
            address = self._address_of[name] = str(Address(4, self._next))
            self._name_of[self._next] = name
            self._next += 1
        return address

    def name_of(self, address: str) -> str | None:
        """The name that was given this address, in whatever spelling; None if it was never handed out."""
        parsed = _parse(address)
        return None if parsed is None or parsed.version != 4 else self._name_of.get(parsed.value)

    def covers(self, address: str) -> bool:
        """Whether the address is of the synthetic range, handed out or not."""
        parsed = _parse(address)
        return parsed is not None and _RANGE.covers(parsed)


def _parse(text: str) -> Address | None:
    try:
        host = domains.canonical_host(text)
    except DomainError:
        return None
    return host if isinstance(host, Address) else None
