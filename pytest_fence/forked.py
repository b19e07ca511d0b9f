"""A test in a fork of its own: what the parent does. Loaded where ``scope = "test"`` is wanted by anybody.

The parent sets up collectors and every fixture wider than a function, forks, and waits. The fork runs the protocol of
the one test as any pytest would (so plugins that rerun, time or repeat tests do that there) and tells its reports,
which the parent passes on to the hooks. When the fork is gone, the parent tears down what the next test needs no more.
"""

from __future__ import annotations

import fcntl
import select
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest
from _pytest._code.code import ExceptionRepr
from _pytest.outcomes import OutcomeException
from _pytest.runner import _update_current_test_var, runtestprotocol
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks
from _pytest.unittest import TestCaseFunction
from _pytest.warnings import catch_warnings_for_item

from fence_core.launcher.per_test import end as leave
from fence_core.link.one_test import Line, Message, Reader, Sender, Unreadable
from fence_core.untouched import real
from pytest_fence import engine, forked_coverage, forked_crash, forked_wire
from pytest_fence.forked_capture import OutputMeanwhile
from pytest_fence.forked_child import (
    Child,
    Messenger,
    keep_from_the_controller,
    leave_the_fork_server,
    print_error,
    take_the_timer,
)
from pytest_fence.forked_watchdog import Watchdog

if TYPE_CHECKING:
    from pytest_fence.items import TestHooks

INTERRUPTED_S = 2.0
"""How long after a Ctrl-C a fork may go on before it is told too: the terminal tells both."""
TERMINATED_S = 1.0
_POLLIN = select.POLLIN
_ITIMER_REAL = signal.ITIMER_REAL
_F_GETFL, _F_SETFL = fcntl.F_GETFL, fcntl.F_SETFL
_SIGINT, _SIGTERM, _SIGKILL = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGKILL)
_STOP_ENDS_ALL = "shouldfail" in runtestprotocol.__code__.co_names
"""Whether this pytest tears down all fixtures with the test at which it stops (8.0.0, 8.0.1, and from 8.3 on), and not
when the session ends."""
_ORDER = {"setup": 0, "call": 1, "teardown": 2}


def _give_an_instance(item: pytest.Item) -> None:
    """Before pytest 8.1 only the setup of unittest's test makes the object that the fixtures of its class are given."""
    if pytest.version_tuple < (8, 1) and isinstance(item, TestCaseFunction):
        made: Any = item
        made._testcase = made.parent.obj(item.name)
        made._obj = getattr(made._testcase, item.name)


def register(config: pytest.Config, fence: engine.Fence, hooks: TestHooks) -> None:
    """Have the tests that are to run in forks do so."""
    manager = config.pluginmanager
    messenger = Messenger(config)
    manager.register(messenger, "fence-messenger")
    runner = ForkedTests(config, fence, hooks, messenger)
    manager.register(runner, "fence-forked")
    manager.register(Ending(runner), "fence-forked-ending")


