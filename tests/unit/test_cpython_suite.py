"""What `benchmarks/cpython_suite.py` reads out of the words of `unittest -v`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "cpython_suite.py"
INNER = '''
import os, subprocess, unittest

class Case(unittest.TestCase):
    def test_ok(self):
        """Its first line is shown as well."""
    def test_noisy(self):
        subprocess.run(["sh", "-c", "echo '/x.py:1: ResourceWarning: unclosed' >&2"])
    def test_noise_without_end(self):
        os.write(2, b"no end of line")
    def test_says_skipped(self):
        os.write(2, b"skipped, they said ... ok\\n")
        self.fail()
    @unittest.skip("because")
    def test_skipped(self):
        pass
    @unittest.expectedFailure
    def test_expected(self):
        self.fail()
    @unittest.expectedFailure
    def test_unexpected(self):
        pass
    def test_error(self):
        raise RuntimeError("""
======================================================================
FAIL: test_ok (test_it.Case.test_ok)""")
    def test_parts(self):
        for part in range(3):
            with self.subTest(part=part):
                self.assertNotEqual(part, 1)

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise RuntimeError
    def test_never_run(self):
        pass

class Skipped(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise unittest.SkipTest("not here")
    def test_never_run(self):
        pass
'''


@pytest.fixture
def suite() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("cpython_suite", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cpython_suite"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cpython_suite"]


def test_outcomes(suite: ModuleType, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "test_it.py").write_text(INNER.replace("FAIL: test_ok", "FAILED test_ok"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-v", "test_it"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert suite.outcomes(done.stderr) == {
        "test_it.Case.test_ok": "ok",
        "test_it.Case.test_noisy": "ok",
        "test_it.Case.test_noise_without_end": "ok",
        "test_it.Case.test_says_skipped": "FAIL",
        "test_it.Case.test_skipped": "skipped",
        "test_it.Case.test_expected": "expected failure",
        "test_it.Case.test_unexpected": "unexpected success",
        "test_it.Case.test_error": "ERROR",
        "test_it.Case.test_parts": "FAIL",
        "test_it.Broken.setUpClass": "ERROR",
    }, done.stderr


def test_differences(suite: ModuleType) -> None:
    plain = {"a": "ok", "b": "ok", "c": "skipped"}
    assert suite.differences(plain, dict(plain)) == {}
    assert suite.differences(plain, {"a": "ok", "b": "FAIL", "d": "ok"}) == {
        "b": ("ok", "FAIL"),
        "c": ("skipped", "not run"),
        "d": ("not run", "ok"),
    }


def test_every_known_difference_has_a_reason(suite: ModuleType) -> None:
    assert suite.expected("test.test_socket.BasicUDPLITETest.testRecvFrom", ("ok", "ERROR"))
    assert suite.expected("test.test_socket.BasicUDPLITETest.testRecvFrom", ("ERROR", "ok")) is None
    assert suite.expected("test.test_socket.BasicTCPTest.testRecv", ("ok", "ERROR")) is None
    for _, change, reason in suite.EXPECTED:
        assert " > " in change
        assert reason


def test_refusals(suite: ModuleType) -> None:
    said = """
============== fence: 2 violations in 1 test ===============
test_suite.py::test_module
  call: connect 192.0.2.1:80/tcp, test_suite.py:6
    to allow it: @pytest.mark.fence(allowed_domains=["192.0.2.1:80"])
  call: mkdir /x, 3 times
    nothing can allow this
=================== short test summary info ================
"""
    assert suite.refusals(said) == ["call: connect 192.0.2.1:80/tcp, test_suite.py:6", "call: mkdir /x, 3 times"]
    assert suite.refusals("fence: enforce; seccomp, landlock 7; pyproject.toml [tool.fence]\n1 passed\n") == []
