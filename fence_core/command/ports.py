"""`-p [ADDR:]PORT`: ports that a server inside may open. Run before the fork."""

from __future__ import annotations

import errno
import os
import socket

from fence_core.command.options import UsageError
from fence_core.text import escape

__all__ = ["Opened", "check_free", "parse_port"]

Opened = tuple[str, int]
"""Address and port; an empty address: loopback only."""


def parse_port(text: str) -> Opened:
    """``8124``, ``0.0.0.0:8124``, ``[::]:8124``. Raises UsageError."""
    host, colon, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit() and 0 < int(number[:6]) < 65536):
        raise UsageError(f'"{escape(text)}" is not a port; accepted: 8080, 0.0.0.0:8080, [::]:8080')
    if not colon:
        return "", int(number)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    family = socket.AF_INET6 if bare != host else socket.AF_INET
    try:
        host = socket.inet_ntop(family, socket.inet_pton(family, bare))
    except (OSError, ValueError):
        raise UsageError(
            f'"{escape(text)}" does not begin with an address; accepted: 8080, 0.0.0.0:8080, [::]:8080'
        ) from None
    return host, int(number)


def check_free(opened: Opened) -> None:
    """Raises UsageError, naming who has it, if the port is taken."""
    host, port = opened
    address = host or "127.0.0.1"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} is in use already{_holder(port)}") from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"{address} is not an address of this machine") from None
            # Anything else the server will be told itself.


def _holder(port: int) -> str:
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(f"/proc/net/{table}", port)}
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f", by {escape(file.read().strip())} (pid {pid})"
        except OSError:
            continue
    return ""


def _listening(table: str, port: int) -> list[str]:
    """The links that lead to sockets which listen there."""
    try:
        with open(table, encoding="ascii") as file:
            rows = [line.split() for line in file][1:]
    except OSError:
        return []
    return [f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