class ForkedTests:
    """The protocol of a test, up to the fork, and on its other side."""

    def __init__(self, config: pytest.Config, fence: engine.Fence, hooks: TestHooks, messenger: Messenger) -> None:
        self._config = config
        self._fence = fence
        self._hooks = hooks
        self._messenger = messenger
        self._plan_only = bool(config.getoption("setuponly", False) or config.getoption("setupplan", False))
        self._in_step = _writes_to_the_terminal(config)
        self._measured: bool | None = None
        self._line = fence.prepare_forks()
        self._watchdog = Watchdog(config)
        self.child: Child | None = None
        """In a fork: itself."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """None: the test is run by the next implementation, in this process or in the fork."""
        if self._plan_only or not self._hooks.forks(item) or self._hooks.broken or _is_skipped(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        started = real.clock()
        if not self._bring_up(item):
            return None  # what failed was kept by pytest, and is raised again where it is reported
        seconds = real.clock() - started
        with self._watchdog.stopped():
            test = Test(item, self._hooks, seconds)
            try:
                self._fork(item, test)
            except OSError as error:
                test.cannot_run(f"no process could be started for this test: {error}")
            else:
                if self.child is not None:
                    return None
                test.follow(self._line)
            finally:
                if self.child is None and hasattr(item, "_request"):  # as pytest leaves an item that has run
                    item._request = False
                    item.funcargs = None  # type: ignore[attr-defined]
        try:
            self._tear_down(item, nextitem, test)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        finally:
            # No earlier: the kernel takes a while to take a process apart, which is time to tell its results.
            test.reap()
        test.raise_what_ended_it()
        return True

    # ------------------------------------------------------------ before

    def _bring_up(self, item: pytest.Item) -> bool:
        """Whether everything wider than the test is there."""
        names = _wider_fixtures(item)
        state: Any = item.session._setupstate
        if _is_up(item, names):
            return True
        if hasattr(item, "_request") and not item._request:
            item._initrequest()  # type: ignore[attr-defined]
        with self._as_in_phase(item, "setup"):
            try:
                state.setup(item.parent)
                state.stack[item] = ([], None)  # who is not in there may not ask for fixtures
                _give_an_instance(item)
                values = {name: item._request.getfixturevalue(name) for name in names}  # type: ignore[attr-defined]
                if "tmp_path_factory" in values:
                    values["tmp_path_factory"].getbasetemp()  # or each fork would make one
            except pytest.exit.Exception:
                raise
            except (Exception, OutcomeException):
                if hasattr(item, "_initrequest"):
                    item._initrequest()  # before pytest 8.2 a fixture that has failed cannot be asked for once more
                return False
            finally:
                state.stack.pop(item, None)
        return True

    @contextmanager
    def _as_in_phase(self, item: pytest.Item, when: Literal["setup", "teardown"]) -> Iterator[None]:
        """Output, log and warnings go where they would go if a hook of this phase ran."""
        manager = self._config.pluginmanager
        with ExitStack() as stack:
            stack.enter_context(catch_warnings_for_item(self._config, item.ihook, "runtest", item))
            _update_current_test_var(item, when)
            stack.callback(_update_current_test_var, item, None)
            contexts: Any = manager.get_plugin("_cov_contexts")  # pytest-cov's, with --cov-context=test
            if contexts is not None:
                contexts.switch_context(item, when)
            logging = manager.get_plugin("logging-plugin")
            if logging is not None:
                if when != "setup":
                    stack.enter_context(_around(logging.pytest_runtest_setup(item)))
                stack.enter_context(_around(getattr(logging, f"pytest_runtest_{when}")(item)))
            capture = manager.get_plugin("capturemanager")
            if capture is not None:
                stack.enter_context(capture.item_capture(when, item))
            yield

    # ------------------------------------------------------------ the fork

    def _fork(self, item: pytest.Item, test: Test) -> None:
        """Afterwards there are two of this process; `child` is that of the test. Raises OSError."""
        if self._measured is None:
            self._measured = forked_coverage.fits(self._config)
        in_step = self._in_step or test.output.expected
        self._line.clear()
        _flush(self._config)
        test.output.start()
        delay, interval = real.setitimer(_ITIMER_REAL, 0)
        try:
            with self._line.lent():
                test.pid = self._fence.fork_test()
        except OSError:
            real.setitimer(_ITIMER_REAL, delay, interval)
            test.output.stop()
            raise
        if test.pid == 0:
            try:
                test.output.stop()
                take_the_timer(delay, interval)
                keep_from_the_controller(self._config)
                leave_the_fork_server()
                line = Sender(self._line, in_step=in_step)
                self._hooks.forked()
                self._messenger.take_over(line, test.known)
                self.child = Child(item, line, self._messenger, measured=self._measured)
            except BaseException as error:  # whatever it is: there must not be two of this session
                print_error(error)
                leave()
        else:
            test.timer = (delay, interval)
            test.in_step = in_step

    # ------------------------------------------------------------ after

    def _tear_down(self, item: pytest.Item, nextitem: pytest.Item | None, test: Test) -> None:
        """Tear down what the next test needs no more, and report it with the test's own teardown."""
        session = item.session
        held = test.held
        test.held = None
        if _STOP_ENDS_ALL and (session.shouldfail or session.shouldstop):
            nextitem = None
        if test.aborted or (nextitem is not None and nextitem.parent is item.parent):
            # After an abort, everything is torn down when the session is.
            if held is not None:
                item.ihook.pytest_runtest_logreport(report=held)
            return
        test.reap()
        state: Any = session._setupstate
        self._hooks.enter("teardown")
        del item._report_sections[:]
        with self._as_in_phase(item, "teardown"):
            call: pytest.CallInfo[None] = pytest.CallInfo.from_call(
                lambda: state.teardown_exact(nextitem),
                when="teardown",
                reraise=(pytest.exit.Exception, KeyboardInterrupt),
            )
        report = pytest.TestReport.from_item_and_call(item, call)
        self._hooks.judge(item, report)
        held = report if held is None else _both(held, report)
        item.ihook.pytest_runtest_logreport(report=held)
        if call.excinfo is not None and self._config.getoption("usepdb", False):
            item.ihook.pytest_exception_interact(node=item, call=call, report=held)


