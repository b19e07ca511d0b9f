"""Files that whole runs leave: by the supervisor, the same with workers and without, whatever a test does."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from fence_core.report.files import schema
from tests.end_to_end.support import Ended, Runs

TESTS = """
import socket, subprocess, sys
import pytest

def reach(port=443):
    with socket.socket() as connection:
        connection.connect_ex(("198.51.100.7", port))

@pytest.fixture
def after():
    yield
    reach(5432)

def test_ok(): pass
def test_swallowed(): reach()
def test_child():
    code = "import socket; socket.socket().connect_ex(('198.51.100.8', 80))"
    subprocess.run([sys.executable, "-S", "-c", code, "--token", "geheim", "http://u:pw@x.test", "s3cr3t-value"])
def test_fails_too():
    reach()
    assert 0
def test_teardown(after): pass
@pytest.mark.xfail
def test_xf():
    reach(1)
    assert 0
"""
SECRET = {"SHOP_TOKEN": "s3cr3t-value"}
OF_ONE_RUN = ("first_s", "last_s", "pid", "worker")


def written(runs: Runs, tests: str = TESTS) -> Runs:
    (runs.directory / "test_it.py").write_text(tests)
    return runs


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    assert not schema.misfit(found)
    return found


def alike(part: Any) -> Any:
    """Without what differs between two runs."""
    if isinstance(part, dict):
        return {name: alike(each) for name, each in part.items() if name not in (*OF_ONE_RUN, "run")}
    return [alike(each) for each in part] if isinstance(part, list) else part


def fence(runs: Runs, *words: str) -> Ended:
    return runs.command(sys.executable, "-m", "fence_core", *words)


def test_with_workers_and_without(runs: Runs) -> None:
    """And in shards, which are put together."""
    written(runs).load("xdist.plugin")
    kinds = ("sarif", "gitlab", "html", "markdown", "concise:concise.txt")
    others = [f"--fence-report={kind}" for kind in kinds]
    plain = runs.pytest("--fence-report=json:a.json", *others, "-p", "no:xdist", env=SECRET)
    assert plain.status == 1
    workers = runs.pytest("--fence-report=json:b.json", "-n2", env=SECRET)
    assert workers.status == 1
    one, two = (read(runs.directory / name) for name in ("a.json", "b.json"))
    assert alike(one) == alike(two)
    assert (one["run"]["tests"], one["run"]["workers"], two["run"]["workers"]) == (6, 0, 2)
    assert (one["run"]["complete"], one["run"]["exit_status"]) == (True, 1)
    assert one["summary"]["violations"] == one["summary"]["tests"] == 5
    outcomes = {each["test"]["function"]: each["test"]["outcome"] for each in one["violations"]}
    assert outcomes == dict.fromkeys(("test_swallowed", "test_child", "test_fails_too", "test_xf"), "failed") | {
        "test_teardown": "error"
    }
    for path in runs.directory.iterdir():
        if path.is_file() and path.name != "test_it.py":
            text = path.read_text()
            assert "s3cr3t" not in text, path
            assert "geheim" not in text, path
            assert "u:pw" not in text, path
    assert len(json.loads((runs.directory / "gl-code-quality-report.json").read_text())) == 4
    assert len((runs.directory / "concise.txt").read_text().splitlines()) == 5

    ids = ("test_ok", "test_swallowed", "test_xf"), ("test_child", "test_fails_too", "test_teardown")
    for number, names in enumerate(ids):
        runs.pytest(f"--fence-report=json:{number}.json", *(f"test_it.py::{name}" for name in names), env=SECRET)
    merged = fence(runs, "report", "merge", "0.json", "1.json", "--expect=2", "--output", "m.json")
    assert merged.status == 0, merged
    assert alike(read(runs.directory / "m.json")) == alike(one)
    assert fence(runs, "report", "diff", "a.json", "m.json").out == "0 new, 0 gone, 5 in both\n"
    missing = fence(runs, "report", "merge", "0.json", "--expect=2", "--output=n.json")
    assert (missing.status, missing.err) == (1, "fence: incomplete: 1 of 2 parts are there\n")
    found = fence(runs, "report", "diff", "n.json", "a.json")
    assert (found.status, found.out.splitlines()[-1]) == (1, "3 new, 0 gone, 2 in both")
    made = fence(runs, "report", "convert", "a.json", "--format", "sarif")
    assert made.out == (runs.directory / "fence-report.sarif").read_text()


def test_no_test_can_write_or_prevent_it(runs: Runs) -> None:
    """What one does at its very end is in it, and no outcome is needed for that."""
    tests = """
import os, pathlib
def test_it():
    for change in (
        lambda: pathlib.Path("fence-report.json").write_text("{}"),
        lambda: os.mkdir("fence-report.json"),
        lambda: os.symlink("x", "fence-report.json"),
    ):
        try:
            change()
        except OSError:
            pass
    os._exit(0)
