"""The tie of a socket to loopback is ours: a program sees what it would see without it."""

from __future__ import annotations

import pytest

from tests.end_to_end import wire as wires
from tests.end_to_end.caught import Fenced
from tests.end_to_end.wire import Wire

pytestmark = wires.needs
wire = wires.wire

SEEN = """
import errno, socket, struct
import pytest

DEVICE, NUMBER = 25, 62
FAMILIES = socket.AF_INET, socket.AF_INET6
KINDS = [(family, kind) for family in FAMILIES for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]

@pytest.fixture(params=KINDS, ids=str)
def sock(request):
    with socket.socket(*request.param) as s:
        yield s

def told(sock):
    return sock.getsockopt(socket.SOL_SOCKET, DEVICE, 16), sock.getsockopt(socket.SOL_SOCKET, NUMBER)

def answer(sock, name, *value):
    try:
        sock.setsockopt(socket.SOL_SOCKET, name, *value)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

def test_new(sock):
    assert told(sock) == (b"", 0)
    assert sock.getsockopt(socket.SOL_SOCKET, NUMBER, 2) == bytes(2)
    assert sock.getsockopt(socket.SOL_SOCKET, DEVICE, 1) == b""

def test_unties(sock):
    for name, *value in (DEVICE, b""), (DEVICE, None, 0), (NUMBER, 0), (DEVICE, b"\\0lo"):
        assert answer(sock, name, *value) == "ok"
        assert told(sock) == (b"", 0)

def test_nonsense(sock):
    assert answer(sock, DEVICE, b"nosuchdev") == "ENODEV"
    assert answer(sock, DEVICE, b"a name that is much too long for a device") == "ENODEV"
    assert answer(sock, DEVICE, b"not-interface-o") == "ENODEV"
    assert answer(sock, NUMBER, -1) == "EINVAL"
    assert answer(sock, NUMBER, b"xy") == "EINVAL"
    assert told(sock) == (b"", 0)

def test_loopback(sock):
    assert answer(sock, DEVICE, b"lo") == "ok"
    assert told(sock) == (b"lo\\0", 1)
    assert sock.fileno() >= 0
    other = sock.dup()
    assert told(other) == (b"lo\\0", 1)
    other.close()

def test_loopback_by_number(sock):
    assert answer(sock, NUMBER, 1) == "ok"
    assert told(sock) == (b"lo\\0", 1)

def test_once_more(sock):
    "Without privileges a tie is for good."
    assert answer(sock, DEVICE, b"lo\\0") == "ok"
    asked = (DEVICE, b"lo"), (DEVICE, b"nosuchdev"), (NUMBER, -1), (DEVICE, b"")
    print("AGAIN", [answer(sock, name, value) for name, value in asked])

def test_server(sock):
    if sock.type == socket.SOCK_STREAM:
        sock.listen()
        assert told(sock) == (b"", 0)
        assert answer(sock, DEVICE, b"") == "ok"
        with socket.create_connection(sock.getsockname()[:2], timeout=5):
            with sock.accept()[0] as peer:
                assert told(peer) == (b"", 0)
"""
TO_DEVICE = """
import socket, struct
import pytest

OUT = socket.if_nametoindex("out0")

@pytest.mark.parametrize("name, value", [(25, b"out0"), (25, b"out0\\0rest"), (62, struct.pack("i", OUT))])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_other(kind, name, value):
    with socket.socket(socket.AF_INET, kind) as s, pytest.raises(PermissionError):
        s.setsockopt(socket.SOL_SOCKET, name, value)
"""


@pytest.mark.parametrize(
    "policy",
    ["", '[tool.fence]\nallowed_domains = ["203.0.113.7:443"]\n', "[tool.fence.network]\nexpose_ports = [1]\n"],
)
def test_same_as_without(fenced: Fenced, policy: str) -> None:
    plain = fenced.run(SEEN, "-s", flags=())
    run = fenced.run(SEEN, "-s", policy=policy)
    assert (plain.status, run.status) == (0, 0), (plain, run)
    assert not run.ledger, run

    def again(text: str) -> list[str]:
        return [line.partition("AGAIN")[2] for line in text.splitlines() if "AGAIN" in line]

    assert again(run.out) == again(plain.out)
    assert len(again(run.out)) == 4


def test_another_interface(fenced: Fenced, wire: Wire) -> None:
    run = fenced.run(TO_DEVICE, prefix=wire.prefix)
    assert {attempt.what for attempt in run.ledger} == {
        "tie a socket to a network interface (SO_BINDTODEVICE)",
        "tie a socket to a network interface (SO_BINDTOIFINDEX)",
    }
    assert len(run.ledger) == 6, run
    assert "nothing can allow this" not in run.out, run
    assert "(network.allowed_domains would allow it)" in run.out, run


def test_another_interface_where_one_may(fenced: Fenced, wire: Wire) -> None:
    """What the remedy says is true."""
    run = fenced.run(
        TO_DEVICE.replace(", pytest.raises(PermissionError):", ":"),
        policy='[tool.fence]\nallowed_domains = ["203.0.113.7:443"]\n',
        prefix=wire.prefix,
    )
    assert run.status == 0, run
    assert not run.ledger, run
