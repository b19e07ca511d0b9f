"""What a test's own process tells pytest's: one JSON array a line, through a pipe.

JSON and nothing that could make code run: a test may be under a narrower policy than the process that reads this.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from _pytest._code.code import TerminalRepr

if TYPE_CHECKING:
    import pytest
    from _pytest._io import TerminalWriter

Message = list[Any]
"""Kind, then what belongs to it."""

_PAIRS = ("sections", "user_properties")
_REBUILT = ("nodeid", "location", "keywords")
"""What the parent knows of a report without being told: it has the item."""


class Line:
    """The child's end of the pipe."""

    def __init__(self, fd: int, *, in_step: bool) -> None:
        """`in_step`: wait until the parent has dealt with what it was told."""
        self._fd = fd
        self._pid = os.getpid()
        self._in_step = in_step

    def send(self, *message: object) -> None:
        """Raises OSError: the pipe is closed, by the test itself or with the parent's end."""
        if os.getpid() != self._pid:
            return  # a fork that the test has made, and that came back into pytest
        data = memoryview(_encode(message) + b"\n")
        while data:
            data = data[os.write(self._fd, data) :]
        if self._in_step:
            os.read(self._fd, 1)


class Reader:
    """Puts together what arrives in pieces. A last line without its end was never finished."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Message]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _encode(message: object) -> bytes:
    # What is no plain data (a property of a test may be anything) goes as the text that it would be shown as.
    return json.dumps(message, default=str, separators=(",", ":"), skipkeys=True).encode()


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
    kind = getattr(sys.modules.get(plain["module"]), plain["name"], None)
    text = plain["text"]
    if not (isinstance(kind, type) and issubclass(kind, Warning)):
        kind, text = Warning, f"{plain['module']}.{plain['name']}: {text}"
    try:
        message = kind(text)
    except Exception:  # it takes other arguments than one text
        kind, message = Warning, Warning(f"{plain['module']}.{plain['name']}: {text}")
    return warnings.WarningMessage(message, kind, plain["filename"], plain["lineno"])
