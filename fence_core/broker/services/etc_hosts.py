"""Names that programs find in /etc/hosts, without asking a name server: see hosts(5).

A name that the policy's `hosts` places somewhere is not looked up then, and what is refused is an address that nobody
has written in his test. Asked for refused calls only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address

__all__ = ["remark"]

_FILE = "/etc/hosts"
_LONGEST = 1 << 20
"""Bytes read: lists of blocked names have more, at addresses that nobody looks for."""


def remark(address: str, names: Iterable[str], file: str = _FILE) -> str:
    """What to add to the rule against connecting to this address; empty if none of these names leads there."""
    wanted = set(names)
    try:
        sought = ip_address(address)
        with open(file, "rb") as hosts:
            text = os.fsdecode(hosts.read(_LONGEST))
    except (OSError, ValueError):
        return ""
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        found = sorted(wanted.intersection(name.lower().rstrip(".") for name in fields[1:]))
        try:
            if found and ip_address(fields[0]) == sought:
                return f"{file} gives {found[0]} this address, so network.hosts is not asked where it is"
        except ValueError:
            continue
    return ""
