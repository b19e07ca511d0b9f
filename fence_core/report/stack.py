"""A Python stack, trimmed to the lines its reader wrote; and the fixture that a line belongs to."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fence_core.events.model import Frame
from fence_core.report.text import source_text
from fence_core.text import escape
from fence_core.untouched import real

FRAMES_MAX = 8
"""Of a longer stack the outermost two and the innermost rest are shown."""
_FALLBACK_FRAMES = 3
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CALL = ast.Call
_XUNIT = {
    "setup_module": "module",
    "teardown_module": "module",
    "setUpModule": "module",
    "tearDownModule": "module",
    "setup_class": "class",
    "teardown_class": "class",
    "setUpClass": "class",
    "tearDownClass": "class",
}
"""What pytest makes fixtures of by their names, for more than one test."""


class Fixture(NamedTuple):
    """The fixture in whose function a stack ran."""

    name: str
    scope: str
    path: str = ""
    line: int = 0
    """Where its function begins."""

    @property
    def is_shared(self) -> bool:
        """Whether other tests than the one that needed it first have it as well."""
        return self.scope != "function"


class View:
    """What counts as the reader's own code, and how its files are named and read.

    `hidden` are directories that never say anything to the reader: the test runner, the fence itself. `runner` is the
    file of the function that calls tests: what comes before it only led there.
    """

    def __init__(
        self,
        *,
        root: str,
        cwd: str = "",
        hidden: Iterable[str] = (),
        runner: str = "",
        stdlib: Iterable[str] | None = None,
        read_lines: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self._root = root
        self._cwd = cwd or root
        self._runner = runner
        self._hidden = tuple(_as_prefix(path) for path in hidden)
        self._stdlib = tuple(_as_prefix(path) for path in (_stdlib_paths() if stdlib is None else stdlib))
        self._read_lines = read_lines or source_lines
        self._lines: dict[str, Sequence[str]] = {}
        self._trees: dict[str, list[_Function]] = {}

    def path(self, path: str) -> str:
        """As the reader would type it: relative to where pytest was started, if it lies below the project."""
        if path.startswith(_as_prefix(self._cwd)):
            path = path[len(_as_prefix(self._cwd)) :]
        elif path.startswith(_as_prefix(self._root)):
            path = _relative(path, self._cwd)
        return escape(path)

    def nodeid(self, nodeid: str) -> str:
        """As pytest prints it where it was not started in its root directory, and as it can be typed there."""
        path, separator, rest = nodeid.partition("::")
        if path and self._cwd != self._root:
            path = _relative(f"{self._root}/{path}", self._cwd)
        return escape(path + separator + rest)

    def source(self, frame: Frame) -> str:
        """The line itself; empty where its file cannot be read."""
        lines = self._lines_of(frame.path)
        return source_text(lines[frame.line - 1]) if 0 < frame.line <= len(lines) else ""

    def columns(self, frame: Frame) -> tuple[int, int]:
        """Where the text of the line begins, counted from 1, and where it is over; 1 and 1 where it cannot be read."""
        lines = self._lines_of(frame.path)
        text = lines[frame.line - 1].rstrip() if 0 < frame.line <= len(lines) else ""
        return len(text) - len(text.lstrip()) + 1, len(text) + 1

    def trim(self, stack: Sequence[Frame]) -> list[Frame]:
        """The frames of the reader's code; where there is none, that at which he would know a library: its outermost,
        and not the depths of the one that it goes through. Where that would leave nothing, of anything at all."""
        stack = stack[self._start(stack) :]
        own = [frame for frame in stack if self._is_own(frame.path)]
        if own:
            return own
        rest = [frame for frame in stack if not self._is_noise(frame.path)]
        installed = [frame for frame in rest if _is_installed(frame.path)]
        return installed[:1] or (rest or list(stack))[-_FALLBACK_FRAMES:]

    def _start(self, stack: Sequence[Frame]) -> int:
        """Where the reader's story begins: not in bin/pytest, runpy, or a test that runs a pytest of its own."""
        for n in range(len(stack) - 1, -1, -1):
            if stack[n].path == self._runner:
                return n
        if stack and stack[0].function == "_bootstrap" and stack[0].path.startswith(self._stdlib):
            return 0  # of a thread: nobody has led there
        return next((n for n, frame in enumerate(stack) if frame.path.startswith(self._hidden)), 0)

    def culprit(self, stack: Sequence[Frame]) -> Frame | None:
        """The innermost line of the reader's code, which is where to look first; no line of a library is."""
        own = [frame for frame in stack[self._start(stack) :] if self._is_own(frame.path)]
        return own[-1] if own else None

    def fixture(self, stack: Sequence[Frame]) -> Fixture | None:
        """The fixture that was being set up or torn down, read from the decorator in the source."""
        for frame in reversed(self.trim(stack)):
            for function in self._functions(frame.path):
                if function.name == frame.function and function.first <= frame.line <= function.last:
                    return function.fixture._replace(path=frame.path, line=function.first)
        return None

    def _is_own(self, path: str) -> bool:
        return not (self._is_noise(path) or _is_installed(path) or path.startswith(self._stdlib))

    def _is_noise(self, path: str) -> bool:
        return path.startswith(("<frozen ", *self._hidden))

    def _lines_of(self, path: str) -> Sequence[str]:
        known = self._lines.get(path)
        if known is None:
            known = self._lines[path] = self._read_lines(path)
        return known

    def _functions(self, path: str) -> list[_Function]:
        known = self._trees.get(path)
        if known is None:
            known = self._trees[path] = _fixture_functions("".join(self._lines_of(path)))
        return known


