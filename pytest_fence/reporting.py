"""Header, summary and exit status of a fenced run; not in workers, whose controller speaks for all.

What is shown and what the run exits with come from the ledger and never from reports: a rerun, an xfail or a plugin
that swallows a report hides nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from fence_core.events import kept
from fence_core.events.phases import known_as
from pytest_fence import engine
from pytest_fence.markers import IGNORED
from pytest_fence.options import VSCODE_PIPE, vscode_files

_PASSING = (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))
_MARKUP: dict[str, dict[str, bool]] = {
    "place": {"bold": True},
    "what": {"red": True},
    "code": {"cyan": True},
    "remedy": {"green": True},
}


_CLOSED_SHOWN = 10


class ReportHooks:
    """Registered in the process whose output the user sees."""

    def __init__(
        self, config: pytest.Config, fence: engine.Fence, chosen: engine.Config, ignores: Callable[[], bool]
    ) -> None:
        """`ignores`: whether any policy of the run has refusals that are no violations."""
        self._config = config
        self._fence = fence
        self.chosen = chosen
        self._ignores = ignores
        self._session: pytest.Session | None = None
        self._vscode = vscode_files()
        self._shown: dict[int, int] = {}
        """Number of each violation that was printed, and the count it had then."""
        self._failing = False
        self._broken = False
        self._lowered = False

    def pytest_report_header(self) -> list[str]:
        fence = self._fence
        source = self.chosen.source
        if fence.packages:
            source += f" and those of {len(fence.packages)} package{'s' if len(fence.packages) > 1 else ''}"
        parts = [fence.mode, ", ".join(fence.layers), source]
        if fence.role == "nested":
            parts.append("inside another fence")
        lines = [f"fence: {'; '.join(part for part in parts if part)}"]
        if fence.mode == "audit":
            lines.append("fence: audit only lists; nothing is refused, writes to protected files included")
        elif fence.mode == "learn":
            lines.append(f"fence: {engine.BANNER}")
        lines += self._variables()
        if fence.closed:
            names = [f"{fd} ({what})" for fd, what in fence.closed[:_CLOSED_SHOWN]]
            more = len(fence.closed) - len(names)
            if more:
                names.append(f"and {more} more")
            lines.append(f"fence: closed what was left open: {', '.join(names)}; --fence-keep-fd=N keeps one")
        for name, path in self._vscode:
            may = "written to and connected to" if name == VSCODE_PIPE else "removed"
            lines.append(f"fence: {name} names {path}, which may be {may}")
        return lines

    def _variables(self) -> list[str]:
        """The names that `env_deny` withholds; an audit withholds nothing and lists them."""
        names, verb = self._fence.withheld, "withheld"
        if self._fence.mode == "audit":
            names, verb = engine.variables_denied(self.chosen.settings), "env_deny would withhold"
        if not names:
            return []
        from fence_core.text import escape

        return [f"fence: {verb} from the tests: {', '.join(map(escape, names))}"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            if not self._failing:
                self._violations()
            self._fail_session()
            self._keep()
            if self._fence.role == "session":
                engine.keep_set_aside()

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self._show(terminalreporter, summary=True)
        if self._ignores():
            self._tell_of_ignored(terminalreporter)

    def _tell_of_ignored(self, reporter: pytest.TerminalReporter) -> None:
        """One line, with -v one for each entry: they are no violations, but nor do they happen unseen."""
        try:
            found = [use for use in self._fence.uses() if use.rule.key.partition(".")[2].startswith(IGNORED)]
        except engine.FenceError:
            return
        if not found:
            return
        from fence_core.text import escape

        total = sum(use.count for use in found)
        reporter.write_line(f"fence: {total} refusal{'' if total == 1 else 's'} ignored, as the policy says")
        if self._config.option.verbose > 0:
            for use in sorted(found, key=lambda use: (-use.count, use.rule.entry)):
                reporter.write_line(f"  {use.count:>5}  {escape(use.rule.entry)} ({use.rule.source})")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self) -> Generator[None, Any, Any]:
        """Also for what runs without a session: --help and --markers import conftests too."""
        status = yield
        if not self._failing:
            self._violations()
        return pytest.ExitCode.TESTS_FAILED if self._failing and status in _PASSING else status

    def fail(self) -> None:
        """Something that was only to be warned of has been declared an error."""
        self._failing = True

    def lower(self) -> None:
        """The last thing this Config does: show what came late, and let the fence go."""
        try:
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            self._show(reporter if hasattr(reporter, "stats") else None)  # another plugin's may be of another kind
            self._fail_session()
        finally:
            self._lowered = True
            self._fence.close()

    def _violations(self) -> list[engine.Violation]:
        """All there are by now. Remembers whether they fail the run."""
        if self._lowered:
            return []  # the handle is closed
        try:
            found = self._fence.ledger()
        except (engine.FenceError, OSError) as error:
            # Closed, not open: whoever cannot say what happened does not say that all is well.
            if not self._broken:
                sys.stderr.write(f"fence: the ledger cannot be read any more: {error}\n")
            self._broken = self._failing = True
            return []
        if any(violation.state == "failing" for violation in found):
            self._failing = True
        return found

    def _keep(self) -> None:
        """For `fence explain last`; where there was nothing, only if an earlier run has left something."""
        cache = getattr(self._config, "cache", None)
        if cache is None or self._fence.role != "session" or self._lowered:
            return
        found = self._violations()
        if found or cache.get(kept.CACHED, None) is not None:
            cache.set(kept.CACHED, kept.written(found))

    def _fail_session(self) -> None:
        """Only what would have been a success becomes a failure: 2, 3 and 4 say more than a 1 would."""
        session = self._session
        if self._failing and session is not None and session.exitstatus in _PASSING:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _show(self, reporter: pytest.TerminalReporter | None, *, summary: bool = False) -> None:
        """Print what was not printed yet. `summary`: pytest has just printed the failures."""
        ledger = self._violations()
        late = bool(self._shown)
        fresh = _beyond(self._shown, ledger)
        if not fresh:
            return
        from fence_core.report import terminal
        from pytest_fence.verdicts import view_of

        view = view_of(self._config)
        merged = terminal.merge(fresh, view)
        in_full = _told_by_pytest(reporter, summary) if reporter is not None and not late else frozenset[int]()
        lines = terminal.section(merged, view, shown=in_full)
        title = terminal.title(merged) + (", after the summary" if late else "")
        color = "red" if any(v.state == "failing" for v in fresh) else "yellow"
        if reporter is not None:
            if not late:
                _count_in_summary(reporter, terminal.merge(_unblamed(reporter, fresh), view))
            reporter.write_sep("=", title, bold=True, **{color: True})
            for line in lines:
                reporter.write_line(line.text, **_MARKUP.get(line.style, {}))
        else:
            sys.stderr.write(f"{title}\n" + "".join(f"{line.text}\n" for line in lines))
            sys.stderr.flush()
        self._shown.update((v.number, v.count) for v in ledger)
        try:
            self._fence.settle(len(ledger))
        except engine.FenceError:
            pass  # then the supervisor shows them once more


def _beyond(shown: dict[int, int], ledger: Sequence[engine.Violation]) -> list[engine.Violation]:
    """What is new, and what has happened again, with the number of times it was not shown."""
    fresh = []
    for violation in ledger:
        before = shown.get(violation.number, 0)
        if before < violation.count:
            fresh.append(violation._replace(count=violation.count - before) if before else violation)
    return fresh


def _unblamed(reporter: pytest.TerminalReporter, violations: Sequence[engine.Violation]) -> list[engine.Violation]:
    """Those that fail the run but made no test fail, in no attempt."""
    tests = {known_as(report.nodeid) for report in _failed(reporter) if hasattr(report, "fence")}
    return [v for v in violations if v.state == "failing" and v.nodeid not in tests]


def _failed(reporter: pytest.TerminalReporter) -> list[Any]:
    return [*reporter.stats.get("failed", ()), *reporter.stats.get("error", ())]


def _told_by_pytest(reporter: pytest.TerminalReporter, summary: bool) -> frozenset[int]:
    """Numbers of the violations whose whole story pytest has printed: with the failures, or where --pdb stopped."""
    style = reporter.config.option.tbstyle
    return frozenset(
        plain["number"]
        for report in _failed(reporter)
        if (summary and style not in ("no", "line")) or (hasattr(report, "_pdbshown") and style != "line")
        for plain in getattr(report, "fence", ())
        if plain["state"] == "failing"
    )


def _count_in_summary(reporter: pytest.TerminalReporter, violations: Sequence[engine.Violation]) -> None:
    """A last line that says "3 passed" and exits with 1 would be a riddle: count what failed no test."""
    if violations and hasattr(reporter, "_add_stats"):
        reporter._add_stats("violation" if len(violations) == 1 else "violations", violations)


class WarnOutsideTests:
    """In mode ``warn``: what happened outside of tests, as warnings that ``-W`` can filter like the others."""

    def __init__(self, config: pytest.Config, fence: engine.Fence, report: ReportHooks) -> None:
        self._config = config
        self._fence = fence
        self._report = report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Last of all, yet inside of the wrapper in which pytest collects the warnings of this hook."""
        from fence_core.report import terminal
        from pytest_fence.categories import FenceWarning
        from pytest_fence.verdicts import view_of, warning_text

        view = view_of(self._config)
        try:
            ledger = self._fence.ledger()
        except engine.FenceError:
            return  # said, and made a failure, by `ReportHooks`
        for violation in terminal.merge(ledger, view):
            if violation.state != "warned" or (terminal.is_in_test(violation) and not violation.late):
                continue
            frame = view.culprit(violation.stack)
            try:
                warnings.warn_explicit(
                    FenceWarning(f"{terminal.place(violation, view)}: {warning_text(violation, view)}"),
                    None,
                    frame.path if frame else __file__,
                    frame.line if frame else 1,
                )
            except FenceWarning:
                self._report.fail()
