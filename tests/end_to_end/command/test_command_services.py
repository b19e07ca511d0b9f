"""Real servers: outside, for a fenced client; and inside."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.command.conftest import Command, has
from tests.end_to_end.support import Runs, port_below_those_given_out, until

NOBODY = 65534


@pytest.fixture
def number() -> int:
    return port_below_those_given_out()


def program(name: str) -> str:
    """Debian has the programs of the server where `$PATH` does not lead."""
    found = shutil.which(name) or next(iter(glob.glob(f"/usr/lib/postgresql/*/bin/{name}")), None)
    if found is None:
        pytest.skip(f"program: {name} is not installed")
    return found


@pytest.fixture
def postgresql(runs: Runs, number: int) -> Iterator[int]:
    """The port of a server of this test's, which lets everybody in as "kim". It never runs as root."""
    server, directory = program("postgres"), Path(tempfile.mkdtemp(prefix="fence-pg-"))
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        os.chown(directory, NOBODY, NOBODY)
    data = str(directory / "data")
    made = [program("initdb"), "--auth=trust", "--username=kim", "--no-sync", "--no-locale", "-D", data]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=directory, **user)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "shared_buffers": "1MB"}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    start = [server, "-D", data, "-p", str(number), *words]
    # What it says goes where only that is: a pipe that nobody reads any more would end it.
    with open(directory / "log", "w", encoding="utf-8") as log:
        started = runs.start(start, stdout=log, stderr=log, cwd=directory, env={"LC_ALL": "C"}, **user)
    until(lambda: "ready to accept connections" in (directory / "log").read_text("utf-8"), "the server is ready")
    yield number
    started.send_signal(signal.SIGINT)  # clients are not waited for
    started.wait(60)
    shutil.rmtree(directory)


@pytest.mark.needs("program:psql")
def test_postgresql(fence: Command, postgresql: int) -> None:
    place = ["-h", "127.0.0.1", "-p", str(postgresql), "-U", "kim", "-d", "postgres"]
    ask = ["psql", *place, "-X", "-A", "-t", "-c", "select 40 + 2"]
    refused = fence("-m", *ask)
    assert (refused.status, refused.out) == (2, ""), refused
    assert "failed: Permission denied" in refused.err
    has(fence.refusals(refused), f"[fence:net] ✗ connect 127.0.0.1:{postgresql}/tcp EACCES (psql")
    for network, reached in (
        ({"allowLocalOutbound": True}, True),
        ({"allowLocalOutboundPorts": [postgresql]}, True),
        ({"allowLocalOutboundPorts": [postgresql + 1]}, False),
    ):
        fence.write("p.json", json.dumps({"network": network}))
        ended = fence("-s", "p.json", *ask)
        assert (ended.status, ended.out) == ((0, "42\n") if reached else (2, "")), ended
        assert bool(ended.err) is not reached


def test_a_web_server_inside_is_never_told_of(fence: Command, number: int) -> None:
    """libc sorts addresses by connecting datagram sockets to them, also to loopback: nothing is sent by that."""
    network = {"allowedDomains": ["allowed.test"], "allowLocalBinding": True, "allowLocalOutbound": False}
    fence.write("p.json", json.dumps({"network": network}))
    server = fence.argv("-m", "-s", "p.json", sys.executable, "-m", "http.server", str(number))
    started = fence.runs.start(server)

    def page() -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/p.json", timeout=60) as answer:
                return answer.read()
        except OSError:
            return b""

    assert json.loads(until(page, "the server answers")) == {"network": network}
    started.terminate()
    ended = fence.runs.finish(started)
    assert (ended.status, fence.refusals(ended)) == (-signal.SIGTERM, []), ended
    assert "GET /p.json" in ended.err, "what it was asked is on the same stream"
