"""What a fixture of more than one test does: the remedy fits the fixture, not the test that needed it first."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

CONFTEST = """
import socket, subprocess, sys
import pytest

def away():
    with socket.socket() as s:
        s.connect_ex(("198.51.100.7", 443))

@pytest.fixture(scope="session")
def ping_home():
    away()

@pytest.fixture(scope="class", name="helper")
def started():
    subprocess.run([sys.executable, "-c", "import conftest; conftest.away()"], check=True)

@pytest.fixture
def own():
    away()
"""
TESTS = """
from conftest import away

def setup_module(): away()
def test_module(): pass
def test_session(ping_home): pass
def test_own(own): pass
class TestIt:
    def test_class(self, helper): pass
    def test_itself(self): away()
"""
MARKER = '@pytest.mark.fence(allowed_domains=["198.51.100.7:443"])'
CONFIG = 'allowed_domains = ["198.51.100.7:443"]'
NOTE = "(the test was not run; --fence-mode=warn shows in one run what would come next)"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_configuration_and_the_fixture(fenced: Fenced, workers: int) -> None:
    run = fenced.run(
        TESTS,
        *([f"-n{workers}", "--dist=loadfile"] if workers else []),
        files={"conftest.py": CONFTEST},
        plugins=["xdist.plugin"] if workers else [],
    )

    def told(test: str, phase: str = "setup") -> str:
        return str(run.blamed(test, phase)["text"])

    for test, fixture in {
        "test_module": "fixture setup_module, test_it.py:4",
        "test_session": "fixture ping_home, conftest.py:9",
        "TestIt::test_class": "fixture helper, conftest.py:13",
    }.items():
        text = told(test)
        assert fixture in text, text
        assert MARKER not in text
        assert text.index("to allow it:") < text.index(CONFIG)
        assert NOTE in text
    text = told("test_own")
    assert MARKER in text
    assert " for: " not in text
    assert NOTE in text
    text = told("test_itself", "call")
    assert MARKER in text
    assert NOTE not in text
