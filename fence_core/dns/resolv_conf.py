"""What resolvers read in /etc/resolv.conf, as far as it decides which names they ask for. Source: resolv.conf(5).

The variables LOCALDOMAIN and RES_OPTIONS of single programs are not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["ResolvConf", "parse_resolv_conf", "read_resolv_conf"]

_NDOTS_MAX = 15
_NAMESERVERS_MAX = 3


class ResolvConf(NamedTuple):
    """Name servers as written, suffixes in canonical spelling without dots at their ends."""

    nameservers: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    ndots: int = 1
    """A name with fewer dots than this is tried with the suffixes first."""


def parse_resolv_conf(lines: Iterable[str], nodename: str = "") -> ResolvConf:
    """What the lines say. The last `search` or `domain` counts, as in libc; what is not understood is passed over.

    `nodename`: the machine's own name, whose domain is the suffix where no line says another.
    """
    nameservers: list[str] = []
    domain = nodename.partition(".")[2].strip(".").lower()
    suffixes: tuple[str, ...] = (domain,) if domain else ()
    ndots = 1
    for line in lines:
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest:
            nameservers.append(rest[0])
        elif word in ("search", "domain"):
            named = (suffix.strip(".").lower() for suffix in (rest[:1] if word == "domain" else rest))
            suffixes = tuple(suffix for suffix in named if suffix)
        elif word == "options":
            for option in rest:
                name, _, value = option.partition(":")
                if name == "ndots" and value.isascii() and value.isdigit():
                    ndots = min(int(value[:4]), _NDOTS_MAX)
    return ResolvConf(tuple(nameservers[:_NAMESERVERS_MAX]), suffixes, ndots)


def read_resolv_conf(path: str = "/etc/resolv.conf") -> ResolvConf:
    """The same of a file; one that cannot be read says nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return parse_resolv_conf(lines, os.uname().nodename)
    except OSError:
        return parse_resolv_conf((), os.uname().nodename)
