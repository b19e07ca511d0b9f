"""What was bound inside may always be reached from inside: if it was in the network of this run, and is still there."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.end_to_end.caught import Fenced

CLOSED = "[tool.fence]\nallow_local_outbound = false\n"
ELSEWHERE = """
import ctypes, fcntl, os, socket, struct, sys

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000

def leave():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | (CLONE_NEWUSER if os.getuid() else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: lo up
"""


@pytest.fixture
def elsewhere(fenced: Fenced) -> None:
    """A program that leaves for a network of its own."""
    command = ["unshare", *([] if os.geteuid() == 0 else ["--user"]), "--net", "true"]
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("kernel: no network namespaces for this user")
    fenced.write("elsewhere.py", ELSEWHERE)


@pytest.mark.needs("program:unshare")
@pytest.mark.usefixtures("elsewhere")
def test_bound_in_another_network(fenced: Fenced) -> None:
    """A port there says nothing of the host's service at the port of that number here."""
    run = fenced.run(
        """
        import os, socket, subprocess, sys
        import pytest
        from here import HELLO, PORT, PORT6, UDP

        def elsewhere(code):
            subprocess.run([sys.executable, "-c", "from elsewhere import *\\n" + code], check=True)

        def refused(port, host="127.0.0.1"):
            with pytest.raises(PermissionError):
                socket.create_connection((host, port), timeout=5)

        def test_tcp():
            elsewhere(f"leave(); socket.create_server(('127.0.0.1', {PORT}))")
            refused(PORT)

        def test_tcp_wildcard():
            elsewhere(f"leave(); socket.create_server(('::', {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)")
            refused(PORT)

        def test_udp():
            elsewhere(f"leave(); socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('', {UDP}))")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
                s.sendto(b"x", ("127.0.0.1", UDP))

        def test_ipv6():
            if not PORT6:
                pytest.skip("elsewhere: no ::1")
            elsewhere(f"leave(); socket.create_server(('::1', {PORT6}), family=socket.AF_INET6)")
            refused(PORT6, "::1")

        def test_mptcp():
            elsewhere(f"leave(); s = socket.socket(2, 1, 262); s.bind(('127.0.0.1', {PORT})); s.listen()")
            refused(PORT)

        def test_a_socket_that_came_from_there():
            ours, theirs = socket.socketpair()
            with ours, theirs:
                code = (f"leave(); line = socket.socket(fileno={theirs.fileno()})\\n"
                        "s = socket.socket(); socket.send_fds(line, [b'x'], [s.fileno()])")
                command = [sys.executable, "-c", "from elsewhere import *\\n" + code]
                subprocess.run(command, check=True, pass_fds=[theirs.fileno()])
                _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
            with socket.socket(fileno=fd) as made_there:
                made_there.bind(("127.0.0.1", PORT))
                made_there.listen()
                refused(PORT)

        def test_entered_again():
            # Into a network of ours and back: the socket stays where it was made.
            elsewhere(f"before = os.open('/proc/self/ns/net', os.O_RDONLY); leave(); s = socket.socket()\\n"
                      f"ctypes.CDLL(None).setns(before, CLONE_NEWNET); s.bind(('127.0.0.1', {PORT})); s.listen()")
            refused(PORT)
        """,
        policy=CLOSED,
    )
    port, port6, _, udp, _ = fenced.loopback
    tests = ("tcp", "tcp_wildcard", "mptcp", "a_socket_that_came_from_there", "entered_again")
    for test in tests:
        run.refused(f"test_{test}", f"connect 127.0.0.1:{port}/tcp")
    run.refused("test_udp", f"connect 127.0.0.1:{udp}/udp")
    if port6:
        run.refused("test_ipv6", f"connect [::1]:{port6}/tcp")


@pytest.mark.needs("program:unshare")
@pytest.mark.usefixtures("elsewhere")
def test_still_inside(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, socket, subprocess, sys, threading
        import pytest

        def elsewhere(code):
            subprocess.run([sys.executable, "-c", "from elsewhere import *\\n" + code], check=True)

        def test_within_a_network_of_its_own():
            connect = "socket.create_connection(s.getsockname(), 5)"
            elsewhere("leave(); s = socket.create_server(('127.0.0.1', 0)); " + connect)

        def test_made_here_and_bound_from_there():
            # A socket stays in the network that it was made in.
            ours, theirs = socket.socketpair()
            with ours, theirs, socket.socket() as s:
                code = f"leave(); s = socket.socket(fileno={s.fileno()}); s.bind(('127.0.0.1', 0)); s.listen()"
                command = [sys.executable, "-c", "from elsewhere import *\\n" + code]
                subprocess.run(command, check=True, pass_fds=[s.fileno()])
                socket.create_connection(s.getsockname(), 5).close()

        @pytest.mark.parametrize("connected", [False, True])
        @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.9"])
        def test_answers_to_datagrams(host, connected):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
                server.bind((host, 0))
                if connected:
                    client.connect(server.getsockname())
                    client.send(b"x")
                else:
                    client.sendto(b"x", server.getsockname())
                _, sender = server.recvfrom(9)
                server.sendto(b"y", sender)
                assert client.recv(9) == b"y"

        def test_closed_again():
            # "Connection refused" is what tests of clients look for.
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)

        def test_bound_to_all():
            with socket.create_server(("", 0)) as server:
                for host in "127.0.0.1", "127.3.4.5":
                    socket.create_connection((host, server.getsockname()[1]), 5).close()
        """,
        policy=CLOSED,
    )
    assert run.status == 0, run
    assert not run.ledger, run


@pytest.fixture
def taker(fenced: Fenced) -> Iterator[None]:
    """A service of the host that starts when it is told, at the port that it is told."""
    for name in ("free", "taken"):
        os.mkfifo(fenced.directory / name)

    def take() -> None:
        with open(fenced.directory / "free", encoding="ascii") as free:
            port = int(free.readline())
        with socket.create_server(("127.0.0.1", port)) as server:
            (fenced.directory / "taken").write_text("taken", encoding="ascii")
            server.settimeout(0.0)
            free = open(fenced.directory / "free", encoding="ascii")  # noqa: SIM115 - until the test is over
            free.read()
            free.close()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    yield
    thread.join(10)


@pytest.mark.usefixtures("taker")
def test_closed_and_taken_by_the_host(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        import pytest

        def test_it():
            with socket.create_server(("127.0.0.1", 0)) as server:
                address = server.getsockname()
                socket.create_connection(address, 5).close()
            with open("free", "w") as free:
                free.write(f"{address[1]}\\n")
            with open("taken") as taken:
                taken.read()
            with pytest.raises(PermissionError):
                socket.create_connection(address, 5)
            open("free", "w").close()
        """,
        policy=CLOSED,
    )
    (attempt,) = run.attempts("test_it")
    assert attempt.what.startswith("connect 127.0.0.1:"), run


