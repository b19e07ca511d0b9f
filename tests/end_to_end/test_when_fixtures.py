"""Way out: fixtures of every scope. The test for which one is set up, or torn down, is the one that is told."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

CONNECT = """
import socket
import pytest
from here import AWAY, HELLO, PORT

def call_home(port):
    with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:  # the control
        assert s.recv(99) == HELLO
    with socket.socket() as s:
        return s.connect_ex((AWAY, port))
"""


@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
def test_set_up_of_a_fixture(fenced: Fenced, scope: str) -> None:
    """The first test that asks for it, in its setup."""
    run = fenced.run(
        CONNECT
        + f"""
@pytest.fixture(scope="{scope}")
def db():
    call_home(443)  # in the fixture

def test_without():
    pass

def test_with(db):
    pass
"""
        + (
            """
def test_with_again(db):
    pass
"""
            if scope not in ("function", "class")
            else ""
        )
    )
    found = run.refused("test_with", "connect 198.51.100.7:443/tcp", phase="setup")
    assert [name for _, _, name in found.stack[-2:]] == ["db", "call_home"]
    assert f"setup (fixture db, scope {scope})" in run.out
    # A test whose setup failed is not run; what else the fixture serves is.
    assert not [r for r in run.reports if r["nodeid"].endswith("::test_with") and r["phase"] == "call"]
    run.clean("test_without", *(["test_with_again"] if scope not in ("function", "class") else []))


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_tear_down_of_a_fixture(fenced: Fenced, scope: str) -> None:
    """The last test before it is torn down, in its teardown."""
    run = fenced.run(
        CONNECT
        + f"""
@pytest.fixture(scope="{scope}")
def db():
    yield
    call_home(443)  # in the fixture

def test_first():
    pass

def test_last(db):
    pass
"""
    )
    run.refused("test_last", "connect 198.51.100.7:443/tcp", phase="teardown")
    assert run.report("test_last", "call")["outcome"] == "passed"
    assert f"teardown (fixture db, scope {scope})" in run.out
    run.clean("test_first")


def test_xunit_functions(fenced: Fenced) -> None:
    phases = {
        "setup_module": "setup",
        "setup_function": "setup",
        "teardown_function": "teardown",
        "teardown_module": "teardown",
    }
    fenced.write("connect.py", CONNECT)
    files = {
        f"test_{name}.py": f"""
        from connect import call_home

        def {name}():
            call_home(443)

        def test_it_has_{name}():
            pass
        """
        for name in phases
    }
    run = fenced.run(None, files=files)
    for name, phase in phases.items():
        run.refused(f"test_it_has_{name}", "connect 198.51.100.7:443/tcp", phase=phase)


def test_finalizers_and_unittest(fenced: Fenced) -> None:
    run = fenced.run(
        CONNECT
        + """
import unittest

def test_finalizer(request):
    request.addfinalizer(lambda: call_home(443))

class TestCase(unittest.TestCase):
    def setUp(self):
        if self._testMethodName == "test_set_up":
            call_home(443)

    def tearDown(self):
        if self._testMethodName == "test_tear_down":
            call_home(443)

    def test_clean_up(self):
        self.addCleanup(call_home, 443)

    def test_set_up(self):
        pass

    def test_tear_down(self):
        pass

class TestClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        call_home(443)

    def test_first(self):
        pass

    def test_second(self):
        pass

class TestClassEnd(unittest.TestCase):
    @classmethod
    def tearDownClass(cls):
        call_home(443)

    def test_begin(self):
        pass

    def test_end(self):
        pass
"""
    )
    what = "connect 198.51.100.7:443/tcp"
    run.refused("test_finalizer", what, phase="teardown")
    # To pytest all of a TestCase's own set-up and clean-up is part of the call.
    for name in ("test_set_up", "test_tear_down", "test_clean_up"):
        run.refused(name, what, phase="call")
    run.refused("test_first", what, phase="setup")
    run.refused("test_end", what, phase="teardown")
    run.clean("test_second", "test_begin")


def test_two_phases_of_one_test(fenced: Fenced) -> None:
    """Each phase has a report of its own, and each tells what was done in it and nothing else."""
    run = fenced.run(
        CONNECT
        + """
@pytest.fixture
def db():
    yield
    call_home(443)

def test_it(db):
    call_home(443)
"""
    )
    assert [v.phase for v in run.attempts("test_it")] == ["call", "teardown"]
    for phase in ("call", "teardown"):
        report = run.blamed("test_it", phase)
        assert [v["phase"] for v in report["fence"]] == [phase]
    assert "2 violations in 1 test" in run.out
