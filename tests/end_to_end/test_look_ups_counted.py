"""How often a name was looked up is said as the program did it, not as its resolver went about it."""

from __future__ import annotations

import json

import pytest

from tests.end_to_end.caught import Fenced

ASKING = """
import socket

def ask(name, family=0):
    try:
        socket.getaddrinfo(name, 80, family)
    except OSError:
        return
    raise SystemExit(name)
"""
PROGRAM = """
import ctypes, socket, threading, time
from asking import ask

ask("one.example.com")
for i in range(3):
    ask("three.example.com")
    time.sleep(0.3)
for i in range(2):
    ask("two.example.com"); ask("short")
for i in range(3):
    ask("six.example.com", socket.AF_INET6)
libc = ctypes.CDLL(None)
for i in range(3):
    assert not libc.gethostbyname(b"old.example.com")
for i in range(100):
    ask("many.example.com")

start = threading.Barrier(2)

def again():
    start.wait()
    for i in range(20):
        ask("threads.example.com")

threads = [threading.Thread(target=again) for i in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_libc(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import subprocess, sys

        def test_child():
            subprocess.run([sys.executable, "program.py"], check=True)

        def test_children():
            for i in range(3):
                code = "from asking import ask; ask('children.example.com')"
                subprocess.run([sys.executable, "-c", code], check=True)

        def test_own():
            import socket
            for i in range(2):
                try:
                    socket.getaddrinfo("own.example.com", 80)
                except OSError:
                    pass
        """,
        files={"asking.py": ASKING, "program.py": PROGRAM},
    )
    assert {v.what.removeprefix("resolve "): v.count for v in run.ledger} == {
        "one.example.com": 1,
        "three.example.com": 3,
        "two.example.com": 2,
        "short": 2,
        "six.example.com": 3,
        "old.example.com": 3,
        "many.example.com": 100,
        "threads.example.com": 40,
        "children.example.com": 3,
        "own.example.com": 2,
    }, run
    run.has("^  call: resolve three.example.com, 3 times")


@pytest.mark.needs("program:node")
def test_node(fenced: Fenced) -> None:
    """c-ares, which has a socket for all queries or one for each, and libc by threads."""
    run = fenced.run(
        """
        import subprocess

        def node(name, script):
            ask = "const ask = (how, then) => require('dns')[how](name, e => { if (!e) process.exit(9); then?.() });"
            subprocess.run(["node", "-e", f"const name = '{name}';{ask}{script}"], check=True)

        def test_both():
            node("both.example.com", "ask('resolve4'); ask('resolve6')")

        def test_one_after_the_other():
            node("twice.example.com", "ask('resolve4', () => ask('resolve4'))")

        def test_at_once():
            node("once.example.com", "for (let i = 0; i < 3; i++) { ask('resolve4'); ask('resolve6') }")

        def test_by_libc():
            node("libc.example.com", "ask('lookup', () => ask('lookup'))")
        """
    )
    found = {v.what: v.count for v in run.ledger if v.what.startswith("resolve ")}
    assert found == {
        "resolve both.example.com": 1,
        "resolve twice.example.com": 2,
        "resolve once.example.com": 3,
        "resolve libc.example.com": 2,
    }, run


@pytest.mark.needs("program:chromium")
def test_chromium(fenced: Fenced) -> None:
    """It asks for addresses and HTTPS from a socket each, then libc for the same; and says how often it did either."""
    run = fenced.run(
        """
        import os, subprocess

        def test_browser(tmp_path):
            buses = {f"DBUS_{bus}_BUS_ADDRESS": "disabled:" for bus in ("SESSION", "SYSTEM")}
            subprocess.run(
                ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 f"--user-data-dir={tmp_path}/data", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.test",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
                 "--log-net-log=log.json", "--dump-dom", "http://page.test/"],
                env={**os.environ, **buses, "HOME": str(tmp_path)}, capture_output=True, check=True)
        """
    )
    log = json.loads((fenced.directory / "log.json").read_text(encoding="utf-8"))
    names = {number: name for name, number in log["constants"]["logEventTypes"].items()}
    begun = [
        (names[event["type"]], event["source"]["id"], event.get("params") or {})
        for event in log["events"]
        if event["phase"] == log["constants"]["logEventPhase"]["PHASE_BEGIN"]
    ]
    jobs = {at for what, at, params in begun if what.endswith("MANAGER_JOB") and "page.test" in str(params)}
    itself = [p for what, _, p in begun if what == "DNS_TRANSACTION" and p.get("hostname") == "page.test"]
    by_libc = [at for what, at, _ in begun if what == "HOST_RESOLVER_SYSTEM_TASK" and at in jobs]
    assert len({params["query_type"] for params in itself}) > 1, itself
    look_ups = sum(params["query_type"] == 1 for params in itself)
    counts = [v.count for v in run.attempts("test_browser") if v.what == "resolve page.test"]
    assert counts == [look_ups + len(by_libc)] != [0], (itself, by_libc, run)
