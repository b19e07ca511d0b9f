"""Opening a port: by `bind`, or by `listen` on a socket that was never bound. One key of the policy is about both."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.test_names_settings import free_port

TESTS = """
import errno, socket
import pytest

def test_bind():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))

def test_bind_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("", 0))

def test_listen():
    with socket.socket() as s:
        s.listen()  # binds to a port of the kernel's choice
        assert s.getsockname()[1]

def test_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"x")
                assert peer.recv(9) == b"x"

def test_listen_on_own_port():
    with socket.socket() as s:
        s.listen()
        with socket.create_connection(("127.0.0.1", s.getsockname()[1]), timeout=5):
            pass
"""


def test_allowed(fenced: Fenced) -> None:
    run = fenced.run(TESTS)
    run.clean("test_bind", "test_bind_udp", "test_listen", "test_server", "test_listen_on_own_port")
    assert run.status == 0


def test_not_allowed(fenced: Fenced) -> None:
    """A TCP socket is refused when it listens: before that nobody can reach it, and programs bind to see if they could.

    The port of the kernel's choice that a datagram socket binds is no other than the one that it gets by sending.
    """
    run = fenced.run(
        TESTS
        + """
def test_probe_by_ipv6():
    with socket.socket(socket.AF_INET6) as s:
        s.bind(("::1", 0))  # urllib3

def test_is_the_port_free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", FREE))

def test_source_address():
    with socket.create_connection(("127.0.0.1", PORT), 10, ("127.0.0.2", 0)) as s:
        assert s.getsockname()[0] == "127.0.0.2"

def test_no_way_to_a_port_of_the_host():
    with socket.socket() as s, socket.socket() as client:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.3", CLOSED))
        with pytest.raises(PermissionError):
            client.connect(("127.0.0.3", CLOSED))

def test_listen_on_a_chosen_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", FREE))
        s.listen()

def test_udp_server():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", FREE))

@pytest.mark.fence(allow_local_binding=True)
def test_bound_before_it_was_allowed(early):
    early.listen()
    socket.create_connection(early.getsockname(), 10).close()
    early.listen(5)

@pytest.fixture(scope="session")
def early():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s

def test_use_the_fixture_early(early):
    pass
""".replace("FREE", str(free_port()))
        .replace("PORT", str(fenced.loopback.hello))
        .replace("CLOSED", str(fenced.loopback.http)),
        policy=f"[tool.fence]\nallow_local_binding = false\nallow_local_outbound_ports = [{fenced.loopback.hello}]\n",
    )
    run.clean("test_bind", "test_bind_udp", "test_probe_by_ipv6", "test_is_the_port_free", "test_source_address")
    run.clean("test_bound_before_it_was_allowed", "test_use_the_fixture_early")
    run.refused("test_no_way_to_a_port_of_the_host", f"connect 127.0.0.3:{fenced.loopback.http}/tcp")
    run.refused(
        "test_listen",
        "bind 0.0.0.0:0/tcp",
        line="s.listen()  # binds to a port of the kernel's choice",
        fails_itself=True,
    )
    run.refused("test_server", "bind 127.0.0.1:0/tcp", fails_itself=True)
    run.refused("test_listen_on_own_port", "bind 0.0.0.0:0/tcp", fails_itself=True)
    (chosen,) = run.attempts("test_listen_on_a_chosen_port")
    assert re.fullmatch(r"bind 127\.0\.0\.1:[1-9]\d+/tcp", chosen.what), run
    assert run.line_of(chosen) == "s.listen()", run
    (datagrams,) = run.attempts("test_udp_server")
    assert re.fullmatch(r"bind 127\.0\.0\.1:[1-9]\d+/udp", datagrams.what), run
    assert "PermissionError" in run.report("test_listen")["text"]


def test_allowed_by_one_test_only(fenced: Fenced) -> None:
    run = fenced.run(
        TESTS.replace("def test_server", "@pytest.mark.fence(allow_local_binding=True)\ndef test_server"),
        policy="[tool.fence]\nallow_local_binding = false\n",
    )
    run.clean("test_server")
    run.refused("test_listen_on_own_port", "bind 0.0.0.0:0/tcp", fails_itself=True)


def test_an_address_of_another_network(fenced: Fenced) -> None:
    """Nobody else can reach a port in here; what is not this machine's address is the kernel's to refuse."""
    run = fenced.run(
        """
        import errno, socket
        import pytest
        from here import AWAY

        def test_not_ours():
            with socket.socket() as s, pytest.raises(OSError) as caught:
                s.bind((AWAY, 0))
            assert caught.value.errno == errno.EADDRNOTAVAIL
        """
    )
    run.clean("test_not_ours")


@pytest.mark.parametrize("listed", [0, 1])
def test_services_of_this_machine(fenced: Fenced, listed: int) -> None:
    """Those that were started outside are allowed by default, and can be closed; those started inside never are.

    A list of ports closes all others, whatever the preset says.
    """
    run = fenced.run(
        """
        import socket
        import pytest
        from here import HELLO, PORT, UDP

        def test_outside():
            with pytest.raises(PermissionError):
                socket.create_connection(("127.0.0.1", PORT), timeout=5)

        def test_outside_udp():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
                s.sendto(b"x", ("127.0.0.1", UDP))

        @pytest.mark.fence(allow_local_outbound_ports=[PORT])
        def test_outside_allowed():
            with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
                assert s.recv(99) == HELLO

        def test_inside():
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname(), timeout=5).close()
        """,
        policy="[tool.fence]\nallow_local_outbound = false\n"
        if not listed
        else f"""
        [tool.fence.network]
        allow_local_outbound_ports = [{listed}]
        """,
    )
    run.refused("test_outside", f"connect 127.0.0.1:{fenced.loopback.hello}/tcp")
    run.refused("test_outside_udp", f"connect 127.0.0.1:{fenced.loopback.udp}/udp")
    run.clean("test_outside_allowed", "test_inside")
