"""What the broker knows about sockets: addresses decoded, and which sockets were bound inside the fence."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.errors import FenceUnavailable
from fence_core.kernel import sockdiag
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


_SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h; since Linux 5.14: a number of the network namespace, never given twice."""
_SIOCGSKNS = 0x894C
"""include/uapi/linux/sockios.h: a descriptor of the namespace, for CAP_NET_ADMIN in it."""
UNKNOWN_NETWORK = -1


def network_of(sock: socket.socket) -> int:
    """The network namespace that a socket is in, which is the one of its maker and never changes.

    Equal for two sockets of one namespace, whoever has them by now; `UNKNOWN_NETWORK` where the kernel does not tell.
    """
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    except OSError:
        pass
    try:
        namespace = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    except OSError:
        return UNKNOWN_NETWORK
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)


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


_Place = tuple[int, str, int, str]
"""Network, address, port and protocol."""
_SOCKETS_MAX = 200_000


class InsideSockets:
    """Internet sockets that were bound inside the fence; these may always be reached from inside.

    They are known by the inode of the socket itself: a port that is closed may be somebody else's by now. An address
    and a port mean something in one network namespace only: a socket keeps that of its maker, wherever it is passed and
    whatever its owner enters later. For those of the family AF_UNIX see `unix_sockets.py`.
    """

    def __init__(self) -> None:
        self._places: set[_Place] = set()
        self._inodes: dict[_Place, int] = {}
        """Of the sockets at ports of resolvers, the one that was bound last."""
        self._ours: dict[int, None] = {}
        """Inodes of Internet sockets in our network that have, or are about to get, a port; the oldest first."""
        self._shared: set[tuple[int, str]] = set()
        """Ports and protocols at which somebody outside was found when one of ours was bound there (SO_REUSEPORT):
        which of the two is reached the kernel decides anew each time."""
        self._quiet: dict[int, Bind] = {}
        self._network: int | None = None
        self.others_make_sockets = False
        """Whether a fenced program has made a socket in another network. Until then all are in ours, which is to be
        known where the kernel does not tell (before Linux 5.14)."""

    def network(self, sock: socket.socket | None = None) -> int:
        """The network of this socket; or ours."""
        if self._network is None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
                self._network = network_of(own)
        if sock is None:
            return self._network
        found = network_of(sock)
        if found == UNKNOWN_NETWORK and not self.others_make_sockets:
            return self._network
        return found

    def is_in_ours(self, sock: socket.socket) -> bool:
        return self._is_ours(self.network(sock))

    def _is_ours(self, network: int) -> bool:
        return network == self._network and (network != UNKNOWN_NETWORK or not self.others_make_sockets)

    def note_quiet_bind(self, socket_inode: int, request: Bind) -> None:
        """This socket is bound to what the rules do not allow: it is asked about, in these words, when it listens."""
        if len(self._quiet) >= _QUIET_MAX:
            del self._quiet[next(iter(self._quiet))]
        self._quiet[socket_inode] = request

    def forget_quiet_bind(self, socket_inode: int) -> None:
        self._quiet.pop(socket_inode, None)

    def quiet_bind(self, socket_inode: int) -> Bind | None:
        return self._quiet.get(socket_inode)

    def look_who_is_there(self, sock: socket.socket, host: str, port: int, proto: str) -> None:
        """To be called before one of ours is bound to an address with a port of the program's choice."""
        if proto in ("tcp", "udp") and self.is_in_ours(sock):
            if is_wildcard(host):
                host = "127.0.0.1" if ":" not in host else "::1"
            try:
                found = sockdiag.inet_receiver((host, port), (_LOOPBACK[":" in host], 0), udp=proto == "udp")
            except FenceUnavailable:
                return
            if found is not None and found not in self._ours:
                self._shared.add((port, proto))

    def _add_inode(self, inode: int) -> None:
        self._ours[inode] = None
        if len(self._ours) > _SOCKETS_MAX:
            del self._ours[next(iter(self._ours))]

    def add_port(self, bound: socket.socket, proto: str) -> None:
        """Of two addresses with the same port one may be a service of this host."""
        network = self.network(bound)
        ours = self._is_ours(network)
        if network == UNKNOWN_NETWORK and not ours:
            return
        host, port = bound.getsockname()[:2]
        if host == "::" and not bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            self._places.add((network, "0.0.0.0", port, proto))
        place = (network, host.partition("%")[0].removeprefix("::ffff:"), port, proto)
        self._places.add(place)
        if ours:
            inode = os.fstat(bound.fileno()).st_ino
            self._add_inode(inode)
            if port in RESOLVER_PORTS:
                self._inodes[place] = inode

    def has_port(self, host: str, port: int, proto: str, sender: socket.socket | None = None) -> bool:
        """Whether a socket bound inside answers at this loopback address; or nobody, and the last was one of ours.

        `sender`: who asks; None: one of the fence's own.
        """
        network = self.network(sender)
        wildcard, here = _NAMES_OF_LOOPBACK[":" in host]
        if host == wildcard:
            host = here
        places = self._places
        if (network, wildcard, port, proto) not in places and (network, host, port, proto) not in places:
            return False
        if sender is not None and not self._is_ours(network):
            return network != UNKNOWN_NETWORK
        there = self._receiver(host, port, proto, sender)
        return there is None or (there in self._ours and (port, proto) not in self._shared)

    @staticmethod
    def _receiver(host: str, port: int, proto: str, sender: socket.socket | None) -> int | None:
        """The socket that would be reached, by its inode; None if there is none, or the kernel does not tell."""
        if proto not in ("tcp", "udp"):
            return None
        source = _LOOPBACK[":" in host], 0
        if sender is not None and proto == "udp":
            # A connected socket takes messages from its peer only.
            own, own_port = sender.getsockname()[:2]
            own = own.partition("%")[0].removeprefix("::ffff:")
            source = (source[0] if is_wildcard(own) or (":" in own) != (":" in host) else own), own_port
        try:
            return sockdiag.inet_receiver((host, port), source, udp=proto == "udp")
        except FenceUnavailable:
            return None

    def has_name_server(self, host: str, port: int, proto: str, sender: socket.socket) -> bool:
        """The same for a port at which this host may have a resolver, who would carry everything to anywhere.

        Only at the very address, as long as the socket is open, and if nobody else has one there: of two UDP sockets
        with SO_REUSEADDR either gets what is sent. Nor at an address that programs are told to ask: a container leads
        packets to that to its own name server, whoever is bound there.
        """
        if not self.is_in_ours(sender):
            return False
        inode = self._inodes.get((self.network(), host, port, proto))
        if inode is None or _holders(host, port, proto) != {inode}:
            return False
        from fence_core.dns.resolv_conf import read_resolv_conf

        return host not in read_resolv_conf().nameservers


_LOOPBACK = ("127.0.0.1", "::1")
_NAMES_OF_LOOPBACK = (("0.0.0.0", "127.0.0.1"), ("::", "::1"))
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
