"""What the judge says is what a fenced process gets: random policies, and random requests of every kind.

The same calls are made without a fence first. What the judge allows must then end as it did there; what it refuses
must be refused, and recorded with the rule that the judge names, unless the kernel would have refused it anyway, or
the judge says that it is no violation. In an audit it is recorded and done, but for what an audit refuses, too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fence_core.events.attempt import described
from fence_core.kernel import process
from fence_core.policy.decide import Decision, Judge
from fence_core.policy.requests import (
    Bind,
    Connect,
    Move,
    OpenSocket,
    Read,
    Request,
    Resolve,
    Run,
    SocketOption,
    SystemCall,
    UnixConnect,
    Write,
)
from fence_core.report.rule import sentence
from tests.end_to_end.caught import AWAY, AWAY6, ROOT, Attempt, Fenced

POLICIES = 24
REQUESTS = 44

DRIVER = """
import ctypes, json, os, socket, subprocess, pytest
from script import STEPS

found = {}


def do(kind, *words):
    if kind == "connect":
        family, type_, host, port = words
        with socket.socket(family, type_) as s:
            s.setblocking(False)
            s.connect((host, port))
    elif kind == "send":
        family, host, port = words
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.sendto(bytes(20), (host, port))
    elif kind == "bind":
        family, type_, host, port = words
        with socket.socket(family, type_) as s:
            s.bind((host, port))
            if type_ == socket.SOCK_STREAM:
                s.listen()
    elif kind == "inside":
        family, host = words
        with socket.socket(family) as server, socket.socket(family) as s:
            server.bind((host, 0))
            server.listen()
            s.connect(server.getsockname()[:2])
    elif kind == "unix":
        with socket.socket(socket.AF_UNIX) as s:
            s.setblocking(False)
            s.connect(*words)
    elif kind == "unix inside":
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as s:
            server.bind(*words)
            server.listen()
            s.connect(*words)
    elif kind == "socket":
        socket.socket(*words).close()
    elif kind == "resolve":
        return -1 if look_up(words[0]) == -1 else 0
    elif kind in ("reach", "send to"):
        address = look_up(words[0])
        if address == -1:
            return -1
        with socket.socket(type=socket.SOCK_STREAM if kind == "reach" else socket.SOCK_DGRAM) as s:
            s.sendto(b"x", (address, words[1])) if kind == "send to" else s.connect((address, words[1]))
    elif kind == "run":
        subprocess.run(words, check=True)
    elif kind == "option":
        level, name, value = words
        with socket.socket(type=socket.SOCK_DGRAM) as s:
            s.setsockopt(level, name, bytes.fromhex(value))
    elif kind == "setns":
        with open(words[0]) as file:
            libc(LIBC.setns(file.fileno(), 0))
    elif kind == "take":
        pidfd = os.pidfd_open(words[0])
        try:
            os.close(libc(LIBC.syscall(438, pidfd, 0, 0)))
        finally:
            os.close(pidfd)
    else:
        FILES[kind](*words)
    return 0


