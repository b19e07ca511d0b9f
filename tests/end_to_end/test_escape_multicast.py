"""Joining a multicast group has the kernel tell the network of it: which group, and which senders."""

from __future__ import annotations

import socket

from tests.end_to_end import wire as wires
from tests.end_to_end.caught import Fenced
from tests.end_to_end.wire import Wire

pytestmark = wires.needs
wire = wires.wire

JOINS = """
import socket, struct
import pytest

OUT = socket.if_nametoindex("out0")
HERE = socket.inet_aton("192.0.2.2")
ANY = bytes(4)

def v4(last): return socket.inet_aton(f"239.83.69.{last}")
def v6(last): return b"\\xff\\x05" + b"SECRET" + bytes(7) + bytes([last])
def sockaddr(address):
    if len(address) == 4:
        return struct.pack("=HH4s120x", socket.AF_INET, 0, address)
    return struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, address, 0)
def group_req(group, source=None):
    return struct.pack("@I4x", OUT) + sockaddr(group) + (sockaddr(source) if source else b"")
def group_filter(group, *sources):
    mode = struct.pack("@II", 1, len(sources))
    return struct.pack("@I4x", OUT) + sockaddr(group) + mode + b"".join(map(sockaddr, sources))

S4, S6 = socket.inet_aton("198.51.100.83"), b"\\x20\\x01" + b"SECRET" + bytes(8)
JOINED = {
    "mreq": (0, 35, v4(1) + HERE),
    "mreq-any": (0, 35, v4(2) + ANY),
    "mreqn": (0, 35, v4(3) + ANY + struct.pack("@i", OUT)),
    "source": (0, 39, v4(4) + HERE + S4),
    "mcast": (0, 42, group_req(v4(5))),
    "mcast-source": (0, 46, group_req(v4(6), S4)),
    "6-mreq": (41, 20, v6(1) + struct.pack("@i", OUT)),
    "6-any": (41, 20, v6(2) + struct.pack("@i", 0)),
    "6-mcast": (41, 42, group_req(v6(3))),
    "6-mcast-source": (41, 46, group_req(v6(4), S6)),
}
GROUPS = [value[:4] if level == 0 and name < 42 else value[12:16] if level == 0 else
          value[:16] if name < 42 else value[16:32] for level, name, value in JOINED.values()]

def joined(way, family=None):
    level, name, value = JOINED[way]
    s = socket.socket(family or (socket.AF_INET if level == 0 else socket.AF_INET6), socket.SOCK_DGRAM)
    s.setsockopt(level, name, value)
    return s

@pytest.mark.parametrize("way", JOINED)
def test_join(way):
    joined(way).close()

def test_ipv4_option_of_an_ipv6_socket():
    joined("mcast", socket.AF_INET6).close()

def test_filters():
    with joined("mreqn") as s:
        s.setsockopt(0, 38, v4(3) + HERE + S4)                                              # IP_BLOCK_SOURCE
        s.setsockopt(0, 37, v4(3) + HERE + S4)                                              # IP_UNBLOCK_SOURCE
    with joined("mreq") as s:
        s.setsockopt(0, 41, v4(1) + HERE + struct.pack("@II", 1, 1) + S4)                   # IP_MSFILTER
    with joined("mcast") as s:
        s.setsockopt(0, 43, group_req(v4(5), S4))                                           # MCAST_BLOCK_SOURCE
        s.setsockopt(0, 48, group_filter(v4(5), S4))                                        # MCAST_MSFILTER
    with joined("6-mcast") as s:
        s.setsockopt(41, 48, group_filter(v6(3), S6))

def test_leave():
    with joined("mreq") as s:
        with pytest.raises(OSError):
            s.setsockopt(0, 36, v4(9) + HERE)
        s.setsockopt(0, 36, v4(1) + HERE)
    with joined("6-mreq") as s:
        s.setsockopt(41, 21, JOINED["6-mreq"][2])
    with joined("mcast") as s:
        s.setsockopt(0, 45, JOINED["mcast"][2])

def test_on_two_interfaces():
    # As programs do that want to be found everywhere.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(0, 35, v4(7) + HERE)
        s.setsockopt(0, 35, v4(7) + socket.inet_aton("127.0.0.1"))
        s.setsockopt(0, 36, v4(7) + HERE)
        s.setsockopt(0, 36, v4(7) + socket.inet_aton("127.0.0.1"))

def test_twice():
    for family, option in (socket.AF_INET, JOINED["mreq"]), (socket.AF_INET6, JOINED["6-mcast"]):
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.setsockopt(*option)
            with pytest.raises(OSError) as caught:
                s.setsockopt(*option)
            assert caught.value.errno == 98  # EADDRINUSE

def test_no_such_interface():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s6:
        for sock, level, name, value in [
            (s, 0, 35, v4(8) + socket.inet_aton("192.0.2.77")), (s, 0, 35, v4(8) + ANY + struct.pack("@i", 4321)),
            (s, 0, 42, struct.pack("@I4x", 4321) + sockaddr(v4(8))), (s6, 41, 20, v6(8) + struct.pack("@i", 4321)),
        ]:
            with pytest.raises(OSError) as caught:
                sock.setsockopt(level, name, value)
            assert caught.value.errno == 19  # ENODEV

def test_too_short():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for name in 35, 39, 41, 42, 46:
            with pytest.raises(OSError) as caught:
                s.setsockopt(0, name, b"12")
            assert caught.value.errno == 22  # EINVAL
"""
SECRETS = (b"SECRET", socket.inet_aton("239.83.69.1")[:3], socket.inet_aton("198.51.100.83"))


