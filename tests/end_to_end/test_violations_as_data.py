"""Each field of a violation, as other plugins get it: of several kinds, by several programs, with and without xdist."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from tests.end_to_end.caught import Caught, Fenced

CONFTEST = """
import socket, subprocess
import pytest

@pytest.fixture(scope="session")
def ping_home():
    socket.socket().connect_ex(("198.51.100.7", 443))
    yield
    socket.socket().connect_ex(("198.51.100.8", 443))

@pytest.fixture(scope="module")
def daemon():
    with subprocess.Popen(["sh", "-c", "read go; echo x > /srv/fence-is-here; read end"], stdin=-1) as process:
        yield process
"""
TESTS = """
import pathlib, socket, subprocess, threading
import pytest

def test_name():
    for _ in range(2):
        with pytest.raises(OSError):
            socket.getaddrinfo("api.stripe.com", 443)

def test_unix():
    with socket.socket(socket.AF_UNIX) as s, pytest.raises(OSError):
        s.connect(SOCKET)

def test_path():
    with pytest.raises(OSError):
        pathlib.Path("/srv/x").mkdir()
    with pytest.raises(OSError):
        pathlib.Path("~/.gitconfig").expanduser().write_text("")

def test_denied():
    with pytest.raises(OSError):
        socket.getaddrinfo("bad.example.com", 443)

@pytest.mark.parametrize("n", [1])
def test_thread(n):
    def work():
        socket.socket().connect_ex(("198.51.100.9", 443))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def test_curl():
    subprocess.run(["curl", "-s", "http://curl.example/"], check=False)

def test_needs_first(ping_home): pass
def test_needs_second(ping_home): pass
def test_starts(daemon): pass
def test_goes_on(daemon):
    daemon.stdin.write(b"go\\n")
    daemon.stdin.flush()
    while b"fence" not in pathlib.Path(f"/proc/{daemon.pid}/cmdline").read_bytes(): pass
    daemon.stdin.write(b"end\\n")
    daemon.stdin.flush()
    assert daemon.wait(20) is not None
"""
POLICY = """
[tool.fence]
extends = "pytest"
denied_domains = [
    "bad.example.com",
]
"""


def by_test(run: Caught) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for report in run.reports:
        for plain in report["fence"]:
            found.setdefault(report["nodeid"].rpartition("::")[2].partition("[")[0], []).append(plain)
    return found


def run_of(fenced: Fenced, workers: int) -> Caught:
    path = fenced.outside / "listens"
    with socket.socket(socket.AF_UNIX) as server:
        path.unlink(missing_ok=True)
        server.bind(str(path))
        server.listen()
        return fenced.run(
            f"SOCKET = {str(path)!r}\n{TESTS}",
            *([f"-n{workers}", "--dist=loadfile"] if workers else []),
            files={"conftest.py": CONFTEST},
            plugins=["xdist.plugin"] if workers else [],
            policy=POLICY,
            env={"HOME": str(fenced.outside)},
        )


@pytest.mark.needs("program:curl", "user:root")  # writes where the kernel itself would refuse everybody else
@pytest.mark.parametrize("workers", [0, 2])
def test_fields(fenced: Fenced, workers: int) -> None:
    run = run_of(fenced, workers)
    found = by_test(run)
    (name,) = found["test_name"]
    assert name["nodeid"] == "test_it.py::test_name"
    assert (name["phase"], name["kind"], name["operation"], name["verdict"]) == ("call", *["resolve"] * 2, "unlisted")
    assert name["target"] == {
        "kind": "name",
        "host": "api.stripe.com",
        "port": 0,
        "protocol": "",
        "path": "",
        "detail": "",
    }
    assert name["count"] == 2
    assert 0 < name["first_s"] < name["last_s"] < 600
    assert name["state"] == "failing"
    assert name["errno"]
    assert (name["owner"], name["late"]) == (None, False)
    worker = name["during"][0]["worker"]
    assert bool(worker) == bool(workers)
    assert name["during"] == [{"worker": worker, "nodeid": name["nodeid"], "phase": "call"}]
    rule = name["rule"]
    assert (rule["key"], rule["entry"], rule["source"]) == ("network.allowed_domains", "", None)
    assert [each["name"] for each in rule["tried"]] == ["preset pytest", "pyproject.toml [tool.fence]"]
    assert name["remedy"] == {"key": "network.allowed_domains", "value": ["api.stripe.com"], "syntax": "toml"}
    assert name["program"]["is_pytest"]
    assert name["program"]["path"] == os.path.realpath(sys.executable)
    assert name["program"]["thread"] == ""
    assert [frame["function"] for frame in name["stack"]] == ["test_name"]  # none of pytest's, none of the library's

    (unix,) = found["test_unix"]
    assert unix["operation"] == "connect"
    assert unix["target"]["kind"] == "unix"
    assert unix["target"]["path"] == str(fenced.outside / "listens")

    mkdir, protected = found["test_path"]
    assert (mkdir["kind"], mkdir["operation"], mkdir["target"]["path"]) == ("write", "mkdir", "/srv/x")
    assert (protected["operation"], protected["verdict"]) == ("write", "protected")
    assert (protected["rule"]["entry"], protected["rule"]["source"]["name"]) == (".gitconfig", "built in")
    assert protected["remedy"] is None
    assert "GIT_CONFIG_GLOBAL" in protected["hint"]

    (denied,) = found["test_denied"]
    assert (denied["verdict"], denied["rule"]["key"]) == ("denied", "network.denied_domains")
    assert denied["rule"]["entry"] == "bad.example.com"
    assert denied["rule"]["source"]["file"].endswith("pyproject.toml")
    assert denied["rule"]["source"]["line"] == 5
    assert denied["remedy"] is None

    (thread,) = found["test_thread"]
    assert thread["target"]["host"] == "198.51.100.9"
    assert (thread["target"]["kind"], thread["target"]["port"], thread["target"]["protocol"]) == ("address", 443, "tcp")
    assert thread["program"]["thread"]
    assert thread["stack"][-1]["function"] == "work"

    curl = next(each for each in found["test_curl"] if each["program"]["name"] == "curl")
    assert not curl["program"]["is_pytest"]
    assert os.path.basename(curl["program"]["path"]) == "curl"
    assert curl["program"]["chain"] == ["pytest", "curl"]
    assert curl["program"]["argv"][1:] == ["-s", "http://curl.example/"]
    assert curl["target"]["host"] == "curl.example"

    fixture = {"fixture": "ping_home", "scope": "session", "file": str(fenced.directory / "conftest.py"), "line": 5}
    (first,) = found["test_needs_first"]
    assert (first["phase"], first["owner"]) == ("setup", fixture)
    last = next(each for each in run.ledger if each.what == "connect 198.51.100.8:443/tcp")
    assert (last.phase, last.plain["owner"]) == ("teardown", fixture)

    (late,) = [each.plain for each in run.ledger if each.plain["target"]["path"] == "/srv/fence-is-here"]
    assert (late["owner"], late["started_by"]["fixture"]) == (None, "daemon")
    assert (late["nodeid"], late["late"]) == ("test_it.py::test_goes_on", False)
    assert [(each["nodeid"], each["phase"]) for each in late["during"]] == [("test_it.py::test_goes_on", "call")]


@pytest.mark.needs("program:curl")
def test_fingerprints_are_the_same_in_the_next_run(fenced: Fenced) -> None:
    runs = [by_test(run_of(fenced, workers)) for workers in (0, 2)]
    prints = [{(test, each["fingerprint"]) for test, found in run.items() for each in found} for run in runs]
    assert prints[0] == prints[1]
    assert len({digits for _, digits in prints[0]}) == len(prints[0]) >= 8


USES = """
import json, pathlib

