"""The process of one test, from the fork to its end. Run by the fork only.

What belongs to the whole run (printing, counting, writing report files) is the parent's: of the hooks that tell of
results only our own is called here, which passes on what it is told.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import ExitStack
from typing import Any

import pytest
from _pytest.warnings import catch_warnings_for_item

from fence_core.launcher.per_test import end as leave
from fence_core.link.one_test import Sender
from fence_core.untouched import real
from pytest_fence import forked_wire

TOLD = ("pytest_runtest_logreport", "pytest_warning_recorded")
SILENT = ("pytest_runtest_logstart", "pytest_runtest_logfinish")
_ITIMER_REAL = signal.ITIMER_REAL
_NULL, _NULL_FLAGS = os.devnull, os.O_RDWR | os.O_CLOEXEC


class Messenger:
    """Registered in every process, of use in the forks only: there these are the only hooks of their names."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.line: Sender | None = None
        self._waiting: list[pytest.TestReport] = []
        self.known: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.line is None:
            return
        # As the terminal asks of every report: there pytest fails a test for its subtests, which it has counted here.
        self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        self._waiting.append(report)
        try:
            self.tell()
        except Exception:
            pass  # the test has replaced what this takes: until its teardown, after which it is tried again

    def tell(self) -> None:
        """Pass on the reports there are. Raises whatever a hook does."""
        while self._waiting and self.line is not None:
            report = self._waiting[0]
            data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
            shown_only = forked_wire.is_shown_only(report, data)
            self.line.send(forked_wire.REPORT, forked_wire.slim(data, self.known), shown_only)
            del self._waiting[0]

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        if self.line is not None:
            self.line.send(forked_wire.WARNING, forked_wire.plain_warning(warning_message), when, nodeid, location)

    def take_over(self, line: Sender, known: dict[str, Any]) -> None:
        """In a fork: from now on results are told to the parent and to nobody else here."""
        self.line = line
        self.known = known
        for name in (*TOLD, *SILENT):
            hooks = getattr(self._config.hook, name)
            # pluggy can only take plugins out as a whole, with their fixtures and all.
            hooks._hookimpls[:] = [each for each in hooks.get_hookimpls() if each.plugin is self]


class Child:
    """This process, which ends with its test."""

    def __init__(self, item: pytest.Item, line: Sender, messenger: Messenger, *, measured: bool) -> None:
        self._pid = real.getpid()
        self._item = item
        self._line = line
        self._messenger = messenger
        self._session = item.session
        self._wishes = (self._session.shouldstop, self._session.shouldfail)
        self._keep_wider_fixtures()
        self._inherited = _started_by_multiprocessing()
        self._recording = None
        if measured:
            from pytest_fence.forked_coverage import Recording

            self._recording = Recording()
        self._until_its_end = ExitStack()
        if item.config.pluginmanager.has_plugin("warnings"):
            # pytest's own is around this process and the one above: nothing of that is run here when the test is over.
            self._until_its_end.enter_context(catch_warnings_for_item(item.config, item.ihook, "runtest", item))

    def _keep_wider_fixtures(self) -> None:
        """What lies above the test is torn down by the parent; here only what was set up here."""
        state: Any = self._session._setupstate
        parent = self._item.parent
        exact = state.teardown_exact
        inherited = {node: len(finalizers) for node, (finalizers, _) in state.stack.items()}
        there = {id(_fixture(each)) for finalizers, _ in state.stack.values() for each in finalizers}

        def teardown_exact(nextitem: pytest.Item | None) -> None:
            errors: list[BaseException] = []
            try:
                exact(parent)
            except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
                errors.append(error)
            # Wider fixtures that the test itself asked for, by request.getfixturevalue.
            for node, (finalizers, _) in reversed(state.stack.items()):
                while len(finalizers) > inherited.get(node, 0):
                    finalizer = finalizers.pop()
                    if pytest.version_tuple < (8, 2) and id(_fixture(finalizer)) in there:
                        continue  # whoever asks for a fixture that is there already has it torn down once more
                    try:
                        finalizer()
                    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
                        errors.append(error)
            if errors:
                raise errors[0]

        state.teardown_exact = teardown_exact

    def end(self, error: BaseException | None) -> None:
        """Tell the parent how the test's protocol ended, and leave. Never returns."""
        if real.getpid() != self._pid:
            leave()  # a fork that the test made and that came back into pytest
        try:
            if error is not None:
                self._abandon()
            self._until_its_end.close()
            self._messenger.tell()
            if error is not None:
                self._tell_error(error)
            self._tell_of_the_run()
            for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
                try:
                    stream.flush()  # type: ignore[union-attr]
                except Exception:
                    pass  # it is the test's: closed, or of another kind
            self._line.send(forked_wire.END)
        except BaseException as fault:
            try:
                self._line.send(forked_wire.FAULT, described(fault))
            except BaseException:
                pass  # then it has ended without a word
        finally:
            leave()

    def _tell_of_the_run(self) -> None:
        if self._recording is not None:
            covered = self._recording.result()
            if covered:
                self._line.send(forked_wire.COVERAGE, covered)
        wishes = (self._session.shouldstop, self._session.shouldfail)
        if wishes != self._wishes:
            self._line.send(forked_wire.WISHES, *wishes)
        for process in _started_by_multiprocessing() - self._inherited:
            if process.daemon and process.is_alive():
                process.terminate()  # as at the end of an interpreter

    def _tell_error(self, error: BaseException) -> None:
        if isinstance(error, pytest.exit.Exception):
            self._line.send(forked_wire.EXIT, error.msg, error.returncode)
        elif isinstance(error, KeyboardInterrupt):
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            place = (at.tb_frame.f_code.co_filename, at.tb_lineno) if at is not None else ("", 0)
            self._line.send(forked_wire.INTERRUPT, *place)
        else:
            self._line.send(forked_wire.FAULT, described(error))

    def _abandon(self) -> None:
        """The test was left in the middle: what it has set up is torn down as at the end of a session."""
        try:
            self._session._setupstate.teardown_exact(None)
        except BaseException as error:
            print_error(error)


