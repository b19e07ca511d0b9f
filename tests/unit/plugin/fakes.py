"""A fence without a kernel: tests say themselves what they would have been refused.

It is used in the process of the tests of the plugin (fixture `fence` in conftest.py), and in processes that they
start, as a plugin: ``-p tests.unit.plugin.fakes``. All processes share one ledger, a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fence_core.events.model import Frame, Owner, Program, Target, Violation
from fence_core.events.wire import from_wire, to_wire
from fence_core.policy.model import Remedy, Rule, Source
from pytest_fence import engine

DIRECTORY = "FAKE_FENCE"
"""The environment variable that names the directory all processes of one run share."""
OBSTACLES = "FAKE_FENCE_OBSTACLES"

live: list[FakeFence] = []
"""The fences of the sessions in this process, innermost last."""


class FakeFence:
    """What `fence_core.launcher.handle.Fence` does, without any kernel in it."""

    layers = ("seccomp", "landlock 7")
    watches_reads = False
    withheld: tuple[str, ...] = ()
    closed: tuple[tuple[int, str], ...] = ()
    packages: tuple[tuple[str, str], ...] = ()

    def __init__(self, role: str, mode: str) -> None:
        self.role = role
        self.mode = mode
        self.now = ("", "startup", 0)
        self.owner: Owner | None = None
        self.entered: list[tuple[str, str, int]] = []
        self.policies: list[list[tuple[Mapping[str, object], Source]]] = []
        self.settled = 0
        self.closed = False
        self._count = 0
        self._taken: set[int] = set()
        self._ledger = Path(os.environ[DIRECTORY], "ledger")
        live.append(self)

    def enter(self, nodeid: str, phase: str, policy: int = 0) -> None:
        self.now = (nodeid, phase, policy)
        self.entered.append(self.now)

    def owned(self, owner: Owner | None, policy: int | None = None) -> None:
        self.owner = owner

    def violation_count(self) -> int:
        return self._count

    def register_policy(self, layers: Sequence[tuple[Mapping[str, object], Source]], base: int = 0) -> int:
        for raw, source in layers:
            engine.parse_marker(raw, source=source, base_dir="/", watches_reads=self.watches_reads)
            json.dumps(raw)  # it has to travel
        self.policies.append(list(layers))
        return len(self.policies)

    def expect_workers(self) -> None:
        pass

    def ledger(self) -> list[Violation]:
        if os.environ.get("FAKE_FENCE_BROKEN"):
            raise engine.FenceError("the broker is gone")
        return [violation for _, violation in self._read()]

    def take(self, nodeid: str | None, *, by_fork: bool = False) -> list[Violation]:
        found = [v for pid, v in self._read() if pid == os.getpid() and v.nodeid == (nodeid or "")]
        found = [v for v in found if v.number not in self._taken]
        self._taken.update(v.number for v in found)
        return found

    def settle(self, upto: int) -> None:
        self.settled = upto
        Path(os.environ[DIRECTORY], "settled").write_text(str(upto))

    def close(self) -> None:
        self.closed = True
        live.remove(self)

    def add(self, violation: Violation, *, seen: bool = True) -> None:
        with self._ledger.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            number = len(file.readlines())
            plain = {"pid": os.getpid(), "violation": to_wire(violation._replace(number=number))}
            file.write(json.dumps(plain) + "\n")
        self._count += seen

    def _read(self) -> list[tuple[int, Violation]]:
        if not self._ledger.exists():
            return []
        lines = map(json.loads, self._ledger.read_text().splitlines())
        return [(line["pid"], from_wire(Violation, line["violation"])) for line in lines]


def violate(what: str = "connect 93.184.216.34:443/tcp", **changes: Any) -> None:
    """Be refused something, from the line that calls this."""
    fence = live[-1]
    nodeid, phase, _ = fence.now
    stack = tuple(
        Frame(frame.filename, frame.lineno or 0, frame.name)
        for frame in traceback.extract_stack()[:-1]
        if frame.filename != __file__
    )
    state = {"enforce": "failing", "warn": "warned", "audit": "listed"}[fence.mode]
    known = {"nodeid": nodeid, "phase": phase, "state": state, "owner": fence.owner}
    known["errno"] = 0 if fence.mode == "audit" else 13
    fence.add(violation(what, **{**known, "stack": stack, **changes}))


RULE = Rule("network.allowed_domains", tried=(Source("preset pytest"),))


def violation(what: str = "connect 93.184.216.34:443/tcp", **changes: Any) -> Violation:
    """A violation as the broker would record it, with everything that a test does not care about filled in."""
    known = Violation(
        number=0,
        nodeid="",
        phase="call",
        kind=what.partition(" ")[0],
        operation=what.partition(" ")[0],
        target=Target("other", detail=what),
        verdict="unlisted",
        rule=RULE,
        program=Program("python", 4321, chain=("pytest",), is_pytest=True),
        state="failing",
        errno=13,
        first_s=0.5,
        last_s=0.5,
        remedy=Remedy("network.allowed_domains", ("93.184.216.34:443",)),
    )
    return known._replace(**changes)


def install(put: Callable[[object, str, object], None] = setattr) -> None:
    """Put fakes in place of everything that would touch a process."""

    def maybe_join(config: engine.Config | None, *, role: str, host: str = "") -> FakeFence | None:
        if config is None:  # a worker: it is told the mode by the broker
            if not Path(os.environ[DIRECTORY], "mode").exists():
                return None
            return FakeFence("worker", Path(os.environ[DIRECTORY], "mode").read_text())
        return FakeFence("nested", config.settings.mode) if live else None

    def fence_this_process(config: engine.Config, host: engine.Host, meanwhile: Callable[[], object]) -> FakeFence:
        if "moonshine" in config.settings.require:
            raise engine.FenceUnavailable("moonshine", "no such layer", "Valid names: seccomp.")
        meanwhile()
        Path(os.environ[DIRECTORY], "mode").write_text(config.settings.mode)
        return FakeFence("session", config.settings.mode)

    def respawn_fenced(config: engine.Config, argv: object, host: engine.Host) -> None:
        raise engine.FenceUnavailable("respawn", f"with {argv}")

    put(engine, "maybe_join", maybe_join)
    put(engine, "fence_this_process", fence_this_process)
    put(engine, "obstacles", lambda: tuple(filter(None, os.environ.get(OBSTACLES, "").split("|"))))
    put(engine, "respawn_fenced", respawn_fenced)


def pytest_addoption() -> None:
    """Loaded as a plugin, in a process that is all the test's."""
    install()