def pytest_sessionfinish(session):
    hooks = session.config.pluginmanager.get_plugin("fence-report")
    if hooks is not None:
        from fence_core.events.wire import to_wire
        text = json.dumps([to_wire(use) for use in hooks._fence.uses()])
        pathlib.Path(session.config.rootpath, "uses.json").write_text(text)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_entries_were_needed_for(fenced: Fenced, workers: int) -> None:
    path = fenced.outside / "listens"
    port = fenced.loopback.hello
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        run = fenced.run(
            f"SOCKET, PORT = {str(path)!r}, {port}\n"
            """
import socket
import pytest

def test_ports():
    for _ in range(3):
        socket.create_connection(("127.0.0.1", PORT), 5).close()

@pytest.mark.parametrize("n", [1, 2])
def test_name(n):
    socket.create_connection(("stub.example", 80), 5).close()

def test_absent():
    with pytest.raises(OSError):
        socket.getaddrinfo("gone.example", 80)

def test_looks_up():
    socket.getaddrinfo("a.listed.example", 80)

def test_unix():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(SOCKET)
""",
            *([f"-n{workers}", "--dist=loadfile"] if workers else []),
            files={"conftest.py": USES},
            plugins=["xdist.plugin"] if workers else [],
            policy=f"""
            [tool.fence]
            allowed_domains = ["never.example", "*.listed.example"]
            allow_local_outbound_ports = [{port}]
            allow_unix_sockets = ["{path}"]
            [tool.fence.hosts]
            "stub.example" = "127.0.0.1:{port}"
            "gone.example" = false
            """,
        )
    assert run.status == 0, run
    found = {use["rule"]["entry"]: use for use in json.loads((fenced.directory / "uses.json").read_text())}
    keys = {entry: use["rule"]["key"].partition(".")[2] for entry, use in found.items()}
    assert keys == {
        str(port): "allow_local_outbound_ports",
        "stub.example": "hosts",
        "gone.example": "hosts",
        "*.listed.example": "allowed_domains",
        str(path): "allow_unix_sockets",
    }
    tests = {entry: [each.partition("::")[2] for each in use["tests"]] for entry, use in found.items()}
    assert tests[str(port)] == ["test_ports"]
    assert tests["stub.example"] == ["test_name[1]", "test_name[2]"]
    assert tests["gone.example"] == ["test_absent"]
    assert tests["*.listed.example"] == ["test_looks_up"]
    assert found[str(port)]["count"] == 3
    assert found["*.listed.example"]["rule"]["source"]["line"] == 3
