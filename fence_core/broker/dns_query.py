"""The question of a DNS query (RFC 1035, section 4.1), and the refusal of it.

Just enough to name what was asked: the name and nothing else is taken from the message. Answering with addresses is
another matter, and not done here.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("!6H")
_NXDOMAIN = 3
_REFUSED = 5
_RESPONSE, _RECURSION_AVAILABLE, _RECURSION_DESIRED = 0x8000, 0x0080, 0x0100
_OPCODES = 0x7800
_NAME_MAX = 255
_PTR = 12


def question(message: bytes) -> tuple[str, int, int] | None:
    """Name (lower case, no final dot), record type and the offset behind the question; None if it is no query."""
    if len(message) < _HEADER.size + 5:
        return None
    _, flags, questions, *_ = _HEADER.unpack_from(message)
    if flags & (_RESPONSE | _OPCODES) or questions != 1:
        return None
    at, labels, total = _HEADER.size, [], 0
    while True:
        if at >= len(message):
            return None
        size = message[at]
        if size == 0:
            break
        if size > 63 or at + 1 + size > len(message):
            return None
        labels.append(message[at + 1 : at + 1 + size])
        total += size + 1
        if total > _NAME_MAX:
            return None
        at += 1 + size
    if at + 5 > len(message):
        return None
    (kind,) = struct.unpack_from("!H", message, at + 1)
    return b".".join(labels).decode("ascii", "backslashreplace").lower(), kind, at + 5


def question_name(message: bytes) -> str | None:
    found = question(message)
    return found[0] if found else None


def is_special(name: str) -> bool:
    """Names that lead nowhere by definition (RFC 6761, RFC 6303): asking for them is no attempt to get out."""
    last = name.rpartition(".")[2]
    return last in ("invalid", "localhost", "") or name.endswith((".in-addr.arpa", ".ip6.arpa"))


def refusal(message: bytes) -> bytes | None:
    """NXDOMAIN for the question of this query; None where there is no question to answer."""
    found = question(message)
    if found is None:
        return None
    (number, flags) = struct.unpack_from("!2H", message)
    flags = _RESPONSE | _RECURSION_AVAILABLE | flags & _RECURSION_DESIRED | _NXDOMAIN
    return _HEADER.pack(number, flags, 1, 0, 0, 0) + message[_HEADER.size : found[2]]
