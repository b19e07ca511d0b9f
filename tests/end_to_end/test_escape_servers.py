"""A server that a test starts is for this machine, whatever addresses the policy lists; `expose_ports` opens one.

Another machine dials, the same in each run. The run without a fence is the positive control.
"""

from __future__ import annotations

import pytest

from tests.end_to_end import wire as wires
from tests.end_to_end.caught import Fenced
from tests.end_to_end.wire import ASK, Wire

pytestmark = wires.needs
wire = wires.wire

SERVES = f"""
import socket
import pytest
from tests.end_to_end.wire import FROM_THERE, HERE, HERE6, THERE

PORT = 8123
{ASK}
def server(family, host, kind=socket.SOCK_STREAM, protocol=0):
    s = socket.socket(family, kind, protocol)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if kind == socket.SOCK_STREAM:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, PORT))
    return s

TCP = [
    (socket.AF_INET, "0.0.0.0", HERE, 0), (socket.AF_INET6, "::", HERE, 0), (socket.AF_INET6, "::", HERE6, 0),
    (socket.AF_INET, "0.0.0.0", HERE, 262),
]

@pytest.mark.parametrize("family, bound, dialled, protocol", TCP)
def test_tcp(family, bound, dialled, protocol):
    with server(family, bound, protocol=protocol) as s:
        s.listen()
        print("OTHER", dial("tcp", dialled, PORT))
        socket.create_connection(("127.0.0.1", PORT), 5).close()

def test_never_bound():
    with socket.socket() as s:
        s.listen()
        print("OTHER", dial("tcp", HERE, s.getsockname()[1]))
        socket.create_connection(("127.0.0.1", s.getsockname()[1]), 5).close()

@pytest.mark.parametrize("family, bound, dialled, protocol", TCP[:3])
def test_udp(family, bound, dialled, protocol):
    with server(family, bound, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        assert dial("udp", dialled, PORT, 9999) == "sent"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
            local.sendto(b"local", ("127.0.0.1", PORT))
        print("OTHER", s.recv(99).decode())

def test_udp_after_it_has_sent():
    with server(socket.AF_INET, "", socket.SOCK_DGRAM) as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.sendto(b"x", ("127.0.0.1", PORT))
        assert dial("udp", HERE, s.getsockname()[1], 9999) == "sent"
        peer.sendto(b"local", ("127.0.0.1", s.getsockname()[1]))
        print("OTHER", s.recv(99).decode())
"""
LISTING = '[tool.fence]\nallowed_domains = ["203.0.113.7:443"]\n'
CLOSED_TCP, CLOSED_UDP = "Connection refused", "local"


def _others(out: str) -> list[str]:
    return [line.partition("OTHER ")[2] for line in out.splitlines() if "OTHER " in line]


