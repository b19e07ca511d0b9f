"""Who may use a UDP server where addresses outside are listed: the filter that its socket gets, packet by packet."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from pathlib import Path

import pytest

from fence_core.broker.calls.ties import receives_from
from fence_core.broker.services.ties import Ties
from fence_core.policy.model import Policy, Source
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay

LOOPBACK, OTHER = 1, 2


def policy(allowed: list[str], denied: list[str] | None = None) -> Policy:
    rules = {"allowed_domains": allowed, "denied_domains": denied or []}
    return merge(Policy(), parse_overlay({"network": rules}, source=Source("test"), base_dir=Path("/")))


def takes(program: bytes, source: str, port: int, interface: int = OTHER) -> bool:
    """What the kernel's machine makes of it (Documentation/networking/filter.rst). The packet begins at its network
    header; plain offsets count from the UDP header."""
    address = ipaddress.ip_address(source)
    if address.version == 4:
        network = b"\x45" + bytes(11) + address.packed + bytes(4)
    else:
        network = b"\x60" + bytes(7) + address.packed + bytes(16)
    udp = struct.pack("!HHHH", port, 5353, 8, 0)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        op, yes, no, k = steps[at]
        at += 1
        if op == 0x06:
            return bool(k)
        if op == 0x05:
            at += k
        elif op == 0x15:
            at += yes if value == k else no
        elif op == 0x54:
            value &= k
        else:
            size = {0x20: 4, 0x28: 2, 0x30: 1}[op]
            if k == 0xFFFFF008:  # SKF_AD_OFF + SKF_AD_IFINDEX
                value = interface
            elif k >= 0xFFF00000:  # SKF_NET_OFF
                value = int.from_bytes(network[k - 0xFFF00000 :][:size], "big")
            else:
                value = int.from_bytes(udp[k:][:size], "big")


@pytest.mark.parametrize(
    ("source", "port", "taken"),
    [
        ("203.0.113.7", 443, True), ("203.0.113.7", 444, False), ("203.0.113.8", 443, False),
        ("10.200.3.4", 1, True), ("11.0.0.1", 1, False), ("10.9.9.9", 1, False),
        ("2001:db8:5::1", 53, True), ("2001:db8:5::1", 54, False), ("2001:db8:6::1", 53, False),
        ("fd00::1", 9, True), ("fd00::2", 9, False), ("127.0.0.1", 9, False),
    ],
)  # fmt: skip
def test_one_policy(source: str, port: int, taken: bool) -> None:
    listed = ["203.0.113.7:443", "10.0.0.0/8", "[2001:db8:5::/48]:53", "fd00::1", "name.example"]
    program = receives_from((policy(listed, ["10.9.0.0/16", "other.example"]),))
    assert takes(program, source, port) is taken
    assert takes(program, source, port, LOOPBACK)


@pytest.mark.parametrize(
    ("source", "taken"), [("10.1.0.1", True), ("10.2.0.1", False), ("10.1.9.9", False), ("192.0.2.1", False)]
)
def test_nested_policies(source: str, taken: bool) -> None:
    """A session inside of one can only narrow."""
    inner, outer = policy(["192.0.2.1", "10.1.0.0/16", "10.2.0.0/16"]), policy(["10.1.0.0/16"], ["10.1.9.0/24"])
    for policies in (inner, outer), (outer, inner):
        program = receives_from(policies)
        assert takes(program, source, 1) is taken
        assert takes(program, source, 1, LOOPBACK)


def test_the_kernel_takes_it() -> None:
    many = policy([f"10.{n}.0.0/16:53" for n in range(100)] + [f"[2001:db8:{n:x}::/48]:53" for n in range(20)])
    program = receives_from((many, many))
    code = ctypes.create_string_buffer(program, len(program))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))


def test_memberships() -> None:
    """Of one group on two interfaces, which are one to the kernel."""
    ties = Ties()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fd = sock.fileno()
        one, two = ("239.1.2.3", "192.0.2.2", b""), ("239.1.2.3", 7, b"")
        assert ties.join(fd, one, is_new=True)
        assert not ties.join(fd, one, is_new=False)
        assert ties.join(fd, two, is_new=False)
        assert not ties.leave(fd, one)
        assert ties.leave(fd, two)
        assert ties.leave(fd, two)  # the kernel is to say that it is none
