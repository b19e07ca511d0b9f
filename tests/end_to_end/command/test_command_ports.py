"""Who comes to a server in a fenced command: this machine, and another one, which dials."""

from __future__ import annotations

import json
import sys

import pytest

from tests.end_to_end import wire as wires
from tests.end_to_end.command.conftest import Command
from tests.end_to_end.wire import ASK, HERE, Wire

pytestmark = wires.needs
wire = wires.wire

PORT = 8123
SERVER = f"""
import socket
{ASK}
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", {PORT}))
    s.listen()
    socket.create_connection(("127.0.0.1", {PORT}), 5).close()
    print("this machine: connected")
    print("another:", dial("tcp", "{HERE}", {PORT}))
"""
LISTED = {"allowedDomains": ["203.0.113.7:443"]}


@pytest.mark.parametrize(
    ("network", "flags", "another"),
    [
        ({"allowLocalBinding": True}, [], "Connection refused"),
        ({"allowLocalBinding": True, **LISTED}, [], "Connection refused"),
        ({}, ["-p", f"{PORT}"], "Connection refused"),
        (LISTED, ["-p", f"{PORT}"], "Connection refused"),
        ({}, ["-p", f"0.0.0.0:{PORT}"], "connected"),
        ({}, ["-p", f"{HERE}:{PORT}"], "connected"),
        ({"allowLocalBinding": True}, ["-p", "0.0.0.0:1"], "Connection refused"),
    ],
)
def test_who_comes(fence: Command, wire: Wire, network: dict[str, object], flags: list[str], another: str) -> None:
    fence.write("p.json", json.dumps({"network": network, "filesystem": {"allowWrite": ["dial", "dialled"]}}))
    command = fence.argv("-m", "-s", "p.json", *flags, sys.executable, "-c", SERVER)
    ended = fence.runs.command(*wire.prefix, *command)
    assert (ended.status, ended.err) == (0, ""), ended
    assert ended.out == f"this machine: connected\nanother: {another}\n", ended


def test_nobody_comes(fence: Command, wire: Wire) -> None:
    ended = fence.runs.command(*wire.prefix, *fence.argv("-m", sys.executable, "-c", SERVER))
    assert (ended.status, ended.out) == (1, ""), ended
    (line,) = fence.refusals(ended)
    assert line.startswith(f"[fence:net] ✗ bind 0.0.0.0:{PORT}/tcp EACCES (")
