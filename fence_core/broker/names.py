"""Where the resolver sockets of fenced programs end: every name is refused at once, and reported.

libc connects a UDP socket to its name server; the broker connects it to one of ours on loopback instead (glibc does
not mind: a connected socket has one peer only). Which process asks is known by the source port, from when its socket
was connected. Nothing is ever sent on.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import dns_query

if TYPE_CHECKING:
    from fence_core.broker.attribution import Process
    from fence_core.broker.sockets import Borrowed


_AT_ONCE = 32


class NameSink:
    """Two UDP sockets, one per address family, made when first needed."""

    def __init__(
        self,
        watch: Callable[[int], None],
        refuse: Callable[[Process, int, str], None],
        refuse_datagram: Callable[[Process, int, str], None],
    ) -> None:
        self._watch = watch
        self._refuse = refuse
        self._refuse_datagram = refuse_datagram
        self._sockets: dict[int, socket.socket] = {}
        self._askers: dict[tuple[int, int], tuple[Process, int, str]] = {}
        """By address family and source port, hence never more than 131,072."""
        self._suffixes = _search_suffixes()

    def address(self, family: int) -> bytes | None:
        """The raw socket address to connect a resolver's socket to; None if this host has no such loopback."""
        sink = self._sockets.get(family)
        if sink is None:
            try:
                sink = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                sink.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
            except OSError:
                return None
            self._sockets[family] = sink
            self._watch(sink.fileno())
        port = sink.getsockname()[1]
        if family == socket.AF_INET:
            return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
        return (
            struct.pack("=H", family)
            + struct.pack("!HI", port, 0)
            + socket.inet_pton(family, "::1")
            + struct.pack("=I", 0)
        )

    def expect(self, asker: Borrowed, process: Process, host: str, tid: int = 0) -> None:
        """This borrowed socket, just connected to us, is that process asking `host`, in that thread."""
        self._askers[(asker.domain, int(asker.socket.getsockname()[1]))] = (process, tid or process.pid, host)

    def owns(self, fd: int) -> bool:
        return any(sink.fileno() == fd for sink in self._sockets.values())

    def answer(self, fd: int) -> None:
        """Refuse what has arrived on one of our sockets."""
        for family, sink in self._sockets.items():
            if sink.fileno() != fd:
                continue
            for _ in range(_AT_ONCE):  # the rest when other calls have had their turn
                try:
                    message, peer = sink.recvfrom(4096)
                except BlockingIOError:
                    return
                except OSError:
                    continue  # ECONNREFUSED of an asker that is gone
                process, tid, host = self._askers.get((family, peer[1]), (None, 0, ""))
                name = dns_query.question_name(message)
                reply = dns_query.refusal(message)
                try:
                    # Recorded first: when the program reads the answer, its test's report can name it.
                    if process is not None and name is None:
                        self._refuse_datagram(process, tid, host)
                    elif process is not None and name is not None and not dns_query.is_special(name):
                        self._refuse(process, tid, self.base_name(name))
                finally:
                    if reply is not None:
                        try:
                            sink.sendto(reply, peer)
                        except OSError:
                            pass

    def base_name(self, name: str) -> str:
        """The name the program meant: libc tries it with each suffix of resolv.conf's search list as well."""
        for suffix in self._suffixes:
            if name.endswith(suffix) and len(name) > len(suffix):
                return name[: -len(suffix)]
        return name

    def close(self) -> None:
        for sink in self._sockets.values():
            sink.close()


def _search_suffixes() -> tuple[str, ...]:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as lines:
            words = [line.split() for line in lines]
    except OSError:
        return ()
    found: list[str] = []
    for line in words:
        if line and line[0] in ("search", "domain"):
            found = ["." + suffix.strip(".").lower() for suffix in line[1:]]
    return tuple(suffix for suffix in found if suffix != ".")
