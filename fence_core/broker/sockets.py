"""What the broker knows about sockets: addresses decoded, and which sockets were bound inside the fence."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.policy.requests import Bind

SOCKADDR_MAX = 128
"""sizeof(struct sockaddr_storage), include/uapi/linux/socket.h."""

AF_UNSPEC = 0
RESOLVER_PORTS = frozenset({53, 853})
"""A resolver of this host, asked in a way that we do not answer, would carry names, and what is hidden in them, to
anywhere."""
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp", 136: "udplite", 262: "tcp", 1: "icmp", 58: "icmp"}


_QUIET_MAX = 10_000


class Address:
    """A copied socket address."""

    __slots__ = ("family", "host", "path", "port", "raw")

    def __init__(self, raw: bytes, family: int, *, host: str = "", port: int = 0, path: bytes | None = None) -> None:
        self.raw = raw
        self.family = family
        self.host = host
        """IPv4-mapped IPv6 addresses as the IPv4 address that they reach."""
        self.port = port
        self.path = path
        """AF_UNIX: the path; abstract names start with NUL; None where the address has no name."""


def parse_address(raw: bytes) -> Address | None:
    """None for what is too short to be an address of its family: the kernel answers EINVAL."""
    if len(raw) < 2:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET:
        if len(raw) < 8:
            return None
        return Address(raw, family, host=socket.inet_ntop(family, raw[4:8]), port=int.from_bytes(raw[2:4], "big"))
    if family == socket.AF_INET6:
        if len(raw) < 24:
            return None
        packed = raw[8:24]
        if packed[:12] == b"\0" * 10 + b"\xff\xff":
            host = socket.inet_ntop(socket.AF_INET, packed[12:])
        else:
            host = socket.inet_ntop(family, packed)
        return Address(raw, family, host=host, port=int.from_bytes(raw[2:4], "big"))
    if family == socket.AF_UNIX:
        name = raw[2:]
        if not name:
            return Address(raw, family)
        if name[:1] == b"\0":
            return Address(raw, family, path=name)
        return Address(raw, family, path=name.split(b"\0", 1)[0])
    return Address(raw, family)


def is_loopback(host: str) -> bool:
    """127/8, ::1, and the unspecified addresses, which as a destination mean this host (connect(2) on Linux)."""
    return host.startswith("127.") or host in ("::1", "0.0.0.0", "::")


def is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")


class Borrowed:
    """A borrowed socket descriptor. Its facts come from the socket, never from what the caller says."""

    __slots__ = ("domain", "fd", "protocol", "socket", "type")

    def __init__(self, fd: int) -> None:
        """Takes the descriptor. Raises OSError (ENOTSOCK) where it is no socket; the caller keeps it then."""
        self.fd = fd
        self.socket = socket.socket(fileno=fd)
        """Asks the kernel for family, type and protocol, and leaves the socket's own state alone."""
        self.domain = int(self.socket.family)
        self.type = int(self.socket.type)
        self.protocol = self.socket.proto

    def close(self) -> None:
        self.socket.close()

    @property
    def proto(self) -> str:
        return _PROTOCOLS.get(self.protocol, str(self.protocol))

    @property
    def is_inet(self) -> bool:
        return self.domain in (socket.AF_INET, socket.AF_INET6)


class InsideSockets:
    """Internet sockets that were bound inside the fence; these may always be reached from inside.

    For those of the family AF_UNIX see `unix_sockets.py`.
    """

    def __init__(self) -> None:
        self._ports: set[tuple[str, int, str]] = set()
        self._inodes: dict[tuple[str, int, str], int] = {}
        """Of the sockets at ports of resolvers, the one that was bound last."""
        self._quiet: dict[int, Bind] = {}

    def note_quiet_bind(self, socket_inode: int, request: Bind) -> None:
        """This socket is bound to what the rules do not allow: it is asked about, in these words, when it listens."""
        if len(self._quiet) >= _QUIET_MAX:
            del self._quiet[next(iter(self._quiet))]
        self._quiet[socket_inode] = request

    def forget_quiet_bind(self, socket_inode: int) -> None:
        self._quiet.pop(socket_inode, None)

    def quiet_bind(self, socket_inode: int) -> Bind | None:
        return self._quiet.get(socket_inode)

    def add_port(self, bound: socket.socket, proto: str) -> None:
        """Of two addresses with the same port one may be a service of this host."""
        host, port = bound.getsockname()[:2]
        if host == "::" and not bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            self._ports.add(("0.0.0.0", port, proto))
        place = (host.partition("%")[0].removeprefix("::ffff:"), port, proto)
        self._ports.add(place)
        if port in RESOLVER_PORTS:
            self._inodes[place] = os.fstat(bound.fileno()).st_ino

    def has_port(self, host: str, port: int, proto: str) -> bool:
        """Whether a socket bound inside answers at this loopback address."""
        wildcard, here = ("::", "::1") if ":" in host else ("0.0.0.0", "127.0.0.1")
        if (wildcard, port, proto) in self._ports:
            return True
        return (here if host == wildcard else host, port, proto) in self._ports

    def has_name_server(self, host: str, port: int, proto: str) -> bool:
        """The same for a port at which this host may have a resolver, who would carry everything to anywhere.

        Only at the very address, as long as the socket is open, and if nobody else has one there: of two UDP sockets
        with SO_REUSEADDR either gets what is sent. Nor at an address that programs are told to ask: a container leads
        packets to that to its own name server, whoever is bound there.
        """
        inode = self._inodes.get((host, port, proto))
        if inode is None or _holders(host, port, proto) != {inode}:
            return False
        from fence_core.dns.resolv_conf import read_resolv_conf

        return host not in read_resolv_conf().nameservers


_TCP_LISTEN = "0A"


def _holders(host: str, port: int, proto: str) -> set[int]:
    """Inodes of all sockets that are bound to exactly this address to receive. See proc(5), /proc/net/tcp."""
    found = set()
    for table in (proto, f"{proto}6"):
        family = socket.AF_INET6 if table.endswith("6") else socket.AF_INET
        if ":" in host and family == socket.AF_INET:
            continue
        packed = socket.inet_pton(family, host if ":" in host or family == socket.AF_INET else f"::ffff:{host}")
        words = struct.unpack(f"={len(packed) // 4}I", packed)
        wanted = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as lines:
                for line in lines:
                    fields = line.split()
                    if fields[1] == wanted and (proto == "udp" or fields[3] == _TCP_LISTEN):
                        found.add(int(fields[9]))
        except OSError:
            continue  # no such protocol here
    return found
