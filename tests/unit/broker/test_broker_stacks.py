"""Stacks of blocked threads: faulthandler's text as frames, and when one is asked for."""

from __future__ import annotations

import faulthandler
import os
import tempfile
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker.services import stacks
from fence_core.broker.services.stacks import StackPipe, parse_stack
from fence_core.events.model import Frame
from fence_core.kernel import signals

TEXT = """Current thread 0x00007f (most recent call first):
  File "/project/test_it.py", line 12 in test_inner
  File "/project/test_it.py", line 20 in <module>
"""


def test_frames_are_outermost_first() -> None:
    assert parse_stack(TEXT) == (
        Frame("/project/test_it.py", 20, "<module>"),
        Frame("/project/test_it.py", 12, "test_inner"),
    )


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("", 0),
        ("Current thread 0x1 (most recent call first):\n", 0),
        (TEXT + TEXT, 2),
        (TEXT + "\nExtension modules: a, b (total: 2)\n", 2),
        ('  File "x.py", line 1 in f', 1),
        ('  File "x.py", line ? in f\n', 0),
        ('  File "x.py"\n', 0),
        ("noise\n" + TEXT, 2),
        ('  File "x.py", line 1 in f\n  ...\n  File "y.py", line 2 in g\n', 1),
    ],
)
def test_what_is_no_frame_ends_the_stack(text: str, frames: int) -> None:
    assert len(parse_stack(text)) == frames


PATHS = st.text(
    st.characters(blacklist_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8"), max_size=30
)


@given(PATHS, st.integers(1, 10**6), st.sampled_from(["f", "<lambda>", "<module>", "f in g"]))
def test_files_may_have_any_name(path: str, line: int, function: str) -> None:
    (frame,) = parse_stack(f'  File "{path}", line {line} in {function}\n')
    assert (frame.path, frame.line) == (path, line)


def test_faulthandler_writes_so() -> None:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=False)
        file.seek(0)
        found = parse_stack(file.read())
    assert found[-1].function == "test_faulthandler_writes_so"
    assert os.path.samefile(found[-1].path, __file__)


# ---------------------------------------------------------------- asking


class Asked:
    """A pipe, and threads whose state the test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading, self.writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.pipe = StackPipe(self.reading, os.fstat(self.reading).st_ino)
        self.pipe.signal, self.pipe.target_fd = 40, self.writing
        self.pending = False
        self.handled = True
        self.sent: list[int] = []
        self.now = 100.0
        monkeypatch.setattr(stacks.signals, "state", self._state)
        monkeypatch.setattr(stacks.signals, "tgkill", lambda pid, tid, number: self._send(tid))
        monkeypatch.setattr(stacks.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(stacks.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _send(self, tid: int) -> None:
        self.sent.append(tid)
        self.pending = True

    def _state(self, tid: int) -> Any:
        mask = signals.bit(40) if self.pending else 0
        return SimpleNamespace(pending_thread=mask, blocked=0, has_handler=lambda number: self.handled)

    def written(self, text: str = TEXT) -> None:
        os.write(self.writing, text.encode())
        self.pending = False

    def ask(self, tid: int = 1) -> Any:
        target = SimpleNamespace(stack=())
        self.pipe.ask(os.getpid(), tid, target)
        return target

    def close(self) -> None:
        self.pipe.close()
        os.close(self.writing)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Asked(monkeypatch)
    yield made
    made.close()


def test_what_is_written_is_told(asked: Asked) -> None:
    target = asked.ask()
    asked.written()
    asked.pipe.collect()
    assert [frame.function for frame in target.stack] == ["<module>", "test_inner"]
    assert asked.sent == [1]


@pytest.mark.parametrize("why", ["no signal", "no handler", "another file"])
def test_nobody_is_asked_whom_it_would_kill_or_confuse(asked: Asked, why: str) -> None:
    if why == "no signal":
        asked.pipe.signal = 0
    elif why == "no handler":
        asked.handled = False
    else:
        asked.pipe.target_fd = 0
    asked.ask()
    assert asked.sent == []


def test_two_at_once_could_not_be_told_apart(asked: Asked) -> None:
    first = asked.ask(1)
    second = asked.ask(2)
    assert asked.sent == [1]
    asked.written()
    asked.pipe.collect()
    assert first.stack
    assert not second.stack
    third = asked.ask(3)
    asked.written()
    asked.pipe.collect()
    assert third.stack


def test_one_that_is_never_written_keeps_nobody_for_ever(asked: Asked) -> None:
    asked.ask(1)
    asked.now += stacks._GIVE_UP_S + 1
    second = asked.ask(2)
    assert asked.sent == [1, 2]
    asked.written()
    asked.pipe.collect()
    assert second.stack


def test_a_thread_that_writes_nothing_has_no_stack(asked: Asked) -> None:
    target = asked.ask()
    asked.pending = False
    asked.pipe.collect()
    assert target.stack == ()
    assert asked.ask(2) is not None
    assert asked.sent == [1, 2]


def test_nobody_waits_longer_than_that(asked: Asked) -> None:
    asked.ask()
    before = asked.now
    asked.pipe.collect(0.01)
    assert 0 < asked.now - before < 0.011
    before = asked.now
    asked.pipe.collect()
    assert asked.now == before
