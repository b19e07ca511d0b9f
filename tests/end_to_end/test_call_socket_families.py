"""Way out: sockets that are neither of the Internet's usual ones nor UNIX ones: raw, packet, vsock, SCTP, ..."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

from tests.end_to_end.caught import Fenced

KINDS = {
    # name: (family, type, protocol, what the report calls it)
    "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, "AF_INET/SOCK_RAW"),
    "raw6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, "AF_INET6/SOCK_RAW"),
    "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0, "AF_PACKET/SOCK_RAW"),
    "packet datagram": (socket.AF_PACKET, socket.SOCK_DGRAM, 0, "AF_PACKET/SOCK_DGRAM"),
    "vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0, "AF_VSOCK/SOCK_STREAM"),
    "sctp": (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP, "AF_INET/SOCK_STREAM"),
    "sctp messages": (socket.AF_INET, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP, "AF_INET/SOCK_SEQPACKET"),
    "udp lite": (socket.AF_INET, socket.SOCK_DGRAM, 136, "AF_INET/SOCK_DGRAM (UDP-Lite)"),
    "dccp": (socket.AF_INET, 6, 33, "AF_INET/SOCK_DCCP"),
    "bluetooth": (31, socket.SOCK_RAW, 1, "AF_BLUETOOTH/SOCK_RAW"),
    "can": (29, socket.SOCK_RAW, 1, "AF_CAN/SOCK_RAW"),
    "tipc": (30, socket.SOCK_SEQPACKET, 0, "AF_TIPC/SOCK_SEQPACKET"),
    "alg": (38, socket.SOCK_SEQPACKET, 0, "AF_ALG/SOCK_SEQPACKET"),
    "xdp": (44, socket.SOCK_RAW, 0, "AF_XDP/SOCK_RAW"),
    "no such family": (99, socket.SOCK_STREAM, 0, ""),
}


def plainly(family: int, kind: int, protocol: int) -> int:
    """The error number without a fence."""
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return error.errno or 0
    return 0


def test_families(fenced: Fenced) -> None:
    """What this machine and user could open is refused and reported; what they could not fails as it always does."""
    expected = {name: plainly(*kind[:3]) for name, kind in KINDS.items()}
    assert expected["no such family"], "the control is none"
    plain = {name: kind[:3] for name, kind in KINDS.items()}
    run = fenced.run(
        f"""
        import socket
        import pytest

        KINDS = { {name: tuple(map(int, kind)) for name, kind in plain.items()}!r}
        EXPECTED = {expected!r}

        @pytest.mark.parametrize("name", KINDS)
        def test_it(name):
            with pytest.raises(OSError) as caught:
                socket.socket(*KINDS[name])
            assert caught.value.errno == (EXPECTED[name] or {errno.EPERM})

        def test_netlink():
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
                s.bind((0, 0))
            assert socket.if_nameindex()

        def test_ordinary_ones():
            for family in socket.AF_INET, socket.AF_UNIX:
                for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
                    socket.socket(family, kind).close()
        """
    )
    for name, kind in KINDS.items():
        if expected[name]:
            run.clean(f"test_it[{name}]")
        else:
            run.refused(f"test_it[{name}]", f"open socket {kind[3]}", line="socket.socket(*KINDS[name])")
            assert "nothing can allow this" in run.out
    run.clean("test_netlink", "test_ordinary_ones")


OWN_NETWORK = """
import ctypes, fcntl, os, socket, struct, sys
CLONE_NEWNET = 0x40000000
if ctypes.CDLL(None).unshare(CLONE_NEWNET):
    sys.exit("unshare failed")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
with open("/proc/sys/net/ipv4/ping_group_range", "w") as range_:
    range_.write("0 2147483647")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_ping_sockets(fenced: Fenced) -> None:
    """A kind of datagram socket that needs no privileges where the machine says so; root gets a network that does."""
    prefix = (sys.executable, "-c", OWN_NETWORK)
    own = os.geteuid() == 0 and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    ping = 0 if own else plainly(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    run = fenced.run(
        f"""
        import errno, socket, struct
        import pytest
        from here import AWAY

        ECHO = struct.pack("!BBHHH", 8, 0, 0, 0, 1)

        def test_port_0_of_udp_is_no_attempt():
            # libc sorts addresses this way, and sends nothing.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(OSError) as caught:
                s.connect((AWAY, 0))
            assert caught.value.errno == errno.ENETUNREACH

        def test_away():
            with pytest.raises(OSError) as caught:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
                    s.sendto(ECHO, (AWAY, 0))
            assert caught.value.errno == {ping or errno.EACCES}

        @pytest.mark.skipif({bool(ping)}, reason="this user may not")
        def test_loopback():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
                s.settimeout(10)
                s.sendto(ECHO, ("127.0.0.1", 0))
                assert s.recv(99)[0] == 0  # echo reply
        """,
        prefix=prefix if own else (),
    )
    run.clean("test_port_0_of_udp_is_no_attempt")
    if ping:
        run.clean("test_away")
    else:
        run.refused("test_away", "connect 198.51.100.7:0/icmp")
        run.clean("test_loopback")
