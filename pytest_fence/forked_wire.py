"""What a test's own process tells pytest's: one JSON array a line, through memory that the two share.

JSON and nothing that could make code run: a test may be under a narrower policy than the process that reads this. And
nothing is believed that was not checked: what cannot be read fails that test.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from _pytest._code.code import TerminalRepr

from fence_core.untouched import real

if TYPE_CHECKING:
    import pytest
    from _pytest._io import TerminalWriter

    from fence_core.launcher.line import Line

Message = list[Any]
"""Kind, then what belongs to it."""

MESSAGE_MAX = 1 << 30
"""Bytes of one message; a report holds all that its test has printed."""
_CUT = b"\x18"
"""Ends a line that was broken off: JSON has no such character."""
_TEXT_OR_NONE, _NUMBER_OR_NONE = (str, type(None)), (int, type(None))
_SHAPES: dict[object, tuple[type | tuple[type, ...], ...]] = {
    "report": (dict, bool),
    "warning": (dict, str, str, (list, type(None))),
    "coverage": (str,),
    "wishes": ((str, bool), (str, bool)),
    "exit": (_TEXT_OR_NONE, _NUMBER_OR_NONE),
    "interrupt": (str, int),
    "fault": (str,),
    "end": (),
}
_PAIRS = ("sections", "user_properties")
_REBUILT = ("nodeid", "location", "keywords")
"""What the parent knows of a report without being told: it has the item."""


class Unreadable(Exception):  # noqa: N818 - it is what was said, no error of who reads it
    """What arrived is nothing that a test's process says."""


class Sender:
    """The child's end of the line."""

    def __init__(self, line: Line, *, in_step: bool) -> None:
        """`in_step`: wait until the parent has dealt with what it was told."""
        self._line = line
        self._pid = real.getpid()
        self._in_step = in_step
        self._cut = False

    def send(self, *message: object) -> None:
        if real.getpid() != self._pid:
            return  # a fork that the test has made, and that came back into pytest
        data = encode(message)
        if self._cut:  # an alarm of the test has rung in the middle of the message before
            data = _CUT + b"\n" + data
        self._cut = True
        self._line.write(data, in_step=self._in_step)
        self._cut = False


class Reader:
    """Puts together what arrives in pieces. A last line without its end was never finished."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Raises Unreadable."""
        while chunk:
            line, end, chunk = chunk.partition(b"\n")
            self._parts.append(line)
            self._size += len(line)
            if self._size > MESSAGE_MAX:
                raise Unreadable("a message without an end")
            if end:
                whole = b"".join(self._parts)
                self._parts.clear()
                self._size = 0
                if not whole.endswith(_CUT):
                    yield _checked(whole)


def _checked(line: bytes) -> Message:
    try:
        message = real.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise Unreadable("no message")
    shape = _SHAPES.get(message[0])
    if shape is None or len(shape) != len(message) - 1 or not all(map(isinstance, message[1:], shape)):
        raise Unreadable(f"no message of the kind {message[0]!r}")
    return message


def encode(message: object) -> bytes:
    """With its end. What is no plain data (a property of a test may be anything) goes as text, as it would be shown."""
    return real.dumps_any(message).encode() + b"\n"


# Reports


def slim(data: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A serialised report without what the parent will fill in again from `known`."""
    return {key: value for key, value in data.items() if key not in known or known[key] != value}


def known_of(nodeid: str, location: object, keywords: object) -> dict[str, Any]:
    """What reports on one item have in common."""
    return dict(zip(_REBUILT, (nodeid, location, keywords), strict=True))


def restored(data: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """As it was serialised: with what is known, and tuples where JSON has only lists."""
    data = {**known, **data}
    for name in _PAIRS:
        if data.get(name):
            data[name] = [tuple(pair) for pair in data[name]]
    for name in ("location", "longrepr"):  # of a skipped test: path, line, reason
        if isinstance(data.get(name), list):
            data[name] = tuple(data[name])
    return data


class Shown(TerminalRepr):
    """What a test has failed with, where that is no traceback (a doctest, a fixture that nobody knows): the text that
    it is shown as, which the summary does not repeat."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: TerminalWriter) -> None:
        tw.line(self._text)


def is_shown_only(report: pytest.TestReport, data: dict[str, Any]) -> bool:
    """Whether pytest has made a text of what is none."""
    return isinstance(data.get("longrepr"), str) and not isinstance(report.longrepr, str)


def mend(report: pytest.TestReport, data: dict[str, Any], *, shown_only: bool) -> None:
    """What pytest does not restore as it was."""
    if shown_only:
        report.longrepr = Shown(str(report.longrepr))
    if "_subtest.context" in data:
        # Values are turned into text where the context is made, and once more where it is restored.
        object.__setattr__(report.context, "kwargs", data["_subtest.context"]["kwargs"])


# Warnings


def plain_warning(warning: warnings.WarningMessage) -> dict[str, Any]:
    kind = type(warning.message) if isinstance(warning.message, Warning) else warning.category
    return {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "text": str(warning.message),
        "filename": warning.filename,
        "lineno": warning.lineno,
    }


def to_warning(plain: dict[str, Any]) -> warnings.WarningMessage:
    """The same kind where this process knows it, else a plain Warning that says which it was."""
    kind = getattr(real.modules.get(plain["module"]), plain["name"], None)
    text = plain["text"]
    if not (isinstance(kind, type) and issubclass(kind, Warning)):
        kind, text = Warning, f"{plain['module']}.{plain['name']}: {text}"
    try:
        message = kind(text)
    except Exception:  # it takes other arguments than one text
        kind, message = Warning, Warning(f"{plain['module']}.{plain['name']}: {text}")
    return real.warned(message, kind, plain["filename"], plain["lineno"])