"""
    ended = written(runs, tests).pytest("--fence-report=json")
    assert ended.status == 1
    report = read(runs.directory / "fence-report.json")
    assert (report["run"]["complete"], report["run"]["tests"], report["run"]["exit_status"]) == (False, None, 1)
    what = {each["operation"]: each["rule"] for each in report["violations"]}
    assert set(what) == {"write", "mkdir", "symlink"}
    assert what["write"]["key"] == "filesystem.deny_write"


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_run_that_did_not_end_is_not_complete(runs: Runs, how: str) -> None:
    """Although nothing was refused; without a report it would have passed, as it does without a fence."""
    end = "os._exit(0)" if how == "exit" else "os.kill(os.getpid(), 9)"
    written(runs, f"import os\ndef test_it(): {end}\n")
    ended = runs.pytest("--fence-report=json")
    assert ended.status == (1 if how == "exit" else -9)
    report = read(runs.directory / "fence-report.json")
    assert (report["run"]["complete"], report["summary"]["violations"]) == (False, 0)
    assert report["run"]["exit_status"] == (0 if how == "exit" else 137)
    assert ("before it could say how its tests went" in ended.err) == (how == "exit")
    if how == "exit":
        assert runs.pytest().status == 0


def test_a_clean_run_leaves_files_too(runs: Runs) -> None:
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\nreport = ["json", "sarif:build/a/b.sarif"]\n')
    written(runs, "def test_it(): pass\n")
    assert runs.pytest().status == 0
    report = read(runs.directory / "fence-report.json")
    assert (report["run"]["complete"], report["summary"]["violations"]) == (True, 0)
    sarif = runs.directory / "build" / "a" / "b.sarif"
    assert json.loads(sarif.read_text())["runs"][0]["results"] == []
    sarif.unlink()
    assert runs.pytest("--fence-report=").status == 0
    assert not sarif.exists()
    # The configuration's are replaced by those of the command line.
    assert runs.pytest("--fence-report=concise").status == 0
    assert not sarif.exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("jsno", '--fence-report: report[0]: "jsno" is not a type of report (json, html, markdown, sarif'),
        ("json:test_it.py/x", "test_it.py is not a directory"),
        ("json:/dev/null", '--fence-report: report[0]: "json:/dev/null" names what is not a file'),
    ],
)
def test_what_cannot_be_is_said_before_the_first_test(runs: Runs, given: str, why: str) -> None:
    written(runs, "print('imported')\ndef test_it(): pass\n")
    ended = runs.pytest(f"--fence-report={given}")
    assert (ended.status, "imported" in ended.out) == (4, False)
    assert why in ended.err, ended


def test_github_by_itself(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> None:
    summary = tmp_path_factory.mktemp("runner") / "summary.md"
    summary.write_text("theirs\n")
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    ended = written(runs).pytest(env=env)
    commands = [line for line in ended.out.splitlines() if line.startswith("::")]
    assert (ended.status, len(commands)) == (1, 4)  # two tests go to one place from one line
    assert all(line.startswith("::error file=test_it.py,line=") for line in commands)
    text = summary.read_text()
    assert text.startswith("theirs\n## fence: 5 tests reached for ")
    assert "```diff\n [tool.fence]\n+allowed_domains = [\n" in text
    summary.write_text("")
    ended = runs.pytest("--fence-report=", env=env)
    assert (ended.status, "::error" in ended.out, summary.read_text()) == (1, False, "")


def test_junit(runs: Runs) -> None:
    """The violations of each test, the numbers of the run, and what no test is to blame for."""
    conftest = "import socket\nsocket.socket().connect_ex(('198.51.100.7', 7))\n"
    (runs.directory / "conftest.py").write_text(conftest)
    written(runs).load("xdist.plugin")
    for more in ((), ("-n2",)):
        assert runs.pytest("--junitxml=j.xml", *more).status == 1
        suite = ElementTree.parse(runs.directory / "j.xml").getroot()[0]
        of_suite = {each.get("name"): each.get("value") for each in suite.findall("properties/property")}
        assert of_suite["fence.mode"] == "enforce"
        assert int(of_suite["fence.violations"] or 0) >= 5
        found = {
            each.get("name"): [(one.get("name"), one.get("value")) for one in each.findall("properties/property")]
            for each in suite.findall("testcase")
        }
        assert found["test_ok"] == []
        assert found["test_xf"] == [("fence.violation", "connect 198.51.100.7:1/tcp")]
        assert found["test_teardown"] == [("fence.violation", "connect 198.51.100.7:5432/tcp")]
        guilty = {each.get("name") for each in suite.findall("testcase") if "198.51.100" in "".join(each.itertext())}
        assert guilty == set(found) - {"test_ok"}
        assert "outside any test" in guilty


def test_a_run_that_is_started_once_more(runs: Runs) -> None:
    """Since a plugin has started a thread: the supervisor is another program then, which has to be told."""
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    (runs.directory / "threads.py").write_text(thread)
    env = {"PYTHONPATH": str(runs.directory)}
    written(runs).load("threads")
    assert runs.pytest("--fence-report=json", "-k", "fails", env=env).status == 1
    report = read(runs.directory / "fence-report.json")
    assert [each["location"]["function"] for each in report["violations"]] == ["reach"]
    assert [each["function"] for each in report["violations"][0]["stack"]] == ["test_fails_too", "reach"]
    assert (report["run"]["tests"], report["run"]["complete"]) == (1, True)


def test_a_run_inside_of_another(runs: Runs) -> None:
    """It has no supervisor of its own: that is said to a flag, and what the configuration asks for is left out."""
    test = """
import subprocess, sys
def test_it(tmp_path):
    (tmp_path / "test_in.py").write_text("def test_in(): pass")
    (tmp_path / "pyproject.toml").write_text('[tool.fence]\\nreport = ["json"]')
    words = [sys.executable, "-m", "pytest", "-p", "pytest_fence.plugin", "--fence"]
    def run(*more): return subprocess.run([*words, *more], cwd=tmp_path, capture_output=True, text=True)
    assert run().returncode == 0
    assert not (tmp_path / "fence-report.json").exists()
    refused = run("--fence-report=json")
    assert refused.returncode == 4
    assert "a run inside of another fence leaves no report files of its own" in refused.stderr
"""
    ended = written(runs, test).pytest("-p", "no:cacheprovider", "--fence-report=json:outer.json")
    assert ended.status == 0, ended
    assert read(runs.directory / "outer.json")["summary"]["violations"] == 0
