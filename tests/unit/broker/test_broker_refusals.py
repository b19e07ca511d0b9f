"""What a refused call is answered, and which sessions are told: the decision of each judge, in its session's mode."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from fence_core.broker.call import Call
from fence_core.broker.reply import CONTINUE
from fence_core.events.ledger import Ledger
from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.requests import Connect, Read, Request, SystemCall, UnixConnect, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay

UNLISTED = Connect("192.0.2.1", 80)
QUIET = UnixConnect("/run/nscd/socket")
HELD = SystemCall("mount")


def session(mode: str = "enforce", **rules: Any) -> Any:
    overlay = parse_overlay(rules, source=Source("test"), base_dir="/proj", home="/home/ci")
    scope = SimpleNamespace(mode=mode, ledger=Ledger(), on_use=None)
    binding = SimpleNamespace(worker=SimpleNamespace(scope=scope), nodeid="test_it.py::test")
    return binding, Judge(merge(Policy(), overlay))


def call(*sessions: Any, waits: bool = True) -> tuple[Call, list[tuple[Request, Any, int]]]:
    """A call of a process inside of these sessions, the innermost first, and where its refusals are written down."""
    told: list[tuple[Request, Any, int]] = []

    def note(attempt: Any) -> None:
        told.append((attempt.objection.request, attempt.objection.binding, attempt.errno))

    services: Any = SimpleNamespace(
        listener=SimpleNamespace(is_valid=lambda number: waits),
        recorder=SimpleNamespace(note=note),
        processes=SimpleNamespace(is_inside=lambda pid: pid == 77),
    )
    made = Call(services, (1, 4711, 0, 42, 0, *range(6)))
    process: Any = SimpleNamespace(pid=4711, account=lambda: SimpleNamespace(judges=sessions))
    made.process = process
    return made, told


def test_what_is_allowed_goes_on() -> None:
    asked, told = call(session(allowed_domains=["192.0.2.1"]))
    assert asked.ask(UNLISTED, errno.EACCES) == CONTINUE
    assert told == []


@pytest.mark.parametrize(
    ("modes", "answer", "numbers"),
    [
        (["enforce"], errno.EACCES, [errno.EACCES]),
        (["warn"], errno.EACCES, [errno.EACCES]),
        (["audit"], CONTINUE, [0]),
        (["audit", "enforce"], errno.EACCES, [0, errno.EACCES]),
        (["enforce", "audit"], errno.EACCES, [errno.EACCES, 0]),
        (["audit", "audit"], CONTINUE, [0, 0]),
    ],
)
def test_each_session_is_told_what_it_does_not_allow(modes: list[str], answer: int, numbers: list[int]) -> None:
    sessions = [session(mode) for mode in modes]
    asked, told = call(*sessions)
    assert asked.refuse(UNLISTED, errno.EACCES) == answer
    assert told == [(UNLISTED, binding, number) for (binding, _), number in zip(sessions, numbers, strict=True)]


def test_a_session_that_allows_it_is_told_nothing() -> None:
    inner, outer = session(allowed_domains=["192.0.2.1"]), session()
    asked, told = call(inner, outer)
    assert asked.refuse(UNLISTED, errno.EACCES) == errno.EACCES
    assert told == [(UNLISTED, outer[0], errno.EACCES)]


def test_what_is_no_violation_is_refused_without_a_word_and_with_its_own_error() -> None:
    asked, told = call(session())
    assert asked.refuse(QUIET, errno.EACCES, quietly=errno.ECONNREFUSED) == errno.ECONNREFUSED
    assert asked.refuse(QUIET, errno.EACCES) == errno.EACCES
    assert asked.refuse(UNLISTED, errno.EACCES, quietly=errno.ECONNREFUSED) == errno.EACCES
    assert [request for request, _, _ in told] == [UNLISTED]


def test_an_audit_refuses_what_could_not_be_undone_and_notes_it() -> None:
    audit = session("audit")
    asked, told = call(audit)
    assert asked.refuse(HELD, errno.EPERM) == errno.EPERM
    assert told == [(HELD, audit[0], errno.EPERM)]
    assert asked.refuse(SystemCall("enter namespace x", "namespace"), errno.EPERM) == CONTINUE


def test_of_a_caller_that_is_gone_nothing_is_written_down() -> None:
    asked, told = call(session(), waits=False)
    assert asked.refuse(UNLISTED, errno.EACCES) == errno.EACCES
    assert told == []


@pytest.mark.parametrize("pid", [4711, 77])
def test_paths_of_fenced_processes_are_told_as_their_own(pid: int) -> None:
    asked, told = call(session(deny_read=["/proc/self/environ"]))
    assert asked.refuse(Read(f"/proc/{pid}/environ"), errno.EACCES) == errno.EACCES
    assert asked.refuse(Write("open", f"/proc/{pid}/comm"), errno.EACCES) == errno.EACCES
    assert [request for request, _, _ in told] == [Read("/proc/self/environ"), Write("open", "/proc/self/comm")]


def test_what_nobody_objects_to_by_now_is_refused_all_the_same() -> None:
    """A handler has found something against it, by a quicker way: better a refusal without a word than none."""
    asked, told = call(session(allowed_domains=["192.0.2.1"]))
    assert asked.refuse(UNLISTED, errno.EACCES) == errno.EACCES
    assert told == []