@pytest.mark.parametrize(
    ("kind", "option"), [("tcp", "SO_REUSEPORT"), ("udp", "SO_REUSEPORT"), ("udp", "SO_REUSEADDR")]
)
def test_shared_with_the_host(fenced: Fenced, kind: str, option: str) -> None:
    """Whoever may bind beside a service of the host, as its user may, does not come to it that way."""
    name = "SOCK_STREAM" if kind == "tcp" else "SOCK_DGRAM"
    with socket.socket(socket.AF_INET, getattr(socket, name)) as host:
        host.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        host.bind(("127.0.0.1", 0))
        if kind == "tcp":
            host.listen()
        port = host.getsockname()[1]
        run = fenced.run(
            f"""
            import socket
            import pytest

            def test_it():
                for bound in "127.0.0.1", "":
                    with socket.socket(socket.AF_INET, socket.{name}) as own:
                        own.setsockopt(socket.SOL_SOCKET, socket.{option}, 1)
                        own.bind((bound, {port}))
                        if {kind == "tcp"}:
                            own.listen()
                        for _ in range(8):
                            with socket.socket(socket.AF_INET, socket.{name}) as client, pytest.raises(PermissionError):
                                client.{"connect(" if kind == "tcp" else "sendto(b'x', "}("127.0.0.1", {port}))
            """,
            policy=CLOSED,
        )
    run.refused("test_it", f"connect 127.0.0.1:{port}/{kind}", count=16)