def look_up(name):
    try:
        return socket.getaddrinfo(name + ".", None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except socket.gaierror:
        return -1


LIBC = ctypes.CDLL(None, use_errno=True)


def libc(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def opened(path, flags):
    os.close(os.open(path, flags, 0o644))


def bound(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)


FILES = {
    "open": lambda path: opened(path, os.O_WRONLY),
    "create": lambda path: opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "read": lambda path: opened(path, os.O_RDONLY),
    "mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink, "rename": os.rename, "link": os.link,
    "symlink": os.symlink, "mknod": os.mkfifo, "truncate": lambda path: os.truncate(path, 1),
    "chmod": lambda path: os.chmod(path, 0o600), "utime": os.utime,
    "chown": lambda path: os.chown(path, os.getuid(), os.getgid()),
    "setxattr": lambda path: os.setxattr(path, "user.fence", b"x"),
    "file socket": bound,
    "mknod device": lambda path: os.mknod(path, 0o20600, os.makedev(1, 3)),
    "mknod whiteout": lambda path: os.mknod(path, 0o20600, 0),
}


@pytest.mark.parametrize("number", range(len(STEPS)))
def test(number):
    try:
        found[number] = do(*STEPS[number]) if STEPS[number] else None
    except OSError as error:
        found[number] = error.errno


def test_last():
    with open("result.json", "w") as file:
        json.dump([found[number] for number in range(len(STEPS))], file)
"""

NOTED = """
import pickle
from pytest_fence import engine

find_config = engine.find_config


def noted(*args, **named):
    config = find_config(*args, **named)
    with open("policy.pickle", "wb") as file:
        pickle.dump(config.policy, file)
    return config


engine.find_config = noted
"""


class Step(NamedTuple):
    """One thing to do, and what the judge is asked about it; the first that it refuses counts."""

    words: tuple[Any, ...]
    asked: tuple[Request, ...] = ()
    is_plain: bool = True
    """Whether it is done without a fence, too; or else it would leave this machine, or say nothing."""
    ends: int | None = None
    """What becomes of it where it is allowed, if the plain run does not tell."""
    refused: tuple[int, ...] = (errno.EACCES, errno.EPERM)


# ---------------------------------------------------------------- policies

AREAS = ("a", "b", "c")
"""Directories of the run in which files are changed; nothing is allowed in them but what a policy lists."""
HOSTS = ("239.1.2.1", "239.1.2.77", "239.9.9.3", "ff0e::1")
"""No packet of TCP ever leaves for a group (tcp_v4_connect): the kernel says so at once, route or not."""
LOCAL = ("127.0.0.1", "127.3.2.1")
PORTS = (1, 19, 443, 853, 7)
NAMES = ("api.fence-example.org", "db.api.fence-example.org", "other.fence-example.net", "gone.fence-stub.test")
"""Looked up only, which asks nobody but the fence."""
PINNED = "pinned.fence-stub.test"


def policy(chance: random.Random, files: Path, sockets: Path, *, is_audit: bool) -> str:
    """A configuration, as text; that of a project whose tests may write down their results."""

    def some(*values: Any) -> list[Any]:
        return chance.sample(values, chance.randint(0, len(values)))

    keys: dict[str, Any] = {
        "allow_write": [
            "result.json", "witness.json", "tmp", "basetemp",
            *some(*(f"{files}/{area}" for area in AREAS), f"{files}/a/*/file", f"{files}/b/*/directory", "/dev/null"),
        ],
        "deny_write": some(f"{files}/a/3", "*.key", f"{files}/b/*/empty", "secret"),
        "allowed_domains": some(
            "239.1.2.0/24", "239.1.2.1:443", "239.9.9.3", "localhost:19", "127.3.2.1", "*.fence-example.org:443",
            "other.fence-example.net", "[ff0e::1]:443",
        ),
        "denied_domains": some("239.1.2.77", "localhost:7", "127.3.0.0/16", "db.api.fence-example.org"),
        "allow_unix_sockets": some(f"{sockets}/one", f"{sockets}/two"),
        "allow_local_binding": chance.random() < 0.5,
        "allow_all_unix_sockets": chance.random() < 0.15,
    }  # fmt: skip
    if chance.random() < 0.5:
        keys["allow_local_outbound"] = chance.random() < 0.5
    if chance.random() < 0.25:
        keys["allow_local_outbound_ports"] = some(1, 19, 853) or [443]
    if chance.random() < 0.4:
        keys["deny_read"] = [f"{files}/c", "*.pem"]
    hosts = some((PINNED, '"127.0.0.1:19"'), ("gone.fence-stub.test", "false"))
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    table = ["[tool.fence.network.hosts]", *(f'"{name}" = {at}' for name, at in hosts)] if hosts else []
    mode = "audit" if is_audit else "enforce"
    return "\n".join(["[tool.fence]", 'extends = "default-deny"', f'mode = "{mode}"', *lines, *table, ""])


# ---------------------------------------------------------------- requests

_OPS = (
    "open", "create", "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "mknod", "mknod device",
    "mknod whiteout", "truncate", "chmod", "utime", "chown", "setxattr", "file socket",
)  # fmt: skip
_OF_WHAT_IS_THERE = {"open", "unlink", "truncate", "chmod", "utime", "chown", "setxattr"}


def plant(here: Path) -> None:
    """What the requests find in one of the places."""
    (here / "directory").mkdir(parents=True)
    (here / "empty").mkdir()
    for name in ("file", "x.key", "a.pem", "secret"):
        (here / name).write_text("#!/bin/true\n", encoding="utf-8")
        (here / name).chmod(0o755)


def _change(chance: random.Random, here: Path) -> Step:
    op = chance.choice(_OPS)
    old = str(here / chance.choice(("file", "x.key", "secret", "a.pem")))
    new = str(here / chance.choice(("new", "y.key", "directory/new", "empty/new")))
    if op in ("rename", "link"):
        asked = (Write(op, old), Write(op, new), Move(op, old, new))
        return Step((op, old, new), asked)
    if op == "rmdir":
        return Step((op, str(here / "empty")), (Write(op, str(here / "empty")),))
    if op in _OF_WHAT_IS_THERE:
        return Step((op, old), (Write(op, old),))
    if op == "symlink":
        return Step((op, "file", new), (Write(op, new),))
    return Step((op, new), (Write({"file socket": "bind", "mknod whiteout": "mknod"}.get(op, op), new),))


def _look(chance: random.Random, here: Path) -> Step:
    path = str(here / chance.choice(("file", "a.pem", "x.key")))
    return Step(("run", path), (Run(path),)) if chance.random() < 0.3 else Step(("read", path), (Read(path),))


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _connect(chance: random.Random) -> Step:
    host, port = chance.choice((*HOSTS, *LOCAL, *LOCAL, "::1")), chance.choice(PORTS)
    return Step(("connect", _family(host), socket.SOCK_STREAM, host, port), (Connect(host, port),))


def _send(chance: random.Random) -> Step:
    host, port = chance.choice((*LOCAL, "::1", AWAY, AWAY6)), chance.choice(PORTS)
    is_plain = host not in (AWAY, AWAY6)
    return Step(("send", _family(host), host, port), (Connect(host, port, "udp"),), is_plain)


def _ask(chance: random.Random) -> Step:
    """To a name server, whoever that is: what is no query goes no further than to the fence, which takes it."""
    host = chance.choice((AWAY, *LOCAL))
    return Step(("send", socket.AF_INET, host, 53), (Connect(host, 53, "udp", way="no query"),), False, refused=(0,))


def _resolve(chance: random.Random) -> Step:
    name = chance.choice((*NAMES, PINNED, "nothing.invalid"))
    return Step(("resolve", name), (Resolve(name),), False, 0, refused=(-1,))


def _reach(chance: random.Random) -> Step:
    """A name by the address that it was given. The fence carries TCP, so of datagrams nothing becomes."""
    if chance.random() < 0.5:
        return Step(("reach", PINNED, 443), (Resolve(PINNED), Connect(PINNED, 443)), False, 0, (-1, errno.EACCES))
    asked = (Resolve(PINNED), Connect(PINNED, 443, "udp"))
    return Step(("send to", PINNED, 443), asked, False, 0, (-1, errno.EACCES, errno.ECONNREFUSED))


def _bind(chance: random.Random) -> Step:
    host = chance.choice((*LOCAL, "0.0.0.0", "::1", "192.0.2.1"))
    type_, proto = chance.choice(((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")))
    port = chance.randint(20_000, 30_000)
    return Step(("bind", _family(host), type_, host, port), (Bind(host, port, proto),))


def _inside(chance: random.Random) -> Step:
    host = chance.choice(("127.0.0.1", "::1"))
    return Step(("inside", _family(host), host), (Bind(host, 0), Connect(host, 0, inside=True)))


def _unix(chance: random.Random, sockets: Path) -> Step:
    path = chance.choice((f"{sockets}/one", f"{sockets}/two", f"{sockets}/gone", f"\0{sockets}"))
    return Step(("unix", path), (UnixConnect(path),))


def _unix_inside(chance: random.Random, here: Path) -> Step:
    path = str(here / "made")
    return Step(("unix inside", path), (Write("bind", path), UnixConnect(path, inside=True)))


def _socket(chance: random.Random) -> Step:
    words = chance.choice(
        (
            (socket.AF_INET, socket.SOCK_STREAM, 0),
            (socket.AF_INET, socket.SOCK_DGRAM, 17),
            (socket.AF_INET6, socket.SOCK_STREAM, 262),
            (socket.AF_INET, socket.SOCK_RAW, 1),
            (socket.AF_INET, socket.SOCK_DGRAM, 136),
            (socket.AF_INET, socket.SOCK_STREAM, 132),
            (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
            (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
            (socket.AF_NETLINK, socket.SOCK_RAW, 0),
            (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
        )
    )
    return Step(("socket", *words), (OpenSocket(*words),))


def _option(chance: random.Random) -> Step:
    loose_source_route = "830704c000020100"
    return Step(("option", socket.IPPROTO_IP, 4, loose_source_route), (SocketOption("route"),))


def _system(chance: random.Random, here: Path) -> Step:
    if chance.random() < 0.5:
        return Step(("setns", "/proc/self/ns/uts"))
    if chance.random() < 0.5:
        file = f"{here}/file"
        return Step(("setns", file), (Read(file), SystemCall(f"enter namespace {file}", "namespace")))
    taken = f"take a descriptor from {process.program_name(os.getpid())}, a process outside"
    return Step(("take", os.getpid()), (SystemCall(taken, "process"),))


_OF_FILES = {_change: 12, _look: 4, _unix_inside: 1, _system: 2}
_OF_SOCKETS = {
    _connect: 8, _send: 4, _ask: 1, _resolve: 3, _reach: 1, _bind: 3, _inside: 1, _socket: 3, _option: 1,
}  # fmt: skip


_OF_AUDITS = {_connect: 8, _bind: 3, _inside: 1, _socket: 3, _option: 1}
"""In an audit it would really be sent, and asked for."""


def steps(chance: random.Random, files: Path, sockets: Path, *, is_audit: bool) -> list[Step]:
    of_sockets = _OF_AUDITS if is_audit else _OF_SOCKETS
    found = []
    for number in range(REQUESTS):
        here = files / chance.choice(AREAS) / str(number)
        plant(here)
        which = chance.random()
        if which < 0.5:
            found.append(chance.choices([*_OF_FILES], [*_OF_FILES.values()])[0](chance, here))
        elif which < 0.9:
            found.append(chance.choices([*of_sockets], [*of_sockets.values()])[0](chance))
        else:
            found.append(_unix(chance, sockets))
    return found


# ---------------------------------------------------------------- both runs, compared


_NOT_OF_RIGHTS = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EINPROGRESS)
"""What the kernel says of the way to somebody: a refusal comes before it. Of all else its own error comes first."""


class Ran(NamedTuple):
    """A fenced run under one policy."""

    judge: Judge
    steps: Sequence[Step]
    plain: Sequence[int | None]
    ends: Sequence[int]
    told: Mapping[int, Sequence[Attempt]]
    is_audit: bool

    def disagreements(self, decide: Callable[[Request], Decision] | None = None) -> list[str]:
        """Of what happened with what the judge, or this one, says."""
        decide = decide or self.judge.decide
        found = []
        for number, step in enumerate(self.steps):
            refusals = [(asked, answer) for asked in step.asked if not (answer := decide(asked)).allowed]
            if not refusals:
                wrong = self._not_free(number, step)
            elif self.is_audit and not refusals[0][1].always:
                wrong = self._not_noted(number, step, refusals)
            else:
                wrong = self._wrong(number, step, *refusals[0])
            if wrong:
                found.append(f"{number}: {step.words}: plain {self.plain[number]}, fenced {self.ends[number]}: {wrong}")
        return found

    def _not_free(self, number: int, step: Step) -> str:
        expected = self.plain[number] if step.ends is None else step.ends
        told = self.told.get(number, ())
        return f"allowed, but {told}" if told or self.ends[number] != expected else ""

    def _wrong(self, number: int, step: Step, asked: Request, answer: Decision) -> str:
        told, end, plain = self.told.get(number, ()), self.ends[number], self.plain[number]
        by_kernel = plain not in (None, 0, *_NOT_OF_RIGHTS)
        if not told and (answer.quiet or (by_kernel and end == plain)):
            return "" if end else "quietly refused, but done"
        if answer.quiet or end not in step.refused:
            return f"refused ({answer.rule}), but {told}"
        return self._not_told(number, [(asked, answer)])

    def _not_noted(self, number: int, step: Step, refusals: Sequence[tuple[Request, Decision]]) -> str:
        expected = self.plain[number] if step.ends is None else step.ends
        if self.ends[number] != expected:
            return "audited, but with another end"
        by_kernel = expected not in (0, *_NOT_OF_RIGHTS)
        told = self.told.get(number, ())
        refused = [each for each in refusals if not each[1].quiet]
        return self._not_told(number, refused[: len(told)] if by_kernel else refused)

    def _not_told(self, number: int, refusals: Sequence[tuple[Request, Decision]]) -> str:
        expected: list[tuple[str, dict[str, Any], str]] = []
        for asked, answer in refusals:
            operation, target = described(asked)
            if (operation, target._asdict()) not in [each[:2] for each in expected]:  # or it is the same, once more
                expected.append((operation, target._asdict(), sentence(answer)))
        told = self.told.get(number, ())
        if [(each.plain["operation"], each.plain["target"], each.rule) for each in told] == expected:
            return ""
        return f"{expected}, but reported as {[each.plain for each in told]}"


def run(fenced: Fenced, seed: int) -> Ran:
    places = {side: fenced.outside / f"{side}{seed}" for side in "pf"}
    is_audit = seed % 4 == 3
    both = {side: steps(random.Random(seed), places[side], fenced.outside, is_audit=is_audit) for side in "pf"}
    ends: dict[str, list[int | None]] = {}
    for side, flags in ("p", ()), ("f", ("--fence", "-p", "noted")):
        script = [step.words if step.is_plain or side == "f" else None for step in both[side]]
        caught = fenced.run(
            DRIVER,
            "-q",
            "--tb=no",
            "--no-summary",
            files={"script.py": f"import json\nSTEPS = json.loads({json.dumps(script)!r})\n", "noted.py": NOTED},
            policy=policy(random.Random(-1 - seed), places["f"], fenced.outside, is_audit=is_audit),
            flags=flags,
            env={"PYTHONPATH": f"{ROOT}:{fenced.directory}"},
        )
        result = fenced.directory / "result.json"
        assert result.exists(), caught
        ends[side] = json.loads(result.read_text(encoding="utf-8"))
        result.unlink()
    told: dict[int, list[Attempt]] = {}
    for attempt in caught.ledger:
        number = attempt.nodeid.partition("[")[2].rstrip("]")
        told.setdefault(int(number) if number.isdigit() else -1, []).append(attempt)
    judge = Judge(pickle.loads((fenced.directory / "policy.pickle").read_bytes()))
    return Ran(judge, both["f"], ends["p"], ends["f"], told, is_audit)


@pytest.fixture
def servers(fenced: Fenced) -> Iterator[None]:
    """UNIX sockets of somebody outside: two with a path, and one with an abstract name."""
    with contextlib.ExitStack() as stack:
        for name in f"{fenced.outside}/one", f"{fenced.outside}/two", f"\0{fenced.outside}":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(name)
            server.listen(100)
        yield


@pytest.mark.parametrize("group", range(POLICIES // 4))
def test_what_the_judge_says_is_what_happens(group: int, fenced: Fenced, servers: None) -> None:
    ran = [run(fenced, seed) for seed in range(4 * group, 4 * group + 4)]
    found = [f"policy {number}: {each}" for number, each_run in enumerate(ran) for each in each_run.disagreements()]
    assert not found, "\n".join(["", *found])
    assert not any(-1 in each.told for each in ran)
    for kind in Bind, Connect, OpenSocket, Read, Resolve, UnixConnect, Write:
        found_out = [each for each in ran if each.disagreements(contrary(each.judge, kind))]
        assert found_out, f"a judge that says the contrary of {kind}"


def contrary(judge: Judge, kind: type[Request]) -> Callable[[Request], Decision]:
    def decide(request: Request) -> Decision:
        answer = judge.decide(request)
        return answer._replace(allowed=not answer.allowed, quiet=False) if isinstance(request, kind) else answer

    return decide