class Test:
    """One test that runs in a fork: what the parent knows of it."""

    __test__ = False

    def __init__(self, item: pytest.Item, hooks: TestHooks, setup_seconds: float) -> None:
        self._item = item
        self._hooks = hooks
        self._setup_seconds = setup_seconds
        self._brought_up = len(item._report_sections)
        self._reader = Reader(forked_wire.SHAPES)
        self.output = OutputMeanwhile(item.config)
        self._started = real.clock()
        self._wall_time = real.wall_time()
        self._flags = _status_flags()
        self._untold: list[engine.Violation] = []
        self._any = False
        self._ended = False
        self._error: BaseException | None = None
        self._interrupts = 0
        self._interrupted = 0.0
        self._told = False
        """Whether the fork surely knows of the interrupt."""
        self._status: int | None = None
        self._reaped = False
        self.known = forked_wire.known_of(item.nodeid, item.location, dict.fromkeys(item.keywords, 1))
        self.pid = -1
        self.timer = (0.0, 0.0)
        self.in_step = False
        self.held: pytest.TestReport | None = None
        """The report of the teardown, which is not complete until wider fixtures were torn down."""

    @property
    def aborted(self) -> bool:
        """Whether the whole run is to end with this test."""
        return self._error is not None

    def cannot_run(self, why: str) -> None:
        """There is no process: the test fails."""
        self._reaped = True
        self._crashed(why)

    def follow(self, line: Line) -> None:
        """Pass on what the test tells until its process has ended."""
        try:
            self._listen(line)
        except BaseException:
            self._kill()
            raise
        finally:
            self.output.stop()
            _restore(self._flags)
        self._restore_the_timer()
        if not self._ended:
            self._crashed()
        if self._hooks.news or self._untold:
            self._tell_the_rest()
        self._hooks.caught_up()

    def _listen(self, line: Line) -> None:
        pidfd = real.pidfd_open(self.pid)
        try:
            poll = real.poll()
            poll.register(pidfd, _POLLIN)
            while not self._ended and not self._turn(line, poll):
                pass
        finally:
            real.close(pidfd)

    def _turn(self, line: Line, poll: select.poll) -> bool:
        """Hear what there is, or wait for some; whether the process has ended, and all that it said has been heard."""
        try:
            if self._interrupts and not self._told and real.clock() > self._interrupted + INTERRUPTED_S:
                self._told = True
                self._signal(_SIGINT)
            over = bool(poll.poll(0))  # before the reading: what it said last is there then
            chunk = line.read()
            if chunk:
                for message in self._reader.feed(chunk):
                    with self.output.paused():
                        self._hear(message)
                    if self.in_step:
                        line.answer()
            elif over:
                self.reap()
                return True
            else:
                line.wait()
        except KeyboardInterrupt as interrupt:
            self._interrupt(interrupt)
        except Unreadable as error:
            self._kill()
            with self.output.paused():
                self._crashed(f"what the test's process told of itself cannot be read: {error}")
            return True
        except (pytest.fail.Exception, pytest.skip.Exception) as error:
            # A handler of a signal, as that of a timeout, meant the test that this process is waiting for.
            self._kill()
            with self.output.paused():
                self._crashed(str(error))
            return True
        return False

    def _hear(self, message: Message) -> None:
        kind, *rest = message
        _HEARD[kind](self, *rest)

    def _warning(self, plain: dict[str, Any], when: str, nodeid: str, location: list[Any] | None) -> None:
        try:
            warning = forked_wire.to_warning(plain)
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from None
        self._item.ihook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": warning,
                "when": when,
                "nodeid": nodeid,
                "location": tuple(location) if location else None,
            }
        )

    def _coverage(self, covered: str) -> None:
        forked_coverage.merge(covered)

    def _wishes(self, stop: str | bool, fail: str | bool) -> None:
        self._item.session.shouldstop, self._item.session.shouldfail = stop, fail

    def _exit(self, message: Any, status: int | None) -> None:
        self._error = pytest.exit.Exception(message, status)

    def _interrupted_at(self, path: str, line: int) -> None:
        self._told = True
        self._error = _interrupt_at(path, line)

    def _fault(self, text: str) -> None:
        """Whatever a test has made of its process: the others are not run in that."""
        self._crashed(f"pytest itself failed in the test's process:\n{text}")

    def _end(self) -> None:
        self._ended = True

    def _report(self, data: dict[str, Any], shown_only: bool) -> None:
        config = self._item.config
        unread = bool(data.pop("fence_unread", False))
        try:
            data = forked_wire.restored(data, self.known)
            report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
            forked_wire.mend(report, data, shown_only=shown_only)
            told = _told_by(report)
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from None
        if report.when == "setup" and not self._any:
            report.duration += self._setup_seconds
            report.start -= self._setup_seconds
        if self._brought_up:
            wider, own = report.sections[: self._brought_up], report.sections[self._brought_up :]
            report.sections = _joined(wider, own)
        self.output.add_to(report)
        if self._hooks.news:
            self._check(report, told, unread=unread)
        if self.held is not None:
            self._item.ihook.pytest_runtest_logreport(report=self.held)
            self.held = None
        if report.when is not None:
            self._any = True
        if report.when == "teardown":
            self.held = report
        else:
            self._item.ihook.pytest_runtest_logreport(report=report)

    # ------------------------------------------------------------ violations: what the broker says counts

    def _check(self, report: pytest.TestReport, told: set[int], *, unread: bool) -> None:
        """The fork has fetched what it reports; what it keeps to itself, and what it could not fetch, is told here."""
        hooks, item = self._hooks, self._item
        try:
            self._untold += hooks.all_of(item) if unread else hooks.told_by_fork(item)
        except engine.FenceError as error:
            hooks.unread(item, report, error)
            return
        self._untold = [violation for violation in self._untold if violation.number not in told]
        now = _ORDER.get(str(report.when), 0)
        here = [violation for violation in self._untold if _ORDER.get(violation.phase, 0) <= now]
        if here and report.when is not None:
            self._untold = [violation for violation in self._untold if violation not in here]
            hooks.apply(item, report, here)

    def _tell_the_rest(self) -> None:
        report = self.held or forked_crash.silent_teardown(self._item)
        try:
            found = [*self._untold, *self._hooks.all_of(self._item)]
        except engine.FenceError as error:
            self._hooks.unread(self._item, report, error)
        else:
            if not found:
                return
            self._hooks.apply(self._item, report, found)
        self.held = report

    # ------------------------------------------------------------ ends that nobody wanted

    def _crashed(self, why: str = "") -> None:
        self._ended = True
        item = self._item
        when = forked_crash.phase_of(self._hooks.phase())
        capture = item.config.pluginmanager.get_plugin("capturemanager")
        if capture is not None:
            out, err = capture.read_global_capture()
            item.add_report_section(when, "stdout", out)
            item.add_report_section(when, "stderr", err)
        if self.held is not None:
            item.ihook.pytest_runtest_logreport(report=self.held)
            self.held = None
        text = why or forked_crash.describe(self._status)
        report = forked_crash.report(item, when, text, self._wall_time)
        self._check(report, set(), unread=True)
        if when == "teardown":
            self.held = report
        else:
            item.ihook.pytest_runtest_logreport(report=report)
            del item._report_sections[:]
            self.held = forked_crash.silent_teardown(item)

    def _interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """Ctrl-C. The terminal has told the fork as well, which is to end as it would have in this process."""
        self._interrupts += 1
        self._error = self._error or interrupt
        self._interrupted = real.clock()
        if self._interrupts > 1:
            self._signal(_SIGKILL)

    def _kill(self) -> None:
        if not self._reaped:
            self._signal(_SIGTERM)
            pidfd = real.pidfd_open(self.pid)
            try:
                poll = real.poll()
                poll.register(pidfd, _POLLIN)
                if not poll.poll(TERMINATED_S * 1000):
                    self._signal(_SIGKILL)
            finally:
                real.close(pidfd)
            self.reap()

    def _signal(self, number: int) -> None:
        try:
            real.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def reap(self) -> None:
        """Wait for the end of the process, and with it of all that it had: locks, ports, threads."""
        if not self._reaped:
            try:
                self._status = real.waitpid(self.pid, 0)[1]
            except ChildProcessError:
                pass  # waited for already, by a wait for any child
            self._reaped = True

    def _restore_the_timer(self) -> None:
        """What is left of a timer that goes on beyond this test, as one for the whole session."""
        delay, interval = self.timer
        left = delay - (real.clock() - self._started)
        if delay and left > 0:
            real.setitimer(_ITIMER_REAL, left, interval)

    def raise_what_ended_it(self) -> None:
        """What the test meant for the whole run."""
        if self._error is not None:
            raise self._error


