"""Tries a fence: what is allowed in it works, and what is not is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from fence_core.doctor import probe
from fence_core.doctor.children import last_line, python, run
from fence_core.doctor.finding import Finding
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

__all__ = ["Trial", "judge", "try_command", "try_pytest"]

ALLOWED, REFUSED = "allowed.fence-doctor.test", "refused.fence-doctor.test"
"""Names that nobody has (RFC 6761), and that nobody is asked for."""
_TEST = """\
import os

def test_refused():
    try:
        os.mkdir("refused")
    except OSError:
        pass
"""
_LINE = 5


class Trial(NamedTuple):
    """What came of it."""

    told: Mapping[str, str]
    """What `probe` has said."""
    reached: frozenset[str] = frozenset()
    """Ports that a connection came to: `allowed port`, `refused port`."""
    failure: str = ""
    """Why there was no fence; then there is nothing else."""


class _World:
    """Two servers on loopback, and a directory. What a fence around this one refuses is not there; nor are servers
    in one, as each fence in it may reach what was opened inside."""

    def __init__(self, *, serves: bool) -> None:
        self.servers: dict[str, socket.socket] = {}
        try:
            for name in ("allowed port", "refused port") if serves else ():
                self.servers[name] = socket.create_server(("127.0.0.1", 0))
        except OSError:
            pass
        try:
            self.directory = tempfile.mkdtemp(prefix="fence-doctor-")
            os.mkdir(os.path.join(self.directory, "allowed"))
        except OSError:
            self.directory = ""

    def port(self, name: str) -> int:
        """0: there is none."""
        return int(self.servers[name].getsockname()[1]) if len(self.servers) == 2 else 0

    def file(self, name: str) -> str:
        return os.path.join(self.directory, name) if self.directory else ""

    def reached(self) -> Iterator[str]:
        for name, server in self.servers.items():
            server.setblocking(False)
            try:
                server.accept()[0].close()
            except OSError:
                continue
            yield name

    def __enter__(self) -> _World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for server in self.servers.values():
            server.close()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def try_command(*, nested: bool) -> Trial:
    """In a fence of its own, as `fence` puts it up. `nested`: there is one around this process."""
    with _World(serves=not nested) as world:
        asked = {
            "allowed port": world.port("allowed port"), "refused port": world.port("refused port"),
            "allowed file": world.file("allowed/new"), "refused file": world.file("new"),
            "allowed name": ALLOWED, "refused name": REFUSED,
        }  # fmt: skip
        network: dict[str, object] = {"allowedDomains": [ALLOWED], "allowLocalOutbound": False}
        if asked["allowed port"]:
            network |= {"allowLocalOutbound": True, "allowLocalOutboundPorts": [asked["allowed port"]]}
        write = [world.file("allowed")] if world.directory else []
        policy = {"network": network, "filesystem": {"allowWrite": write}, "command": {"useDefaults": False}}
        probing = [sys.executable, "-I", "-S", os.path.abspath(probe.__file__), json.dumps(asked)]
        status, out, err = _run(
            [*python("fence_core.command.main"), "-s", "/dev/stdin", "--", *probing], stdin=json.dumps(policy)
        )
        try:
            told = json.loads(out) if status == 0 else None
        except ValueError:
            told = None
        if not isinstance(told, dict):
            return Trial({}, failure=last_line(err) or f"the fence ended with {status}")
        return Trial(told, frozenset(world.reached()))


def try_pytest() -> Finding:
    """Whether a report names the line of a test."""
    with _World(serves=False) as world:
        if not world.directory:
            return Finding("stacks", "-", "not tried: the fence around this one allows no file")
        test, config = world.file("test_doctor.py"), world.file("fence.json")
        for path, text in (test, _TEST), (config, '{"filesystem": {"denyWrite": ["refused"]}}'):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        flags = ["--fence", "--fence-config", config, "-p", "pytest_fence.plugin", "-p", "no:cacheprovider"]
        where = ["--rootdir", world.directory, "-c", os.devnull, test]
        status, out, err = _run([*python("pytest"), *flags, *where], cwd=world.directory)
        if os.path.exists(world.file("refused")):
            return Finding("stacks", "broken", "a test has made what no rule allows", "please report it")
    line = re.search(r"call: mkdir \S+, test_doctor\.py:(\d+)", out)
    if status == 1 and line and int(line[1]) == _LINE:
        return Finding("stacks", "yes", f"tried: pytest named the line, test_doctor.py:{_LINE}")
    if status == 1:
        return Finding("stacks", "no", "a refusal was reported without its line of Python")
    return Finding("stacks", "broken", f"pytest --fence ended with {status}: {last_line(err or out)}")


def _run(argv: Sequence[str], *, stdin: str = "", cwd: str | None = None) -> tuple[int, str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE_"))}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return run(argv, env, stdin=stdin, cwd=cwd)


# -- what it shows ----------------------------------------------------------------------------------------------------


def judge(trial: Trial, *, nested: bool) -> Iterator[Finding]:
    """`nested`: there is a fence around this one, which may refuse what is allowed here."""
    if trial.failure:
        yield Finding("a fence", "broken", trial.failure)
        return
    told = trial.told
    yield _pair(trial, "connections", ("port", "connect", "connected"), nested=nested)
    yield _pair(trial, "files", ("file", "write", "wrote"), nested=nested)
    yield _names(told.get("allowed name", ""), told.get("refused name", ""), nested=nested)
    yield _proxy(told.get("proxy", ""), nested=nested)
    opened = told.get("terminal", "")
    yield Finding("terminal", "-" if opened else "yes", "there is none here" if opened else "tried: it could be opened")


def _pair(trial: Trial, name: str, words: tuple[str, str, str], *, nested: bool) -> Finding:
    what, verb, did = words
    allowed, refused = trial.told.get(f"allowed {what}"), trial.told.get(f"refused {what}")
    if allowed is None or refused is None:
        why = "only what is outside of all fences could be refused" if what == "port" else "it allows no file"
        return Finding(name, "-", f"not tried in the fence around this one: {why}")
    if refused == "" or f"refused {what}" in trial.reached:
        return Finding(name, "broken", f"a {verb} that no rule allows went through", "please report it")
    if allowed == "" and (what != "port" or f"allowed {what}" in trial.reached):
        return Finding(name, "yes", f"tried: a refused {verb} gave {refused}, an allowed one {did}")
    if nested:
        return Finding(name, "-", f"tried: a refused {verb} gave {refused}; the fence around this one allows no other")
    return Finding(name, "broken", f"an allowed {verb} gave {allowed or 'nothing'}", "please report it")


def _names(allowed: str, refused: str, *, nested: bool) -> Finding:
    if refused != "EAI_NONAME":
        return Finding("names", "broken", f"the look-up of a name that is not allowed gave {refused or 'nothing'}",
                       "please report it")  # fmt: skip
    if allowed[:1].isdigit() or ":" in allowed:
        return Finding("names", "yes", f"tried: an allowed name led to {allowed}, another did not exist")
    if nested:
        return Finding("names", "-", "tried: another name did not exist; the fence around this one allows none")
    return Finding("names", "broken", f"the look-up of an allowed name gave {allowed}", "please report it")


def _proxy(status: str, *, nested: bool) -> Finding:
    if status == "403":
        return Finding("proxy", "yes", "tried: CONNECT to a name that is not allowed gave 403")
    if nested:
        return Finding("proxy", "-", "not tried: the fence around this one tells programs of none")
    return Finding("proxy", "broken", f"CONNECT to a name that is not allowed gave {escape(status) or 'nothing'}",
                   "please report it")  # fmt: skip
