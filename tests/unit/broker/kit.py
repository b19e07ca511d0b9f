"""What unit tests of the broker need of its surroundings: accounts, calls and processes, without any fenced process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fence_core.broker.call import Call
from fence_core.broker.scopes import Binding, Scope, Worker
from fence_core.kernel.credentials import Credentials
from fence_core.link.page import create
from fence_core.policy.model import Policy, Source
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay

Rules = Mapping[str, Mapping[str, Any]]


def policy(rules: Rules | None = None) -> Policy:
    """As a file would say it: `{"network": {"allowed_domains": [...]}}`."""
    return merge(Policy(), parse_overlay(rules or {}, source=Source("test"), base_dir=Path("/")))


def scope(rules: Rules | None = None, mode: str = "enforce") -> Scope:
    return Scope(policy(rules), mode=mode, source=Source("test").name, syntax="toml", base_dir=Path("/"))


class Sessions:
    """Nested sessions, each with a worker. Closes their pages."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []

    def worker(self, rules: Rules | None = None, mode: str = "enforce", around: Binding | None = None) -> Worker:
        outer = around.judges if around is not None else ()
        worker = Worker(len(self.workers), scope(rules, mode), os.getpid(), create(), outer)
        worker.page.write(b"", 0, 0)
        self.workers.append(worker)
        return worker

    def account(self, *sessions: tuple[Rules, str] | Rules) -> Binding:
        """The innermost first, each with its rules, and its mode if that is not to enforce them."""
        binding: Binding | None = None
        for session in reversed(sessions):
            rules, mode = session if isinstance(session, tuple) else (session, "enforce")
            binding = Binding(self.worker(rules, mode, binding), "test_it.py::test", 0, 0)
        assert binding is not None
        return binding

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


@contextmanager
def sessions() -> Iterator[Sessions]:
    made = Sessions()
    try:
        yield made
    finally:
        made.close()


class FakeListener:
    """Knows which calls still wait."""

    def __init__(self) -> None:
        self.gone: set[int] = set()

    def is_valid(self, id_: int) -> bool:
        return id_ not in self.gone


class FakeProcess:
    """A fenced process that is this one."""

    def __init__(self, account: Binding | None = None) -> None:
        self.pid = os.getpid()
        self.memory = -1
        self.wanted = ""
        self._account = account

    def account(self) -> Binding:
        assert self._account is not None
        return self._account

    def borrow(self, tid: int, fd: int) -> int:
        return os.dup(fd)

    def identify(self, tid: int, fd: int) -> tuple[int, bool]:
        return os.dup(fd), True


def call(account: Binding | None = None, *args: int, number: int = 0, **services: Any) -> Call:
    """A trapped call of this very process, which the kernel has not stopped."""
    given = {"listener": FakeListener(), "processes": SimpleNamespace(is_inside=lambda pid: False), "made": None}
    given |= services
    arguments = (*args, *(0,) * 6)[:6]
    made = Call(SimpleNamespace(**given), (7, os.getpid(), 0, number, 0, *arguments))  # type: ignore[arg-type]
    made.process = FakeProcess(account)  # type: ignore[assignment]
    return made


def who(uid: int = 1000, gid: int = 1000, groups: tuple[int, ...] = (), capabilities: int = 0) -> Credentials:
    """Somebody, as /proc has it."""
    ids = "\t".join([str(uid)] * 4)
    gids = "\t".join([str(gid)] * 4)
    others = " ".join(map(str, groups))
    text = f"Name:\tsomebody\nUid:\t{ids}\nGid:\t{gids}\nGroups:\t{others} \nCapEff:\t{capabilities:016x}\n"
    return Credentials(text.encode())
