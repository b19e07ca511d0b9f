"""Where a socket may be connected, or what it sends may go: to where it asks, to one of ours, or nowhere."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.paths.resolve import AT_FDCWD
from fence_core.broker.services.sockets import (
    AF_UNSPEC,
    RESOLVER_PORTS,
    Address,
    Borrowed,
    is_loopback,
    is_wildcard,
    parse_address,
)
from fence_core.broker.services.tunnels import Tunnel
from fence_core.kernel import credentials
from fence_core.policy.requests import Connect, SocketOption, UnixConnect

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_SOCKADDR_UN = 110
"""sizeof(struct sockaddr_un): more than that is EINVAL (unix_validate_addr, net/unix/af_unix.c)."""


class Destination:
    """The verdict on where a socket is to go."""

    __slots__ = ("arrived", "by_kernel", "errno", "raw", "unsent")

    def __init__(
        self,
        raw: bytes = b"",
        errno: int = 0,
        *,
        by_kernel: bool = False,
        arrived: Callable[[Borrowed], None] | None = None,
        unsent: tuple[Connect, Address] | None = None,
    ) -> None:
        self.raw = raw
        """The address to use: the one that was asked for, spelled out, or one of ours."""
        self.errno = errno
        """Not 0: it is refused."""
        self.by_kernel = by_kernel
        """The kernel may as well carry the call out, whatever the address turns into: every one of the kind is
        allowed."""
        self.arrived = arrived
        """The address is one of ours. Called when the socket is connected: by the address of its own end, ours knows
        who is there."""
        self.unsent = unsent
        """It is refused; but a datagram socket may be connected, as that sends nothing. What was asked, and where it
        was to go."""


def _where_it_leads(borrowed: Borrowed, address: Address) -> Address:
    """The unspecified address as a destination, spelled out: the one that the socket is bound to, or loopback's.

    `ip_route_output_key_hash` and `tcp_v6_connect` have it so. What is judged is then what is connected to.
    """
    if not is_wildcard(address.host):
        return address
    own = str(borrowed.socket.getsockname()[0])
    own4 = own.removeprefix("::ffff:")
    if "." not in own4 or own4 == "0.0.0.0":
        own4 = ""
    if address.host == "::":
        host = "127.0.0.1" if own4 else "::1"
    else:
        host = own4 or "127.0.0.1"
    raw = address.raw
    if address.family == socket.AF_INET6:
        packed = socket.inet_pton(socket.AF_INET6, host if ":" in host else f"::ffff:{host}")
        raw = raw[:8] + packed + raw[24:]
    else:
        raw = raw[:4] + socket.inet_aton(host) + raw[8:]
    return Address(raw, address.family, host=host, port=address.port)


def judge_destination(call: Call, borrowed: Borrowed, address: Address, *, sends: bool = False) -> Destination:
    """Where a socket may be connected, or what it `sends` may go."""
    given = Destination(address.raw)
    if address.family == AF_UNSPEC and borrowed.domain != socket.AF_INET:
        return given  # dissolves the association
    if borrowed.domain == socket.AF_UNIX:
        if address.family != socket.AF_UNIX or address.path is None or len(address.raw) > _SOCKADDR_UN:
            return Destination(errno=errno.EINVAL)
        return _judge_unix(call, borrowed, address.path, address.raw)
    if not borrowed.is_inet:
        return given  # netlink
    family = address.raw[:2]
    if address.family == AF_UNSPEC:
        if borrowed.type == socket.SOCK_STREAM or len(address.raw) < 16 or not sends:
            return given
        # udp_connect dissolves too, but sendto reads AF_UNSPEC on an AF_INET socket as AF_INET (net/ipv4/udp.c)
        address = parse_address(struct.pack("=H", socket.AF_INET) + address.raw[2:]) or address
        if is_wildcard(address.host) and address.port == 0:
            return given
    if address.family not in (socket.AF_INET, socket.AF_INET6):
        return Destination(errno=errno.EAFNOSUPPORT)
    found = _judge_inet(call, borrowed, _where_it_leads(borrowed, address), sends)
    if found.raw and found.arrived is None:
        found.raw = family + found.raw[2:]  # as it came: AF_UNSPEC dissolves
    return found


def _judge_inet(call: Call, borrowed: Borrowed, address: Address, sends: bool) -> Destination:
    loopback, port, proto = is_loopback(address.host), address.port, borrowed.proto
    services = call.services
    inside = (
        loopback
        and port in RESOLVER_PORTS
        and services.inside.has_name_server(address.host, port, proto, borrowed.socket)
    )
    if not inside:
        led = _to_name_server(call, borrowed, address, loopback)
        if led is not None:
            return led
    name = None if loopback else services.names.name_of(address.host)
    request = Connect(name or address.host, port, proto, inside)
    if not loopback and port == 0 and proto == "udp" and not call.allowed(request):
        # libc sorts addresses by connecting a UDP socket to port 0 (RFC 6724): sends nothing, tells nobody.
        return Destination(address.raw, call.refuse(request, errno.EACCES, quietly=errno.ENETUNREACH))
    if name is not None:
        return _judge_name(call, borrowed, address, name, sends=sends)
    if loopback and services.tunnels.is_filter(address.host, port):
        return _judge_filter(call, address, Connect(address.host, port, proto, way="filter"))
    if loopback and services.ties.points_elsewhere(borrowed.fd):
        refused = call.ask(SocketOption("interface"), errno.EPERM)
        if refused:
            return Destination(errno=refused)
    if loopback and port not in RESOLVER_PORTS and _loopback_is_open(call):
        return Destination(address.raw)
    if (loopback and _is_inside(call, borrowed, address.host, port)) or call.allowed(request):
        return Destination(address.raw)
    if not sends and _sends_later(call, borrowed, request):
        return Destination(errno=errno.EACCES, unsent=(request, address))
    return Destination(address.raw, call.refuse(request, errno.EACCES))


def _to_name_server(call: Call, borrowed: Borrowed, address: Address, loopback: bool) -> Destination | None:
    """Where the socket of somebody's resolver is led: to ours, which answers for every name server. None: it is left
    alone."""
    names, host, port = call.services.names, address.host, address.port
    if port != 53 and not (loopback and names.serves(borrowed, host, port)):
        return None
    if borrowed.type not in (socket.SOCK_DGRAM, socket.SOCK_STREAM) or not call.enforcing():
        return None
    if not loopback and call.allowed(Connect(host, port, borrowed.proto)):
        return None
    redirect = names.address(borrowed.domain, borrowed.type)
    if redirect is None:
        return None
    process, tid = call.process, call.tid
    return Destination(redirect, arrived=lambda asker: names.expect(asker, process, address, tid))


def _loopback_is_open(call: Call) -> bool:
    """Whether every policy in force surely lets this process reach any port of loopback: what most do."""
    return all(judge.loopback_is_open for _, judge in call.process.account().judges)


def _sends_later(call: Call, borrowed: Borrowed, request: Connect) -> bool:
    """Whether a connect that is to be refused sends nothing by itself."""
    datagrams = borrowed.type == socket.SOCK_DGRAM and borrowed.proto == "udp"
    return datagrams and judging.would_refuse(call.process.account(), request)


def _is_inside(call: Call, borrowed: Borrowed, host: str, port: int) -> bool:
    """Whether whoever answers at this loopback address is one of ours. Asked only where not all of loopback is open: it
    costs a question to the kernel."""
    return port not in RESOLVER_PORTS and call.services.inside.has_port(host, port, borrowed.proto, borrowed.socket)


def _judge_name(call: Call, borrowed: Borrowed, address: Address, name: str, *, sends: bool) -> Destination:
    """A connection to a synthetic address: the program's socket is led to the filter."""
    port = address.port
    if borrowed.type != socket.SOCK_STREAM:
        # Nothing but TCP is carried. QUIC is tried beside it or falls back to it: no violation where TCP would be none.
        request = Connect(name, port, borrowed.proto)
        if call.allowed(Connect(name, port)):
            return Destination(address.raw, call.refuse(request, errno.EACCES, quietly=errno.ECONNREFUSED))
        if call.lets_learn(Connect(name, port)):
            return Destination(errno=errno.ECONNREFUSED)  # as above, when there will be a rule
        if not sends and _sends_later(call, borrowed, request):
            return Destination(errno=errno.EACCES, unsent=(request, address))
        return Destination(address.raw, call.refuse(request, errno.EACCES))
    if not call.waits():
        return Destination(errno=errno.EACCES)
    route = call.services.route(call.process, call.tid, name, port)
    if route.refusal is not None:
        return Destination(errno=errno.EHOSTUNREACH if route.absent else errno.EACCES)
    tunnel = Tunnel(call.process, call.tid, name, port, route.to, judging.upstream_proxy(call.process.account()))
    tunnels = call.services.tunnels
    return Destination(tunnels.raw_address(borrowed.domain), arrived=lambda opener: tunnels.announce(opener, tunnel))