_HEARD: dict[object, Callable[..., None]] = {
    forked_wire.REPORT: Test._report,
    forked_wire.WARNING: Test._warning,
    forked_wire.COVERAGE: Test._coverage,
    forked_wire.WISHES: Test._wishes,
    forked_wire.EXIT: Test._exit,
    forked_wire.INTERRUPT: Test._interrupted_at,
    forked_wire.FAULT: Test._fault,
    forked_wire.END: Test._end,
}


class Ending:
    """Innermost: in a fork, everything ends here.

    What other plugins have around the test stands in both processes, but was begun in one: a thread that is to be
    joined, a timer, a lock. The fork leaves before any of that is ended, which pytest's process does.
    """

    def __init__(self, runner: ForkedTests) -> None:
        self._runner = runner

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        try:
            result = yield
        except BaseException as error:
            if self._runner.child is not None:
                self._runner.child.end(error)
            raise
        if self._runner.child is not None:
            self._runner.child.end(None)
        return result


def _told_by(report: pytest.TestReport) -> set[int]:
    """Numbers of the violations that a report tells of. One that is none of a failure tells of none that is to fail."""
    failed = report.outcome in ("failed", "rerun")
    found = getattr(report, "fence", ())
    return {int(plain["number"]) for plain in found if failed or plain["state"] != "failing"}


