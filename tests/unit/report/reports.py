"""Reports to test with: made of violations as a ledger has them."""

from __future__ import annotations

from typing import Any

from fence_core.events.model import Frame, Owner, Program, Target, Violation
from fence_core.policy.model import Remedy, Rule, Source
from fence_core.report.files.build import About, build
from fence_core.report.files.told import Told, ToldOf, read
from fence_core.report.stack import View

ROOT = "/home/kim/shop"
SOURCES = {
    f"{ROOT}/shop.py": ["import socket\n", "def charge():\n", "    socket.getaddrinfo('api.stripe.com', 443)\n"],
    f"{ROOT}/tests/test_shop.py": ["import shop\n", "def test_charge():\n", "    shop.charge()\n"],
}
STACK = (Frame(f"{ROOT}/tests/test_shop.py", 3, "test_charge"), Frame(f"{ROOT}/shop.py", 3, "charge"))
PYTEST = Program("pytest", 7, chain=("pytest",), is_pytest=True)


def resolve(name: str = "api.stripe.com", nodeid: str = "tests/test_shop.py::test_charge", **changes: Any) -> Violation:
    found = Violation(
        number=0,
        nodeid=nodeid,
        phase="call",
        kind="resolve",
        operation="resolve",
        target=Target("name", name),
        verdict="unlisted",
        rule=Rule("network.allowed_domains", tried=(Source("preset pytest"),)),
        program=PYTEST,
        state="failing",
        errno=2,
        first_s=1.0,
        last_s=1.0,
        stack=STACK,
        remedy=Remedy("network.allowed_domains", (name,)),
    )
    return found._replace(**changes)


def write(path: str, nodeid: str = "tests/test_shop.py::test_charge", **changes: Any) -> Violation:
    given: dict[str, Any] = {
        "kind": "write",
        "operation": "write",
        "target": Target("path", path=path),
        "rule": Rule("filesystem.allow_write"),
        "remedy": Remedy("filesystem.allow_write", (path,)),
        "errno": 13,
        **changes,
    }
    return resolve(nodeid=nodeid, **given)


def shared(**changes: Any) -> Violation:
    """By a fixture of the session."""
    return resolve(phase="setup", owner=Owner("server", "session", f"{ROOT}/tests/conftest.py", 5), **changes)


def view() -> View:
    return View(root=ROOT, stdlib=["/usr/lib/python3"], read_lines=lambda path: SOURCES.get(path, ()))


def told(*nodeids: str, workers: int = 0) -> Told:
    of = {nodeid: ToldOf("tests/test_shop.py", 2, "failed", "gw0" if workers else None) for nodeid in nodeids}
    return read({"tests": 180, "workers": workers, "of": [[nodeid, *row] for nodeid, row in of.items()]})


def report(*violations: Violation, dropped: int = 0, said: Told | None = None, **run: Any) -> dict[str, Any]:
    """Of a run with these violations, complete unless `run` says otherwise."""
    said = told(*(each.nodeid for each in violations if each.nodeid)) if said is None else said
    about = About(
        tool={"name": "pytest-fence", "version": "0.2.0", "pytest": "9.0", "python": "3.11.7", "kernel": "6.8.0",
              "layers": ["seccomp"]},
        run={
            "id": "0" * 32,
            "started": "2026-11-30T10:22:27.996Z",
            "duration_s": 41.7,
            "command": ["pytest"],
            "rootdir": ROOT,
            "mode": "enforce",
            "scope": "session",
            "workers": said.workers,
            "exit_status": 1 if violations else 0,
            "tests": said.tests,
            "complete": said.is_whole,
            "shard": None,
            "ci": None,
            **run,
        },
        policy={"sources": [{"name": "preset pytest", "file": None, "line": None}], "sha256": "f" * 64},
        errors=[],
        dropped=dropped,
        told=said,
        view=view(),
        root=ROOT,
        home="/home/kim",
    )  # fmt: skip
    return build(violations, (), about)
