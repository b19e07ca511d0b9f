"""setsockopt(2) and getsockopt(2), where an option leads messages elsewhere or has the kernel send some itself.

What arrives here is in `table.py`; each is carried out on the borrowed socket with a copied value, never continued: the
descriptor could be another socket's by then. Sockets in a network of the program's own are free.

* The tie to loopback is ours, so the program sees what it would see without: see `_bind_to_device`.
* An interface for what is sent (IP_UNICAST_IF, IPV6_PKTINFO, ...): the kernel takes none but loopback on a tied socket.
  A socket of our own, which is not tied and sends nothing, tells what it would have said. Where addresses outside are
  listed the option holds, but not for messages to this machine, which would leave it.
* A route (IP_OPTIONS, IPV6_RTHDR, and the options of IPV6_FLOWLABEL_MGR) is refused.
* Whoever joins a multicast group has the kernel announce group and sources on that interface (IGMP, MLD). It is joined
  on loopback instead, unless the policy lists the group.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import nullcontext
from typing import TYPE_CHECKING

from fence_core.broker.calls.arguments import signed
from fence_core.broker.calls.borrowing import on_socket
from fence_core.broker.calls.registers import SO_BINDTODEVICE, SO_BINDTOIFINDEX
from fence_core.broker.calls.ties import (
    LOOPBACK_IFINDEX,
    lists_addresses,
    peer_is_here,
    set_option,
    tied_to,
)
from fence_core.broker.reply import CONTINUE, Reply, Value
from fence_core.kernel import credentials, memory
from fence_core.kernel.credentials import CAP_NET_RAW
from fence_core.policy.requests import Connect, SocketOption

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.services.sockets import Borrowed

__all__ = [
    "getsockopt",
    "is_interface",
    "is_judged",
    "kernel_says",
    "not_tied",
    "setsockopt",
    "tie_of_server",
]


_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
_FLOWLABEL_MGR = (_IPV6, 32)
_FLOWLABEL_SIZE = 32  # sizeof(struct in6_flowlabel_req): options follow
_ROUTES = frozenset({(_IP, 4), (_IPV6, 6), (_IPV6, 57), _FLOWLABEL_MGR})
"""IP_OPTIONS, IPV6_2292PKTOPTIONS, IPV6_RTHDR."""
_MULTICAST_INTERFACES = frozenset({(_IP, 32), (_IPV6, 17)})
"""IP_MULTICAST_IF, IPV6_MULTICAST_IF: for groups only, which are judged when something is sent there."""
_INTERFACES = frozenset({(_IP, 50), (_IPV6, 76), (_IPV6, 50)})
"""IP_UNICAST_IF, IPV6_UNICAST_IF, IPV6_PKTINFO."""
_GROUPS = frozenset({*((level, name) for level in (_IP, _IPV6) for name in range(42, 49))})
"""MCAST_JOIN_GROUP to MCAST_MSFILTER: the interface comes first, as a number, and the group eight bytes on."""
_MEMBERSHIPS = frozenset({(_IP, 35), (_IP, 36)})
"""IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP: struct ip_mreq or ip_mreqn."""
_SOURCES = {(_IP, 37): 4, (_IP, 38): 4, (_IP, 39): 4, (_IP, 40): 4, (_IP, 41): 4}
"""IP_UNBLOCK_SOURCE, IP_BLOCK_SOURCE, IP_ADD_SOURCE_MEMBERSHIP, IP_DROP_SOURCE_MEMBERSHIP, IP_MSFILTER: where the
address of the interface is, behind the group."""
_MEMBERSHIPS_6 = frozenset({(_IPV6, 20), (_IPV6, 21), (_IPV6, 27), (_IPV6, 28)})
"""IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP, IPV6_JOIN_ANYCAST, IPV6_LEAVE_ANYCAST: struct ipv6_mreq."""
_JOINS = frozenset({(_IP, 35), (_IP, 39), (_IPV6, 20), (_IP, 42), (_IP, 46), (_IPV6, 42), (_IPV6, 46)})
_LEAVES = frozenset({(_IP, 36), (_IP, 40), (_IPV6, 21), (_IP, 45), (_IP, 47), (_IPV6, 45), (_IPV6, 47)})
_SOURCE_AT = {(_IP, 39): 8, (_IP, 40): 8, **dict.fromkeys([(a, b) for a in (_IP, _IPV6) for b in (46, 47)], 136)}
"""Where the sender is named."""
_PRIVILEGED = frozenset({(_IP, 4), (_IPV6, 27), (_IPV6, 28)})
_VALUE_MAX = 1 << 17
"""More than any `net.core.optmem_max` allows by default."""
_NAME_MAX = 15  # IFNAMSIZ, without the NUL


@on_socket
def setsockopt(call: Call, borrowed: Borrowed) -> Reply:
    option = signed(call.args[1]), signed(call.args[2])
    size = signed(call.args[4])
    if size < 0:
        return errno.EINVAL
    if size > _VALUE_MAX:
        return errno.ENOBUFS
    value = memory.read(call.tid, call.args[3], size) if size and call.args[3] else b""
    if size and not call.args[3]:
        return errno.EFAULT
    if not call.waits():
        return errno.EINTR
    own = borrowed.is_inet and call.services.inside.is_in_ours(borrowed.socket)
    if not own and borrowed.is_inet and (option[0] == socket.SOL_SOCKET or option in _PRIVILEGED) and os.geteuid():
        return CONTINUE  # with rights in a network of its own, which we do not have; on one of ours they mean nothing
    if own and option in _ROUTES:
        return _route(call, borrowed, option, value)
    if not own or not call.enforcing():
        return _carry_out(call, borrowed, option, value, own=own)
    if option[0] == socket.SOL_SOCKET:
        return _bind_to_device(call, borrowed, option[1], value)
    if option in _MULTICAST_INTERFACES or option in _INTERFACES:
        return _interface(call, borrowed, option, value)
    if option in _GROUPS or option in _MEMBERSHIPS or option in _SOURCES or option in _MEMBERSHIPS_6:
        return _group(call, borrowed, option, value)
    return _carry_out(call, borrowed, option, value, own=True)


def _carry_out(call: Call, borrowed: Borrowed, option: tuple[int, int], value: bytes, *, own: bool) -> int | Value:
    """In a network of its own nothing is kept from a program, whatever its rights are here."""
    with call.services.identities.acting_as(call.tid) if own else nullcontext():
        return set_option(borrowed.fd, *option, value) or Value(0)


def kernel_says(call: Call, borrowed: Borrowed, option: tuple[int, int], value: bytes) -> int:
    """What the kernel would answer on a socket of this kind that is not tied: the error number."""
    with (
        socket.socket(borrowed.domain, borrowed.type, borrowed.protocol) as probe,
        call.services.identities.acting_as(call.tid),
    ):
        return set_option(probe.fileno(), *option, value)


def is_judged(option: tuple[int, int]) -> bool:
    """Whether it is one of those that lead messages elsewhere; or else is only among their numbers."""
    return (
        option[0] == socket.SOL_SOCKET
        or option in _ROUTES
        or option in _INTERFACES
        or option in _MULTICAST_INTERFACES
        or option in _GROUPS
        or option in _MEMBERSHIPS
        or option in _SOURCES
        or option in _MEMBERSHIPS_6
    )


# ---------------------------------------------------------------- ties


def _bind_to_device(call: Call, borrowed: Borrowed, name: int, value: bytes) -> int | Value:
    """SO_BINDTODEVICE and SO_BINDTOIFINDEX, answered in the order of sock_setbindtodevice (net/core/sock.c): is there
    such an interface, is the socket tied already (as far as the program knows), and only then ours."""
    fd = borrowed.fd
    wanted, failed = _interface_of_tie(name, value)
    if failed:
        return failed
    really = tied_to(borrowed.socket)
    ours = really == LOOPBACK_IFINDEX and not call.services.ties.said_loopback(fd)
    if really and not ours and not credentials.of(call.tid).may(CAP_NET_RAW):
        return errno.EPERM
    if wanted < 0:
        return errno.EINVAL
    option = (socket.SOL_SOCKET, SO_BINDTODEVICE)
    if wanted in (0, LOOPBACK_IFINDEX):
        if not ours and (really or wanted):
            if wanted == 0 and not lists_addresses(call):
                pass  # it stays where it is: what was the program's tie is ours from now on
            else:
                failed = _tie_to(call, borrowed, wanted)
                if failed:
                    return failed
        call.services.ties.say_loopback(fd, wanted == LOOPBACK_IFINDEX)
        call.services.ties.point_elsewhere(fd, option, False)
        return Value(0)
    option_name = "SO_BINDTODEVICE" if name == SO_BINDTODEVICE else "SO_BINDTOIFINDEX"
    port = borrowed.socket.getsockname()[1] if ours else -1
    refused = call.ask(SocketOption("tie", option_name, port), errno.EPERM)
    if not refused and peer_is_here(borrowed):
        refused = call.ask(SocketOption("interface"), errno.EPERM)
    if refused:
        return refused
    failed = _tie_to(call, borrowed, wanted)
    if not failed:
        call.services.ties.say_loopback(fd, False)
        call.services.ties.point_elsewhere(fd, option, True)
    return failed or Value(0)


def _interface_of_tie(name: int, value: bytes) -> tuple[int, int]:
    """The number of the interface, 0 for none; or else an error number."""
    if name == SO_BINDTODEVICE:
        device = value[:_NAME_MAX].split(b"\0", 1)[0]
        try:
            return socket.if_nametoindex(os.fsdecode(device)) if device else 0, 0
        except OSError:
            return 0, errno.ENODEV
    return (struct.unpack_from("@i", value)[0], 0) if len(value) >= 4 else (0, errno.EINVAL)


def tie_of_server(call: Call, name: int, value: bytes, port: int) -> Reply:
    """The same for a socket that cannot be looked at, and listens at this port: a tie of ours stays."""
    wanted, failed = _interface_of_tie(name, value)
    if failed or wanted < 0:
        return failed or errno.EINVAL
    if wanted in (0, LOOPBACK_IFINDEX):
        return Value(0)
    option = SocketOption("tie", "SO_BINDTODEVICE" if name == SO_BINDTODEVICE else "SO_BINDTOIFINDEX", port)
    return call.ask(option, errno.EPERM)


def _tie_to(call: Call, borrowed: Borrowed, interface: int) -> int:
    with call.services.identities.acting_as(call.tid):
        return set_option(borrowed.fd, socket.SOL_SOCKET, SO_BINDTOIFINDEX, struct.pack("@i", interface))


@on_socket
def getsockopt(call: Call, borrowed: Borrowed) -> Reply:
    """Only what tells of a tie: one of ours is not told. Source: sock_getbindtodevice, net/core/sock.c."""
    if (
        not borrowed.is_inet
        or tied_to(borrowed.socket) != LOOPBACK_IFINDEX
        or not call.services.inside.is_in_ours(borrowed.socket)
        or call.services.ties.said_loopback(borrowed.fd)
        or not call.enforcing()
    ):
        return CONTINUE
    return not_tied(call)


def not_tied(call: Call) -> Reply:
    """The answer to who asks for the tie of a socket that has none."""
    room = int.from_bytes(memory.read(call.tid, call.args[4], 4), "little", signed=True)
    if room < 0:
        return errno.EINVAL
    size = 0
    if signed(call.args[2]) == SO_BINDTOIFINDEX:
        size = min(room, 4)
        memory.write(call.tid, call.args[3], bytes(size))
    memory.write(call.tid, call.args[4], size.to_bytes(4, "little"))
    return Value(0)


# ---------------------------------------------------------------- routes and interfaces


def _route(call: Call, borrowed: Borrowed, option: tuple[int, int], value: bytes) -> int | Value:
    plain = not value or (option == _FLOWLABEL_MGR and len(value) <= _FLOWLABEL_SIZE)
    if plain:
        return _carry_out(call, borrowed, option, value, own=True)
    if option[0] == _IP and not credentials.of(call.tid).may(CAP_NET_RAW):
        # The kernel takes no route from those, but other options.
        return _carry_out(call, borrowed, option, value, own=True)
    failed = kernel_says(call, borrowed, option, value)
    if failed:
        return failed
    return call.ask(SocketOption("route"), errno.EPERM) or _carry_out(call, borrowed, option, value, own=True)


def _interface(call: Call, borrowed: Borrowed, option: tuple[int, int], value: bytes) -> int | Value:
    """On a tied socket the option says nothing that counts: what leaves loopback is refused when it is sent."""
    failed = kernel_says(call, borrowed, option, value)
    if failed:
        return failed
    elsewhere = _named_interface(option, value) not in (0, LOOPBACK_IFINDEX)
    if elsewhere and option in _INTERFACES and peer_is_here(borrowed) and tied_to(borrowed.socket) != LOOPBACK_IFINDEX:
        refused = call.ask(SocketOption("interface"), errno.EPERM)
        if refused:
            return refused
    failed = set_option(borrowed.fd, *option, value)
    if failed:
        return Value(0) if tied_to(borrowed.socket) == LOOPBACK_IFINDEX else failed
    if option in _INTERFACES:
        call.services.ties.point_elsewhere(borrowed.fd, option, elsewhere)
    return Value(0)


def _named_interface(option: tuple[int, int], value: bytes) -> int:
    if option == (_IPV6, 50):
        return int.from_bytes(value[16:20], "little")
    return int.from_bytes(value[:4], "big") if option in _INTERFACES else 0


# ---------------------------------------------------------------- multicast


def _group(call: Call, borrowed: Borrowed, option: tuple[int, int], value: bytes) -> int | Value:
    found = _on_loopback(option, value)
    if found is None:
        return _carry_out(call, borrowed, option, value, own=True)  # too short: the kernel says so
    group, interface, changed = found
    if lists_addresses(call) and call.allowed(Connect(group, 0, "igmp")):
        return _carry_out(call, borrowed, option, value, own=True)
    elsewhere = interface != LOOPBACK_IFINDEX and not str(interface).startswith("127.")
    if elsewhere and not _is_there(interface, group):
        return errno.ENODEV
    member = (group, interface, value[_SOURCE_AT[option] :] if option in _SOURCE_AT else b"")
    if option in _LEAVES and not call.services.ties.leave(borrowed.fd, member):
        return Value(0)  # it is a member for another interface of the program's
    with call.services.identities.acting_as(call.tid):
        failed = set_option(borrowed.fd, *option, changed)
    # Two interfaces of the program's are one to the kernel.
    known = option in _JOINS and failed in (0, errno.EADDRINUSE, errno.EADDRNOTAVAIL)
    if known and call.services.ties.join(borrowed.fd, member, is_new=not failed):
        return Value(0)
    return failed or Value(0)


def _on_loopback(option: tuple[int, int], value: bytes) -> tuple[str, int | str, bytes] | None:
    """The group, the interface by number or address, and the value with that of loopback; None if it is too short."""
    loopback = struct.pack("@i", LOOPBACK_IFINDEX)
    if option in _GROUPS:
        if len(value) < 8 + 28:
            return None
        (family,) = struct.unpack_from("@H", value, 8)
        group = _text(value[12:16]) if family == socket.AF_INET else _text(value[16:32])
        return group, int.from_bytes(value[:4], "little"), loopback + value[4:]
    if option in _MEMBERSHIPS_6:
        if len(value) < 20:
            return None
        return _text(value[:16]), int.from_bytes(value[16:20], "little"), value[:16] + loopback + value[20:]
    if len(value) < 8:
        return None
    group, address = _text(value[:4]), _text(value[4:8])
    if option in _SOURCES:
        return group, address, value[:4] + socket.inet_aton("127.0.0.1") + value[8:]
    named = int.from_bytes(value[8:12], "little") if len(value) >= 12 else 0
    return group, named or address, value[:8] + loopback


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def is_interface(number: int) -> bool:
    """Whether our network has an interface of this number."""
    try:
        socket.if_indextoname(number)
    except (OSError, OverflowError):
        return False
    return True


def _is_there(interface: int | str, group: str) -> bool:
    """Whether the kernel would find this interface; by none, the one that the group is routed to."""
    if isinstance(interface, int) and interface:
        return is_interface(interface)
    try:
        family = socket.AF_INET6 if ":" in group else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if interface in (0, "0.0.0.0"):
                probe.connect((group, 9))  # sends nothing
            else:
                probe.bind((str(interface), 0))
    except OSError:
        return False
    return True