def _status_flags() -> list[tuple[int, int]]:
    """Of what the test's process shares with this one, and pytest writes to: O_NONBLOCK and the like."""
    found = []
    for fd in (0, 1, 2):
        try:
            found.append((fd, real.fcntl(fd, _F_GETFL)))
        except OSError:
            pass
    return found


def _restore(flags: list[tuple[int, int]]) -> None:
    for fd, before in flags:
        try:
            if real.fcntl(fd, _F_GETFL) != before:
                real.fcntl(fd, _F_SETFL, before)
        except OSError:
            pass


def _writes_to_the_terminal(config: pytest.Config) -> bool:
    """Whether tests show anything while they run: then it is to come in the order in which one process shows it."""
    if config.getoption("capture", "fd") in ("no", "tee-sys") or config.getoption("setupshow", False):
        return True
    logging: Any = config.pluginmanager.get_plugin("logging-plugin")
    return logging is not None and bool(logging._log_cli_enabled())


def _is_skipped(item: pytest.Item) -> bool:
    """Whether its markers keep this test from running: then nothing is set up for it either."""
    if all(item.get_closest_marker(name) is None for name in ("skip", "skipif", "xfail")):
        return False
    try:
        if evaluate_skip_marks(item):
            return True
        expected = evaluate_xfail_marks(item)
    except (Exception, OutcomeException):
        return True  # a condition that is wrong: reported where it is evaluated again
    return expected is not None and not expected.run and not item.config.option.runxfail


