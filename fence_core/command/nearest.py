"""What is in the lists of a policy and is spelled nearly like what was asked for. For `fence explain`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from fence_core.policy.requests import Connect, Resolve, Write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fence_core.policy.model import Entry, Policy
    from fence_core.policy.requests import Request

__all__ = ["is_one_letter_off", "nearest"]

_CLOSE = 0.75


def nearest(request: Request, policy: Policy) -> Entry | None:
    """The entry that was probably meant; None where none is like it."""
    if isinstance(request, Connect):
        return _closest(request.name or request.host, policy.network.allowed_domains)
    if isinstance(request, Resolve):
        return _closest(request.name, policy.network.allowed_domains)
    if isinstance(request, Write):
        return _closest(request.path, policy.filesystem.allow_write)
    return None


def _closest(text: str, entries: Iterable[Entry]) -> Entry | None:
    """Of those that somebody has written into a file."""
    spelled = {_bare(entry): entry for entry in entries if entry.source.file}
    found = difflib.get_close_matches(text, list(spelled), n=1, cutoff=_CLOSE)
    return spelled[found[0]] if found and found[0] != text else None


def _bare(entry: Entry) -> str:
    return (entry.pattern or entry.text).removeprefix("*.").partition(":")[0]


def is_one_letter_off(text: str, entry: Entry) -> bool:
    """One letter is another, or there is one more, or one less."""
    one, other = sorted((text, _bare(entry)), key=len)
    pairs = enumerate(zip(one, other, strict=False))
    same = next((place for place, (left, right) in pairs if left != right), len(one))
    return one[same + (len(one) == len(other)) :] == other[same + 1 :]