def _fixture(finalizer: object) -> object:
    """What this tears down; in pytest 8.0 and 8.1 a FixtureDef, for that of a fixture."""
    return getattr(getattr(finalizer, "func", finalizer), "__self__", finalizer)


def described(error: BaseException) -> str:
    """With its traceback, if that can be had: the test may have replaced what reads its lines."""
    try:
        return "".join(real.format_exception(error))
    except Exception:
        return f"{type(error).__name__}: {error}"


def print_error(error: BaseException) -> None:
    """To where errors go, whatever a test has made of `sys.stderr`."""
    try:
        real.write(2, described(error).encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def keep_from_the_controller(config: pytest.Config) -> None:
    """In a fork of a worker of pytest-xdist: what the test writes to any descriptor is nothing that the worker says."""
    if not hasattr(config, "workerinput"):
        return
    for plugin in config.pluginmanager.get_plugins():
        io: Any = getattr(getattr(getattr(plugin, "channel", None), "gateway", None), "_io", None)
        for stream in (getattr(io, "infile", None), getattr(io, "outfile", None)):
            try:
                number = stream.fileno()  # type: ignore[union-attr]
                null = real.open(_NULL, _NULL_FLAGS)
                real.dup2(null, number, False)
                real.close(null)
            except (AttributeError, OSError, ValueError):
                continue


def leave_the_fork_server() -> None:
    """The fork server of the process above is not a child of this one: a test that wants one starts its own.

    `multiprocessing` waits for its server's process before it asks it anything, which only that one's parent can
    (ForkServer.ensure_running, the same from Python 3.10 to 3.15). What it is to have loaded before stays known.
    """
    server: Any = getattr(real.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if getattr(server, "_forkserver_pid", None) is not None:
        server._forkserver_pid = server._forkserver_address = server._forkserver_alive_fd = None
        server._lock = real.Lock()  # a thread that is not there may have held it


def _started_by_multiprocessing() -> set[Any]:
    """Not `active_children`: that reads, from a pipe which both processes have, how those of the one above ended."""
    try:
        return set(real.modules["multiprocessing.process"]._children)
    except (AttributeError, KeyError, TypeError):
        return set()  # nothing has loaded it, or it is something else by that name


def take_the_timer(delay: float, interval: float) -> None:
    """An alarm that was set for the test (pytest-timeout) rings in its process; fork(2) does not hand it down."""
    if delay:
        real.setitimer(_ITIMER_REAL, delay, interval)
