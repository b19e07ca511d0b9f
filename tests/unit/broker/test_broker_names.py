"""The name server's sockets: who is answered, who is nobody of ours, and what is told of those who ask."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dns.message
import dns.rdatatype
import pytest

from fence_core.broker.services.name_server import Names, raw_address
from fence_core.broker.services.sockets import Borrowed, parse_address
from fence_core.dns.search import Verdict

ALLOWED, REFUSED, ABSENT = "api.example.com", "secret.example", "gone.example"


class Server:
    """The name server of two processes, with a loop that the test runs itself."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], None]] = {}
        self.refused: list[tuple[str, str, int]] = []
        self.messages: list[tuple[str, str]] = []
        self.process = SimpleNamespace(pid=1, name="first")
        self.names = Names(
            watch=lambda fd, callback: self.watched.update({fd: callback}),
            unwatch=lambda fd: self.watched.pop(fd, None),
            verdict=lambda process, name: {ALLOWED: Verdict.ALLOW, ABSENT: Verdict.QUIET}.get(name, Verdict.REFUSE),
            refuse=lambda process, tid, request, query: self.refused.append((request.name, query.server, query.number)),
            refuse_message=lambda process, tid, host, proto: self.messages.append((host, proto)),
        )  # fmt: skip

    def turn(self) -> None:
        """Call back for all that is readable."""
        ready, _, _ = select.select(list(self.watched), [], [], 1)
        for fd in ready:
            self.watched[fd]()

    def close(self) -> None:
        for sock in self.names._sockets.values():
            sock.close()
        for conversation in self.names._conversations.values():
            conversation._connection.close()

    def asks(self, sock: socket.socket, server: str = "192.0.2.53") -> None:
        """This socket is led to us, as the broker does with one of a fenced process."""
        raw = self.names.address(sock.family, sock.type)
        address = parse_address(raw or b"")
        assert address is not None
        sock.connect((address.host, address.port))
        borrowed = Borrowed(os.dup(sock.fileno()))
        meant = parse_address(raw_address(socket.AF_INET, server, 53))
        self.names.expect(borrowed, self.process, meant, 7)  # type: ignore[arg-type]
        borrowed.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def asker(server: Server) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        server.asks(sock)
        yield sock


def query(name: str, rtype: str = "A") -> bytes:
    return dns.message.make_query(name, rtype).to_wire()


def answer(data: bytes) -> tuple[str, list[str]]:
    message = dns.message.from_wire(data)
    found = [str(one) for rrset in message.answer for one in rrset if one.rdtype == dns.rdatatype.A]
    return dns.rcode.to_text(message.rcode()), found


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("port", [0, 53, 65535])
def test_raw_addresses_are_those_of_the_kernel(family: int, port: int) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    raw = raw_address(family, host, port)
    assert len(raw) == {socket.AF_INET: 16, socket.AF_INET6: 28}[family]  # type: ignore[index]
    found = parse_address(raw)
    assert found is not None
    assert (found.family, found.host, found.port) == (family, host, port)


def test_an_allowed_name_gets_an_address_that_is_its_own(server: Server, asker: socket.socket) -> None:
    asker.send(query(ALLOWED))
    server.turn()
    code, found = answer(asker.recv(512))
    assert (code, len(found)) == ("NOERROR", 1)
    assert server.names.name_of(found[0]) == ALLOWED
    assert server.names.name_of("198.18.255.255") is None
    assert server.refused == []


def test_a_refused_name_does_not_exist_and_is_told(server: Server, asker: socket.socket) -> None:
    message = query(REFUSED)
    asker.send(message)
    server.turn()
    assert answer(asker.recv(512)) == ("NXDOMAIN", [])
    assert server.refused == [(REFUSED, "192.0.2.53", int.from_bytes(message[:2], "big"))]


def test_a_name_that_is_meant_not_to_exist_is_not_told(server: Server, asker: socket.socket) -> None:
    asker.send(query(ABSENT))
    server.turn()
    assert answer(asker.recv(512)) == ("NXDOMAIN", [])
    assert server.refused == []


@pytest.mark.parametrize("message", [b"", b"x", bytes(11), b"\0\1" + bytes(10), bytes(5) + b"\1" + bytes(40)])
def test_what_is_no_query_is_told(server: Server, asker: socket.socket, message: bytes) -> None:
    asker.send(message)
    server.turn()
    assert server.messages == [("192.0.2.53", "udp")]


