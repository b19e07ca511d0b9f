"""Ways out by what goes along with a message, or a socket is told: an interface, a route, a way for all that follows.

What is sent is for this machine's own loopback. In a network with another machine in it, that machine is asked what it
saw, of the same tests without a fence (the positive control) and with one.
"""

from __future__ import annotations

from tests.end_to_end import wire as wires
from tests.end_to_end.caught import Fenced
from tests.end_to_end.wire import Wire

pytestmark = wires.needs
wire = wires.wire

SENDS = """
import ctypes, socket, struct
import pytest

OUT = socket.if_nametoindex("out0")
PKTINFO = (0, 8, struct.pack("=i8x", OUT))
PKTINFO6 = (41, 50, struct.pack("16si", b"", OUT))
PKTINFO6_2292 = (41, 2, struct.pack("16si", b"", OUT))
MAPPED = (41, 50, struct.pack("16si", socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.2"), OUT))

def sending(family, told=()):
    s = socket.socket(family, socket.SOCK_DGRAM)
    for level, name, value in told:
        s.setsockopt(level, name, value)
    return s

def to(host, name, control=(), told=(), connected=False):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with sending(family, told) as s:
        data = [f"SECRET {name};".encode()]
        if connected:
            s.connect((host, 9))
            s.sendmsg(data, control)
        elif control:
            s.sendmsg(data, control, 0, (host, 9))
        else:
            s.sendto(data[0], (host, 9))

WAYS = {
    "pktinfo": lambda: to("127.0.0.1", "pktinfo", [PKTINFO]),
    "pktinfo-connected": lambda: to("127.0.0.1", "pktinfo-connected", [PKTINFO], connected=True),
    "pktinfo-wildcard": lambda: to("0.0.0.0", "pktinfo-wildcard", [PKTINFO]),
    "pktinfo-behind-another": lambda: to("127.1.2.3", "pktinfo-behind-another", [(0, 1, struct.pack("i", 8)), PKTINFO]),
    "pktinfo6": lambda: to("::1", "pktinfo6", [PKTINFO6]),
    "pktinfo6-2292": lambda: to("::1", "pktinfo6-2292", [PKTINFO6_2292]),
    "mapped": lambda: to("::ffff:127.0.0.1", "mapped", [MAPPED]),
    "mapped-by-ipv4": lambda: to("::ffff:127.0.0.1", "mapped-by-ipv4", [PKTINFO]),
    "ping": lambda: ping(),
    "many": lambda: many("many", socket.AF_INET),
    "many-unspecified": lambda: many("many-unspecified", 0),
}
TOLD = {
    "unicast-if": lambda: to("127.0.0.1", "unicast-if", told=[(0, 50, struct.pack("!I", OUT))]),
    "unicast-if6": lambda: to("::1", "unicast-if6", told=[(41, 76, struct.pack("!I", OUT))]),
    "unicast-if-mapped": lambda: to("::ffff:127.0.0.1", "unicast-if-mapped", told=[(0, 50, struct.pack("!I", OUT))]),
    "sticky": lambda: to("::1", "sticky", told=[PKTINFO6]),
    "device": lambda: to("127.0.0.1", "device", told=[(1, 25, b"out0")]),
    "device-by-number": lambda: to("127.0.0.1", "device-by-number", told=[(1, 62, struct.pack("i", OUT))]),
}

class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("size", ctypes.c_size_t)]

class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("name_size", ctypes.c_uint), ("iov", ctypes.POINTER(Iovec)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_char_p), ("control_size", ctypes.c_size_t),
                ("flags", ctypes.c_long), ("sent", ctypes.c_uint), ("padding", ctypes.c_uint)]

def many(name, family):
    "Two in one call, and the second alone names the interface."
    data = f"SECRET {name};".encode()
    control = struct.pack("@Nii", 28, *PKTINFO[:2]) + PKTINFO[2] + bytes(4)
    address = struct.pack("=HH4s8x", family, socket.htons(9), socket.inet_aton("127.0.0.1"))
    plain = ctypes.pointer(Iovec(b"plain", 5))
    told = ctypes.pointer(Iovec(data, len(data)))
    both = (Message * 2)(
        Message(address, 16, plain, 1), Message(address, 16, told, 1, control, len(control)),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        assert ctypes.CDLL(None).sendmmsg(s.fileno(), both, 2, 0) >= 1

def fast_open():
    "TCP takes no notice of it."
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as s:
        s.sendmsg([b"data"], [PKTINFO], 0x20000000, server.getsockname())
        with server.accept()[0] as peer:
            assert peer.recv(9) == b"data"

def test_fast_open():
    fast_open()

def ping():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
        s.sendmsg([struct.pack("!BBHHH", 8, 0, 0, 0, 1) + b"SECRET ping;"], [PKTINFO], 0, ("127.0.0.1", 0))

@pytest.mark.parametrize("way", WAYS)
def test_along(way):
    WAYS[way]()

@pytest.mark.parametrize("way", TOLD)
def test_told(way):
    TOLD[way]()
"""
ALONG = (
    "pktinfo",
    "pktinfo-connected",
    "pktinfo-wildcard",
    "pktinfo-behind-another",
    "pktinfo6",
    "pktinfo6-2292",
    "mapped",
    "mapped-by-ipv4",
    "ping",
    "many",
    "many-unspecified",
)
TOLD = ("unicast-if", "unicast-if6", "sticky", "device", "device-by-number")
OWN_INTERFACE = "send to this machine by another interface than loopback"
LISTING = '[tool.fence]\nallowed_domains = ["203.0.113.7:443"]\n'


