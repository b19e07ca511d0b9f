"""What a test's own process tells its parent, and what the parent makes of its end."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fence_core.link.one_test import Line, Reader, Sender, Unreadable
from pytest_fence import forked, forked_crash, forked_wire
from pytest_fence.categories import FenceWarning


def in_fork(line: Line, function: Callable[[Sender], object], *, in_step: bool = False) -> int:
    """The pid of a fork that has told this."""
    line.clear()
    with line.lent():
        pid = os.fork()
    if pid == 0:
        try:
            function(Sender(line, in_step=in_step))
        finally:
            os._exit(0)
    return pid


def heard(line: Line, pid: int, *, answer: bool = False) -> list[list[Any]]:
    """All that arrives until the fork has ended."""
    reader, found = Reader(forked_wire.SHAPES), []
    over = False
    while True:
        over = over or os.waitpid(pid, os.WNOHANG)[0] != 0
        chunk = line.read()
        if not chunk and over:
            return found
        for message in reader.feed(chunk):
            found.append(message)
            if answer:
                line.answer()
        if not chunk:
            line.wait()


def told(*messages: tuple[object, ...], in_step: bool = False) -> list[list[Any]]:
    line = Line()
    pid = in_fork(line, lambda sender: [sender.send(*message) for message in messages], in_step=in_step)
    return heard(line, pid, answer=in_step)


REPORT = ("report", {"text": "a\nb\u2028\udc80\0"}, False)


@pytest.mark.parametrize("in_step", [False, True])
def test_messages_arrive_whole(in_step: bool) -> None:
    messages = [REPORT, ("fault", "x" * (3 << 20)), *[("fault", str(n)) for n in range(500)], ("end",)]
    assert told(*messages, in_step=in_step) == [list(message) for message in messages]


def test_a_line_serves_one_fork_after_another() -> None:
    line = Line()
    for n in range(3):
        pid = in_fork(line, lambda sender, n=n: sender.send("fault", str(n)))  # type: ignore[misc]
        assert heard(line, pid) == [["fault", str(n)]]


def test_a_message_without_its_end_was_never_said() -> None:
    assert list(Reader(forked_wire.SHAPES).feed(b'["end"]\n["end"')) == [["end"]]


def test_a_message_that_was_broken_off_is_left_out() -> None:
    """By an alarm of the test, say: what is said after it is heard."""

    def breaks_off(sender: Sender) -> None:
        whole = sender._line.write

        def half(data: bytes, *, in_step: bool) -> None:
            whole(data[: len(data) // 2], in_step=in_step)
            raise ZeroDivisionError

        sender._line.write = half  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            sender.send("fault", "never heard")
        del sender._line.write
        sender.send("end")

    line = Line()
    assert heard(line, in_fork(line, breaks_off)) == [["end"]]


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\x00{}", b"{}", b"[]", b"null", b'["nothing"]', b'["report", 1, 2]', b'["end", 1]', b'["fault", null]',
     b"[" * 100_000, b'[["report"], 1]'],
)  # fmt: skip
def test_what_no_test_says_is_not_believed(garbage: bytes) -> None:
    with pytest.raises(Unreadable):
        list(Reader(forked_wire.SHAPES).feed(garbage + b"\n"))


def test_what_is_no_plain_data_goes_as_text() -> None:
    ((_, data, _),) = told(("report", {"odd": ValueError("x"), "pair": (1, 2), (3, 4): "left out"}, True))
    assert data == {"odd": "x", "pair": [1, 2]}


def test_a_fork_of_the_sender_is_not_heard() -> None:
    def forks(sender: Sender) -> None:
        pid = os.fork()
        sender.send("end") if pid == 0 else os.waitpid(pid, 0)

    line = Line()
    assert heard(line, in_fork(line, forks)) == []


def test_only_the_fork_that_it_is_lent_to_has_the_line() -> None:
    """A process that a wider fixture has forked has the address, and nothing there."""

    def ended(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def fork(writes: Line) -> int:
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()
            writes.write(b'["end"]\n', in_step=False)
            os._exit(0)
        return pid

    line = Line()
    assert ended(fork(line)) == -signal.SIGSEGV
    assert line.read() == b""
    with line.lent():
        pid = fork(line)
    assert ended(pid) == 0
    assert line.read() == b'["end"]\n'
    assert ended(fork(line)) == -signal.SIGSEGV


def test_reports_are_rebuilt() -> None:
    """What the parent knows is not sent; tuples that JSON makes lists of are tuples again."""
    known = forked_wire.known_of("a.py::b", ("a.py", 3, "b"), {"b": 1})
    whole = {
        **known,
        "outcome": "skipped",
        "longrepr": ("a.py", 4, "why"),
        "sections": [("Captured stdout call", "x")],
        "user_properties": [("k", 1)],
        "mine": ["a", ["b"]],
    }
    slim = forked_wire.slim(whole, known)
    assert not {"nodeid", "location", "keywords"} & slim.keys()
    ((_, sent, _),) = told(("report", slim, False))
    assert forked_wire.restored(sent, known) == whole
    other = {**whole, "location": ("other.py", 1, "c")}
    assert forked_wire.restored(forked_wire.slim(other, known), known) == other


class NeedsTwo(UserWarning):
    """One that cannot be made from its text."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one}{two}")


