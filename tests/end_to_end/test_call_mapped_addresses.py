"""Way out: other spellings of an address: IPv4 in IPv6, scoped, this host by another name, families that lie."""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.loopback import has_ipv6
from tests.end_to_end.support import REFUSING


def test_mapped_addresses(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import ctypes, errno, socket, struct
        import pytest
        from here import AWAY, HELLO, PORT, UDP

        libc = ctypes.CDLL(None, use_errno=True)

        def test_mapped():
            with socket.socket(socket.AF_INET6) as s, pytest.raises(PermissionError):
                s.connect((f"::ffff:{AWAY}", 443))

        def test_mapped_datagram():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
                s.sendto(b"secret", (f"::ffff:{AWAY}", 4444))

        def test_other_ways_to_hold_an_ipv4_address():
            for prefix in "64:ff9b::", "2002:c633:6407::", "::":
                with socket.socket(socket.AF_INET6) as s, pytest.raises(OSError):
                    s.connect((f"{prefix}c633:6407", 443))

        def test_odd_spellings():
            for spelling in "3325256711", "0xc6336407", "0306.063.0144.07", "198.51.25607":
                with socket.socket() as s, pytest.raises(PermissionError):
                    s.connect((spelling, 443))

        def address(family, host, port):
            return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

        def test_family_left_out():
            # udp_sendmsg takes AF_UNSPEC for AF_INET.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                where = address(socket.AF_UNSPEC, AWAY, 4444)
                assert libc.sendto(s.fileno(), b"secret", 6, 0, where, 16) == -1
                assert ctypes.get_errno() == errno.EACCES

        def test_loopback_mapped():
            with socket.socket(socket.AF_INET6) as s:
                s.connect(("::ffff:127.0.0.1", PORT))
                assert s.recv(99) == HELLO

        def test_loopback_otherwise():
            for spelling in "127.0.0.1", "127.1", "2130706433", "0.0.0.0", "":
                with socket.socket() as s:
                    s.connect((spelling, PORT)) if spelling else s.connect(("localhost", PORT))
                    assert s.recv(99) == HELLO

        def test_family_left_out_on_loopback():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(10)
                assert libc.sendto(s.fileno(), b"ping", 4, 0, address(socket.AF_UNSPEC, "127.0.0.1", UDP), 16) == 4
                assert s.recv(99) == b"ping"
        """
    )
    run.refused("test_mapped", "connect 198.51.100.7:443/tcp")
    run.refused("test_mapped_datagram", "connect 198.51.100.7:4444/udp")
    others = [v.what for v in run.attempts("test_other_ways_to_hold_an_ipv4_address")]
    assert others == [
        "connect [64:ff9b::c633:6407]:443/tcp",
        "connect [2002:c633:6407::c633:6407]:443/tcp",
        "connect [::198.51.100.7]:443/tcp",
    ]
    run.refused("test_odd_spellings", "connect 198.51.100.7:443/tcp", count=4)
    run.refused("test_family_left_out", "connect 198.51.100.7:4444/udp")
    run.clean("test_loopback_mapped", "test_loopback_otherwise", "test_family_left_out_on_loopback")


@pytest.mark.skipif(not has_ipv6(), reason="kernel: no IPv6 on loopback")
@pytest.mark.parametrize("refused", ["kexec_load", "pidfd_getfd"], ids=["borrowed", "made by the broker"])
def test_family_that_changes(fenced: Fenced, refused: str) -> None:
    """IPV6_ADDRFORM makes an IPv4 socket of one for IPv6 that is connected to a mapped address: what goes for those
    goes for it from then on."""
    run = fenced.run(
        """
        import ctypes, errno, socket, struct
        import pytest
        from here import AWAY, UDP

        libc = ctypes.CDLL(None, use_errno=True)
        IPV6_ADDRFORM, AF_UNSPEC = 1, bytes(2)

        @pytest.fixture
        def changed():
            made = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in "12"]
            made[0].bind(("::ffff:127.0.0.1", 0))
            made[1].connect(made[0].getsockname())
            made[1].setsockopt(socket.IPPROTO_IPV6, IPV6_ADDRFORM, struct.pack("i", socket.AF_INET))
            with made[0], socket.socket(fileno=made[1].detach()) as client:
                assert client.family == socket.AF_INET
                yield client

        def send(sock, host, port):
            where = AF_UNSPEC + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
            ctypes.set_errno(0)
            return libc.sendto(sock.fileno(), b"ping", 4, 0, where, 16), ctypes.get_errno()

        def test_away(changed):
            assert send(changed, AWAY, 4444) == (-1, errno.EACCES)

        def test_on_loopback(changed):
            assert send(changed, "127.0.0.1", UDP) == (4, 0)
        """,
        prefix=(sys.executable, str(REFUSING), refused),
    )
    run.refused("test_away", "connect 198.51.100.7:4444/udp")
    run.clean("test_on_loopback")


@pytest.mark.skipif(not has_ipv6(), reason="kernel: no IPv6 on loopback")
def test_ipv6(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        import pytest
        from here import HELLO, PORT6

        def test_link_local():
            with socket.socket(socket.AF_INET6) as s, pytest.raises(OSError):
                s.connect(("fe80::1", 443, 0, socket.if_nametoindex("lo")))

        def test_multicast():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
                s.sendto(b"secret", ("ff02::fb", 5353))

        def test_loopback():
            for host in "::1", "::":
                with socket.socket(socket.AF_INET6) as s:
                    s.connect((host, PORT6))
                    assert s.recv(99) == HELLO
        """
    )
    run.refused("test_link_local", "connect [fe80::1]:443/tcp")
    run.refused("test_multicast", "connect [ff02::fb]:5353/udp")
    run.clean("test_loopback")
