"""The environment that a fenced command gets. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Surroundings", "surroundings"]

_STRIPPED = ("LD_", "DYLD_")
"""Beginnings of what tells a loader to bring other code into every program."""
_STRIPPED_NAMES = frozenset({"GCONV_PATH"})
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Surroundings(Record):
    """Variables, and what differs from those of the caller."""

    variables: dict[str, str]
    withheld: tuple[str, ...]
    """Names of what was taken away."""
    replaced: tuple[str, ...]
    """Names of the caller's own that have another value."""


def surroundings(given: Mapping[str, str], proxy: str, here: Iterable[str] = ()) -> Surroundings:
    """What the command gets of the caller's variables.

    `proxy`: the URL of the filter; empty: no program is told of one. `here`: names that the policy places on this
    machine, which are not to be asked for at the proxy.
    """
    kept = {name: value for name, value in given.items() if not _is_stripped(name)}
    own = {"FENCE_SANDBOX": "1"}
    if proxy:
        for name in _PROXIES:  # both spellings: curl reads http_proxy in small letters only, others the large ones
            own[name] = own[name.lower()] = proxy
        own["NO_PROXY"] = own["no_proxy"] = ",".join(dict.fromkeys((*_LOOPBACK, *here)))
    replaced = tuple(sorted(name for name, value in own.items() if kept.get(name, value) != value))
    return Surroundings({**kept, **own}, tuple(sorted(given.keys() - kept.keys())), replaced)


def _is_stripped(name: str) -> bool:
    return name.startswith(_STRIPPED) or name in _STRIPPED_NAMES
