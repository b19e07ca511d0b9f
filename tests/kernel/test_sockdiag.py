"""Which socket is bound to a name: the answer is the number that fstat of the socket shows."""

from __future__ import annotations

import os
import socket

import pytest

from fence_core.errors import FenceUnavailable
from fence_core.kernel import sockdiag


@pytest.fixture(autouse=True)
def unix_diag() -> None:
    try:
        sockdiag.unix_socket_named(b"\0")
    except FenceUnavailable as error:
        pytest.skip(f"kernel: {error}")


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_socket_bound_to_a_path(tmp_path, kind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as one, socket.socket(socket.AF_UNIX, kind) as two:
        for sock, name in ((one, "one"), (two, "two")):
            sock.bind(str(tmp_path / name))
        for sock, name in ((one, "one"), (two, "two")):
            found = os.stat(tmp_path / name)
            assert sockdiag.unix_socket_at(found.st_dev, found.st_ino) == inode(sock)
        os.rename(tmp_path / "one", tmp_path / "renamed")
        os.link(tmp_path / "renamed", tmp_path / "linked")
        found = os.stat(tmp_path / "linked")
        assert sockdiag.unix_socket_at(found.st_dev, found.st_ino) == inode(one)
    assert sockdiag.unix_socket_at(found.st_dev, found.st_ino) is None


def test_same_inode_on_another_device_is_not_it(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "x"))
        found = os.stat(tmp_path / "x")
        other = os.makedev(os.major(found.st_dev), os.minor(found.st_dev) + 1)
        assert sockdiag.unix_socket_at(other, found.st_ino) is None
        assert sockdiag.unix_socket_at(found.st_dev, found.st_ino + 1) is None


def test_accepted_socket_does_not_stand_in_for_the_listening_one(tmp_path) -> None:
    """An accepted socket carries the name and the file of the one it came from."""
    path = tmp_path / "server"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        server.listen()
        client.connect(str(path))
        accepted, _ = server.accept()
        found = os.stat(path)
        with accepted:
            assert sockdiag.unix_socket_at(found.st_dev, found.st_ino) == inode(server)


@pytest.mark.parametrize("suffix", [b"", b"\0", b"\0\0tail", b"\xff\n"])
def test_abstract_names_are_compared_whole(suffix) -> None:
    name = b"\0fence-%d" % os.getpid() + suffix
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as longer:
        sock.bind(name)
        longer.bind(name + b"x")
        assert sockdiag.unix_socket_named(name) == inode(sock)
        assert sockdiag.unix_socket_named(name + b"x") == inode(longer)
        assert sockdiag.unix_socket_named(name + b"\0") is None
    assert sockdiag.unix_socket_named(name) is None


def test_accepted_socket_of_an_abstract_server() -> None:
    name = b"\0fence-server-%d" % os.getpid()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(name)
        server.listen()
        client.connect(name)
        accepted, _ = server.accept()
        with accepted:
            assert sockdiag.unix_socket_named(name) == inode(server)


def test_one_name_for_each_type_of_socket() -> None:
    """A datagram socket inside must not vouch for a stream socket outside that has the same name."""
    name = b"\0fence-types-%d" % os.getpid()
    stream, datagram, packet = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, stream) as one, socket.socket(socket.AF_UNIX, datagram) as two:
        one.bind(name)
        assert sockdiag.unix_socket_named(name) == inode(one)
        two.bind(name)
        assert sockdiag.unix_socket_named(name, stream) == inode(one)
        assert sockdiag.unix_socket_named(name, datagram) == inode(two)
        assert sockdiag.unix_socket_named(name, packet) is None
        assert sockdiag.unix_socket_named(name) == 0


def test_connected_datagram_socket_keeps_its_name() -> None:
    name = b"\0fence-dgram-%d" % os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(name)
        one.connect(name)
        assert sockdiag.unix_socket_named(name, socket.SOCK_DGRAM) == inode(one)


def test_long_list_comes_whole() -> None:
    """Several messages of the kernel."""
    pairs = [socket.socketpair() for _ in range(300)]
    name = b"\0fence-many-%d" % os.getpid()
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name)
            assert sockdiag.unix_socket_named(name) == inode(sock)
    finally:
        for a, b in pairs:
            a.close()
            b.close()


def test_path_is_no_abstract_name() -> None:
    with pytest.raises(ValueError, match="NUL"):
        sockdiag.unix_socket_named(b"/run/x")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("bound", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.4.3.2"), ("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1"),
    ],
)  # fmt: skip
def test_who_gets_what_is_sent(kind, bound, asked) -> None:
    udp = kind == socket.SOCK_DGRAM
    sender = ("::1" if ":" in asked else "127.0.0.1", 0)
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET, kind) as server:
        server.bind((bound, 0))
        port = server.getsockname()[1]
        if not udp:
            assert sockdiag.inet_receiver((asked, port), sender, udp=udp) is None  # nobody listens
            server.listen()
        assert sockdiag.inet_receiver((asked, port), sender, udp=udp) == inode(server)
        assert sockdiag.inet_receiver((asked, port), sender, udp=not udp) is None
    assert sockdiag.inet_receiver((asked, port), sender, udp=udp) is None


def test_a_connected_datagram_socket_listens_to_its_peer() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        one.bind(("127.0.0.1", 0))
        two.connect(one.getsockname())
        assert sockdiag.inet_receiver(two.getsockname(), one.getsockname(), udp=True) == inode(two)
        assert sockdiag.inet_receiver(two.getsockname(), ("127.0.0.1", 1), udp=True) is None
