"""What a pytest process may be doing when something is tried. Apart from the records, since every worker needs it."""

from __future__ import annotations

from fence_core.text import encodable

PHASES = ("startup", "collect", "setup", "call", "teardown", "session", "finish")
NODEID_MAX = 1 << 15
"""Bytes of a node id that violations keep."""


def known_as(nodeid: str) -> str:
    """The node id by which the violations of a test are known: cut, and without what cannot be said."""
    if nodeid.isascii() and len(nodeid) <= NODEID_MAX and "\0" not in nodeid:
        return nodeid
    return encodable(nodeid).replace("\0", "\\0").encode()[:NODEID_MAX].decode(errors="ignore")
