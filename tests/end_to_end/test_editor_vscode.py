"""VS Code's test explorer: its runner script and plugin, as of its Python extension in 2026, imitated call for call.

The extension makes a FIFO and a file of test ids below `$XDG_RUNTIME_DIR` and names them in the environment. Its plugin
opens the FIFO with `open(..., "wb")` when the first result is there, and writes one message for each test; its script
reads the ids, calls `pytest.main`, goes on, and removes the file. Both lie where no rule of the project allows writes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.caught import AWAY, ONLY_HERE
from tests.end_to_end.support import SECONDS, Ended, Runs

PLUGIN = """
import atexit, json, os
import pytest

PIPE = None
SENT = set()
writer = None
atexit.register(lambda: writer.close() if writer else None)

def pytest_load_initial_conftests():
    global PIPE
    PIPE = os.getenv("TEST_RUN_PIPE")

def send(payload):
    global writer
    if writer is None:
        writer = open(PIPE, "wb")
    text = json.dumps({"jsonrpc": "2.0", "params": payload})
    data = f"content-length: {len(text)}\\r\\ncontent-type: application/json\\r\\n\\r\\n{text}".encode()
    while data:
        written = writer.write(data[:4096])
        writer.flush()
        data = data[written:]

@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_report_teststatus(report, config):
    if (report.when == "call" or report.skipped) and report.nodeid not in SENT:
        SENT.add(report.nodeid)
        outcome = {"passed": "success", "failed": "failure"}.get(report.outcome, report.outcome)
        message = report.longreprtext if report.failed else None
        send({"result": {report.nodeid: {"outcome": outcome, "message": message}}})
    yield

def pytest_sessionfinish(session, exitstatus):
    if session.config.option.collectonly:
        send({"status": "success", "tests": [item.nodeid for item in session.items]})
"""
SCRIPT = """
import os, pathlib, sys
import pytest

sys.path.insert(0, os.getcwd())
ids = pathlib.Path(os.environ["RUN_TEST_IDS_PIPE"])
try:
    words = ["-p", "vscode_like", *sys.argv[1:], *ids.read_text(encoding="utf-8").splitlines()]
    pytest.main(words)
finally:
    try:
        ids.unlink()
    except Exception as error:
        print(f"unable to delete temp file: {error}")
"""
TESTS = f"""
import socket
import pytest

def test_passes(): pass

def test_fails(): assert 1 == 2

def test_reaches_out():
    try:
        socket.create_connection(("{AWAY}", 443), 1)
    except OSError:
        pass

