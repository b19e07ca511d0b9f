"""Faults of the filter, a process of its own: the connection ends, and the run says so and fails."""

from __future__ import annotations

import pytest

from tests.end_to_end.faults import faulty
from tests.end_to_end.loopback import Loopback
from tests.end_to_end.support import Ended, Runs

FETCH = """
    import urllib.request

    def test_fetch():
        '''Whatever happens, it sees no more than a network error.'''
        try:
            urllib.request.urlopen("http://api.example/", timeout=10).read()
        except OSError:
            pass

    def test_other():
        pass
"""


def run(runs: Runs, loopback: Loopback, fault: str) -> Ended:
    (runs.directory / "pyproject.toml").write_text(
        f'[tool.fence.network]\nhosts = {{"api.example" = "127.0.0.1:{loopback.http}"}}\n'
    )
    return faulty(runs, "from fence_core.proxy import hub, inspector, server\n" + fault, FETCH, "-rA")


def test_without_a_fault(runs: Runs, loopback: Loopback) -> None:
    """The control."""
    ended = run(runs, loopback, "")
    assert ended.status == 0, ended
    assert "fence error" not in ended.out + ended.err


@pytest.mark.parametrize(
    "place",
    ["hub.dial", "inspector.Inspector.feed", "hub.Inspector"],
    ids=["connecting", "reading what it is sent", "beginning"],
)
def test_one_connection(runs: Runs, loopback: Loopback, place: str) -> None:
    """The test whose connection it was fails, though it takes the end of it for an error of the network; no other."""
    ended = run(runs, loopback, f"def fault(*args, **named): raise RuntimeError('made by a test')\n{place} = fault")
    assert ended.status == 1, ended
    assert ended.outcomes() == ["FAILED test_it.py::test_fetch", "PASSED test_it.py::test_other"]
    ended.has(
        "call: fence error in the filter: RuntimeError: made by a test$",
        r"a fault of the fence, not of the test: a fault of the fence itself at faulty.py:\d+: the connection was "
        "closed, please report it$",
    )
    assert "Traceback" not in ended.err


def test_all_of_it(runs: Runs, loopback: Loopback) -> None:
    """It tells why before it ends, and that it has ended is told too."""
    ended = run(runs, loopback, "def fault(*args, **named): raise MemoryError('made by a test')\nhub.Hub = fault")
    assert ended.status == 1, ended
    for text in ("MemoryError: made by a test", "it has ended"):
        assert f"fence error in the filter: {text}" in ended.out + ended.err, ended
