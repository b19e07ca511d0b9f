"""Opening a port: by `bind`, or by `listen` on a socket that was never bound. One key of the policy is about both."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

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
    run = fenced.run(TESTS, policy="[tool.fence]\nallow_local_binding = false\n")
    run.refused("test_bind", "bind 127.0.0.1:0/tcp", line='s.bind(("127.0.0.1", 0))', fails_itself=True)
    run.refused("test_bind_udp", "bind 0.0.0.0:0/udp", fails_itself=True)
    run.refused(
        "test_listen",
        "bind 0.0.0.0:0/tcp",
        line="s.listen()  # binds to a port of the kernel's choice",
        fails_itself=True,
    )
    run.refused("test_server", "bind 127.0.0.1:0/tcp", fails_itself=True)
    run.refused("test_listen_on_own_port", "bind 0.0.0.0:0/tcp", fails_itself=True)
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
