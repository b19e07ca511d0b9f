"""What the broker is told while tests are collected and run, and what becomes of a test that hit the fence.

These hooks run for every test: each is a write to shared memory, or the comparison of two numbers.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from fence_core.events.model import Owner
from fence_core.untouched import real
from pytest_fence import engine, unusable
from pytest_fence.categories import FenceViolation
from pytest_fence.markers import MarkedPolicies
from pytest_fence.packages import Packages
from pytest_fence.verdicts import Verdict, Verdicts

if TYPE_CHECKING:
    from fence_core.policy.model import Source
    from pytest_fence.overlooked import Lookout

    _Writer = Callable[[pytest.Item, pytest.TestReport, Verdict], None]

_WRAPPERS_MAX = 8
"""Decorators on the function of a fixture that are looked through."""


_MADE_BY_NAME = ("_xunit_", "_unittest_")
"""How the fixtures are called that pytest makes of functions for their names."""
_UNITTEST = unittest.TestCase.setUpClass.__code__.co_filename


class TestHooks:
    """Registered in each fenced pytest process, workers included."""

    __test__ = False

    def __init__(
        self, config: pytest.Config, fence: engine.Fence, *, forks: bool = False, lookout: Lookout | None = None
    ) -> None:
        """`forks`: each test runs in a process of its own, unless a marker says otherwise.

        `lookout`: for configs that are not in force; None where the user has said which one is.
        """
        self._config = config
        self._fence = fence
        self._enter = fence.enter
        self._count = fence.violation_count
        self.packages = Packages(fence.packages)
        self._policies = MarkedPolicies(fence, str(config.rootpath), self.packages)
        self._marked = False
        self._forks = forks
        self._lookout = lookout
        self._in_fork = False
        self.prepare_forks: Callable[[], None] = lambda: None
        """Called once, where any test is to run in a process of its own."""
        self.finish_policy = 0
        """The number of the policy that plugins have when all tests are over."""
        self._verdicts = Verdicts(config)  # here and not when it is needed: the test may have replaced what that takes
        self._verdict: Verdict | None = None
        """On the phase that is being reported."""
        self._seen = 0
        self._collecting = ("", 0)
        self._nodeid = ""
        self._policy = self._package = 0
        self._owner: Owner | None = None
        self.broken = ""
        """Why the current test cannot be run under its own policy."""

    def said_of(self, item: pytest.Item) -> tuple[int, list[tuple[dict[str, object], Source]]]:
        """See `MarkedPolicies.said_of`. Known when the collection has finished."""
        return self._policies.said_of(item)

    # Collection

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        self._enter("", "collect")
        try:
            return (yield)
        finally:
            self._enter("", "session")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        if self._lookout is not None:
            self._look_out(self._lookout, collector)
        outer = self._collecting  # a directory collects its files while it is collected itself
        nodeid, package = self._collecting = collector.nodeid, self.packages.number(real.fspath(collector.path))
        self._enter(nodeid, "collect", package)
        try:
            return (yield)
        finally:
            self._collecting = nodeid, package = outer
            self._enter(nodeid, "collect", package)

    def _look_out(self, lookout: Lookout, collector: pytest.Collector) -> None:
        """Before anything of this collector's directory is collected or imported."""
        own = isinstance(collector, pytest.Directory | pytest.Session)
        problems = lookout.problems(str(collector.path if own else collector.path.parent))
        if problems:
            unusable.refuse(self._config, "the fence's policy cannot be used:", problems)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Here and not earlier: pytest_collection_modifyitems may have added markers."""
        problems = self._policies.read(session.items)
        self._marked = self._policies.any
        if problems:
            unusable.refuse(self._config, "the markers of these tests cannot be used:", problems)
        if self._forks or self._policies.forking:
            self.prepare_forks()

    # Tests

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._nodeid = nodeid = item.nodeid
        self._policy = policy = self._number(item) if self._marked else 0
        self._package = self._policies.package(item)
        self._enter(nodeid, "setup", policy)
        try:
            return (yield)
        finally:
            if not self._in_fork:  # the page is the parent's too, where this test is not over yet
                self._policy = self._package = 0
                self._enter("", "session")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._enter(self._nodeid, "setup", self._policy)  # once more: a rerun comes from a teardown
        if self.broken:
            pytest.fail(self.broken, pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        self._enter(self._nodeid, "call", self._policy)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        self._enter(self._nodeid, "teardown", self._policy)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """What a fixture of more tests than one does is not that of the test that needs it first, or last."""
        owner = _owner(fixturedef)
        if owner is None:
            return (yield)
        around, package = self._owner, self._package
        fixturedef.addfinalizer(lambda: self._owned(around))  # the last that is called
        self._owned(owner)
        try:
            return (yield)
        finally:
            self._owned(around)
            fixturedef.addfinalizer(lambda: self._owned(owner, package))

    def _owned(self, owner: Owner | None, package: int | None = None) -> None:
        """What follows is the doing of that fixture, which a test of that package has asked for first.

        It is torn down with the last test that could have it, which may be another package's.
        """
        self._owner = owner
        other = package is not None and package != self._package
        self._fence.owned(owner, package if other else self._policy)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Outermost: no plugin makes a report of a call that looks innocent, and no xfail has the last word."""
        verdict = self._decided(item, call) if self._count() != self._seen else None
        around, self._verdict = self._verdict, verdict
        try:
            report = yield
        finally:
            self._verdict = around
            if verdict is not None:
                verdict.taken_back()
        if verdict is not None:
            self._write(item, report, verdict, self._verdicts.insist)
            if verdict.error is not None:
                self._untold(item, report, verdict.error)
        self.judge(item, report)  # what plugins have tried meanwhile
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_exception_interact(self, call: pytest.CallInfo[Any]) -> Generator[None, object, object]:
        """For debuggers. What else is done here was never asked of this test, which may have replaced what it takes."""
        try:
            return (yield)
        except pytest.exit.Exception:
            raise
        except Exception:
            if call.excinfo is None or not isinstance(call.excinfo.value, FenceViolation):
                raise
            return None

    def _decided(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Verdict | None:
        """What is to become of a phase that is over."""
        self._seen = self._count()
        try:
            found = self._fence.take(item.nodeid)
            return self._verdicts.before(item, call, found) if found else None
        except Exception as error:
            return Verdict((), error)

    def made(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """A report was made of the current phase, and nobody has seen it yet."""
        if self._verdict is not None:
            self._write(item, report, self._verdict, self._verdicts.write)

    def _write(self, item: pytest.Item, report: pytest.TestReport, verdict: Verdict, how: _Writer) -> None:
        if verdict.error is None:
            try:
                how(item, report, verdict)
            except Exception as error:
                verdict.error = error

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        self._enter("", "finish", self.finish_policy)
        return (yield)

    # A test in a process of its own

    def forks(self, item: pytest.Item) -> bool:
        """Whether this test is to run in a fork of this process."""
        return self._policies.forks(item, self._forks)

    @property
    def policy(self) -> int:
        """The number of the policy that the current test runs under."""
        return self._policy

    def enter(self, phase: str) -> None:
        """The current test has come to this phase, in this process."""
        self._enter(self._nodeid, phase, self._policy)

    def phase(self) -> str:
        """The phase that the current test has come to, in whichever process it runs."""
        return self._fence.phase()

    def forked(self) -> None:
        """Called in the fork."""
        self._in_fork = True

    def caught_up(self) -> None:
        """All violations so far were judged, by another process than this."""
        self._seen = self._count()

    def judge(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Make a failure of the report if there are violations that no report speaks of yet."""
        if not self.news:
            return
        self._seen = self._count()
        try:
            found = self._fence.take(item.nodeid)
            if found:
                self._verdicts.apply(item, report, found)
        except Exception as error:
            self._untold(item, report, error)

    def _untold(self, item: pytest.Item, report: pytest.TestReport, error: Exception) -> None:
        """Whatever a test has done to this process, it is that test's matter, and the next one is run."""
        if self._in_fork:
            report.fence_unread = True  # type: ignore[attr-defined]  # the process above can tell
        else:
            self.unread(item, report, error)

    @property
    def ignores(self) -> bool:
        """Whether a marker has refusals that are no violations."""
        return self._policies.ignores

    @property
    def news(self) -> bool:
        """Whether there are violations that this process has not fetched yet."""
        return self._count() != self._seen

    def told_by_fork(self, item: pytest.Item) -> list[engine.Violation]:
        """What the fork that runs this test has fetched."""
        return self._fence.take(item.nodeid, by_fork=True)

    def all_of(self, item: pytest.Item) -> list[engine.Violation]:
        """What nobody has fetched, or none but a fork."""
        self.caught_up()
        return self._fence.take(item.nodeid)

    def apply(self, item: pytest.Item, report: pytest.TestReport, found: list[engine.Violation]) -> None:
        """Have a report tell of these."""
        self._verdicts.apply(item, report, found)

    def unread(self, item: pytest.Item, report: pytest.TestReport, error: Exception) -> None:
        """Have a report say that there are violations which could not be read."""
        if self._fence.mode == "enforce":
            self._verdicts.unread(item, report, error)

    def _number(self, item: pytest.Item) -> int:
        self.broken = ""
        try:
            return self._policies.number(item)
        except Exception as error:  # closed: it is not run under another policy than it asks for
            self.broken = f"the marker of this test cannot be used: {error}"
            return 0


class Innermost:
    """Registered beside `TestHooks`: what that has decided stands in a report before any other plugin has seen it."""

    def __init__(self, hooks: TestHooks) -> None:
        self._made = hooks.made

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._made(item, report)
        return report


def _owner(fixturedef: pytest.FixtureDef[Any]) -> Owner | None:
    """None for what one test has for itself."""
    if fixturedef.scope == "function":
        return None
    function: Any = fixturedef.func
    for _ in range(_WRAPPERS_MAX):
        function = getattr(function, "__wrapped__", function)
    code = getattr(function, "__code__", None)
    name = fixturedef.argname
    if name.startswith(_MADE_BY_NAME):
        code = _made_of(function)
        if code is None:
            return None
        name = code.co_name
    place = (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)
    return Owner(name, fixturedef.scope, *place)


def _made_of(function: Any) -> Any:
    """The code of `setup_module`, `setUpClass` or the like that pytest has made a fixture of, which closes over it."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(function, "__closure__", None) or (), strict=False))
    for name in sorted(cells):  # setup before teardown
        if name.startswith(("setup", "teardown")):
            code = getattr(cells[name].cell_contents, "__code__", None)
            if code is not None and code.co_filename != _UNITTEST:  # what every TestCase has, and does nothing
                return code
    return None
