"""What the filter asks the broker: one JSON object a packet, on a pair of SOCK_SEQPACKET sockets.

Run by the filter, which asks, and the supervisor, which answers. A question has an `id`, which its answer repeats; no
answer within `PATIENCE_S` is a no. A connection is named by the program's end of it: `host`, and the port as `from`.
"""

from __future__ import annotations

import json
from typing import Any

from fence_core.link.operations import OPTIONAL_LIST, OPTIONAL_TEXT, Operation, by_name, misfit

PACKET_MAX = 1 << 16
"""Bytes of one packet."""
PATIENCE_S = 5.0
"""The broker answers in well under a millisecond; a program waits for the filter meanwhile."""
FOUND_MAX = 64
"""Addresses of one name that the broker is asked about."""

_CONNECTION = {"from": int, "host": str}

WHO = Operation("who", {"host": str, "port": int}, {"kind": str, "upstream_proxy": OPTIONAL_TEXT})
"""What a connection is for. `TUNNEL`: with `name`, `port`, and `to` where the policy places the name."""
TUNNEL, PROXY, NOBODY = "tunnel", "proxy", "nobody"
ASK = Operation(
    "ask", {**_CONNECTION, "name": str, "port": int, "how": str}, {"allowed": bool, "to": OPTIONAL_LIST}
)  # fmt: skip
"""Whether a program that uses the filter as its proxy may go there. If not: `rule`, `remedy`, and `absent` where the
policy says that there is no such name."""
ADDRESSES = Operation("addresses", {**_CONNECTION, "name": str, "port": int, "found": list}, {"use": list})
"""Which of a name's addresses may be connected to; if none, the `rule`."""
VIOLATION = Operation("violation", {**_CONNECTION, "what": str, "why": str}, {})
"""Answered when it is recorded."""
FAULT = Operation("fault", {"what": str, "at": str}, {})
"""An error of the filter's own; with the connection, where it was one's."""

OPERATIONS = by_name(WHO, ASK, ADDRESSES, VIOLATION, FAULT)


def question(number: int, operation: Operation, fields: dict[str, Any]) -> bytes:
    return json.dumps({"id": number, "op": operation.name, **fields}).encode()


def read_question(packet: bytes) -> tuple[int, Operation, dict[str, Any]]:
    """Raises ValueError, KeyError: the filter is ours, so it is out of order."""
    found = json.loads(packet)
    operation = OPERATIONS[found["op"]]
    wrong = misfit(found, operation.asks)
    if wrong:
        raise ValueError(f"the filter asks {operation.name!r} with a wrong {wrong!r}")
    return found["id"], operation, found


def answer(number: int, fields: dict[str, Any]) -> bytes:
    return json.dumps({"id": number, **fields}).encode()


def read_answer(packet: bytes) -> tuple[int, dict[str, Any]]:
    """The number of the question, and what is yet to be checked by it. Raises ValueError."""
    found = json.loads(packet)
    if not isinstance(found, dict) or not isinstance(found.get("id"), int):
        raise ValueError("no answer")
    return found["id"], found
