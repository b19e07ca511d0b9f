"""Scopes, workers and bindings: under whose policy a process runs, and on whose account.

* A *scope* is one fenced session: a policy, a mode and a ledger. The first one is the session the user started; a
  ``pytest --fence`` started inside a fence opens a nested scope, which is judged by its own policy *and* by that of
  the test that started it: it can only narrow.
* A *worker* is one pytest process of a scope (an xdist worker, or the one process of a plain run), with its page.
* A *binding* says on whose account a process acts: a test of a worker in a phase, under one policy. It is found once,
  when the process is first seen, and never changes. See `processes.py` for how. What a fixture of more than one test
  has started *follows* the tests of its worker: as long as one of them runs, that one's binding counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fence_core.errors import PolicyError, Problem
from fence_core.events.ledger import Ledger
from fence_core.events.phases import PHASES
from fence_core.link.page import Page, read_fork, read_note
from fence_core.policy.decide import Judge
from fence_core.policy.model import Package, Policy, Source
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_marker

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.events.ledger import Record
    from fence_core.events.lessons import Lessons
    from fence_core.policy.model import Rule
    from fence_core.policy.requests import Request

POLICIES_MAX = 20_000
_IN_A_TEST = frozenset(PHASES.index(phase) for phase in ("setup", "call", "teardown"))


class Binding:
    """On whose account a process acts. Immutable by convention (slots, set once: it is made for every process)."""

    __slots__ = ("follows", "judges", "nodeid", "owner", "phase", "policy", "said", "worker")

    def __init__(self, worker: Worker, said: str, phase: int, policy: int) -> None:
        self.worker = worker
        self.said = said
        """Node id and owner, as the page has them."""
        self.nodeid, _, self.owner = said.partition("\0")
        self.follows = bool(self.owner) and worker.scope.blame == "running"
        """Whether a process with this binding is on account of whichever test is running."""
        self.phase = phase if phase < len(PHASES) else 0
        self.policy = policy
        self.judges: tuple[tuple[Binding, Judge], ...] = ((self, worker.judge(policy)), *worker.outer_judges)
        """Innermost first; a call must pass all of them."""

    def running(self) -> Binding:
        """That of the test which its worker runs now, with that test's policy and no other; itself between tests."""
        now = self.worker.now()
        return now if now.nodeid and now.phase in _IN_A_TEST and not self.worker.ended else self

    def rules(self) -> Policy:
        """The policy in force; a number never registered means the base policy."""
        policies = self.worker.scope.policies
        return policies[self.policy] if self.policy < len(policies) else policies[0]

    def syntax(self) -> str:
        """How the config of that policy is written."""
        scope = self.worker.scope
        origin = scope.origins[self.policy] if self.policy < len(scope.origins) else 0
        return scope.parts[origin - 1].syntax if origin else scope.syntax


class Scope:
    """One fenced session: what it allows, what it does about violations."""

    __slots__ = (
        "base",
        "base_dir",
        "blame",
        "host",
        "judges",
        "ledger",
        "lessons",
        "listener",
        "mode",
        "on_use",
        "origins",
        "parts",
        "policies",
        "source",
        "syntax",
        "told",
        "watches_reads",
    )

    def __init__(
        self,
        base: Policy,
        *,
        mode: str,
        source: str,
        syntax: str,
        base_dir: str,
        host: str = "the command",
        watches_reads: bool = False,
        blame: str = "running",
        parts: tuple[Package, ...] = (),
    ) -> None:
        self.base = base
        self.mode = mode
        self.source = source
        """Where the policy comes from, for messages: ``pyproject.toml [tool.fence]``."""
        self.syntax = syntax
        """``toml``, ``json`` or ``yaml``: how a remedy is written."""
        self.listener: Callable[[Record, str], object] | None = None
        """Told of every attempt that is written down, after it was; and `how`, see `Attempt`."""
        self.on_use: Callable[[Request, Rule], object] | None = None
        """Told of what an entry of the network's lists has allowed."""
        self.host = host
        """What a program that runs such a session is called; empty: as its process is."""
        self.base_dir = base_dir
        self.watches_reads = watches_reads
        self.blame = blame
        """On whose account processes of fixtures of more than one test are: one of `policy.model.Blame`."""
        self.ledger = Ledger()
        """The violations of this session, from all its processes. It goes with the last that refers to the session."""
        self.told: dict[str, Any] | None = None
        """What the session says of its tests, for report files; None before it has. Unchecked."""
        self.lessons: Lessons | None = None
        """What it has let through to learn from, in mode ``learn``."""
        if mode == "learn":
            from fence_core.events.lessons import Lessons  # for such runs only

            self.lessons = Lessons()
        self.parts = parts
        """The packages of a monorepo."""
        self.policies: list[Policy] = [base, *(each.policy for each in parts)]
        """By their numbers: the session's, those of its packages, and those with markers."""
        self.judges: list[Judge] = [Judge(each) for each in self.policies]
        self.origins = list(range(len(self.policies)))
        """Of each policy, the number of the one that its markers add to."""

    def register(self, layers: Iterable[tuple[Mapping[str, Any], Source]], base: int = 0) -> int:
        """The number of a policy, the session's or that of a package, with the arguments of these markers merged in.

        Raises PolicyError, IndexError.
        """
        origin = self.origins[base]
        base_dir = self.parts[origin - 1].directory if origin else self.base_dir
        overlays = [
            parse_marker(raw, source=source, base_dir=base_dir, watches_reads=self.watches_reads)
            for raw, source in layers
        ]
        if len(self.policies) >= POLICIES_MAX:
            found, accepted = f"more than {POLICIES_MAX} different policies", "fewer different markers"
            raise PolicyError((Problem(overlays[-1].source.name, "fence", found, accepted),))
        policy = merge(self.policies[origin], *overlays)
        self.policies.append(policy)
        self.judges.append(Judge(policy))
        self.origins.append(origin)
        return len(self.policies) - 1


