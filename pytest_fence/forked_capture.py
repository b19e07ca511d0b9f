"""What pytest's own process prints and logs while a test runs in a fork: threads of wider fixtures, as a live server's.

Without a fork that is captured with the test that runs. pytest captures within its hooks only, and the parent is in
none of them while it waits: it would all go to the terminal, in the middle of the line that shows progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _pytest.logging import catching_logs

from fence_core.untouched import real

_IN_MEMORY = ("sys", "tee-sys")


class OutputMeanwhile:
    """With ``--capture=fd`` parent and fork have one file, of which the fork reports what either has written; with
    ``sys`` and ``tee-sys`` each process has a buffer, and the parent adds what is in its own."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._in_memory = config.getoption("capture", "fd") in _IN_MEMORY
        self.expected = self._capture is not None and len(real.listdir("/proc/self/task")) > 1
        """Whether there is anybody who could print. Then the fork waits while something is told to hooks, which may
        print as well: meanwhile nothing is caught."""
        self._sections: list[tuple[str, str]] = []
        logging: Any = config.pluginmanager.get_plugin("logging-plugin")
        self._log: Any = None
        self._records: Any = None
        if self.expected and logging is not None:
            self._records = logging.report_handler
            self._records.reset()
            self._log = catching_logs(self._records, level=logging.log_level)

    def start(self) -> None:
        """Called before the fork, which begins with `stop`: no moment of the test is missed."""
        if self.expected:
            self._capture.resume_global_capture()
            if self._log is not None:
                self._log.__enter__()

    def stop(self) -> None:
        if self.expected:
            if self._log is not None:
                self._log.__exit__(None, None, None)
            self._capture.suspend_global_capture(in_=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While something is told to hooks, between `start` and `stop`."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def add_to(self, report: pytest.TestReport) -> None:
        """Show it with this phase, and what came in those before, besides what the fork has caught itself."""
        if not self.expected:
            return
        if report.when == "setup":
            self._sections.clear()  # of the attempt before, where a test is rerun
        found = {}
        if self._in_memory:
            found["stdout"], found["stderr"] = self._capture.read_global_capture()
        if self._records is not None:
            found["log"] = self._records.stream.getvalue().strip()
            self._records.reset()
        self._sections += [(f"Captured {name} {report.when}", text) for name, text in found.items() if text]
        for section in self._sections:
            _insert(report.sections, *section)


def _insert(sections: list[tuple[str, str]], title: str, text: str) -> None:
    """Into the section of this title, or behind what else there is of its phase."""
    phase = title.rpartition(" ")[2]
    place = len(sections)
    for index, (known, before) in enumerate(sections):
        if known == title:
            glue = "\n" if title.startswith("Captured log") else ""
            sections[index] = (title, before + glue + text)
            return
        if known.endswith(f" {phase}"):
            place = index + 1
    sections.insert(place, (title, text))
