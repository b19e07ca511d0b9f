"""Way out: code that runs when a test module is imported."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced

AT_IMPORT = """
import socket
from here import AWAY, HELLO, PORT

with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:  # the control
    assert s.recv(99) == HELLO

def call_home():
    with socket.socket() as s:
        return s.connect_ex((AWAY, 443))

call_home()
"""


def test_import_of_a_test_module(fenced: Fenced) -> None:
    run = fenced.run(
        AT_IMPORT
        + """
def test_fine():
    pass
""",
        files={"test_other.py": "def test_elsewhere(): pass"},
    )
    run.outside(
        "connect 198.51.100.7:443/tcp",
        phase="collect",
        nodeid="test_it.py",
        line="return s.connect_ex((AWAY, 443))",
    )
    # The tests themselves did nothing; the run fails all the same.
    run.clean("test_fine", "test_elsewhere")
    assert "collecting test_it.py" in run.out


def test_import_that_fails_for_want_of_the_network(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        from here import AWAY

        socket.create_connection((AWAY, 443), timeout=5)
        """,
        files={"test_other.py": "def test_elsewhere(): pass"},
    )
    (attempt,) = run.ledger
    assert (attempt.nodeid, attempt.phase) == ("test_it.py", "collect")
    assert run.status == 2  # as without the fence: collection errors interrupt the run
    assert "PermissionError" in run.out
    assert "connect 198.51.100.7:443/tcp" in run.out


def test_import_by_a_test_is_that_tests(fenced: Fenced) -> None:
    run = fenced.run(
        """
        def test_imports():
            import lazy

        def test_imports_again():
            import lazy
        """,
        files={"lazy.py": AT_IMPORT},
    )
    run.refused("test_imports", "connect 198.51.100.7:443/tcp", line="return s.connect_ex((AWAY, 443))")
    run.clean("test_imports_again")


def test_parametrization_while_collecting(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import socket
        from here import AWAY

        def pytest_generate_tests(metafunc):
            with socket.socket() as s:
                s.connect_ex((AWAY, 443))  # generating

        def test_fine():
            pass
        """
    )
    run.outside(
        "connect 198.51.100.7:443/tcp",
        phase="collect",
        nodeid="test_it.py",
        line="s.connect_ex((AWAY, 443))  # generating",
    )
    run.clean("test_fine")
