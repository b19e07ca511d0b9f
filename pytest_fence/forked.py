"""A test in a fork of its own: what the parent does. Loaded where ``scope = "test"`` is wanted by anybody.

The parent sets up collectors and every fixture wider than a function, forks, and waits. The fork runs the protocol of
the one test as any pytest would (so plugins that rerun, time or repeat tests do that there) and tells its reports,
which the parent passes on to the hooks. When the fork is gone, the parent tears down what the next test needs no more.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.outcomes import OutcomeException
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks
from _pytest.warnings import catch_warnings_for_item

from pytest_fence import engine, forked_coverage, forked_wire
from pytest_fence.forked_capture import OutputMeanwhile
from pytest_fence.forked_child import Child, Messenger, take_the_timer

if TYPE_CHECKING:
    from pytest_fence.forked_wire import Message
    from pytest_fence.items import TestHooks

INTERRUPTED_S = 2.0
"""How long after a Ctrl-C a fork may go on before it is told too: the terminal tells both."""
TERMINATED_S = 1.0
_CHUNK = 1 << 16


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
        self.child: Child | None = None
        """In a fork: itself."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """None: the test is run by the next implementation, in this process or in the fork."""
        if self._plan_only or not self._hooks.forks(item) or self._hooks.broken or _is_skipped(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        started = time.perf_counter()
        if not self._bring_up(item):
            return None  # what failed was kept by pytest, and is raised again where it is reported
        test = Test(item, self._hooks, time.perf_counter() - started)
        try:
            line = self._fork(item, test)
        except OSError as error:
            test.cannot_run(f"no process could be started for this test: {error}")
        else:
            if line is None:
                return None
            try:
                test.follow(line)
            finally:
                os.close(line)
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
                values = {name: item._request.getfixturevalue(name) for name in names}  # type: ignore[attr-defined]
                if "tmp_path_factory" in values:
                    values["tmp_path_factory"].getbasetemp()  # or each fork would make one
            except pytest.exit.Exception:
                raise
            except (Exception, OutcomeException):
                return False
            finally:
                state.stack.pop(item, None)
        return True

    @contextmanager
    def _as_in_phase(self, item: pytest.Item, when: str) -> Iterator[None]:
        """Output, log and warnings go where they would go if a hook of this phase ran."""
        manager = self._config.pluginmanager
        with ExitStack() as stack:
            stack.enter_context(catch_warnings_for_item(self._config, item.ihook, "runtest", item))
            os.environ["PYTEST_CURRENT_TEST"] = f"{item.nodeid} ({when})".replace("\0", "(null)")
            stack.callback(os.environ.pop, "PYTEST_CURRENT_TEST", None)
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

    def _fork(self, item: pytest.Item, test: Test) -> int | None:
        """The reading end of the test's pipe; None in the fork."""
        if self._measured is None:
            self._measured = forked_coverage.fits(self._config)
        if self._measured:
            forked_coverage.before_fork()
        in_step = self._in_step or test.output.expected
        reading, writing = engine.high_pair(both_ways=in_step)
        _flush(self._config)
        test.output.start()
        delay, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            test.pid = self._fence.fork_test()
        except OSError:
            os.close(reading)
            os.close(writing)
            signal.setitimer(signal.ITIMER_REAL, delay, interval)
            test.output.stop()
            raise
        if test.pid == 0:
            try:
                os.close(reading)
                test.output.stop()
                take_the_timer(delay, interval)
                line = forked_wire.Line(writing, in_step=in_step)
                self._hooks.forked()
                self._messenger.take_over(line, test.known)
                self.child = Child(item, line, measured=self._measured)
            except BaseException:  # whatever it is: there must not be two of this session
                traceback.print_exc()
                engine.end_test()
            return None
        os.close(writing)
        test.timer = (delay, interval)
        test.in_step = in_step
        return reading

    # ------------------------------------------------------------ after

    def _tear_down(self, item: pytest.Item, nextitem: pytest.Item | None, test: Test) -> None:
        """Tear down what the next test needs no more, and report it with the test's own teardown."""
        session = item.session
        held = test.held
        test.held = None
        if session.shouldfail or session.shouldstop:
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
        self._reader = forked_wire.Reader()
        self.output = OutputMeanwhile(item.config)
        self._started = time.time()
        self._any = False
        self._ended = False
        self._error: BaseException | None = None
        self._interrupts = 0
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

    def follow(self, line: int) -> None:
        """Pass on what the test tells until its process has ended."""
        try:
            self._listen(line)
        except BaseException:
            self._kill()
            raise
        finally:
            self.output.stop()
        self._restore_the_timer()
        if not self._ended:
            self._crashed()
        self._hooks.caught_up()

    def _listen(self, line: int) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(line, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            while not self._ended and not self._wait(poll, line, pidfd):
                pass
        finally:
            os.close(pidfd)

    def _wait(self, poll: select.poll, line: int, pidfd: int) -> bool:
        """One turn; whether the process has ended, and all that it said has been heard."""
        try:
            waits_for_its_end = self._interrupts and not self._told
            ready = dict(poll.poll(INTERRUPTED_S * 1000 if waits_for_its_end else None))
            if not ready:
                self._told = True
                self._signal(signal.SIGINT)
            elif line in ready:
                chunk = os.read(line, _CHUNK)
                if not chunk:
                    poll.unregister(line)
                for message in self._reader.feed(chunk):
                    with self.output.paused():
                        self._hear(message)
                    if self.in_step:
                        self._answer(line)
            elif pidfd in ready:
                # What is in the pipe was read before. Somebody else may have it open still.
                self.reap()
                return True
        except KeyboardInterrupt as interrupt:
            self._interrupt(interrupt)
        except (pytest.fail.Exception, pytest.skip.Exception) as error:
            # A handler of a signal, as that of a timeout, meant the test that this process is waiting for.
            self._kill()
            with self.output.paused():
                self._crashed(str(error))
            return True
        return False

    @staticmethod
    def _answer(line: int) -> None:
        try:
            os.write(line, b".")
        except BrokenPipeError:
            pass  # it has ended

    def _hear(self, message: Message) -> None:
        kind, *rest = message
        item = self._item
        if kind == "report":
            self._report(*rest)
        elif kind == "warning":
            plain, when, nodeid, location = rest
            item.ihook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": forked_wire.to_warning(plain),
                    "when": when,
                    "nodeid": nodeid,
                    "location": tuple(location) if location else None,
                }
            )
        elif kind == "coverage":
            forked_coverage.merge(rest[0])
        elif kind == "wishes":
            item.session.shouldstop, item.session.shouldfail = rest
        elif kind == "exit":
            self._error = pytest.exit.Exception(*rest)
        elif kind == "interrupt":
            self._told = True
            self._error = _interrupt_at(*rest)
        elif kind == "fault":
            self._error = RuntimeError(f"in the process of {item.nodeid}:\n{rest[0]}")
        elif kind == "end":
            self._ended = True

    def _report(self, data: dict[str, Any], shown_only: bool) -> None:
        config = self._item.config
        data = forked_wire.restored(data, self.known)
        report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
        forked_wire.mend(report, data, shown_only=shown_only)
        if report.when == "setup" and not self._any:
            report.duration += self._setup_seconds
            report.start -= self._setup_seconds
        if self._brought_up:
            wider, own = report.sections[: self._brought_up], report.sections[self._brought_up :]
            report.sections = _joined(wider, own)
        self.output.add_to(report)
        if self.held is not None:
            self._item.ihook.pytest_runtest_logreport(report=self.held)
            self.held = None
        if report.when is not None:
            self._any = True
        if report.when == "teardown":
            self.held = report
        else:
            self._item.ihook.pytest_runtest_logreport(report=report)

    # ------------------------------------------------------------ ends that nobody wanted

    def _crashed(self, why: str = "") -> None:
        from pytest_fence import forked_crash

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
        report = forked_crash.report(item, when, text, self._started)
        self._hooks.judge(item, report)
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
        if self._interrupts > 1:
            self._signal(signal.SIGKILL)

    def _kill(self) -> None:
        if not self._reaped:
            self._signal(signal.SIGTERM)
            pidfd = os.pidfd_open(self.pid)
            try:
                if not select.select([pidfd], [], [], TERMINATED_S)[0]:
                    self._signal(signal.SIGKILL)
            finally:
                os.close(pidfd)
            self.reap()

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def reap(self) -> None:
        """Wait for the end of the process, and with it of all that it had: locks, ports, threads."""
        if not self._reaped:
            try:
                self._status = os.waitpid(self.pid, 0)[1]
            except ChildProcessError:
                pass  # waited for already, by a wait for any child
            self._reaped = True

    def _restore_the_timer(self) -> None:
        """What is left of a timer that goes on beyond this test, as one for the whole session."""
        delay, interval = self.timer
        left = delay - (time.time() - self._started)
        if delay and left > 0:
            signal.setitimer(signal.ITIMER_REAL, left, interval)

    def raise_what_ended_it(self) -> None:
        """What the test meant for the whole run."""
        if self._error is not None:
            raise self._error


class Ending:
    """Outermost: in a fork, everything ends here."""

    def __init__(self, runner: ForkedTests) -> None:
        self._runner = runner

    @pytest.hookimpl(wrapper=True, tryfirst=True)
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
        own.sections.append(("teardown of wider fixtures", wider.longreprtext))
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
            exec(compile("\n" * (line - 1) + "raise KeyboardInterrupt", path, "exec"), {})
        except KeyboardInterrupt as interrupt:
            return interrupt
    return KeyboardInterrupt()
