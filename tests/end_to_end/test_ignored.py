"""Refused in silence: the kernel refuses all the same, no test fails, and the end of the run says how often."""

from __future__ import annotations

import os
import sys

import pytest

from tests.end_to_end.caught import AWAY, ONLY_HERE, Fenced

PYTHON = os.path.basename(sys.executable)

KNOWN = """
import pathlib, socket, subprocess, sys
import pytest
from here import OUTSIDE, PORT

def refused(work):
    try:
        work()
    except OSError as error:
        print("refused:", type(error).__name__)
    else:
        raise AssertionError("it was let through")

def test_name():
    refused(lambda: socket.getaddrinfo("api.telemetry.test", 443))

def test_loopback_of_a_program():
    script = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 5)"
    assert subprocess.run([sys.executable, "-I", "-c", script], capture_output=True).returncode == 1

def test_file():
    for _ in range(3):
        refused(lambda: pathlib.Path(OUTSIDE, "new").write_text("x"))
    assert not pathlib.Path(OUTSIDE, "new").exists()

@pytest.mark.fence(ignored_domains=["marked.test"])
def test_marked():
    refused(lambda: socket.getaddrinfo("marked.test", 443))
"""
OTHERS = """

def test_another_name():
    refused(lambda: socket.getaddrinfo("marked.test", 443))

def test_another_address():
    refused(lambda: socket.create_connection(("AWAY", 443), 5))

def test_denied():
    refused(lambda: pathlib.Path(OUTSIDE, "x.key").write_text("x"))
""".replace("AWAY", AWAY)


def policy_of(fenced: Fenced) -> str:
    return f"""{ONLY_HERE}
ignored_domains = ["*.telemetry.test", "127.0.0.1:{fenced.loopback.hello}"]
ignore_write = ["{fenced.outside}"]
deny_write = ["*.key"]
allow_local_outbound = false
"""


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]], ids=["alone", "xdist"])
def test_known_refusals_fail_nobody(fenced: Fenced, workers: list[str]) -> None:
    run = fenced.run(KNOWN, "-v", *workers, policy=policy_of(fenced))
    assert run.status == 0, run
    assert run.ledger == []
    assert fenced.untouched()
    where = r"\(pyproject.toml \[tool.fence\]\)"
    run.has(
        "4 passed",
        "^fence: 6 refusals ignored, as the policy says$",
        rf"^ +3  {fenced.outside} {where}$",
        rf"^ +1  \*\.telemetry\.test {where}$",
        rf"^ +1  127\.0\.0\.1:{fenced.loopback.hello} {where}$",
        r"^ +1  marked\.test \(@pytest.mark.fence of the test\)$",
    )


def test_all_others_do(fenced: Fenced) -> None:
    run = fenced.run(KNOWN + OTHERS, policy=policy_of(fenced))
    assert run.status == 1, run
    run.refused("test_another_name", "resolve marked.test")
    run.refused("test_another_address", f"connect {AWAY}:443/tcp")
    run.refused("test_denied", f"write {fenced.outside}/x.key")
    run.clean("test_name")
    run.clean("test_marked")
    run.has("^fence: 6 refusals ignored", "3 failed, 4 passed")


def test_without_the_lists_they_are_violations(fenced: Fenced) -> None:
    run = fenced.run(KNOWN, policy=f"{ONLY_HERE}\nallow_local_outbound = false\n")
    run.refused("test_name", "resolve api.telemetry.test")
    run.refused("test_loopback_of_a_program", f"connect 127.0.0.1:{fenced.loopback.hello}/tcp", by=[PYTHON])
    run.refused("test_file", f"write {fenced.outside}/new", count=3)
    run.clean("test_marked")