@pytest.mark.parametrize(
    ("given", "category", "text"),
    [
        (DeprecationWarning("old"), DeprecationWarning, "old"),
        (FenceWarning("f"), FenceWarning, "f"),
        (NeedsTwo(1, 2), Warning, f"{__name__}.NeedsTwo: 12"),
    ],
)
def test_warnings(given: Warning, category: type[Warning], text: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(given, stacklevel=1)
    ((_, plain, *_),) = told(("warning", forked_wire.plain_warning(caught[0]), "runtest", "", None))
    found = forked_wire.to_warning(plain)
    assert (found.category, str(found.message)) == (category, text)
    assert (found.filename, found.lineno) == (caught[0].filename, caught[0].lineno)


def test_every_kind_of_message_is_dealt_with() -> None:
    assert forked._HEARD.keys() == forked_wire.SHAPES.keys()


def test_a_warning_imports_nothing() -> None:
    """The name of its class comes from a test, which may be under a narrower policy."""
    plain: Mapping[str, Any] = {"text": "t", "filename": "f", "lineno": 1}
    for module, name in (("no.such.module", "X"), ("os", "path"), ("builtins", "dict"), ("builtins", "KeyError")):
        found = forked_wire.to_warning({**plain, "module": module, "name": name})
        assert (found.category, str(found.message)) == (Warning, f"{module}.{name}: t")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (signal.SIGSEGV, "ended by SIGSEGV (Segmentation fault)"),
        (signal.SIGSEGV | 0x80, "ended by SIGSEGV (Segmentation fault)"),  # with a core dump
        (signal.SIGKILL, "ended by SIGKILL (Killed): the kernel's out-of-memory killer uses this signal"),
        (signal.SIGRTMIN + 1, f"ended by signal {signal.SIGRTMIN + 1}"),
        (3 << 8, "ended by itself with status 3 before its report was complete"),
        (None, "ended before its report was complete, and something else has waited for it"),
    ],
)
def test_ends_in_words(status: int | None, text: str) -> None:
    assert text in forked_crash.describe(status)


def test_sections_of_one_phase_are_one() -> None:
    first = [("Captured stdout setup", "a"), ("Captured log setup", "b")]
    second = [
        ("Captured log setup", "c"),
        ("Captured stdout setup", "d"),
        ("Captured stdout setup", "e"),
        ("fence", "f"),
    ]
    assert forked._joined(first, second) == [
        ("Captured stdout setup", "ad"),
        ("Captured log setup", "b\nc"),
        ("Captured stdout setup", "e"),
        ("fence", "f"),
    ]


def test_an_interrupt_names_its_place() -> None:
    found = forked._interrupt_at("somewhere.py", 12)
    assert found.__traceback__ is not None
    frame = pytest.ExceptionInfo.from_exception(found).traceback[-1]
    assert (str(frame.path).rpartition("/")[2], frame.lineno + 1) == ("somewhere.py", 12)
    assert isinstance(forked._interrupt_at("", 0), KeyboardInterrupt)
