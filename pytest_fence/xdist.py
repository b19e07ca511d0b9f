"""What is different beside pytest-xdist: workers join the controller's fence, and tell it what cannot be used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_fence import engine, unusable

if TYPE_CHECKING:
    from pytest_fence.remote import Carrier, Workers

REMOTE = "fence_worker"
"""The ``-X`` option of an interpreter that a worker on another machine has: `fence_core.launcher.remote.OPTION`."""


def is_worker(config: pytest.Config, *, others: int) -> bool:
    """Whether this Config is that of a worker.

    `workerinput` is set later than this is asked. The environment alone does not tell, as a pytest that a test in a
    worker starts inherits it; but only in the worker itself does the call come from execnet.
    """
    if hasattr(config, "workerinput"):
        return True
    if others or "PYTEST_XDIST_WORKER" not in os.environ:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "__channelexec__":
            return True
        frame = frame.f_back
    return False


def remote_scope(config: pytest.Config, *, others: int) -> str:
    """The scope of the run, in a worker of one on another machine; empty in any other process."""
    scope = sys._xoptions.get(REMOTE, "")
    return str(scope) if scope and is_worker(config, others=others) else ""


class PluginIsThere:
    """In such a worker: has its controller know that violations are found on their tests."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_sessionstart(self) -> None:
        unusable.say_plugin(self._config)


def remote_specs(options: argparse.Namespace) -> list[str]:
    """The ``--tx`` of workers on other machines, each as often as it is wanted; none if there are to be no workers.

    Raises UsageError for ``--px``, whose gateways no carrier makes.
    """
    proxies = [spec for spec in getattr(options, "px", None) or () if not is_local(spec)]
    if proxies:
        raise pytest.UsageError(outside(proxies))
    distributes = getattr(options, "distload", False) or getattr(options, "dist", "no") != "no"
    if not distributes or getattr(options, "numprocesses", None) is not None or options.collectonly:
        return []
    specs: list[str] = []
    for spec in getattr(options, "tx", None) or ():
        number, _, rest = spec.partition("*")
        specs += [rest] * int(number) if number.isdecimal() else [spec]
    return [spec for spec in specs if not is_local(spec)]


def outside(specs: Sequence[str]) -> str:
    """What is wrong with these."""
    return (
        f"workers started by {', '.join(specs)} would run outside the fence: name them on the command line or in "
        "`addopts` (--tx, not by way of --px), use popen workers (-n NUM, --tx NUM*popen), or --no-fence"
    )


def starts_workers(options: argparse.Namespace) -> bool:
    """Whether the options ask for any workers."""
    return bool(getattr(options, "numprocesses", None) or getattr(options, "tx", None))


def is_local(spec: str) -> bool:
    """Whether a worker of this spec is a process that the controller starts, or one of its proxies."""
    parts = spec.partition("*")[2] if spec.partition("*")[0].isdigit() else spec
    return "popen" in [part.partition("=")[0] for part in parts.split("//")]


class ControllerHooks:
    """Registered in the process that may turn out to be xdist's controller."""

    def __init__(self, fence: engine.Fence, carrier: Carrier | None) -> None:
        """`carrier`: has workers on other machines; None if there are to be none."""
        self._fence = fence
        self._carrier = carrier
        self._workers: Workers | None = None

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: Sequence[object]) -> None:
        """A conftest may have put others in the place of those that the command line gave."""
        remote = [str(spec) for spec in specs if not is_local(str(spec))]
        if remote and self._carrier is None:
            raise pytest.UsageError(outside(remote))
        if remote and self._carrier is not None:
            from pytest_fence.remote import Workers

            session: Any = config.pluginmanager.get_plugin("dsession")
            self._workers = Workers(self._carrier, session.nodemanager)
        self._fence.expect_workers()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """It may have found bad markers, or configs not in force."""
        unusable.heed(node)
        if not error and self._workers is not None and self._workers.holds(node.gateway):
            unusable.expect_plugin(node)
