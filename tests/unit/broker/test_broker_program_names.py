"""What the broker calls a program where it shows one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fence_core.broker.processes import program

CALLS_ITSELF = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("name", "shown"), [("worker-3", "worker-3"), ("MainThread", "node")])
def test_name_that_it_has_given_itself(name: str, shown: str) -> None:
    """A name says most; but that of every program's main thread says nothing, and Node.js 23 and newer have it."""
    with subprocess.Popen(
        ["/opt/bin/node", "-c", CALLS_ITSELF, name],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert program(process.pid) == shown


def test_of_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert program(process.pid) == "?"
