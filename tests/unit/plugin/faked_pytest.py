"""Running pytest with a fence that is a fake."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from pytest_fence import plugin
from tests.unit.plugin import fakes

# Plugins of ours own environment that would only add noise or time.
QUIET = tuple(
    word
    for name in (
        *("cacheprovider", "randomly", "xdist", "rerunfailures", "cov", "hypothesispytest"),
        *("pretty", "sugar", "rich", "instafail", "html", "html_fixtures", "metadata", "allure_pytest"),
        *("pytest_jsonreport", "pytest_reportlog", "pytest_github_actions_annotate_failures"),
    )
    for word in ("-p", f"no:{name}")
)
_PLUGINS = {"-n": "xdist", "--tx": "xdist", "--reruns": "rerunfailures"}


class FakedPytest:
    """Runs pytest with a fake fence: in this process, or in one of its own."""

    def __init__(self, pytester: pytest.Pytester, directory: Path) -> None:
        self.pytester = pytester
        self.directory = directory
        self.fence: fakes.FakeFence | None = None

    def run(self, *args: str, fence: bool = True) -> pytest.RunResult:
        """In this process, which is as good as another since nothing is forked."""
        self._forget()
        made: list[fakes.FakeFence] = []
        before = fakes.FakeFence.__init__

        def noting(self: fakes.FakeFence, role: str, mode: str) -> None:
            before(self, role, mode)
            made.append(self)

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.resetwarnings()  # our own run makes errors of them
            fakes.install(patch.setattr)
            patch.setattr(fakes.FakeFence, "__init__", noting)
            # The pytest that runs this test is live too, but a fake cannot enclose it.
            patch.setattr(plugin, "_live", type(plugin._live)())
            result = self.pytester.runpytest_inprocess(*QUIET, *(["--fence"] if fence else []), *args)
        self.fence = made[0] if made else None
        return result

    def spawn(self, *args: str, fence: bool = True) -> pytest.RunResult:
        """In a process of its own, with workers if need be, and no other plugins than those whose options are used."""
        self._forget()
        plugins = ["fence", "tests.unit.plugin.fakes"]
        plugins += [name for option, name in _PLUGINS.items() if any(word.startswith(option) for word in args)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return self.pytester.runpytest_subprocess(
                *(word for name in plugins for word in ("-p", name)), *(["--fence"] if fence else []), *args
            )

    def _forget(self) -> None:
        """A new run begins with an empty ledger."""
        for path in self.directory.iterdir():
            path.unlink()

    def section(self, result: pytest.RunResult) -> list[str]:
        """The lines of the section about the fence, and its title."""
        lines = result.stdout.lines
        start = next((n for n, line in enumerate(lines) if re.match(r"=+ fence: ", line)), len(lines))
        end = next((n for n in range(start + 1, len(lines)) if lines[n].startswith("====")), len(lines))
        return lines[start:end]