def _wider_fixtures(item: pytest.Item) -> list[str]:
    """The fixtures of this test that other tests share, in the order in which pytest sets them up."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None or not hasattr(item, "_request"):
        return []
    known = info.name2fixturedefs
    names: list[str] = getattr(item, "fixturenames", [])
    # Outside of a class, a fixture of scope "class" is the function's own (SubRequest.node in _pytest/fixtures.py).
    own = {"function"} if item.getparent(pytest.Class) is not None else {"function", "class"}
    return [name for name in names if (found := known.get(name)) and found[-1].scope not in own]


def _is_up(item: pytest.Item, names: list[str]) -> bool:
    """Whether nothing is left to do for these fixtures and the collectors above the test."""
    state: Any = item.session._setupstate
    above = state.stack.get(item.parent)
    if above is None or above[1] is not None:
        return False
    call = getattr(item, "callspec", None)
    known = item._fixtureinfo.name2fixturedefs if names else {}  # type: ignore[attr-defined]
    for name in names:
        cached = known[name][-1].cached_result
        if cached is None or cached[2] is not None or (call is not None and name in call.params):
            return False
    return True


@contextmanager
def _around(wrapper: Generator[None, object, object]) -> Iterator[None]:
    """A wrapper of hooks as a context manager."""
    next(wrapper)
    try:
        yield
    finally:
        next(wrapper, None)


def _flush(config: pytest.Config) -> None:
    """What is in a buffer at a fork is written twice."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter._tw.flush()
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            pass


def _both(own: pytest.TestReport, wider: pytest.TestReport) -> pytest.TestReport:
    """One report of the teardown of a test and that of its wider fixtures."""
    if wider.failed and not own.failed:
        own.outcome, own.longrepr = wider.outcome, wider.longrepr
    elif wider.failed:
        title, text = "teardown of wider fixtures", wider.longreprtext
        if isinstance(own.longrepr, ExceptionRepr):
            own.longrepr.addsection(title, text)
        else:
            own.sections.append((title, text))
    own.sections = _joined(own.sections, wider.sections)
    own.duration += wider.duration
    own.stop = wider.stop
    found = [*getattr(own, "fence", ()), *getattr(wider, "fence", ())]
    if found:
        own.fence = found  # type: ignore[attr-defined]
    return own


def _joined(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What was captured before and after a change of processes, in one phase, as the one section it would have been."""
    found = list(first)
    for title, text in second:
        place = next((i for i, (known, _) in enumerate(first) if known == title and found[i] == first[i]), None)
        if place is None:
            found.append((title, text))
        else:
            glue = "\n" if title.startswith("Captured log") else ""
            found[place] = (title, found[place][1] + glue + text)
    return found


def _interrupt_at(path: str, line: int) -> KeyboardInterrupt:
    """One whose traceback ends where that of the fork did: pytest shows the place."""
    if path and line:
        try:
            real.exec(real.compile("\n" * (line - 1) + "raise KeyboardInterrupt", path, "exec"), {})
        except KeyboardInterrupt as interrupt:
            return interrupt
    return KeyboardInterrupt()
