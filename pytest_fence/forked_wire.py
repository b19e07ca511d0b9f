"""What a test's own process tells pytest's, by `fence_core/link/one_test.py`: kinds of messages, and what they hold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from _pytest._code.code import TerminalRepr

from fence_core.untouched import real

if TYPE_CHECKING:
    import pytest
    from _pytest._io import TerminalWriter

    from fence_core.link.one_test import Shapes

REPORT, WARNING, COVERAGE, WISHES = "report", "warning", "coverage", "wishes"
EXIT, INTERRUPT, FAULT, END = "exit", "interrupt", "fault", "end"
_TEXT_OR_NONE, _NUMBER_OR_NONE = (str, type(None)), (int, type(None))
SHAPES: Shapes = {
    REPORT: (dict, bool),
    WARNING: (dict, str, str, (list, type(None))),
    COVERAGE: (str,),
    WISHES: ((str, bool), (str, bool)),
    EXIT: (_TEXT_OR_NONE, _NUMBER_OR_NONE),
    INTERRUPT: (str, int),
    FAULT: (str,),
    END: (),
}
_PAIRS = ("sections", "user_properties")
_REBUILT = ("nodeid", "location", "keywords")
"""What the parent knows of a report without being told: it has the item."""


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
