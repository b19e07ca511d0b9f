"""The filter as a process: asleep until needed, deaf to signals, gone with the broker, and never in doubt for long."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.peers import FilterProcess, Server, eventually, read_all


@pytest.fixture
def fresh() -> Iterator[FilterProcess]:
    """A filter of this test's own."""
    process = FilterProcess()
    # It ignores signals from a moment after it was started: only then may the test send any.
    status = Path(f"/proc/{process.process.pid}/status")
    eventually(lambda: int(status.read_text().split("SigIgn:")[1].split()[0], 16) & 1 << 14, "it does not start")
    yield process
    if process.process.poll() is None:
        process.close()


def loaded(process: FilterProcess, name: str) -> bool:
    return name in Path(f"/proc/{process.process.pid}/maps").read_text()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def test_it_imports_little_before_somebody_connects(fresh: FilterProcess) -> None:
    """What costs 90 ms is for sessions that use the network."""
    assert not loaded(fresh, "_ssl")
    assert not loaded(fresh, "_asyncio")
    assert fresh.resets()
    assert loaded(fresh, "_ssl")  # by asyncio: what is looked for can be seen


@pytest.mark.parametrize("awake", [False, True])
def test_it_ends_with_the_broker(fresh: FilterProcess, awake: bool) -> None:
    if awake:
        assert fresh.resets()
    fresh.close()
    assert fresh.process.returncode == 0


def test_open_tunnels_end_with_the_broker(fresh: FilterProcess) -> None:
    server = Server(echo)
    try:
        fresh.referee.tunnel("a.test", 9, server.address)
        with fresh.connect() as sock:
            sock.sendall(b"\0")
            assert sock.recv(1) == b"\0"
            fresh.close()
            assert read_all(sock) == b""
    finally:
        server.close()


@pytest.mark.parametrize("awake", [False, True])
def test_signals_of_a_terminal_are_not_for_it(fresh: FilterProcess, awake: bool) -> None:
    if awake:
        assert fresh.resets()
    for number in (
        signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM,
    ):  # fmt: skip
        os.kill(fresh.process.pid, number)
    assert fresh.resets()
    assert fresh.process.poll() is None


def test_a_bug_closes_its_connection_only(fresh: FilterProcess) -> None:
    """Fail closed: the process goes on, nothing is written to stderr, and the broker hears of it before the program
    does."""
    server = Server(echo)
    try:
        fresh.referee.who = {"kind": "tunnel", "name": "a.test"}  # no port: an answer we do not expect
        assert fresh.resets()
        fresh.referee.who = {"kind": "tunnel", "name": "not a name", "port": 1, "to": None}
        assert fresh.resets()
        first, second = fresh.referee.ops("fault")
        assert first["what"] == "KeyError: 'port'"
        assert first["at"].startswith("hub.py:")
        assert first["host"] == "127.0.0.1"
        assert first["from"] != second["from"]
        fresh.stderr.seek(0)
        assert not fresh.stderr.read()
        fresh.referee.tunnel("a.test", 9, server.address)
        with fresh.connect() as sock:
            sock.sendall(b"\0")
            assert sock.recv(1) == b"\0"
    finally:
        server.close()


@pytest.mark.parametrize("answered", [True, False])
def test_a_refusal_waits_until_it_is_recorded(answered: bool) -> None:
    """And if the broker cannot, it is a refusal all the same, before the client's patience ends."""
    filter_ = FilterProcess(patience=60 if answered else 0.5)
    server = Server(echo)
    try:
        filter_.referee.tunnel("a.test", 80, server.address)
        filter_.referee.silent.add("violation")
        with filter_.connect(20) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
            eventually(lambda: filter_.referee.violations, "it is not recorded")
            if answered:
                eventually(filter_.is_idle, "it waits for nobody")
                assert not select.select([sock], [], [], 0)[0]
                filter_.referee.answer_late("violation")
            told = read_all(sock)
        assert told.startswith(b"HTTP/1.1 403")
    finally:
        server.close()
        filter_.close()


def test_connections_beyond_the_limit_are_reset(fresh: FilterProcess) -> None:
    """The limit follows the descriptors it may have; it is usable again when some are closed."""
    import resource

    server = Server(echo)
    try:
        resource.prlimit(fresh.process.pid, resource.RLIMIT_NOFILE, (128, 128))
        fresh.referee.tunnel("a.test", 9, server.address)
        open_ones = []
        for _ in range(32):
            sock = fresh.connect()
            open_ones.append(sock)
            sock.sendall(b"\0")
            assert sock.recv(1) == b"\0"
        assert fresh.resets()
        for sock in open_ones:
            sock.close()

        def works() -> bool:
            try:
                with fresh.connect() as sock:
                    sock.sendall(b"\0")
                    return sock.recv(1) == b"\0"
            except ConnectionError:
                return False

        eventually(works, "it stays full")
    finally:
        server.close()