def test_nobody_else_on_this_machine_is_answered(server: Server, asker: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(asker.getpeername())
        stranger.send(query(ALLOWED))
        server.turn()
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(512)
    assert (server.refused, server.messages) == ([], [])


def test_a_program_is_told_which_server_it_has_asked(server: Server, asker: socket.socket) -> None:
    borrowed = Borrowed(os.dup(asker.fileno()))
    assert server.names.asked(borrowed) == raw_address(socket.AF_INET, "192.0.2.53", 53)
    host, port = asker.getpeername()
    assert server.names.serves(borrowed, host, port)
    assert server.names.is_ours(borrowed, (host, port))
    assert not server.names.serves(borrowed, host, port + 1)
    assert not server.names.is_ours(borrowed, ("127.0.0.2", port))
    borrowed.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        borrowed = Borrowed(os.dup(other.fileno()))
        assert server.names.asked(borrowed) is None
        borrowed.close()


def test_who_does_not_wait_is_answered_at_once(server: Server, asker: socket.socket) -> None:
    asker.send(query(REFUSED))
    borrowed = Borrowed(os.dup(asker.fileno()))
    server.names.answer_at_once(borrowed)
    borrowed.close()
    assert [name for name, *_ in server.refused] == [REFUSED]


def test_a_run_that_asks_nothing_has_no_responder() -> None:
    server = Server()
    assert server.names.name_of("198.18.0.1") is None
    assert server.watched == {}
    assert server.names._responder is None


# ---------------------------------------------------------------- by TCP


@pytest.fixture
def talker(server: Server) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.settimeout(10)
        server.asks(sock)
        server.turn()
        yield sock


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def read(sock: socket.socket) -> bytes:
    (size,) = struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))
    return sock.recv(size, socket.MSG_WAITALL)


def test_a_conversation(server: Server, talker: socket.socket) -> None:
    talker.sendall(framed(query(ALLOWED)) + framed(query(REFUSED)))
    server.turn()
    assert answer(read(talker))[0] == "NOERROR"
    assert answer(read(talker)) == ("NXDOMAIN", [])
    assert [name for name, *_ in server.refused] == [REFUSED]


def test_a_query_in_pieces_is_one(server: Server, talker: socket.socket) -> None:
    message = framed(query(ALLOWED))
    for byte in message[:-1]:
        talker.sendall(bytes([byte]))
        server.turn()
    talker.sendall(message[-1:])
    server.turn()
    assert answer(read(talker))[0] == "NOERROR"


def test_it_ends_with_the_asker(server: Server, talker: socket.socket) -> None:
    assert len(server.watched) == 2
    talker.close()
    server.turn()
    assert len(server.watched) == 1


def test_what_has_no_frame_is_told_and_ended(server: Server, talker: socket.socket) -> None:
    talker.sendall(b"\xff\xff" + bytes(4000))
    server.turn()
    assert server.messages == [("192.0.2.53", "tcp")]
    with contextlib.suppress(ConnectionResetError):
        assert talker.recv(9) == b""
    assert len(server.watched) == 1


def test_a_stranger_is_not_talked_to(server: Server, talker: socket.socket) -> None:
    with socket.create_connection(talker.getpeername(), 10) as stranger:
        server.turn()
        assert stranger.recv(9) == b""


def test_who_does_not_read_is_not_waited_for(server: Server, talker: socket.socket) -> None:
    talker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    many = framed(query(ALLOWED)) * 200
    talker.setblocking(False)
    for _ in range(2000):
        try:
            talker.send(many)
        except (BlockingIOError, ConnectionError):
            pass
        server.turn()
        if len(server.watched) == 1:
            return
    pytest.fail("it waits")


def test_conversations_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fence_core.broker.services.name_server._CONVERSATIONS_MAX", 2)
    socks: list[Any] = []
    for _ in range(3):
        sock = socket.socket()
        sock.settimeout(10)
        server.asks(sock)
        server.turn()
        socks.append(sock)
    assert len(server.watched) == 3, "the listener, and two of them"
    assert socks[2].recv(1) == b""
    for sock in socks:
        sock.close()
