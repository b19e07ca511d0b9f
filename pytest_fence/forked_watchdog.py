"""``faulthandler_timeout`` beside forks: the watchdog of a test barks where the test runs.

pytest starts a thread of C around each test, which has a fork of it do without: whoever tells it there to stop, or
starts another one, waits for ever for a thread that does not exist. So it is stopped at the fork, whoever has started
it, and started again on both sides of it where it is pytest's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _pytest import faulthandler as _faulthandler

from fence_core.untouched import real


class Watchdog:
    """pytest's own, if it has one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seconds = 0.0
        if config.pluginmanager.has_plugin("faulthandler"):
            self._seconds = float(config.getini("faulthandler_timeout") or 0.0)
        self._exits = False
        if self._seconds > 0:
            try:
                self._exits = bool(config.getini("faulthandler_exit_on_timeout"))
            except (KeyError, ValueError):
                pass  # before pytest 9

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """None in this process during this block; what is left of its time counts from the end."""
        begin = real.clock()
        real.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self.start(real.clock() - begin)

    def start(self, gone: float = 0.0) -> None:
        """Start it; `gone` seconds of its time are over. One whose time is over has barked in the fork."""
        left = self._seconds - gone
        stderr: Any = self._config.stash.get(_faulthandler.fault_handler_stderr_fd_key, None)
        if left > 0 and stderr is not None:
            real.dump_traceback_later(left, file=stderr, exit=self._exits)
