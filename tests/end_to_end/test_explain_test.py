"""`fence explain --test`: under the policy of a test's run, with its markers; and that this is what happens."""

from __future__ import annotations

import json
from pathlib import Path

from tests.end_to_end.command.conftest import Command
from tests.end_to_end.support import Runs

TESTS = """
import pytest

pytestmark = pytest.mark.fence(allowed_domains=["module.test"])

class TestGroup:
    @pytest.mark.fence(allowed_domains=["own.test:5432"], denied_domains=["all.test"])
    @pytest.mark.parametrize("n", [1, 2])
    def test_own(self, n):
        raise SystemExit("it is not run")

def test_other():
    pass
"""
POLICY = """
[tool.fence]
allowed_domains = [
  "all.test",
]
"""
OWN = "test_x.py::TestGroup::test_own[2]"


def test_with_markers(runs: Runs) -> None:
    fence = Command(runs)
    Path(runs.directory, "test_x.py").write_text(TESTS)
    Path(runs.directory, "pyproject.toml").write_text(POLICY)

    def asked(test: str, *question: str) -> tuple[int, str]:
        ended = fence("explain", "--test", test, *question)
        assert not ended.err, ended
        return ended.status, ended.out

    status, out = asked(OWN, "connect", "own.test:5432")
    assert status == 0, out
    assert out.splitlines() == [
        'allowed: network.allowedDomains "own.test:5432" (@pytest.mark.fence of the test, test_x.py:7)',
        f"  test: {OWN}",
        "  policy: @pytest.mark.fence of the test, test_x.py:7, @pytest.mark.fence of the module, test_x.py, "
        "pyproject.toml [tool.fence]",
    ]
    status, out = asked(OWN, "connect", "all.test")
    assert (status, out.splitlines()[0]) == (
        1, 'refused: denied: network.denied_domains "all.test" (@pytest.mark.fence of the test, test_x.py:7)'
    )  # fmt: skip
    status, out = asked("test_x.py::test_other", "connect", "own.test:5432")
    assert status == 1
    assert '  to allow it, on the test: @pytest.mark.fence(allowed_domains=["own.test:5432"])\n' in out
    assert "  or for all of them, in the policy:\n    [tool.fence]\n" in out
    status, out = asked("test_x.py::test_other", "connect", "module.test")
    assert status == 0
    status, out = asked("test_x.py::test_other", "connect", "all.test")
    assert (status, out.splitlines()[0]) == (0, 'allowed: network.allowedDomains "all.test" (pyproject.toml:4)')
    ended = fence("explain", "--json", "--test", OWN, "resolve", "own.test")
    assert json.loads(ended.out)["test"] == OWN
    # None of this is what a command may do.
    assert fence("explain", "connect", "own.test:5432").status == 1


def test_what_is_wrong(runs: Runs) -> None:
    fence = Command(runs)
    Path(runs.directory, "test_x.py").write_text("def test_x(): pass")
    Path(runs.directory, "test_broken.py").write_text("import nosuchmodule")
    for words, told in (
        (("--test", "test_x.py::test_y", "connect", "a.test"), "pytest has not collected test_x.py::test_y: "),
        (
            ("--test", "nosuch.py", "connect", "a.test"),
            "pytest has not collected nosuch.py: file or",
        ),
        (("--test", "test_broken.py", "connect", "a.test"), "pytest has not collected test_broken.py: E   Module"),
        (("--test", "test_x.py", "-t", "code", "connect", "a.test"), "--template is for commands; --test takes"),
        (("--test", "test_x.py"), "explain what? "),
    ):
        ended = fence("explain", *words)
        assert (ended.status, ended.out) == (2, ""), ended
        assert ended.err.startswith(f"fence: {told}"), ended
        assert ended.err.count("\n") == 1, ended
