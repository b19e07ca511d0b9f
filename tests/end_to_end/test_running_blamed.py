"""What a process does that a fixture of more than one test has started: the test that runs meanwhile has to answer."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import AWAY, ONLY_HERE, Fenced

SERVER = """
import os, socket, socketserver, subprocess, sys
from here import AWAY, OUTSIDE

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        what = self.rfile.readline().decode().strip()
        try:
            if what == "connect":
                with socket.socket() as s:
                    s.connect((AWAY, 443))
            elif what:
                os.close(os.open(f"{OUTSIDE}/{what}", os.O_WRONLY | os.O_CREAT))
            error = 0
        except OSError as failed:
            error = failed.errno
        self.wfile.write(b"%d" % error)

def serve():
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()

def start():
    command = [sys.executable, "-c", "import served; served.serve()"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())

def stop(process):
    process.kill()
    process.wait()
    process.stdout.close()

def ask(server, what=""):
    with socket.create_connection(("127.0.0.1", server)) as s:
        s.sendall(f"{what}\\n".encode())
        return int(s.recv(99))
"""
CONFTEST = """
import pytest, served

@pytest.fixture(scope="session")
def server():
    process, port = served.start()
    yield port
    served.stop(process)
"""
POLICY = '[tool.pytest.ini_options]\nmarkers = ["fence"]\n' + ONLY_HERE


@pytest.mark.parametrize("workers", [0, 2])
def test_the_one_that_runs(fenced: Fenced, workers: int) -> None:
    """The one that needed the server first is not to blame, and no marker of its allows anything later."""
    run = fenced.run(
        """
        import pytest
        from here import OUTSIDE
        from served import ask

        @pytest.mark.fence(allow_write=[OUTSIDE + "/one"])
        def test_first(server): assert ask(server, "one") == 0
        def test_connects(server): assert ask(server, "connect") == 13
        def test_writes(server): assert ask(server, "one") == 13
        @pytest.mark.fence(allow_write=[OUTSIDE + "/two"])
        def test_marked(server): assert ask(server, "two") == 0
        def test_unmarked(server): assert ask(server, "two") == 13
        @pytest.mark.fence(allow_write=[OUTSIDE + "/two"], deny_write=[OUTSIDE + "/two"])
        def test_denied(server): assert ask(server, "two") == 13
        """,
        *([f"-n{workers}", "--dist=loadfile"] if workers else []),
        policy=POLICY,
        files={"conftest.py": CONFTEST, "served.py": SERVER},
        plugins=["xdist.plugin"] if workers else [],
    )
    run.clean("test_first", "test_marked")
    for test, what in {
        "test_connects": f"connect {AWAY}:443/tcp",
        "test_writes": f"write {fenced.outside}/one",
        "test_unmarked": f"write {fenced.outside}/two",
        "test_denied": f"write {fenced.outside}/two",
    }.items():
        text = str(run.blamed(test)["text"])
        (found,) = run.attempts(test)
        assert (found.what, found.phase, found.late) == (what, "call", False)
        assert found.plain["owner"] is None
        starter = found.plain["started_by"]
        assert (starter["fixture"], starter["scope"], starter["line"]) == ("server", "session", 4)
        assert "that fixture server (session) started" in text, text
        assert ("@pytest.mark.fence(" in text) == (test != "test_denied"), text
    assert fenced.untouched(one="", two="")


def test_the_starter_where_the_configuration_says_so(fenced: Fenced) -> None:
    """And the report says what ran meanwhile."""
    run = fenced.run(
        """
        import pytest
        from here import OUTSIDE
        from served import ask

        def test_first(server): ask(server)
        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_guilty(server): assert ask(server, "one") == 13
        """,
        policy=POLICY + 'blame = "starter"\n',
        files={"conftest.py": CONFTEST, "served.py": SERVER},
    )
    run.clean("test_guilty")
    (found,) = run.attempts("test_first")
    assert (found.what, found.phase, found.late) == (f"write {fenced.outside}/one", "setup", True)
    assert [doing["nodeid"] for doing in found.plain["during"]] == ["test_it.py::test_guilty"]
    run.has(
        r"setup \(fixture server, scope session\), by a process that it started: write ",
        r"that fixture server \(session\) started; while test_it.py::test_guilty ran",
    )
    assert run.status == 1


@pytest.mark.parametrize("kind", ["module", "class", "unittest"])
def test_functions_that_pytest_makes_fixtures_of(fenced: Fenced, kind: str) -> None:
    start = "served.started = served.start()"
    stop = "served.stop(served.started[0])"
    module = f"def setup_module():\n    {start}\ndef teardown_module():\n    {stop}\n" if kind == "module" else ""
    names = ("setUpClass", "tearDownClass") if kind == "unittest" else ("setup_class", "teardown_class")
    own = "".join(
        f"    @classmethod\n    def {name}(cls): {what}\n" for name, what in zip(names, (start, stop), strict=True)
    )
    run = fenced.run(
        f"""
