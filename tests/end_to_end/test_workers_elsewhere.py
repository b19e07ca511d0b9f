"""pytest-xdist's workers that would not be in the fence, or not known to it: a usage error, and never a quiet run."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

from tests.end_to_end.support import Runs

pytestmark = pytest.mark.needs("module:xdist")

REFUSED = """
    import socket
    def test_refused():
        try:
            socket.create_connection(("192.0.2.7", 443), 1)
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    "options",
    [
        ["--tx=ssh=localhost"],
        ["--tx=2*socket=127.0.0.1:9"],
        ["--tx=popen", "--tx=ssh=localhost//python=python3"],
        ["--px=id=far//ssh=localhost", "--tx=popen//via=far"],
    ],
)
def test_on_another_machine(runs: Runs, options: list[str]) -> None:
    """Before anything is imported, or connected to."""
    runs.load("xdist.plugin")
    (runs.directory / "conftest.py").write_text("print('imported')\n")
    ended = runs.pytest("-d", *options)
    assert ended.status == 4, ended
    far = next(text for text in options if "ssh" in text or "socket" in text).partition("=")[2]
    assert f"ERROR: workers started by {far} would run outside the fence: " in ended.err, ended
    assert "imported" not in ended.out


def test_asked_for_by_a_conftest(runs: Runs) -> None:
    """When the command line was read there was no word of it."""
    runs.load("xdist.plugin")
    (runs.directory / "conftest.py").write_text(
        "def pytest_xdist_setupnodes(specs):\n    assert not 'asked'\n"
        "def pytest_configure(config):\n    config.option.tx = ['ssh=localhost']\n"
    )
    ended = runs.pytest("-n1")
    assert ended.status == 4, ended
    assert "would run outside the fence: " in ended.out + ended.err
    assert "'asked'" not in ended.out + ended.err


def test_another_interpreter(runs: Runs) -> None:
    """It joins the fence of its controller, as others do: what it is refused is on the right test."""
    runs.load("xdist.plugin")
    other = runs.directory / "another-python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    (runs.directory / "test_it.py").write_text(dedent(REFUSED))
    ended = runs.pytest("-d", f"--tx=popen//python={other}")
    assert ended.status == 1, ended
    ended.has("^FAILED test_it.py::test_refused - fence: connect 192.0.2.7:443/tcp", "fence: 1 violation in 1 test =")