def test_leaves_without_a_fence(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(SENDS, flags=(), prefix=wire.prefix)
    for way in (*ALONG, *TOLD):
        if way == "pktinfo-wildcard":
            continue  # which the kernel takes for loopback itself; spelled out, as the broker sends it, it would leave
        assert wire.saw(f"SECRET {way};".encode()), (way, run)


def test_tied(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(SENDS, prefix=wire.prefix)
    assert not wire.saw(b"SECRET"), run
    for way in ALONG:
        # Of several messages the first was sent: the call does not fail.
        run.refused(f"test_along[{way}]", OWN_INTERFACE, fails_itself=not way.startswith("many"))
    run.clean("test_fast_open")
    for way in "device", "device-by-number":
        (attempt,) = run.attempts(f"test_told[{way}]")
        assert attempt.what.startswith("tie a socket to a network interface"), run
    # What is sent goes by loopback, to which the socket is tied.
    for way in "unicast-if", "unicast-if6", "unicast-if-mapped", "sticky":
        run.clean(f"test_told[{way}]")


def test_where_addresses_outside_are_listed(fenced: Fenced, wire: Wire) -> None:
    """Then sockets are not tied, and may name an interface; but not for what is judged as being for this machine."""
    run = fenced.run(SENDS, policy=LISTING, prefix=wire.prefix)
    assert not wire.saw(b"SECRET"), run
    for way in ALONG:
        # Of several messages the first was sent: the call does not fail.
        run.refused(f"test_along[{way}]", OWN_INTERFACE, fails_itself=not way.startswith("many"))
    run.clean("test_fast_open")
    for way in (*TOLD, "unicast-if-mapped"):
        run.refused(f"test_told[{way}]", OWN_INTERFACE, fails_itself=True)


def test_connected_before_it_is_told(fenced: Fenced, wire: Wire) -> None:
    """What a connected socket sends by send(2) passes nobody."""
    run = fenced.run(
        """
        import socket, struct
        import pytest

        OUT = socket.if_nametoindex("out0")

        @pytest.mark.parametrize("level, name, value", [
            (1, 25, b"out0"), (1, 62, struct.pack("i", OUT)), (0, 50, struct.pack("!I", OUT)),
        ])
        def test_it(level, name, value):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(("127.0.0.1", 9))
                s.setsockopt(level, name, value)
                s.send(b"SECRET")
        """,
        policy=LISTING,
        prefix=wire.prefix,
    )
    assert not wire.saw(b"SECRET"), run
    assert [attempt.what for attempt in run.ledger] == [OWN_INTERFACE] * 3, run


def test_queries_go_without_it(fenced: Fenced, wire: Wire) -> None:
    """To the fence's own name server leads what is sent to any; nothing goes along that says how."""
    run = fenced.run(
        """
        import socket, struct

        OUT = socket.if_nametoindex("out0")
        PKTINFO = [(0, 8, struct.pack("=i8x", OUT))]

        def query(name):
            labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
            return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + bytes([0, 0, 1, 0, 1])

        def test_connected():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.connect(("8.8.8.8", 53))
                s.sendmsg([query("SECRET.allowed.test")], PKTINFO)
                assert s.recv(512)[:2] == b"\\0\\7"

        def test_not_connected():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendmsg([query("SECRET.allowed.test")], PKTINFO, 0, ("8.8.8.8", 53))
                assert s.recv(512)[:2] == b"\\0\\7"

        def test_no_query():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(("8.8.8.8", 53))
                s.sendmsg([b"any data at all: SECRET"], PKTINFO)
        """,
        policy='[tool.fence]\nextends = "default-deny"\nallow_write = ["/tmp", "./*"]\n'
        'allowed_domains = ["*.allowed.test"]\n',
        prefix=wire.prefix,
    )
    assert not wire.saw(b"SECRET"), run
    run.clean("test_connected", "test_not_connected")
    run.refused("test_no_query", "connect 8.8.8.8:53/udp")


def test_what_programs_send_along(fenced: Fenced) -> None:
    """As servers of QUIC do: the answer by the interface, and from the address, to which the question came."""
    run = fenced.run(
        """
        import array, os, socket, struct
        import pytest

        LO = socket.if_nametoindex("lo")

        @pytest.mark.parametrize("host, level, asked, kind", [
            ("127.0.0.1", 0, 8, 8), ("::1", 41, 49, 50), ("::ffff:127.0.0.1", 41, 49, 50),
        ])
        def test_pktinfo_of_the_question(host, level, asked, kind):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
                server.setsockopt(level, asked, 1)
                server.bind((host, 0))
                client.settimeout(5)
                client.sendto(b"question", server.getsockname())
                _, control, _, address = server.recvmsg(100, 100)
                ((found_level, found, info),) = [part for part in control if part[1] == kind]
                server.sendmsg([b"answer"], [(found_level, found, info)], 0, address)
                assert client.recv(100) == b"answer"

        @pytest.mark.parametrize("control", [
            [], [(0, 1, struct.pack("i", 16))], [(0, 2, struct.pack("i", 9))],          # IP_TOS, IP_TTL
            [(17, 103, struct.pack("H", 3))],                                           # UDP_SEGMENT
            [(0, 8, struct.pack("=i4s4x", 0, socket.inet_aton("127.0.0.1")))],
            [(0, 8, struct.pack("=i4s4x", LO, socket.inet_aton("127.0.0.5")))],
        ])
        @pytest.mark.parametrize("connected", [False, True])
        def test_others(control, connected):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind(("127.0.0.1", 0))
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    if connected:
                        client.connect(server.getsockname())
                    client.sendmsg([b"abc"], control, 0, *(() if connected else (server.getsockname(),)))
                    assert server.recv(9) == b"abc"

        def test_of_ipv6():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
                server.bind(("::1", 0))
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
                    client.connect(server.getsockname())
                    client.sendmsg([b"abc"], [(41, 67, struct.pack("i", 16)), (41, 52, struct.pack("i", 9))])
                    assert server.recv(9) == b"abc"
        """
    )
    assert run.status == 0, run
    assert not run.ledger, run