class Worker:
    """One registered pytest process of a scope."""

    __slots__ = (
        "_now",
        "_stamp",
        "ended",
        "expects_workers",
        "note",
        "number",
        "outer_judges",
        "page",
        "page_fd",
        "scope",
        "stream",
        "test_pid",
        "tgid",
    )

    def __init__(
        self, number: int, scope: Scope, tgid: int, page_fd: int, outer_judges: tuple[tuple[Binding, Judge], ...]
    ) -> None:
        self.number = number
        self.scope = scope
        self.tgid = tgid
        self.test_pid = tgid
        """The process that runs the current test: this one, or the fork that it made for it (``scope = "test"``)."""
        self.page_fd = page_fd
        self.page = Page(page_fd)
        self.ended = False
        """Whether its process is gone, or its session over: whatever the page says, no test is running."""
        self.expects_workers = False
        """Whether it has said that it starts further processes of its session."""
        self.note = (0, 0)
        """Where its process keeps its note, and the token that it begins with."""
        self.outer_judges = outer_judges
        """What the test that started this nested session may do; empty for the session the user started."""
        self.stream = -1
        """A descriptor of ours on the pipe to whoever shows what this session is refused."""
        self._now: Binding | None = None
        self._stamp = (0, 0)

    def close(self) -> None:
        """Its session is over, or its process has ended: give back what costs. What was said last stays readable."""
        self.ended = True
        self.page.release()
        if self.page_fd >= 0:
            os.close(self.page_fd)
            self.page_fd = -1
        if self.stream >= 0:
            os.close(self.stream)
            self.stream, self.scope.listener = -1, None

    def left_by(self, pid: int) -> None:
        """A process that ran tests for this worker has ended."""
        self.ended = self.ended or self.tgid == pid
        if self.test_pid == pid:
            self.test_pid = self.tgid

    def judge(self, policy: int) -> Judge:
        """The judge of a policy number read from the page; a number never registered means the base policy."""
        judges = self.scope.judges
        return judges[policy] if policy < len(judges) else judges[0]

    def noted(self, pid: int) -> Binding | None:
        """What this worker was doing when it forked `pid`, by the copy of its note there.

        None where there is no such note: the fork has thrown it away, or shows its memory to nobody.
        """
        found = read_note(pid, *self.note) if self.note[0] else None
        if found is None:
            return None
        now = self.now()
        if found == (now.said, now.phase, now.policy):
            return now  # the usual case: one object for all of a test's
        return Binding(self, *found)

    def fork_for_a_test(self, pid: int) -> int:
        """Which of this worker's forks for one test `pid` is, by its copy of the note; 0: none, or nobody knows."""
        return read_fork(pid, *self.note) if self.note[0] else 0

    def of_no_test(self) -> Binding:
        """For a process of which nobody can say any more which test has started it: what every test may do."""
        return Binding(self, "", self.now().phase, 0)

    def of_a_session_that_is_over(self) -> Binding:
        """For a process of a session that was narrower than this one, of which nothing is known any more."""
        binding = self.of_no_test()
        binding.judges = ((binding, Judge(Policy())),)
        return binding

    def now(self) -> Binding:
        """What this worker is doing at this moment."""
        stamp = self.page.stamp()
        if self._now is None or stamp != self._stamp or stamp[0] & 1:
            nodeid, phase, policy = self.page.read()
            self._now = Binding(self, nodeid, phase, policy)
            self._stamp = stamp
        return self._now