def test_announced_without_a_fence(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(JOINS, flags=(), prefix=wire.prefix)
    assert run.status == 0, run
    for last in range(1, 7):
        assert wire.saw(socket.inet_aton(f"239.83.69.{last}")), (last, run)
    for last in range(1, 5):
        assert wire.saw(b"\xff\x05SECRET" + bytes(7) + bytes([last])), (last, run)
    assert wire.saw(SECRETS[2]), run


def test_not_announced(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(JOINS, prefix=wire.prefix)
    for secret in SECRETS:
        assert not wire.saw(secret), run
    assert run.status == 0, run
    assert not run.ledger, run


def test_only_what_is_listed_is_announced(fenced: Fenced, wire: Wire) -> None:
    policy = '[tool.fence]\nallowed_domains = ["239.83.69.1"]\n'
    run = fenced.run(JOINS, policy=policy, prefix=wire.prefix)
    assert wire.saw(socket.inet_aton("239.83.69.1")), run
    for last in range(2, 8):
        assert not wire.saw(socket.inet_aton(f"239.83.69.{last}")), (last, run)
    assert not wire.saw(b"SECRET"), run
    assert run.status == 0, run


def test_groups_on_loopback(fenced: Fenced, wire: Wire) -> None:
    """What is sent to a group is for whoever listens; a policy that lists it lets programs here find one another."""
    run = fenced.run(
        """
        import socket, struct
        import pytest

        GROUP = "239.1.2.3"

        def receiver(interface):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("", 0))
            s.settimeout(5)
            joins = socket.inet_aton(GROUP) + socket.inet_aton(interface)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joins)
            return s

        @pytest.mark.fence(allowed_domains=[GROUP])
        def test_listed():
            with receiver("127.0.0.1") as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
                sender.sendto(b"to all", (GROUP, s.getsockname()[1]))
                assert s.recv(10) == b"to all"

        def test_options():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3)
                assert s.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 3
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
                assert s.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.2"))
                by_number = bytes(8) + struct.pack("i", socket.if_nametoindex("out0"))
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, by_number)
                with pytest.raises(OSError) as caught:
                    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.77"))
                assert caught.value.errno == 99  # EADDRNOTAVAIL

        def test_not_listed():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(PermissionError):
                sender.sendto(b"SECRET", (GROUP, 9))
        """,
        prefix=wire.prefix,
    )
    run.clean("test_listed", "test_options")
    run.refused("test_not_listed", "connect 239.1.2.3:9/udp")
    assert not wire.saw(b"SECRET"), run