def _judge_filter(call: Call, address: Address, request: Connect) -> Destination:
    """The filter by its own address: for programs that were told of a proxy (`proxy_env`), and for no others."""
    if not call.allowed(request):
        return Destination(address.raw, call.refuse(request, errno.EACCES))
    tunnel = Tunnel(call.process, call.tid, "", 0, None, judging.upstream_proxy(call.process.account()))
    tunnels = call.services.tunnels
    tunnels.address()  # it is started, if it was not
    return Destination(address.raw, arrived=lambda opener: tunnels.announce(opener, tunnel))


def _judge_unix(call: Call, borrowed: Borrowed, path: bytes, raw: bytes) -> Destination:
    nameless = borrowed.type == socket.SOCK_DGRAM and not borrowed.socket.getsockname()
    if nameless or borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED):
        # The kernel gives it an abstract name (unix_autobind): now, or when it sends, as soon as the program asks to be
        # told who sends (SO_PASSCRED, SO_PASSPIDFD), which it may do later.
        call.services.unix.add(borrowed.fd)
    if path[:1] == b"\0":
        inside = call.services.unix.has_abstract(borrowed.socket, path, borrowed.type, call.tid)
        if inside is None:
            return Destination(errno=errno.ECONNREFUSED)  # nobody has that name: the kernel's own answer
        request = UnixConnect(os.fsdecode(path), inside)
        if call.allowed(request):
            # Landlock's scope would refuse the program what the policy allows it: sockets made outside, ours too.
            return Destination(raw, by_kernel=inside and call.services.made is None and any_unix(call))
        return Destination(raw, call.refuse(request, errno.EACCES))
    located = call.locate(AT_FDCWD, path, follow=True)
    if located.errno:
        return Destination(errno=located.refusal(errno.ENOENT))
    if located.handle < 0:
        return Destination(errno=errno.ENOENT)
    status = os.fstat(located.handle)
    if not stat.S_ISSOCK(status.st_mode):
        may = credentials.of(call.tid).may_write(status)
        return Destination(errno=errno.ECONNREFUSED if may else errno.EACCES)
    inside = call.services.unix.has_file(located.handle, status, located.path)
    if inside is None:
        return Destination(errno=errno.ECONNREFUSED)  # made in here and closed: the kernel's own answer
    request = UnixConnect(located.path, inside)
    if not call.allowed(request):
        refused = call.refuse(request, errno.EACCES, quietly=errno.ECONNREFUSED)
        if refused:
            return Destination(errno=refused)
    # Through the descriptor that was judged: no name leads elsewhere by now.
    target = struct.pack("=H", socket.AF_UNIX) + b"/proc/self/fd/%d\0" % located.handle
    return Destination(target, by_kernel=any_unix(call))


def any_unix(call: Call) -> bool:
    """Whether all UNIX sockets are allowed: then the program connects and sends itself, and its peer sees its pid
    (SO_PEERCRED, SO_PASSCRED) and not the broker's.

    Not where Internet sockets are not tied to this machine: by then the descriptor could be one of those.
    """
    return all(
        binding.worker.scope.mode == "audit"
        or (binding.rules().network.allow_all_unix_sockets and not judge.lists_addresses)
        for binding, judge in call.process.account().judges
    )
