"""What the report says where it is a limit of the fence, or where what is true today will not be tomorrow."""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.caught import Fenced

FEW = """\
import sys, pytest
from fence_core.dns import addresses

addresses.SyntheticAddresses.__init__.__defaults__ = (3,)
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_names_used_up(fenced: Fenced) -> None:
    """No name is forgotten for a new one, since its address may be in use; so each test that gets none is told."""
    fenced.write("few.py", FEW)
    run = fenced.run(
        """
        import socket
        import pytest

        def test_many():
            for number in range(3):
                assert socket.gethostbyname(f"{number}.wild.corp.net").startswith("198.18.")
            for _ in range(3):
                with pytest.raises(socket.gaierror):
                    socket.gethostbyname("3.wild.corp.net")

        def test_known():
            assert socket.gethostbyname("0.wild.corp.net").startswith("198.18.")

        def test_fresh():
            with pytest.raises(socket.gaierror):
                socket.gethostbyname("fresh.wild.corp.net")
        """,
        policy='[tool.fence]\nallowed_domains = ["*.wild.corp.net"]\n',
        program=(sys.executable, "few.py"),
    )
    for test, name in ("test_many", "3.wild.corp.net"), ("test_fresh", "fresh.wild.corp.net"):
        attempt = run.refused(test, f"resolve {name}", count=None)
        assert attempt.rule.startswith("no address is left to give it"), run
    run.clean("test_known")


def test_ports_of_one_address(fenced: Fenced) -> None:
    """A port that is another one in the next run is left out of what is proposed, and so are many of them."""
    run = fenced.run(
        """
        import socket
        import pytest

        @pytest.mark.parametrize("port", [39071, 80, 81, 82, 83, 84, 85])
        def test_port(port):
            with socket.socket() as s, pytest.raises(PermissionError):
                s.connect(("240.0.0.0", port))
        """
    )

    def proposed(port: int) -> str:
        return str(run.attempts(f"test_port[{port}]")[0].marker)

    assert proposed(39071) == '@pytest.mark.fence(allowed_domains=["240.0.0.0"])'
    assert proposed(80) == '@pytest.mark.fence(allowed_domains=["240.0.0.0:80"])'
    assert proposed(85) == '@pytest.mark.fence(allowed_domains=["240.0.0.0"])'


@pytest.mark.needs("program:curl")
def test_address_of_a_name(fenced: Fenced) -> None:
    """A name that leads into a private network: what is proposed is the network, as the address is that of today."""
    run = fenced.run(
        """
        import subprocess

        def test_private():
            subprocess.run(["curl", "-sS", "http://private.corp.net/"])
        """,
        policy='[tool.fence]\nallowed_domains = ["private.corp.net"]\n',
        program=(sys.executable, "look_up.py"),
        files={"look_up.py": LOOK_UP},
    )
    attempt = run.refused("test_private", "connect private.corp.net:80/tcp, which leads to 10.9.9.9", by=["curl"])
    assert attempt.marker == '@pytest.mark.fence(allow_private=["private.corp.net"])', run


LOOK_UP = """\
import socket, sys, pytest
real = socket.getaddrinfo

def look_up(host, port, *rest, **named):
    # The name server of a private network; the filter is a fork of this process.
    return real("10.9.9.9" if host == "private.corp.net" else host, port, *rest, **named)

socket.getaddrinfo = look_up
sys.exit(pytest.main(sys.argv[1:]))
"""
