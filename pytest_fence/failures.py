"""How a violation looks as a failure of pytest's: an exception, where it was raised, and the text that is shown for it.

Nothing is raised in a test: most violations are swallowed by it, and all are known to us only when it has come back. So
exception and traceback are made up, of the lines where it happened.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ExceptionChainRepr, ExceptionRepr, ReprEntry, ReprFileLocation, ReprTraceback

from fence_core.report import terminal
from fence_core.report.stack import View
from fence_core.untouched import real
from pytest_fence.categories import SECTION, FenceViolation

if TYPE_CHECKING:
    from _pytest._io import TerminalWriter

    from pytest_fence import engine

_FAULT = "E   "
"""How pytest marks the lines that say what went wrong."""


class Failures:
    """Makes them, for one run."""

    def __init__(self, config: pytest.Config, view: View) -> None:
        self._config = config
        self._view = view
        self._root = real.fspath(config.rootpath)

    # ------------------------------------------------------------ text

    def place(self, item: pytest.Item, failing: Sequence[engine.Violation], message: str) -> ReprFileLocation:
        """The line to look at first; that of the test itself where no stack is known, as of a subprocess."""
        for violation in failing:
            frame = self._view.culprit(violation.stack)
            if frame is not None:
                return ReprFileLocation(frame.path, frame.line, message)
        return self._of_test(item, message)

    def shown(
        self, item: pytest.Item, failing: Sequence[engine.Violation], notes: Sequence[str] = ()
    ) -> ExceptionChainRepr:
        """These violations as what a test has failed with."""
        crash = self.place(item, failing, terminal.headline(failing))
        # There pytest 9 prints the whole of each failure as well. The option belongs to the terminal plugin.
        if self._config.getoption("tbstyle", "auto") == "line":
            return _chain([], crash)
        entries = [entry for v in failing[: terminal.PER_PLACE_MAX] for entry in self._entries(item, v)]
        left = len(failing) - terminal.PER_PLACE_MAX
        notes = [*([f"... and {left} more in this test"] if left > 0 else []), *notes]
        if notes:
            at = self.place(item, failing, crash.message)
            at.path = self._view.path(at.path)
            entries.append(_Explanation([f"{_FAULT}{note}" for note in notes], None, None, at, "short"))
        return _chain(entries, crash)

    def _entries(self, item: pytest.Item, violation: engine.Violation) -> Iterator[ReprEntry]:
        """As pytest shows a traceback in its short style: the calls, then what went wrong behind an E."""
        for call in terminal.calls(violation, self._view):
            if call.line:
                at = ReprFileLocation(call.path, call.line, f"in {call.function}")
                yield ReprEntry([f"    {call.source}"] if call.source else [], None, None, at, "short")
            else:
                yield ReprEntry([f"    {call.function}"], None, None, None, "short")
        where = self.place(item, [violation], terminal.headline([violation]))
        where.path = self._view.path(where.path)
        lines = [
            ("    " if line.style == terminal.REMEDY else _FAULT) + line.text
            for line in terminal.explanation(violation, self._view)
        ]
        yield _Explanation([*lines, ""], None, None, where, "short")

    def _of_test(self, item: pytest.Item, message: str) -> ReprFileLocation:
        path, line, _ = item.location
        return ReprFileLocation(self._view.path(f"{self._root}/{path}"), (line or 0) + 1, message)

    def beside(self, item: pytest.Item, longrepr: Any, failing: Sequence[engine.Violation]) -> ExceptionRepr:
        """What a test has failed with by itself, and these violations: by a section, and in the line of the summary.

        Not by a section of the report, which most files of results leave out.
        """
        headline = terminal.headline(failing)
        shown: ExceptionRepr
        if isinstance(longrepr, ExceptionRepr):
            shown = longrepr
        else:
            shown = _Kept(longrepr, self._of_test(item, str(longrepr).partition("\n")[0]))
        if shown.reprcrash is None:
            shown.reprcrash = self._of_test(item, "")
        crash = shown.reprcrash
        if not crash.message.startswith(headline):
            first, line_end, rest = crash.message.partition("\n")
            crash.message = f"{headline} ({first}){line_end}{rest}" if first else headline
        shown.addsection(SECTION, "\n".join(line.text for line in terminal.block(failing, self._view)))
        return shown

    def text(self, item: pytest.Item, text: str) -> ExceptionChainRepr:
        """No more than a text as what a test has failed with."""
        at = self._of_test(item, text)
        return _chain([_Explanation([f"{_FAULT}{text}"], None, None, at, "short")], at)

    # ------------------------------------------------------------ exceptions

    def raised(self, item: pytest.Item, failing: Sequence[engine.Violation]) -> pytest.ExceptionInfo[FenceViolation]:
        """These violations as an exception that comes from the line that did it: debuggers stop there."""
        lines = [terminal.headline(failing), *(line.text for line in terminal.block(failing, self._view))]
        error = FenceViolation("\n".join(lines), tuple(failing))
        stack = next((v.stack for v in failing if self._view.culprit(v.stack)), None)
        frames: Sequence[tuple[str, int, str]]
        if stack is not None:
            frames = self._view.trim(stack)
        else:
            path, line, name = item.location
            frames = [(f"{self._root}/{path}", (line or 0) + 1, name)]
        return pytest.ExceptionInfo.from_exception(_raised_at(frames, error))


def _chain(entries: Sequence[ReprEntry], crash: ReprFileLocation) -> ExceptionChainRepr:
    """A chain of one: of the kinds there are the one that other plugins know."""
    return ExceptionChainRepr([(ReprTraceback(entries, None, "short"), crash, None)])


class _Explanation(ReprEntry):
    """What is said of one violation, below the calls that led there: the remedy is no fault.

    Its location is for other plugins: on the terminal it stands in the line above, or in the summary. As it was sent
    by a worker it is pytest's own entry, which prints both.
    """

    def toterminal(self, tw: TerminalWriter) -> None:
        for line in self.lines:
            markup = {"red": True, "bold": True} if line.startswith(_FAULT) else {"green": True}
            tw.line(line, **(markup if line else {}))


_Explanation.__name__ = ReprEntry.__name__  # by which pytest writes down of which kind it is, when it is sent


class _Kept(ExceptionChainRepr):
    """What a test has failed with where that is no traceback (a doctest, a fixture that nobody knows, a text), with
    room for sections."""

    def __init__(self, longrepr: Any, crash: ReprFileLocation) -> None:
        lines = str(longrepr).splitlines()
        super().__init__([(ReprTraceback([ReprEntry(lines, None, None, None, "value")], None, "value"), crash, None)])
        self._longrepr = longrepr

    def toterminal(self, tw: TerminalWriter) -> None:
        if hasattr(self._longrepr, "toterminal"):
            self._longrepr.toterminal(tw)
        else:
            tw.line(str(self._longrepr))
        ExceptionRepr.toterminal(self, tw)


def _code(source: str) -> CodeType:
    """Of a function of one line, without columns: where it is put the line is another."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            node.col_offset = node.end_col_offset = -1
    names: dict[str, FunctionType] = {}
    exec(compile(tree, __file__, "exec"), names)
    return names["step"].__code__


_CALL = _code("def step(rest): rest[0](rest[1:])")
_RAISE = _code("def step(rest): raise rest[0]")


def _raised_at(frames: Sequence[tuple[str, int, str]], error: FenceViolation) -> FenceViolation:
    """With a traceback of these lines (path, number, function), outermost first."""
    last = len(frames) - 1
    steps = [
        FunctionType(
            (_CALL if n < last else _RAISE).replace(co_filename=path, co_firstlineno=line, co_name=function),
            {"__name__": function},
        )
        for n, (path, line, function) in enumerate(frames)
    ]
    try:
        steps[0]([*steps[1:], error])
    except FenceViolation:
        pass
    own = error.__traceback__
    error.__traceback__ = own.tb_next if own is not None else None
    return error
