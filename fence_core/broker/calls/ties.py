"""Keeping Internet sockets on this machine: what is tied to the loopback interface, and when.

* An ordinary socket is tied (SO_BINDTODEVICE) before the program gets it, unless the policy lists addresses outside.
* With `expose_ports` a TCP socket is tied when it is first used, since without privileges a tie cannot be undone.
* Where addresses outside are listed, a socket that listens is tied all the same; a UDP socket, which may be a client
  and a server at once, gets a filter instead: it receives from this machine, and from whom it may send to.

The program is not to notice: see `options`. What it is told of ties of its own making, `broker/services/ties.py`
remembers.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import struct
from typing import TYPE_CHECKING

from fence_core.broker.calls.registers import SO_BINDTODEVICE, SO_BINDTOIFINDEX
from fence_core.broker.services.sockets import AF_UNSPEC, is_loopback, parse_address
from fence_core.kernel import libc
from fence_core.policy.domains import Network, parse_pattern

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.services.sockets import Borrowed
    from fence_core.policy.model import Policy

_SO_ATTACH_FILTER = 26
_SO_LOCK_FILTER = 44
LOOPBACK_IFINDEX = 1
"""In every network namespace (include/net/net_namespace.h)."""


_setsockopt = libc.function(
    "setsockopt", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)


def set_option(fd: int, level: int, name: int, value: bytes | None, size: int | None = None) -> int:
    """setsockopt(2): the error number."""
    length = len(value or b"") if size is None else size
    return ctypes.get_errno() if _setsockopt(fd, level, name, value, length) < 0 else 0


def lists_addresses(call: Call) -> bool:
    """Whether the policy lists addresses outside, so that sockets are not tied when they are made; or would, when there
    are the rules that are learnt."""
    return all(
        judge.lists_addresses or binding.worker.scope.mode == "learn"
        for binding, judge in call.process.account().judges
    )


def exposes(call: Call) -> bool:
    """Whether the policy has ports for other machines."""
    return all(binding.rules().network.expose_ports for binding, _ in call.process.account().judges)


def is_exposed(call: Call, port: int) -> bool:
    return all(port in binding.rules().network.expose_ports for binding, _ in call.process.account().judges)


def tie_new(call: Call, fd: int, kind: int) -> None:
    """A socket that no program has yet."""
    if kind != socket.SOCK_STREAM or not exposes(call):
        _tie(call, fd)
        if kind == socket.SOCK_DGRAM and not exposes(call):
            shut_to_others(call, fd)


def tie_late(call: Call, borrowed: Borrowed) -> None:
    """A TCP socket that was left alone until it is seen what it is for."""
    if borrowed.is_inet and borrowed.type == socket.SOCK_STREAM and exposes(call):
        _tie(call, borrowed.fd)


def tie_again(call: Call, borrowed: Borrowed, interface: int) -> None:
    """A datagram socket that was tied to this interface, and has been dissolved: the kernel takes ties away with the
    peer (__udp_disconnect, net/ipv4/udp.c). The program's own is gone, ours is not."""
    if interface == LOOPBACK_IFINDEX:
        if call.enforcing() and call.services.inside.is_in_ours(borrowed.socket):
            set_option(borrowed.fd, socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")
            call.services.ties.say_loopback(borrowed.fd, False)
    else:
        call.services.ties.point_elsewhere(borrowed.fd, (socket.SOL_SOCKET, SO_BINDTODEVICE), False)


def _tie(call: Call, fd: int) -> None:
    if call.enforcing() and not lists_addresses(call):
        set_option(fd, socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")


def tie_server(call: Call, borrowed: Borrowed) -> int:
    """A TCP socket that is about to listen: tied, unless its port is exposed. The error number if it cannot be.

    To an address of this machine that is not loopback's, nobody comes by way of a tie, this machine included
    (ip_route_output_key_hash_rcu, net/ipv4/route.c): there a filter drops what comes from others, if the kernel lets
    this user have one on TCP (Linux 6.18 does not).
    """
    if not borrowed.is_inet or tied_to(borrowed.socket) == LOOPBACK_IFINDEX:
        return 0
    host, port = borrowed.socket.getsockname()[:2]
    if is_exposed(call, port) or not call.enforcing() or not call.services.inside.is_in_ours(borrowed.socket):
        return 0
    own = lists_addresses(call) and not is_loopback(host.removeprefix("::ffff:"))
    if own and (call.services.ties.is_shut(borrowed.fd) or not _lock_filter(call, borrowed.fd, _LOOPBACK_ONLY)):
        return 0
    return set_option(borrowed.fd, socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")


def tied_to(sock: socket.socket) -> int:
    """The number of the interface that a socket is tied to, by whomever; 0 if to none."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX)
    except OSError:
        return 0


def shut_to_others(call: Call, fd: int) -> None:
    """A UDP socket in our network that is not tied, and is about to get a port: other machines are not to use it as a
    server. The filter is locked, or the program could take it away; where it has locked one of its own, or the kernel
    does not take one of this size, the socket is tied after all."""
    if not lists_addresses(call) or not call.enforcing() or call.services.ties.is_shut(fd):
        return
    if call.learns():
        return  # nobody knows yet whose answers it will be allowed
    program = receives_from(tuple(binding.rules() for binding, _ in call.process.account().judges))
    if _lock_filter(call, fd, program):
        set_option(fd, socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")


def _lock_filter(call: Call, fd: int, program: bytes) -> int:
    """Have a socket receive only what the filter lets through, for good. The error number."""
    code = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))  # struct sock_fprog
    failed = set_option(fd, socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)
    failed = failed or set_option(fd, socket.SOL_SOCKET, _SO_LOCK_FILTER, struct.pack("@i", 1))
    if not failed:
        call.services.ties.note_shut(fd)
    return failed


_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_LD_W_ABS, _LD_H_ABS, _LD_B_ABS, _AND, _JEQ, _JA, _RET = 0x20, 0x28, 0x30, 0x54, 0x15, 0x05, 0x06  # linux/bpf_common.h
_NET = -0x100000  # SKF_NET_OFF, include/uapi/linux/filter.h: offsets from the network header
_INTERFACE = -0x1000 + 8  # SKF_AD_OFF + SKF_AD_IFINDEX
_ALL = 0xFFFF_FFFF
_FROM_LOOPBACK = [(_LD_W_ABS, 0, 0, _INTERFACE & _ALL), (_JEQ, 0, 1, LOOPBACK_IFINDEX), (_RET, 0, 0, _ALL)]
_LOOPBACK_ONLY = b"".join(_INSTRUCTION.pack(*step) for step in (*_FROM_LOOPBACK, (_RET, 0, 0, 0)))


@functools.lru_cache(maxsize=64)
def receives_from(policies: tuple[Policy, ...]) -> bytes:
    """A socket filter (BPF): what comes from loopback, and from addresses and ports that all these policies list."""
    code = list(_FROM_LOOPBACK)
    for policy in policies:
        denied = [found for entry in policy.network.denied_domains for found in _sources(entry.text)]
        allowed = [found for entry in policy.network.allowed_domains for found in _sources(entry.text, every=False)]
        tests = [(found, False) for found in denied] + [(found, True) for found in allowed]
        blocks = [_matches(*found) for found, _ in tests]
        left = sum(len(block) + 1 for block in blocks) + 1
        for block, (_, lets_through) in zip(blocks, tests, strict=True):
            code += block
            left -= len(block) + 1
            # To the next policy, over the rest of this one; or not at all.
            code.append((_JA, 0, 0, left) if lets_through else (_RET, 0, 0, 0))
        code.append((_RET, 0, 0, 0))
    code.append((_RET, 0, 0, _ALL))
    return b"".join(_INSTRUCTION.pack(*step) for step in code)


def _sources(text: str, *, every: bool = True) -> list[tuple[Network, int | None]]:
    """The networks that a rule speaks of. `every`: whether "*" means addresses, too, as it does where it forbids."""
    pattern = parse_pattern(text)
    if pattern.every and every:
        return [(Network(4, 0, 0), pattern.port), (Network(6, 0, 0), pattern.port)]
    return [] if pattern.network is None else [(pattern.network, pattern.port)]


def _matches(network: Network, port: int | None) -> list[tuple[int, int, int, int]]:
    """Instructions that end where the packet comes from there, and otherwise jump one further than their end."""
    code: list[tuple[int, int, int, int]] = [
        (_LD_B_ABS, 0, 0, _NET & _ALL),
        (_AND, 0, 0, 0xF0),
        (_JEQ, 0, 0, network.version << 4),
    ]
    words = 1 if network.version == 4 else 4
    start = 12 if network.version == 4 else 8
    prefix = network.prefix
    for number in range(words):
        bits = min(max(prefix - 32 * number, 0), 32)
        if bits:
            mask = _ALL << (32 - bits) & _ALL
            value = network.value >> 32 * (words - 1 - number) & _ALL
            code += [
                (_LD_W_ABS, 0, 0, _NET + start + 4 * number & _ALL),
                (_AND, 0, 0, mask),
                (_JEQ, 0, 0, value & mask),
            ]
    if port is not None:
        code += [(_LD_H_ABS, 0, 0, 0), (_JEQ, 0, 0, port)]
    return [
        (op, 0, len(code) - index, value) if op == _JEQ else (op, yes, no, value)
        for index, (op, yes, no, value) in enumerate(code)
    ]


def peer_is_here(borrowed: Borrowed) -> bool:
    """Whether a socket is connected to this machine's loopback."""
    try:
        return is_loopback(str(borrowed.socket.getpeername()[0]).removeprefix("::ffff:"))
    except OSError:
        return False


def leads_here(raw: bytes) -> bool:
    """Whether a raw address is one of loopback. AF_UNSPEC is read as AF_INET, as by sendto(2) (net/ipv4/udp.c)."""
    address = parse_address(raw)
    if address is not None and address.family == AF_UNSPEC:
        address = parse_address(struct.pack("=H", socket.AF_INET) + raw[2:])
    return address is not None and is_loopback(address.host)
