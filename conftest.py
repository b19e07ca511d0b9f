"""What every test of this project shares: pytester, the markers `needs` and `deadline`, and FENCE_MUST_WORK.

A test that cannot run everywhere says what it needs, and is skipped where that is missing::

    @pytest.mark.needs("program:curl", "module:uvloop", "kernel:landlock", "user:root")

FENCE_MUST_WORK turns skips into failures, so that a machine on which the fence quietly does nothing cannot pass:

======  ================================================================================================
unset   a skip is a skip
1       only missing system programs may be skipped (reason `program: ...`)
all     not even those
======  ================================================================================================

A reason that begins with `elsewhere:` is excused throughout: another run of the same CI covers it (root beside an
ordinary user, another version of Python).

A test that has to race a clock says what it races::

    @pytest.mark.deadline("a resolver's time-out of five seconds")

`dev.py test` runs those one at a time, before the others, and once more what failed; nobody else's failure is tried
again. That is what the options `--deadlines` and `--failed` are for; see docs/internals/testing.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EXCUSED = {"1": ("elsewhere:", "program:"), "all": ("elsewhere:",)}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pytest-fence's own tests")
    group.addoption(
        "--deadlines",
        choices=("all", "only", "without", "again"),
        default="all",
        help="Which tests to run: only those marked `deadline`, those without the mark, or the marked ones once again "
        "that --failed lists.",
    )
    group.addoption("--failed", metavar="FILE", help="Write the node ids of failed tests there, one a line, as JSON.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*things): skip where one is missing; see conftest.py at the root")
    config.addinivalue_line("markers", "deadline(why): must race a clock; see conftest.py at the root")
    if config.option.failed and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailedTests(Path(config.option.failed)), "failed-tests")
    must = os.environ.get("FENCE_MUST_WORK", "")
    if must not in ("", "0", *EXCUSED):
        raise pytest.UsageError(f"FENCE_MUST_WORK={must!r}: accepted are 0, {', '.join(EXCUSED)}")
    # A shell without job control, or nohup, starts us with signals ignored. What we start would inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class FailedTests:
    """Writes down what failed, and has it run again where that is asked for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: dict[str, None] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if config.option.deadlines == "again":
            wanted = set(map(json.loads, self._file.read_text(encoding="ascii").splitlines()))
            select(config, items, [item.nodeid in wanted for item in items])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self._file.write_text("".join(f"{json.dumps(nodeid)}\n" for nodeid in self._failed), encoding="ascii")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item.get_closest_marker("deadline") for item in items]
    for item, mark in zip(items, marked, strict=True):
        if mark is not None and not (len(mark.args) == 1 and mark.args[0] and isinstance(mark.args[0], str)):
            raise pytest.UsageError(f"{item.nodeid}: deadline(...) takes one text: what the test races")
    which = config.option.deadlines
    if which != "all":
        select(config, items, [(mark is None) == (which == "without") for mark in marked])


def select(config: pytest.Config, items: list[pytest.Item], wanted: Sequence[bool]) -> None:
    others = [item for item, keep in zip(items, wanted, strict=True) if not keep]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item, keep in zip(items, wanted, strict=True) if keep]


def missing(thing: str) -> str | None:
    """Why a test that needs `thing` must be skipped here; None if it need not."""
    kind, _, name = thing.partition(":")
    if kind == "program":
        return None if shutil.which(name) else f"program: {name} is not installed"
    if kind == "module":
        return None if importlib.util.find_spec(name) else f"module: {name} is not installed"
    if kind == "user":
        is_root = os.geteuid() == 0
        return None if is_root == (name == "root") else f"elsewhere: runs as {name} only"
    if kind == "kernel":
        return missing_feature(name)
    raise pytest.UsageError(f"needs({thing!r}): accepted are program:, module:, user: and kernel:")


def missing_feature(name: str) -> str | None:
    from fence_core.kernel import features

    feature = features.detect()[name]
    return None if feature.available else f"kernel: no {name}: {feature.detail}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for thing in mark.args:
            reason = missing(thing)
            if reason:
                pytest.skip(reason)


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    excused = EXCUSED.get(os.environ.get("FENCE_MUST_WORK", ""))
    if excused is None or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(excused):
        report.outcome = "failed"
        report.longrepr = f"FENCE_MUST_WORK is set and this was skipped: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    refuse_skip(report)
    return report
