"""The C library asks us: its real order of names, and its opinion of our answers.

It asks once only: were a question left without an answer, it would say so (EAI_AGAIN).

In namespaces of its own the test may have a resolv.conf and a name server on port 53; nothing else of the host is seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.needs("program:unshare")

INSIDE = """
import fcntl, json, os, socket, struct, subprocess, sys, threading
conf, switch, allowed, suffixes, ndots, names = json.loads(sys.argv[1])
for path, text in ((conf, f"nameserver 127.0.0.1\\nsearch {' '.join(suffixes)}\\n"
                          f"options ndots:{ndots} timeout:15 attempts:1\\n"),
                   (switch, "hosts: dns\\n")):
    with open(path, "w") as file:
        file.write(text)
subprocess.run(["mount", "--bind", conf, "/etc/resolv.conf"], check=True)
subprocess.run(["mount", "--bind", switch, "/etc/nsswitch.conf"], check=True)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as up:
    fcntl.ioctl(up, 0x8914, struct.pack("16sH14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
from fence_core.dns.resolv_conf import read_resolv_conf
from fence_core.dns.responder import Responder, Verdict

def judge(name):
    return Verdict.ALLOW if any(name == rule or rule[0] == "*" and name.endswith(rule[1:]) for rule in allowed) \\
        else Verdict.REFUSE

found = read_resolv_conf()
assert found.suffixes == tuple(suffixes) and found.ndots == ndots, found
responder, refused = Responder(judge, found.suffixes, ndots=found.ndots), []
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def serve():
    while True:
        message, peer = server.recvfrom(4096)
        answer = responder.answer(message)
        if answer.refused:
            refused.append(answer.refused)
        server.sendto(answer.reply, peer)

threading.Thread(target=serve, daemon=True).start()
results = []
for name in names:
    refused.clear()
    try:
        address = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)[0][4][0]
        result = responder.addresses.name_of(address) or address
    except socket.gaierror as error:
        result = {socket.EAI_NONAME: "EAI_NONAME", socket.EAI_AGAIN: "EAI_AGAIN"}.get(error.errno, error.errno)
    results.append([result, sorted(set(refused))])
print(json.dumps(results))
"""


def look_up(
    place: Path, allowed: list[str], suffixes: list[str], names: list[str], ndots: int = 1
) -> list[tuple[str, list[str]]]:
    attempt = ["unshare", "-rnm", "mount", "--bind", "/etc/resolv.conf", "/etc/resolv.conf"]
    tried = subprocess.run(attempt, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"kernel: no namespaces to give libc a resolv.conf in: {tried.stderr.strip()}")
    if not os.path.exists("/etc/nsswitch.conf"):
        pytest.skip("elsewhere: a C library without name service switch")
    argument = json.dumps([str(place / "resolv.conf"), str(place / "nsswitch.conf"), allowed, suffixes, ndots, names])
    command = ["unshare", "-rnm", sys.executable, "-c", INSIDE, argument]
    env = {name: value for name, value in os.environ.items() if name not in ("LOCALDOMAIN", "RES_OPTIONS")}
    ran = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return [(result, refused) for result, refused in json.loads(ran.stdout)]


def test_names_are_found_or_not_as_the_rules_say(tmp_path: Path) -> None:
    names = ["api.example.com", "API.example.com.", "evil.test", "db.localhost", "nowhere.invalid"]
    assert look_up(tmp_path, ["api.example.com"], [], names) == [
        ("api.example.com", []),
        ("api.example.com", []),
        ("EAI_NONAME", ["evil.test"]),
        ("::1", []),
        ("EAI_NONAME", []),
    ]


def test_suffixes_make_no_noise(tmp_path: Path) -> None:
    names = ["short", "db", "long.test", "evil", "evil.test", "other.corp.example"]
    assert look_up(tmp_path, ["short", "long.test", "db.corp.example"], ["corp.example", "b.test"], names) == [
        ("short", []),
        ("db.corp.example", []),
        ("long.test", []),
        ("EAI_NONAME", ["evil"]),
        ("EAI_NONAME", ["evil.test"]),
        ("EAI_NONAME", ["other", "other.corp.example"]),
    ]


def test_a_refused_name_is_not_found_below_an_allowed_suffix(tmp_path: Path) -> None:
    assert look_up(tmp_path, ["*.corp.example"], ["corp.example"], ["evil.test", "db", "a.b.corp.example"]) == [
        ("EAI_NONAME", ["evil.test"]),
        ("db.corp.example", []),
        ("a.b.corp.example", []),
    ]


def test_a_cluster_with_many_dots(tmp_path: Path) -> None:
    suffixes = ["default.svc.cluster.test", "svc.cluster.test", "cluster.test"]
    names = ["api.example.com", "db", "evil.example"]
    assert look_up(tmp_path, ["api.example.com", "db.default.svc.cluster.test"], suffixes, names, ndots=5) == [
        ("api.example.com", []),
        ("db.default.svc.cluster.test", []),
        ("EAI_NONAME", ["evil.example"]),
    ]
