"""Way out: a datagram, with no connection ever made."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.loopback import has_ipv6


def test_udp_sendto(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, socket
        import pytest
        from here import AWAY, UDP

        def udp():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(10)
            return s

        def test_sendto():
            with udp() as s, pytest.raises(PermissionError) as caught:
                s.sendto(b"secret", (AWAY, 4444))
            assert caught.value.errno == errno.EACCES

        def test_connected():
            with udp() as s:
                s.connect((AWAY, 4444))
                with pytest.raises(PermissionError):
                    s.sendmsg([b"secret"])

        def test_the_socket_still_works_after_a_refusal():
            with udp() as s:
                with pytest.raises(PermissionError):
                    s.sendto(b"secret", (AWAY, 4444))
                s.sendto(b"ping", ("127.0.0.1", UDP))
                assert s.recv(99) == b"ping"

        def test_broadcast():
            with udp() as s, pytest.raises(PermissionError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                s.sendto(b"secret", ("255.255.255.255", 4444))

        def test_multicast():
            with udp() as s, pytest.raises(PermissionError):
                s.sendto(b"secret", ("224.0.0.251", 5353))

        def test_loopback():
            with udp() as s:
                assert s.sendto(b"ping", ("127.0.0.1", UDP)) == 4
                data, sender = s.recvfrom(99)
                assert (data, sender) == (b"ping", ("127.0.0.1", UDP))

        def test_loopback_connected():
            with udp() as s:
                s.connect(("127.0.0.1", UDP))
                s.send(b"ping")
                assert s.recv(99) == b"ping"
        """
    )
    send = 's.sendto(b"secret", (AWAY, 4444))'
    run.refused("test_sendto", "connect 198.51.100.7:4444/udp", line=send)
    run.refused("test_connected", "connect 198.51.100.7:4444/udp", line='s.sendmsg([b"secret"])')
    run.refused("test_the_socket_still_works_after_a_refusal", "connect 198.51.100.7:4444/udp", line=send)
    run.refused("test_broadcast", "connect 255.255.255.255:4444/udp")
    run.refused("test_multicast", "connect 224.0.0.251:5353/udp")
    run.clean("test_loopback", "test_loopback_connected")


@pytest.mark.skipif(not has_ipv6(), reason="kernel: no IPv6 on loopback")
def test_udp_by_ipv6(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        import pytest
        from here import AWAY6

        def test_away():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
                s.sendto(b"secret", (AWAY6, 4444))

        def test_loopback():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
                server.bind(("::1", 0))
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
                    s.sendto(b"ping", server.getsockname())
                assert server.recv(99) == b"ping"
        """
    )
    run.refused("test_away", "connect [2001:db8::7]:4444/udp")
    run.clean("test_loopback")
