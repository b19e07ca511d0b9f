"""A thread swaps where a datagram goes, while the broker looks at it: none arrives outside, whatever comes of it.

The race is run until both ends of it are seen: messages sent inside, and refused outside.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced

ROUNDS = int(os.environ.get("FENCE_RACE_ROUNDS", "20000")) // 4
"""Enough to break an engine that judges messages and leaves them to the kernel; with 100,000 they take a minute."""

TEST = """
import subprocess
from race import ARGV

def test_race():
    with open("counted", "w") as counted:
        subprocess.run(ARGV, stdout=counted, check=True)
"""


@pytest.mark.needs("program:cc")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("swap", ["name", "later", "link", "packets", "stream", "internet", "netlink"])
def test_race(fenced: Fenced, probe: Callable[..., Path], swap: str) -> None:
    inside, outside = (fenced.directory / letter for letter in "io")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(outside))
        host.setblocking(False)
        argv = [str(probe("datagram_races", "-pthread")), swap, str(ROUNDS), str(inside), str(outside)]
        run = fenced.run(TEST, files={"race.py": f"ARGV = {argv!r}\n"})
        arrived = 0
        try:
            while host.recv(99):
                arrived += 1
        except BlockingIOError:
            pass
        assert not arrived, f"{arrived} (or more: that is all that the socket holds) arrived\n{run!r}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", str(outside))
        assert host.recv(99) == b"x"
    text = (fenced.directory / "counted").read_text(encoding="ascii")
    counted = {name: tuple(map(int, rest)) for name, *rest in map(str.split, text.splitlines())}
    assert sum(sum(counts[:3]) for counts in counted.values()) == ROUNDS, run
    assert all(counts[0] and counts[1] for counts in counted.values()), counted
    assert {attempt.what for attempt in run.attempts("test_race")} == {f"connect unix:{outside}"}, run
