"""Addresses as the kernel reads them, and which Internet sockets count as bound inside."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker.services import sockets
from fence_core.broker.services.sockets import Borrowed, InsideSockets, is_loopback, is_wildcard, parse_address
from fence_core.policy.requests import Bind

# ---------------------------------------------------------------- addresses


def ipv4(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host)


def ipv6(host: str, port: int, scope: int = 0) -> bytes:
    head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0)
    return head + socket.inet_pton(socket.AF_INET6, host) + struct.pack("=I", scope)


def unix(name: bytes) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + name


@pytest.mark.parametrize(
    ("raw", "host", "port"),
    [
        (ipv4("127.0.0.1", 80), "127.0.0.1", 80),
        (ipv4("198.51.100.7", 65535) + bytes(8), "198.51.100.7", 65535),
        (ipv4("0.0.0.0", 0), "0.0.0.0", 0),
        (ipv6("::1", 443), "::1", 443),
        (ipv6("2001:db8::7", 443, scope=3), "2001:db8::7", 443),
        (ipv6("::ffff:198.51.100.7", 443), "198.51.100.7", 443),
        (ipv6("::ffff:0.0.0.0", 1), "0.0.0.0", 1),
        (ipv6("::", 1), "::", 1),
        (ipv6("::198.51.100.7", 1), "::198.51.100.7", 1),
        (ipv6("64:ff9b::198.51.100.7", 1), "64:ff9b::c633:6407", 1),
        (ipv6("::1", 443)[:24], "::1", 443),  # as before RFC 2553
    ],
)
def test_internet_addresses(raw: bytes, host: str, port: int) -> None:
    found = parse_address(raw)
    assert found is not None
    assert (found.host, found.port, found.path, found.raw) == (host, port, None, raw)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (unix(b"/tmp/socket"), b"/tmp/socket"),
        (unix(b"/tmp/socket\0"), b"/tmp/socket"),
        (unix(b"/tmp/socket\0garbage"), b"/tmp/socket"),
        (unix(b"relative"), b"relative"),
        (unix(b"\0abstract"), b"\0abstract"),
        (unix(b"\0abs\0tract\0"), b"\0abs\0tract\0"),
        (unix(b"\0"), b"\0"),
        (unix(b""), None),
    ],
)
def test_unix_addresses(raw: bytes, path: bytes | None) -> None:
    found = parse_address(raw)
    assert found is not None
    assert found.path == path


@pytest.mark.parametrize("raw", [b"", b"\2", ipv4("1.2.3.4", 5)[:7], ipv6("::1", 5)[:23]])
def test_what_is_too_short_is_no_address(raw: bytes) -> None:
    assert parse_address(raw) is None


def test_of_other_families_the_family_alone_is_known() -> None:
    found = parse_address(struct.pack("=H", socket.AF_NETLINK) + bytes(10))
    assert found is not None
    assert (found.family, found.host, found.path) == (socket.AF_NETLINK, "", None)


@given(st.binary(max_size=140))
def test_no_address_is_too_strange(raw: bytes) -> None:
    found = parse_address(raw)
    assert found is None or found.raw == raw


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_are_those_of_the_library(address: ipaddress.IPv4Address, port: int) -> None:
    raw = ipv4(str(address), port) if address.version == 4 else ipv6(str(address), port)
    found = parse_address(raw)
    assert found is not None
    mapped = getattr(address, "ipv4_mapped", None)
    assert ipaddress.ip_address(found.host) == (mapped or address)
    assert found.port == port


@given(st.integers(0, 65535), st.sampled_from(["127.0.0.1", "127.8.9.1"]))
def test_the_kernel_reads_them_so(port: int, host: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    raw = ipv4(host, 0) + bytes(8)
    with socket.socket() as sock:
        assert libc.bind(sock.fileno(), raw, len(raw)) == 0
        assert sock.getsockname()[0] == host
    found = parse_address(raw)
    assert found is not None
    assert found.host == host


@pytest.mark.parametrize(
    ("host", "loopback", "wildcard"),
    [
        ("127.0.0.1", True, False),
        ("127.255.0.3", True, False),
        ("::1", True, False),
        ("0.0.0.0", True, True),
        ("::", True, True),
        ("128.0.0.1", False, False),
        ("12.7.0.1", False, False),
        ("::2", False, False),
        ("1::", False, False),
    ],
)
def test_where_nothing_leaves_this_machine(host: str, loopback: bool, wildcard: bool) -> None:
    assert (is_loopback(host), is_wildcard(host)) == (loopback, wildcard)


# ---------------------------------------------------------------- borrowed sockets


@pytest.mark.parametrize(
    ("family", "kind", "proto", "is_inet"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "tcp", True),
        (socket.AF_INET6, socket.SOCK_DGRAM, "udp", True),
        (socket.AF_UNIX, socket.SOCK_STREAM, "0", False),
    ],
)
def test_its_facts_come_from_the_socket(family: int, kind: int, proto: str, is_inet: bool) -> None:
    with socket.socket(family, kind) as sock:
        borrowed = Borrowed(os.dup(sock.fileno()))
        assert (borrowed.domain, borrowed.type, borrowed.proto, borrowed.is_inet) == (family, kind, proto, is_inet)
        borrowed.close()
        sock.getsockname()  # the owner's is not closed with it


def test_a_socket_keeps_its_own_state() -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        borrowed = Borrowed(os.dup(sock.fileno()))
        assert os.get_blocking(sock.fileno()) is False
        borrowed.close()


def test_what_is_no_socket_stays_with_the_caller() -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="non-socket"):
        Borrowed(reading)
    os.close(reading)
    os.close(writing)


# ---------------------------------------------------------------- bound inside


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def bound(
    stack: ExitStack, host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM, *, listen: bool = True
) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, kind))
    sock.bind((host, 0))
    if listen and kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


@pytest.mark.parametrize(
    ("host", "asked", "inside"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.2", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "127.9.9.9", True),
        ("::1", "::1", True),
        ("::1", "127.0.0.1", False),
        ("::", "::1", True),
        ("::", "127.0.0.1", True),
    ],
)
def test_which_places_a_bound_socket_answers_at(stack: ExitStack, host: str, asked: str, inside: bool) -> None:
    known = InsideSockets()
    known.network()
    sock = bound(stack, host)
    known.add_port(sock, "tcp")
    assert known.has_port(asked, sock.getsockname()[1], "tcp") == inside


def test_other_ports_and_protocols_are_others(stack: ExitStack) -> None:
    known = InsideSockets()
    known.network()
    sock = bound(stack)
    port = sock.getsockname()[1]
    known.add_port(sock, "tcp")
    assert not known.has_port("127.0.0.1", port, "udp")
    other = bound(stack)
    assert not known.has_port("127.0.0.1", other.getsockname()[1], "tcp"), "nobody has said that it is ours"


def test_a_port_that_is_somebody_elses_by_now(stack: ExitStack) -> None:
    known = InsideSockets()
    known.network()
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        known.add_port(first, "tcp")
        assert known.has_port("127.0.0.1", port, "tcp")
    assert known.has_port("127.0.0.1", port, "tcp"), "nobody is there, and the last was ours"
    second = stack.enter_context(socket.socket())
    second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    second.bind(("127.0.0.1", port))
    second.listen()
    assert not known.has_port("127.0.0.1", port, "tcp")


def test_a_port_that_is_shared_with_somebody_outside(stack: ExitStack) -> None:
    """SO_REUSEPORT: which of the two is reached the kernel decides anew each time."""
    known = InsideSockets()
    known.network()
    theirs, ours = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (theirs, ours):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    theirs.bind(("127.0.0.1", 0))
    port = theirs.getsockname()[1]
    known.look_who_is_there(ours, "127.0.0.1", port, "udp")
    ours.bind(("127.0.0.1", port))
    known.add_port(ours, "udp")
    assert not known.has_port("127.0.0.1", port, "udp")


def test_a_connected_socket_takes_from_its_peer_only(stack: ExitStack) -> None:
    known = InsideSockets()
    known.network()
    server, peer, other = (bound(stack, kind=socket.SOCK_DGRAM) for _ in range(3))
    known.add_port(server, "udp")
    port = server.getsockname()[1]
    assert known.has_port("127.0.0.1", port, "udp", other)
    server.connect(peer.getsockname())
    assert known.has_port("127.0.0.1", port, "udp", peer)


def test_the_port_of_a_resolver_is_more_than_that(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    known = InsideSockets()
    known.network()
    server, sender = bound(stack, kind=socket.SOCK_DGRAM), bound(stack, kind=socket.SOCK_DGRAM)
    port = server.getsockname()[1]
    monkeypatch.setattr(sockets, "RESOLVER_PORTS", frozenset({port}))
    known.add_port(server, "udp")
    assert known.has_name_server("127.0.0.1", port, "udp", sender)
    assert not known.has_name_server("127.0.0.2", port, "udp", sender), "at the very address"
    assert not known.has_name_server("127.0.0.1", port, "tcp", sender)
    server.close()
    assert not known.has_name_server("127.0.0.1", port, "udp", sender), "as long as it is open"


def test_what_was_bound_quietly_is_asked_about_when_it_listens() -> None:
    known = InsideSockets()
    request = Bind("0.0.0.0", 80, "tcp")
    assert known.quiet_bind(7) is None
    known.note_quiet_bind(7, request)
    assert known.quiet_bind(7) is request
    known.forget_quiet_bind(7)
    known.forget_quiet_bind(7)
    assert known.quiet_bind(7) is None


def test_what_is_remembered_of_quiet_binds_is_bounded() -> None:
    known = InsideSockets()
    request = Bind("0.0.0.0", 80, "tcp")
    for inode in range(sockets._QUIET_MAX + 5):
        known.note_quiet_bind(inode, request)
    assert known.quiet_bind(4) is None, "the oldest go first"
    assert known.quiet_bind(5) is request