@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_both(n): pass
"""
NAMES = ["test_passes", "test_fails", "test_reaches_out", "test_skipped", "test_both[1]", "test_both[2]"]
IDS = [f"tests/test_it.py::{name}" for name in NAMES]


class Editor:
    """What the extension has on its side: a FIFO that it reads to the end, and the file of ids."""

    def __init__(self, runs: Runs, place: Path) -> None:
        self.place = place
        self.pipe, self.ids = place / "python-test-1", place / "test-ids-1.txt"
        os.mkfifo(self.pipe)
        self.ids.write_text("\n".join(IDS))
        self.runs = runs
        self._data = b""
        directory = runs.directory / "tests"
        directory.mkdir()
        (directory / "test_it.py").write_text(TESTS)
        (runs.directory / "vscode_like.py").write_text(PLUGIN)
        (runs.directory / "run_like_vscode.py").write_text(SCRIPT)
        (runs.directory / "pyproject.toml").write_text(ONLY_HERE)

    def run(self, *words: str, told: bool = True) -> Ended:
        """`told`: the environment names the two files before pytest starts, not only when the plugin looks."""
        here = str(self.runs.directory)
        env = {"XDG_RUNTIME_DIR": str(self.place), "PYTHONPATH": here, "TMPDIR": here}
        names = {"TEST_RUN_PIPE": str(self.pipe), "RUN_TEST_IDS_PIPE": str(self.ids)}
        reader = threading.Thread(target=self._read)
        reader.start()
        try:
            return self.runs.command(sys.executable, *words, env={**env, **names} if told else env)
        finally:
            os.close(os.open(self.pipe, os.O_RDWR))  # whoever waits for a writer goes on
            reader.join(SECONDS)

    def _read(self) -> None:
        with open(self.pipe, "rb") as pipe:
            self._data = pipe.read()

    def messages(self) -> list[dict[str, Any]]:
        """What has arrived, which must be whole."""
        found, rest = [], self._data
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            (length,) = re.findall(rb"^content-length: (\d+)\r\n", head)
            found.append(json.loads(rest[: int(length)])["params"])
            rest = rest[int(length) :]
        return found

    def results(self) -> dict[str, Any]:
        return {test: result for each in self.messages() for test, result in each["result"].items()}


@pytest.fixture
def editor(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(runs, tmp_path_factory.mktemp("runtime"))


def run(editor: Editor, *args: str) -> Ended:
    return editor.run("run_like_vscode.py", "-p", "pytest_fence.plugin", *args)


@pytest.mark.parametrize("fenced", [False, True], ids=["plain", "fenced"])
def test_discovery_is_complete(editor: Editor, fenced: bool) -> None:
    flags = ["--fence"] if fenced else []
    words = ["-m", "pytest", "-p", "pytest_fence.plugin", "-p", "vscode_like", "--collect-only", "-q", *flags]
    ended = editor.run(*words)
    assert ended.status == 0, ended
    assert [each["tests"] for each in editor.messages()] == [IDS]


def test_results_are_complete(editor: Editor) -> None:
    """Each test with its outcome; what the fence refused fails its test, and says so in the editor."""
    ended = run(editor, "--fence")
    outcomes = {test: result["outcome"] for test, result in editor.results().items()}
    passes, fails, reaches, skipped, *both = IDS
    expected = {passes: "success", fails: "failure", reaches: "failure", skipped: "skipped"}
    assert outcomes == {**expected, **dict.fromkeys(both, "success")}, ended
    assert f"connect {AWAY}:443/tcp" in editor.results()[reaches]["message"]
    assert not editor.ids.exists()
    ended.has(f"^fence: TEST_RUN_PIPE names {editor.pipe}, .*written", f"^fence: RUN_TEST_IDS_PIPE names {editor.ids}")
    assert "unable to delete" not in ended.out
    assert "Traceback" not in ended.err
    assert "not shown above" not in ended.err


def test_results_without_a_fence_are_the_same(editor: Editor) -> None:
    """The control: but for the test that reached out."""
    ended = run(editor)
    outcomes = [result["outcome"] for result in editor.results().values()]
    assert outcomes == ["success", "failure", "success", "skipped", "success", "success"], ended
    assert not editor.ids.exists()


def test_nothing_else_there_is_opened(editor: Editor) -> None:
    """Beside them in the same directory, and where only a test says that these are their names."""
    directory = Path(editor.place)
    (directory.parent / "other").mkdir()
    (editor.runs.directory / "tests" / "test_it.py").write_text(
        f"""
import os, pytest

@pytest.mark.parametrize("path", ["{directory}/beside", "{directory.parent}/other/late"])
def test_writes(path):
    os.environ["TEST_RUN_PIPE"] = os.environ["RUN_TEST_IDS_PIPE"] = "{directory.parent}/other/late"
    open(path, "w")
"""
    )
    ended = editor.run("-m", "pytest", "-p", "pytest_fence.plugin", "--fence", "-q")
    ended.has("^2 failed")
    assert ended.out.count("in filesystem.allow_write allows it") >= 2, ended
    assert not list(directory.glob("beside")) + list((directory.parent / "other").iterdir())


def test_what_is_not_a_file_of_the_editor_opens_nothing(editor: Editor) -> None:
    """Neither a directory, nor what patterns would make of a name."""
    (editor.runs.directory / "tests" / "test_it.py").write_text(f"def test_writes(): open('{editor.place}/new', 'w')\n")
    for named in (str(editor.place), f"{editor.place}/*", f"{editor.place}/ne[w]"):
        env = {"TEST_RUN_PIPE": named, "RUN_TEST_IDS_PIPE": named, "TMPDIR": str(editor.runs.directory)}
        ended = editor.runs.pytest("-q", env=env)
        assert ended.status == 1, ended
        ended.has("in filesystem.allow_write allows it")
    assert not (editor.place / "new").exists()
