"""The answer to who waits for a thread: it always comes, it fits, and nothing of the test's is lost over it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from fence_core.launcher import waiting
from fence_core.launcher.waiting import Answers
from fence_core.link import page
from fence_core.link.page import Page


@pytest.fixture
def asked() -> Iterator[Page]:
    """A page on which somebody wants to know who waits for this very thread."""
    fd = page.create()
    own = Page(fd)
    os.close(fd)
    own.ask(7, os.getpid())
    yield own
    own.release()


def told(asked: Page) -> dict[str, Any]:
    Answers(asked)(0, sys._getframe())
    answer = asked.told(7)
    assert answer is not None
    found: dict[str, Any] = json.loads(answer)
    return found


def lines(number: int, size: int = 9) -> list[tuple[str, int, str]]:
    return [("/" + "p" * size, line, "f") for line in range(1, number + 1)]


@pytest.mark.parametrize(("number", "joint", "kept"), [(1, 1, 1), (100, 99, 100), (150, 140, 100), (150, 20, 100)])
def test_of_many_lines_the_innermost_are_told(
    asked: Page, monkeypatch: pytest.MonkeyPatch, number: int, joint: int, kept: int
) -> None:
    """The line that stands on the stack too stays the one that it was, or is told to be none of them."""
    monkeypatch.setattr(waiting, "who_waits", lambda *_: (lines(number), joint, "", True))
    found = told(asked)
    assert [line for _, line, _ in found["lines"]] == list(range(number - kept + 1, number + 1))
    if found["joint"]:
        assert found["lines"][found["joint"] - 1][1] == joint
    else:
        assert joint <= number - kept


@pytest.mark.parametrize(("size", "kept"), [(300, 100), (2000, 10), (40_000, 0)])
def test_what_does_not_fit_is_left_out(asked: Page, monkeypatch: pytest.MonkeyPatch, size: int, kept: int) -> None:
    monkeypatch.setattr(waiting, "who_waits", lambda *_: (lines(100, size), 0, "name", True))
    found = told(asked)
    assert (len(found["lines"]), found["thread"]) == (kept, "name")


def test_what_cannot_be_looked_at_is_no_answer_of_anything(asked: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise AttributeError("a task of the test's own making")

    monkeypatch.setattr(waiting, "who_waits", fails)
    assert told(asked) == {"lines": [], "joint": 0, "thread": "", "whole": True}


def test_a_timeout_of_the_test_is_not_lost(asked: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler may run at any line of this one's."""

    class LateError(Exception):
        pass

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    monkeypatch.setattr(waiting, "who_waits", lambda *_: signal.raise_signal(signal.SIGALRM))
    try:
        with pytest.raises(LateError):
            Answers(asked)(0, sys._getframe())
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_thread_that_waits_for_nobody_has_its_name(asked: Page) -> None:
    known: list[int] = []
    go, seen = threading.Event(), threading.Event()

    def run() -> None:
        known.append(threading.get_native_id())
        seen.set()
        go.wait()

    thread = threading.Thread(target=run, name="telemetry" * 100)
    thread.start()
    try:
        seen.wait()
        asked.ask(7, known[0])
        found = told(asked)
    finally:
        go.set()
        thread.join()
    assert (found["lines"], found["whole"]) == ([], True)
    assert found["thread"] == ("telemetry" * 100)[:200]