def test_open_without_a_fence(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(SERVES, "-s", flags=(), prefix=wire.prefix)
    assert _others(run.out) == ["connected"] * 5 + [wires.FROM_THERE.decode()] * 4, run
    assert run.status == 0, run


@pytest.mark.parametrize(
    "policy",
    [
        "",
        LISTING,
        '[tool.fence]\nallowed_domains = ["2001:db8:1::/48", "10.0.0.0/8:53"]\n',
        LISTING + "expose_ports = [1]\n",
    ],
    ids=["none", "listed", "networks", "others-exposed"],
)
def test_closed(fenced: Fenced, wire: Wire, policy: str) -> None:
    run = fenced.run(SERVES, "-s", policy=policy, prefix=wire.prefix)
    assert _others(run.out) == [CLOSED_TCP] * 5 + [CLOSED_UDP] * 4, run
    assert run.status == 0, run
    assert not run.ledger, run


def test_exposed(fenced: Fenced, wire: Wire) -> None:
    """That port alone, and also beside addresses outside."""
    run = fenced.run(SERVES, "-s", policy=LISTING + "expose_ports = [8123]\n", prefix=wire.prefix)
    assert _others(run.out) == ["connected"] * 4 + [CLOSED_TCP] + [wires.FROM_THERE.decode()] * 3 + [CLOSED_UDP], run
    assert run.status == 0, run


def test_who_is_listed_may_answer(fenced: Fenced, wire: Wire) -> None:
    """What a test may send to by UDP can answer, from the port that is listed; an own address serves this machine."""
    run = fenced.run(
        SERVES,
        "-s",
        policy='[tool.fence]\nallowed_domains = ["192.0.2.1:9999", "192.0.2.2"]\n',
        prefix=wire.prefix,
    )
    both = wires.FROM_THERE.decode()
    assert _others(run.out) == [CLOSED_TCP] * 5 + [both, both, CLOSED_UDP, both], run
    assert run.status == 0, run


def test_own_address(fenced: Fenced, wire: Wire) -> None:
    """Bound to one, and listed: for this machine. A filter keeps others out: they get no answer. Where the kernel
    lets an ordinary user attach none to TCP, the socket is tied, and nobody comes to such an address."""
    run = fenced.run(
        SERVES.partition("TCP = [")[0]
        + """
import ctypes, struct

CODE = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
PROGRAM = struct.pack("@HP", 1, ctypes.addressof(CODE))

def may_filter():
    with socket.socket() as s:
        try:
            s.setsockopt(socket.SOL_SOCKET, 26, PROGRAM)
        except PermissionError:
            return False
    return True

def test_tcp():
    with server(socket.AF_INET, HERE) as s:
        s.listen()
        print("OTHER", dial("tcp", HERE, PORT))
        if not may_filter():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HERE, PORT), 5)
            return
        with socket.create_connection((HERE, PORT), 5) as client, s.accept()[0] as peer:
            peer.sendall(b"answer")
            assert client.recv(9) == b"answer"

def test_udp():
    kind = socket.AF_INET, socket.SOCK_DGRAM
    with server(socket.AF_INET, HERE, socket.SOCK_DGRAM) as s, socket.socket(*kind) as client:
        client.sendto(b"question", (HERE, PORT))
        question, sender = s.recvfrom(9)
        s.sendto(b"answer", sender)
        assert client.recv(9) == b"answer"
""",
        "-s",
        policy='[tool.fence]\nallowed_domains = ["192.0.2.2"]\n',
        prefix=wire.prefix,
    )
    (other,) = _others(run.out)
    assert other in ("timed out", CLOSED_TCP), run
    run.clean("test_tcp", "test_udp")


def test_whose_port_is_not_listed(fenced: Fenced, wire: Wire) -> None:
    policy = (
        '[tool.fence]\nallowed_domains = ["192.0.2.1:53", "192.0.2.0/24:443"]\ndenied_domains = ["192.0.2.1:9999"]\n'
    )
    run = fenced.run(SERVES, "-s", policy=policy, prefix=wire.prefix)
    assert _others(run.out) == [CLOSED_TCP] * 5 + [CLOSED_UDP] * 4, run


def test_filter_is_not_taken_away(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(
        SERVES.partition("TCP = [")[0]
        + """
import struct

def test_it():
    with server(socket.AF_INET, "", socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        for option, value in (27, struct.pack("i", 0)), (44, struct.pack("i", 0)):  # SO_DETACH_FILTER, SO_LOCK_FILTER
            with pytest.raises(PermissionError):
                s.setsockopt(socket.SOL_SOCKET, option, value)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out0")
        assert dial("udp", HERE, PORT, 9999) == "sent"
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"") if not __import__("os").getuid() else None
        s.settimeout(0)
        with pytest.raises(BlockingIOError):
            s.recv(99)

def test_device_and_listen():
    for first in True, False:
        with server(socket.AF_INET, "") as s:
            if first:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out0")
            try:
                s.listen()
                if not first:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out0")
            except PermissionError:
                pass
            assert dial("tcp", HERE, PORT) != "connected"
""",
        policy=LISTING,
        prefix=wire.prefix,
    )
    run.clean("test_it")
    assert {attempt.what for attempt in run.attempts("test_device_and_listen")} <= {
        "tie a socket to a network interface (SO_BINDTODEVICE)",
        "listen on the network interface that the socket is tied to",
    }, run
    assert "AssertionError" not in run.out, run


DISSOLVED = (
    SERVES.partition("TCP = [")[0]
    + """
import ctypes

libc = ctypes.CDLL(None, use_errno=True)

def dissolve(s):
    assert libc.connect(s.fileno(), bytes(28), 28) == 0             # AF_UNSPEC

@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
@pytest.mark.parametrize("before", ["nothing", "a peer", "somebody outside", "a tie of its own", "twice"])
def test_dissolved(bound, before):
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with server(family, bound, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        if before in ("a peer", "somebody outside"):
            s.connect(("198.51.100.7" if before == "somebody outside" else "127.0.0.1", 9) if family == socket.AF_INET
                      else ("2001:db8::7" if before == "somebody outside" else "::1", 9))
        elif before == "a tie of its own":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\\0")
        elif before == "twice":
            dissolve(s)
        dissolve(s)
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b""
        assert dial("udp", HERE, PORT, 9999) == "sent"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
            local.sendto(b"local", ("127.0.0.1", PORT))
        print("OTHER", s.recv(99).decode())

def test_dissolved_first():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        dissolve(s)
        s.bind(("", PORT))
        s.settimeout(5)
        assert dial("udp", HERE, PORT, 9999) == "sent"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
            local.sendto(b"local", ("127.0.0.1", PORT))
        print("OTHER", s.recv(99).decode())
"""
)


@pytest.mark.parametrize("policy", [None, "", LISTING], ids=["without", "none", "listed"])
def test_dissolving_takes_no_tie_away(fenced: Fenced, wire: Wire, policy: str | None) -> None:
    """A connect to nobody: with the peer of a datagram socket the kernel forgets what the socket is tied to."""
    flags = ("--fence",) if policy is not None else ()
    run = fenced.run(DISSOLVED, "-s", policy=policy or "", flags=flags, prefix=wire.prefix)
    heard = CLOSED_UDP if policy is not None else wires.FROM_THERE.decode()
    assert _others(run.out) == [heard] * 11, run
    assert run.status == 0, run
    assert not run.ledger, run
