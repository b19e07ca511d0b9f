"""Asking a pytest process who waits for a thread: whom, how long, and what is made of the answer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fence_core.broker.services import inquiries
from fence_core.broker.services.inquiries import Inquiries, read_answer
from fence_core.events.ledger import joined
from fence_core.events.model import Frame
from fence_core.link import page
from fence_core.link.page import Page

LINE = ["/p/test_it.py", 3, "fetch"]


def answer(*lines: object, joint: object = 0, thread: object = "", whole: object = True) -> bytes:
    return json.dumps({"lines": lines, "joint": joint, "thread": thread, "whole": whole}).encode()


def target() -> Any:
    return SimpleNamespace(lead=(), joint=0, thread="", is_whole=True)


class Asked:
    """A process whose main thread does what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fd = page.create()
        self.page, self.theirs = Page(fd), Page(fd)
        os.close(fd)
        self.inquiries = Inquiries(self.page, 40)
        self.answers: list[bytes] = []
        self.sent = 0
        self.now = 100.0
        self.handled = self.waiting = True
        monkeypatch.setattr(
            inquiries.signals, "state", lambda pid: SimpleNamespace(has_handler=lambda number: self.handled)
        )
        monkeypatch.setattr(inquiries.signals, "tgkill", self._send)
        monkeypatch.setattr(inquiries, "waits", lambda pid, or_runs: self.waiting)
        monkeypatch.setattr(inquiries.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(inquiries.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _send(self, pid: int, tid: int, number: int) -> None:
        assert (pid, tid, number) == (7, 7, 40)
        self.sent += 1
        if self.answers:
            self.tell(self.answers.pop(0))

    def tell(self, said: bytes) -> None:
        self.theirs.tell(self.theirs.asked()[0], said)

    def ask(self, *, wait: bool = True) -> Any:
        asked = target()
        self.inquiries.ask(7, 9, asked, wait=wait)
        return asked

    def close(self) -> None:
        self.page.release()
        self.theirs.release()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    made = Asked(monkeypatch)
    yield made
    made.close()


def test_who_waits_is_told(asked: Asked) -> None:
    asked.answers = [answer(LINE, thread="asyncio_0")]
    found = asked.ask()
    assert (found.lead, found.thread) == ((Frame(*LINE),), "asyncio_0")  # type: ignore[arg-type]
    assert asked.theirs.asked()[1] == 9


def test_who_is_about_to_wait_is_asked_again(asked: Asked) -> None:
    asked.answers = [answer(whole=False), answer(whole=False), answer(LINE)]
    assert asked.ask().lead
    assert asked.sent == 3


def test_who_never_waits_is_not_asked_for_ever(asked: Asked) -> None:
    asked.answers = [answer(whole=False)] * 1000
    assert not asked.ask().lead
    assert asked.sent < 1000


def test_who_does_not_answer_is_left_alone_for_a_while(asked: Asked) -> None:
    began = asked.now
    asked.ask()
    assert asked.now < began + 2
    asked.answers = [answer(LINE)]
    asked.ask()
    assert asked.sent == 1
    asked.now += 60
    assert asked.ask().lead


def test_nobody_is_waited_for_for_ever(asked: Asked) -> None:
    """All calls of all tests wait meanwhile, and whoever answers late may do so on purpose."""
    began = asked.now
    for _ in range(1000):
        asked.answers = [answer(whole=False)] * 1000
        asked.ask()
    assert asked.now < began + 15
    sent = asked.sent
    asked.ask()
    assert asked.sent == sent


def test_who_waits_for_us_is_not_waited_for(asked: Asked) -> None:
    began = asked.now
    asked.waiting = False
    asked.ask()
    assert asked.now < began + 0.1


def test_of_its_own_call_it_tells_later(asked: Asked) -> None:
    found = asked.ask(wait=False)
    assert not asked.inquiries.collect()
    asked.tell(answer(LINE, joint=1))
    assert asked.inquiries.collect()
    assert (len(found.lead), found.joint) == (1, 1)


def test_nobody_is_asked_whom_it_would_kill(asked: Asked) -> None:
    asked.handled = False
    asked.ask()
    assert not asked.sent


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 10_000,
        answer(LINE[:2]),
        answer(3),
        answer([None, "x", None]),
        answer(["/p/test_it.py", -1, "f"]),
        answer(["/p/test_it.py", 10**12, "f"]),
        answer(joint="x"),
        answer(joint=1e999),
        b'{"lines": [], "joint": 0, "thread": ""}',
    ],
)
def test_what_makes_no_sense_is_left(said: bytes) -> None:
    found = target()
    read_answer(said, found)
    assert found == target()


def test_what_is_told_can_be_sent() -> None:
    found = target()
    read_answer(answer(["/\udcff", 1, "f\udcff"], thread="\udcff" * 1000), found)
    assert str(found.lead).encode()
    assert len(found.thread.encode()) < 4000


def test_a_stack_follows_where_it_branches_off() -> None:
    def frames(*names: str) -> tuple[Frame, ...]:
        return tuple(Frame(name, 1, name) for name in names)

    stack = frames("test", "run", "loop", "step", "connect")
    assert joined(frames("test", "run", "loop", "main"), 3, stack) == frames(
        "test", "run", "loop", "main", "step", "connect"
    )
    assert joined(frames("test", "main"), 0, frames("worker")) == frames("test", "main", "worker")
    for joint in (-1, 2, 99):
        assert joined(frames("test", "main"), joint, frames("worker")) == frames("test", "main", "worker")