def _is_installed(path: str) -> bool:
    return "/site-packages/" in path or "/dist-packages/" in path


class _Function(NamedTuple):
    name: str
    first: int
    last: int
    fixture: Fixture


def _fixture_functions(source: str) -> list[_Function]:
    """The functions of a file that are decorated as fixtures."""
    try:
        with real.catch_warnings():
            real.simplefilter("ignore")  # of an invalid escape, say; whoever compiled this has said so
            tree = real.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    found = []
    for node in real.walk(tree):
        if not isinstance(node, _FUNCTIONS):
            continue
        if node.name in _XUNIT:
            fixture = Fixture(node.name, _XUNIT[node.name])
            found.append(_Function(node.name, node.lineno, node.end_lineno or node.lineno, fixture))
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, _CALL) else None
            called = call.func if call is not None else decorator
            # pytest.fixture, pytest_asyncio.fixture, fixture
            if getattr(called, "attr", getattr(called, "id", "")) != "fixture":
                continue
            words = {k.arg: k.value for k in call.keywords} if call is not None else {}
            fixture = Fixture(_text(words.get("name"), node.name), _text(words.get("scope"), "function"))
            found.append(_Function(node.name, node.lineno, node.end_lineno or node.lineno, fixture))
    return found


def source_lines(path: str) -> Sequence[str]:
    """The lines of a source file, ends included; none where it cannot be read.

    Not by `linecache`, which opens files by whatever a test has put in the place of `open`.
    """
    try:
        data = real.read_file(path)
        encoding, _ = real.detect_encoding(iter(data.splitlines(keepends=True)).__next__)
        text = data.decode(encoding, "replace")
    except (OSError, ValueError, SyntaxError, LookupError):
        entry = real.cached_lines.get(path)
        return entry[2] if entry is not None and len(entry) == 4 else ()
    return [f"{line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _relative(path: str, start: str) -> str:
    """An absolute path as seen from a directory; as `os.path.relpath`, which asks the system."""
    to, here = ([part for part in each.split("/") if part not in ("", ".")] for each in (path, start))
    common = 0
    while common < min(len(to), len(here)) and to[common] == here[common]:
        common += 1
    return "/".join([".."] * (len(here) - common) + to[common:]) or "."


def _text(node: object, default: str) -> str:
    value = getattr(node, "value", None)
    return value if isinstance(value, str) else default


def _as_prefix(path: str) -> str:
    return path.rstrip("/") + "/"


def _stdlib_paths() -> set[str]:
    """Where this interpreter keeps its own modules; in a virtual environment that is outside it."""
    home = os.path.dirname(os.__file__)
    return {home, os.path.realpath(home)}
