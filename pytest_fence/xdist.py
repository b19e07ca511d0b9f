"""What is different beside pytest-xdist: workers join the controller's fence, and tell it what cannot be used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest

from pytest_fence import engine, unusable


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


def remote_specs(options: argparse.Namespace) -> list[str]:
    """The ``--tx`` and ``--px`` of workers that would run where this fence does not reach."""
    specs = [*(getattr(options, "tx", None) or ()), *(getattr(options, "px", None) or ())]
    return [spec for spec in specs if not _is_local(spec)]


def outside(specs: Sequence[str]) -> str:
    """What is wrong with these."""
    return (
        f"workers started by {', '.join(specs)} would run outside the fence: use popen workers "
        "(-n NUM, --tx NUM*popen), or --no-fence"
    )


def starts_workers(options: argparse.Namespace) -> bool:
    """Whether the options ask for any workers."""
    return bool(getattr(options, "numprocesses", None) or getattr(options, "tx", None))


def _is_local(spec: str) -> bool:
    parts = spec.partition("*")[2] if spec.partition("*")[0].isdigit() else spec
    return "popen" in [part.partition("=")[0] for part in parts.split("//")]


class ControllerHooks:
    """Registered in the process that may turn out to be xdist's controller."""

    def __init__(self, fence: engine.Fence) -> None:
        self._fence = fence

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[object]) -> None:
        """A conftest may have put others in the place of those that the command line gave."""
        remote = [str(spec) for spec in specs if not _is_local(str(spec))]
        if remote:
            raise pytest.UsageError(outside(remote))
        self._fence.expect_workers()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """It may have found bad markers, or configs not in force."""
        unusable.heed(node)