import unittest, served
{module}
class TestIt{"(unittest.TestCase)" if kind == "unittest" else ""}:
{own if kind != "module" else ""}
    def test_first(self): served.ask(served.started[1])
    def test_guilty(self): assert served.ask(served.started[1], "connect") == 13
""",
        policy=POLICY,
        files={"served.py": SERVER},
    )
    run.clean("TestIt::test_first")
    text = run.blamed("TestIt::test_guilty")["text"]
    started = {"module": "setup_module (module)", "class": "setup_class (class)", "unittest": "setUpClass (class)"}
    assert f"that fixture {started[kind]} started" in text, text


def test_between_tests_it_is_the_starter(fenced: Fenced) -> None:
    """There is nobody else to be asked; and the marker of the next test does not count yet."""
    run = fenced.run(
        """
        import pytest
        from here import OUTSIDE
        from served import ask

        def test_first(server): ask(server)
        @pytest.mark.fence(allow_write=[OUTSIDE + "/two"])
        def test_last(server): assert ask(server, "two") == 0
        """,
        policy=POLICY,
        files={
            "conftest.py": CONFTEST.replace("    yield port", "    global known\n    known = port\n    yield port")
            + """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    result = yield
    if nextitem is not None:
        assert served.ask(known, "two") == 13
    return result
""",
            "served.py": SERVER,
        },
    )
    run.clean("test_last")
    (found,) = run.attempts("test_first")
    assert (found.what, found.phase, found.late) == (f"write {fenced.outside}/two", "setup", True)
    assert fenced.untouched(two="")


def test_a_session_inside_keeps_to_what_started_it(fenced: Fenced) -> None:
    """A nested session lives on when the test that runs now is over: nothing of that one's marker goes to it."""
    run = fenced.run(
        """
        import pytest
        from here import OUTSIDE
        from served import ask

        def test_first(server): ask(server)
        @pytest.mark.fence(allow_write=[OUTSIDE + "/two"])
        def test_marked(server): assert ask(server, "pytest") == 1
        """,
        "test_it.py",
        policy=POLICY,
        files={
            "conftest.py": CONFTEST,
            "served.py": SERVER.replace(
                "            elif what:",
                """            elif what == "pytest":
                os.environ.pop("PYTEST_CURRENT_TEST", None)
                inner = ["-p", "pytest_fence.plugin", "--fence", "-pno:cacheprovider", "-cinner/pytest.ini", "inner"]
                command = [sys.executable, "-m", "pytest", *inner]
                error = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
                self.wfile.write(b"%d" % error)
                return
            elif what:""",
            ),
            "inner/pytest.ini": "[pytest]\n",
            "inner/fence.json": '{"filesystem": {"allowWrite": ["/"]}}',
            "inner/test_inner.py": """
                import os
                from here import OUTSIDE
                def test_inner(): os.close(os.open(OUTSIDE + "/two", os.O_WRONLY | os.O_CREAT))
            """,
        },
    )
    assert fenced.untouched()
    assert [v.what for v in run.ledger] == [f"write {fenced.outside}/two"]
    assert run.status == 1
