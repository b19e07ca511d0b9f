"""Where a container's seccomp profile refuses what the broker looks into processes with.

`support.without` has the kernel refuse it, to the whole run.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.end_to_end.support import Runs, without

TESTS = """
    import os, subprocess
    import pytest

    def test_own_call():
        with pytest.raises(PermissionError):
            os.mkdir("forbidden")

    def test_program():
        assert subprocess.run(["mkdir", "forbidden"], stderr=subprocess.DEVNULL).returncode

    def test_allowed(tmp_path):
        subprocess.run(["sh", "-c", f"mkdir {tmp_path}/a && mv {tmp_path}/a {tmp_path}/b"], check=True)
        assert os.listdir(tmp_path) == ["b"]
"""


@pytest.fixture
def some(runs: Runs) -> Runs:
    (runs.directory / "test_it.py").write_text(textwrap.dedent(TESTS), encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\ndeny_write = ["forbidden"]\n')
    return runs


def test_without_process_vm_readv(some: Runs) -> None:
    """Memory is read from files in /proc, and the header says so."""
    ended = some.command(*without(some, "process_vm_readv", "-rA", "-p", "no:cacheprovider"))
    assert ended.status == 1, ended
    ended.has("^fence: enforce; .*, without process_vm_readv;")
    assert ended.outcomes() == [
        "FAILED test_it.py::test_own_call",
        "FAILED test_it.py::test_program",
        "PASSED test_it.py::test_allowed",
    ], ended
    ended.has("call: mkdir .*forbidden, test_it.py:7", "call: mkdir .*forbidden$", r"by mkdir \(pytest -> mkdir\)")


def test_required(some: Runs) -> None:
    """Who wants no other way says so."""
    ended = some.command(*without(some, "process_vm_readv", "--fence-require=process_vm_readv"))
    assert ended.status == 4, ended
    assert "process_vm_readv: Operation not permitted" in ended.err
