"""What a fence on another machine tells the run that it belongs to: JSON objects, one a line.

The supervisor there says it, to whom the gateway of pytest-xdist has started it; the carrier of the run
(`pytest_fence/remote_carrier.py`) passes it on to the supervisor here. Nobody inside of a fence can write there.
"""

from __future__ import annotations

import json
from typing import Any

CHUNK = 1 << 16
"""Bytes that are read at a time, of this and of what execnet says."""

READY = "ready"
"""The fence stands. Said once, first of all. `layers`: what is active, for the header."""
VIOLATIONS = "violations"
"""What is new in the ledger, or has changed, as `events.wire` makes data of it."""
OVER = "over"
"""The last word. `dropped`: violations that were counted and not kept. `unwritten`: whether something was refused that
could not be written down."""
LOST = "lost"
"""Said by the carrier: a fence has gone without its last word; in words, which, and why."""

ALL = "all"
"""Said by the carrier, the last thing of all: it has told everything."""


def line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"kind": kind, **fields}).encode() + b"\n"


def read(text: bytes) -> dict[str, Any]:
    """Raises ValueError, KeyError."""
    found: dict[str, Any] = json.loads(text)
    if found["kind"] not in (READY, VIOLATIONS, OVER, LOST, ALL):
        raise ValueError(f"a message of kind {found['kind']!r}")
    return found


class Lines:
    """Whole lines out of what arrives in pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def of(self, chunk: bytes) -> list[bytes]:
        self._rest += chunk
        *whole, rest = bytes(self._rest).split(b"\n")
        self._rest[:] = rest
        return whole
