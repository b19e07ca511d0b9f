"""What every test of this project shares: pytester, the marker `needs`, and FENCE_MUST_WORK.

A test that cannot run everywhere says what it needs, and is skipped where that is missing::

    @pytest.mark.needs("program:curl", "module:uvloop", "kernel:landlock", "user:root", "capability:SYS_ADMIN")

FENCE_MUST_WORK turns skips into failures, so that a machine on which the fence quietly does nothing cannot pass:

======  ================================================================================================
unset   a skip is a skip
1       only missing system programs may be skipped (reason `program: ...`)
all     not even those
======  ================================================================================================

A reason that begins with `elsewhere:` is excused throughout: another run of the same CI covers it (root beside an
ordinary user, another version of Python).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CAPABILITIES = {"NET_RAW": 13, "SYS_ADMIN": 21}  # source: capability.h
EXCUSED = {"1": ("elsewhere:", "program:"), "all": ("elsewhere:",)}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*things): skip where one is missing; see conftest.py at the root")
    # execnet has a thread in each of our workers, and Python 3.15 sees it; tests fork to see what a fork does.
    config.addinivalue_line("filterwarnings", "ignore:.*multi-threaded, use of fork:DeprecationWarning")
    must = os.environ.get("FENCE_MUST_WORK", "")
    if must not in ("", "0", *EXCUSED):
        raise pytest.UsageError(f"FENCE_MUST_WORK={must!r}: accepted are 0, {', '.join(EXCUSED)}")
    # A shell without job control, or nohup, starts us with signals ignored. What we start would inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


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
    if kind == "capability":
        return None if has_capability(CAPABILITIES[name]) else f"elsewhere: root without CAP_{name}, as in a container"
    raise pytest.UsageError(f"needs({thing!r}): accepted are program:, module:, user:, kernel: and capability:")


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)


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
