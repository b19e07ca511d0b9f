"""Where the servers of the matrix live, and how a module asks for its cells.

As root the servers, their name server and the fenced runs share a network namespace that is made for them: the filter
resolves the allowed names as it would anywhere, to a public address, and the servers have the usual ports. No fenced
program could resolve anything by itself there, so nothing but the fence leads to them. Elsewhere (no right to make a
namespace) the servers are on 127.0.0.1, and the allowed names are pinned to that by `network.hosts`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import loopback as servers
from tests.end_to_end.caught import AWAY, ROOT, Fenced
from tests.end_to_end.domains import world as there
from tests.end_to_end.domains.cells import COLUMNS, STUB_PORT, Matrix, Row, World, policy
from tests.end_to_end.support import Ended, Runs

# Within the fence: each cell is a test named after its function and its column.
DRIVER = """
import inspect, subprocess
import pytest
from collections import namedtuple
from cells import ADDRESS, CELLS, COLUMNS, FILES, HELLO, PORTS, ROWS, SPKI, STUB_PORT

CA = f"{FILES}/ca.pem"
At = namedtuple("At", "host port url")

def run(*argv, **options):
    "What a program says, or RuntimeError."
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, **options)
    if ended.returncode:
        raise RuntimeError(ended)
    return ended.stdout

def at(service, column):
    host = COLUMNS[column][0].format(service=service, address=ADDRESS)
    port = STUB_PORT if column == "stub" else PORTS[service]
    return At(host, port, f"{service}://{host}:{port}")

@pytest.mark.parametrize(("row", "column"), CELLS)
def test(row, column, request):
    fetch = getattr(request.module, row)
    where = at(ROWS[row], column)
    if not COLUMNS[column][1]:
        assert HELLO in fetch(where)
        return
    with pytest.raises(Exception) as caught:
        fetch(where)
    assert "timed out" not in str(caught.value)
"""


def may_make_a_network() -> bool:
    command = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    if os.geteuid() or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


ENTER_NEW = """
ip link set lo up && ip address add "$1" dev lo && ip address add "$2" dev lo || exit
mount --bind resolv.conf /etc/resolv.conf && mount --bind nsswitch.conf /etc/nsswitch.conf || exit
shift 2; exec "$@"
"""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    files = tmp_path_factory.mktemp("world")
    write_keys(files)
    (files / "files").mkdir()
    (files / "files" / "index.html").write_text(f"<!doctype html><p>{there.HELLO}</p>\n", encoding="ascii")
    if shutil.which("git"):
        write_repository(files / "files" / "repo.git")
    own_network = may_make_a_network()
    command = [sys.executable, "-m", there.__name__, "own-network" if own_network else "loopback"]
    if own_network:
        (files / "resolv.conf").write_text(f"nameserver {there.NAME_SERVER}\n", encoding="ascii")
        (files / "nsswitch.conf").write_text("hosts: files dns\npasswd: files\ngroup: files\n", encoding="ascii")
        enter = ["unshare", "--net", "--mount", "sh", "-c", ENTER_NEW, "sh"]
        command = [*enter, f"{there.ADDRESS}/32", f"{there.NAME_SERVER}/32", *command]
    server = subprocess.Popen(
        command,
        cwd=files,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with contextlib.closing(server.stdin), contextlib.closing(server.stdout):
        line = server.stdout.readline()
        assert line, "the servers did not start"

        def prefix(directory: Path) -> list[str]:
            spaces = [f"--{kind}=/proc/{server.pid}/ns/{name}" for kind, name in (("net", "net"), ("mount", "mnt"))]
            return ["nsenter", *spaces, "sh", "-c", 'cd "$0" && exec "$@"', str(directory)]

        yield World(files, json.loads(line), prefix if own_network else None)
    assert server.wait(20) == 0


def write_keys(files: Path) -> None:
    """A CA of this session, one certificate for all names, and a key for a client of ssh."""
    import asyncssh
    import trustme
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    ca = trustme.CA()
    names = (
        "allowed.test",
        "other.test",
        "ported.test",
        "flagged.test",
        "*.wild.test",
        "*.stub.test",
        there.ADDRESS,
        AWAY,
    )
    certificate = ca.issue_cert(*names)
    ca.cert_pem.write_to_path(files / "ca.pem")
    pem = certificate.cert_chain_pems[0].bytes()
    (files / "server.pem").write_bytes(pem)
    (files / "server.key").write_bytes(certificate.private_key_pem.bytes())
    public = x509.load_pem_x509_certificate(pem).public_key()
    spki = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    (files / "spki").write_text(base64.b64encode(spki).decode(), encoding="ascii")
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(files / "client.key")
    (files / "client.key").chmod(0o600)
    key.write_public_key(files / "client.pub")
    host_key = asyncssh.read_private_key(files / "server.key").export_public_key().decode()
    (files / "known_hosts").write_text(f"* {host_key}", encoding="ascii")


def write_repository(directory: Path) -> None:
    """One commit, to be fetched as plain files."""
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    people = {f"GIT_{role}_{what}": "nobody" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str, text: str = "") -> str:
        command = ["git", f"--git-dir={directory}", *words]
        done = subprocess.run(
            command, env={**os.environ, **settings, **people}, input=text, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q", "--bare", "--initial-branch=main")
    blob = git("hash-object", "-w", "--stdin", text=there.HELLO)
    tree = git("mktree", text=f"100644 blob {blob}\thello\n")
    git("update-ref", "refs/heads/main", git("commit-tree", tree, "-m", "hello"))
    git("update-server-info")


class Patient(Runs):
    """Runs of many programs, one after the other."""

    def finish(self, process: subprocess.Popen[Any]) -> Ended:
        out, err = process.communicate(timeout=100)
        return Ended(process.returncode, out, err)


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """The cells of `ROWS` in the module that asks, by the functions in its text `PROGRAMS`."""
    rows: Mapping[str, Row] = request.module.ROWS
    runs = Patient(tmp_path_factory.mktemp("matrix"))
    fenced = Fenced(runs, servers.Loopback(0, 0, 0, 0, 0), tmp_path_factory.mktemp("outside"))
    facts = {
        "ADDRESS": world.address,
        "COLUMNS": {name: tuple(column) for name, column in COLUMNS.items()},
        "FILES": str(world.files),
        "HELLO": there.HELLO,
        "PORTS": world.ports,
        "CELLS": [(name, column) for name, row in rows.items() for column in row.columns],
        "ROWS": {name: row.service for name, row in rows.items()},
        "SPKI": (world.files / "spki").read_text(encoding="ascii"),
        "STUB_PORT": STUB_PORT,
    }
    fenced.write("cells.py", "".join(f"{name} = {fact!r}\n" for name, fact in facts.items()))
    workers = getattr(request.module, "WORKERS", 0)
    run = fenced.run(
        DRIVER + textwrap.dedent(request.module.PROGRAMS),
        *([f"-n{workers}"] if workers else []),
        policy=policy(
            world,
            allowed=getattr(request.module, "ALLOWED", ()),
            pinned=getattr(request.module, "PINNED", {}),
        ),
        plugins=["xdist.plugin"] if workers else [],
        # Whoever waited for an answer of the name server would wait longer than a run of a program may take.
        env={**dict.fromkeys(PROXIES), "RES_OPTIONS": "timeout:30"},
        prefix=world.prefix(fenced.directory),
    )
    yield Matrix(run, world)
    runs.close()


PROXIES = [spelt(f"{kind}_proxy") for kind in ("http", "https", "all", "no", "ftp") for spelt in (str.lower, str.upper)]
