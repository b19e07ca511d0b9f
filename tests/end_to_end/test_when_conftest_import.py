"""Way out: code that runs when conftest files are imported, the root one's before anything else."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

CALLS_HOME = """
import socket
from here import AWAY, HELLO, PORT

with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:  # the control
    assert s.recv(99) == HELLO
with socket.socket() as s:
    s.connect_ex((AWAY, 443))  # while it is imported
"""
LINE = "s.connect_ex((AWAY, 443))  # while it is imported"
WHAT = "connect 198.51.100.7:443/tcp"


def test_root_conftest(fenced: Fenced) -> None:
    run = fenced.run("def test_fine(): pass", files={"conftest.py": CALLS_HOME})
    run.outside(WHAT, phase="startup", line=LINE)
    run.clean("test_fine")
    assert "starting (plugins and conftest files)" in run.out


def test_conftest_of_a_directory_given_as_argument(fenced: Fenced) -> None:
    """Imported before the session as well; in pytest's eyes it is as early as the root's."""
    run = fenced.run(None, "sub", files={"sub/conftest.py": CALLS_HOME, "sub/test_sub.py": "def test_fine(): pass"})
    run.outside(WHAT, phase="startup", line=LINE)
    run.clean("test_fine")


def test_conftest_met_while_collecting(fenced: Fenced) -> None:
    run = fenced.run(None, files={"deep/sub/conftest.py": CALLS_HOME, "deep/sub/test_sub.py": "def test_fine(): pass"})
    (attempt,) = run.ledger
    assert (attempt.what, attempt.phase, run.line_of(attempt)) == (WHAT, "collect", LINE)
    assert run.status == 1
    run.clean("test_fine")


def test_hook_of_the_root_conftest(fenced: Fenced) -> None:
    run = fenced.run(
        "def test_fine(): pass",
        files={
            "conftest.py": """
            import socket
            from here import AWAY

            def pytest_configure():
                with socket.socket() as s:
                    s.connect_ex((AWAY, 443))  # configuring

            def pytest_sessionstart():
                with socket.socket() as s:
                    s.connect_ex((AWAY, 444))  # starting
            """
        },
    )
    assert [(v.what, v.nodeid) for v in run.ledger] == [
        ("connect 198.51.100.7:443/tcp", ""),
        ("connect 198.51.100.7:444/tcp", ""),
    ]
    assert [run.line_of(v).rpartition("# ")[2] for v in run.ledger] == ["configuring", "starting"]
    assert run.status == 1
    run.clean("test_fine")


@pytest.mark.parametrize("flag", ["--collect-only", "--fixtures", "--markers", "--help"])
def test_runs_that_run_no_test_import_conftests_too(fenced: Fenced, flag: str) -> None:
    run = fenced.run("def test_fine(): pass", flag, files={"conftest.py": CALLS_HOME})
    assert run.status == 1
    assert WHAT in run.out + run.err
