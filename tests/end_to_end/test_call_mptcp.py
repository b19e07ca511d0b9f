"""Way out: MPTCP, TCP over several paths at once, for which the kernel's own network rules have no word."""

from __future__ import annotations

import socket

import pytest

from tests.end_to_end.caught import Fenced

IPPROTO_MPTCP = 262


def has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_mptcp(), reason="kernel: no MPTCP")
def test_mptcp(fenced: Fenced) -> None:
    run = fenced.run(
        f"""
        import errno, socket
        import pytest
        from here import AWAY, HELLO, PORT

        def mptcp():
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM, {IPPROTO_MPTCP})

        def test_connect():
            with mptcp() as s:
                assert s.connect_ex((AWAY, 443)) == errno.EACCES

        def test_fast_open():
            with mptcp() as s, pytest.raises(OSError):
                s.sendto(b"secret", socket.MSG_FASTOPEN, (AWAY, 443))

        def test_loopback():
            with mptcp() as s:
                s.connect(("127.0.0.1", PORT))
                assert s.recv(99) == HELLO
        """
    )
    for test in "test_connect", "test_fast_open":
        run.refused(test, "connect 198.51.100.7:443/tcp")
    run.clean("test_loopback")
