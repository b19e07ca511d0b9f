"""Plugins that make reports of tests: in each of them the guilty test is *failed*, with the violation.

All of them are the real ones. Some that write files are run at once, as CI does; those that print are run one by one.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.support import Runs

WHAT = "connect 198.51.100.7:443/tcp"
RULE = "no rule in network.allowed_domains allows it"
REMEDY = '@pytest.mark.fence(allowed_domains=["198.51.100.7:443"])'
TESTS = """
import socket, unittest
import pytest

def reach():
    with socket.socket() as connection:
        connection.connect_ex(("198.51.100.7", 443))

@pytest.fixture
def before():
    reach()

@pytest.fixture
def after():
    yield
    reach()

def test_ok():
    pass

def test_swallows():
    reach()

def test_fails_too():
    reach()
    raise KeyError("its own")

def test_setup(before):
    pass

def test_teardown(after):
    pass

@pytest.mark.xfail(reason="bug 3")
def test_xfails():
    reach()
    assert 0

@pytest.mark.xfail(reason="bug 4")
def test_xpasses():
    reach()

@pytest.mark.xfail(strict=True)
def test_xpasses_strictly():
    reach()

def test_skips():
    reach()
    pytest.skip("later")

class Test(unittest.TestCase):
    def test_unit(self):
        reach()

    @unittest.expectedFailure
    def test_unit_expected(self):
        reach()
        self.fail()

    def test_unit_fails_too(self):
        reach()
        self.fail("its own")

@pytest.mark.xfail(reason="bug 5")
def test_innocent_xfail():
    assert 0

def test_innocent_skip():
    pytest.skip("later")

def test_innocent_failure():
    raise KeyError("its own")
"""
OWN = ("test_fails_too", "test_unit_fails_too")
"""Tests that would have failed anyway."""
GUILTY = (
    "test_swallows",
    "test_setup",
    "test_teardown",
    "test_xfails",
    "test_xpasses",
    "test_xpasses_strictly",
    "test_skips",
    "test_unit",
    "test_unit_expected",
    *OWN,
)
INNOCENT = {
    "test_ok": "passed",
    "test_innocent_xfail": "xfailed",
    "test_innocent_skip": "skipped",
    "test_innocent_failure": "failed",
}

CONFTEST = """
import pathlib
import pytest

def note(kind, item, text):
    with open(pathlib.Path(str(item.config.rootpath), f"noted-{kind}"), "a") as file:
        file.write(f"{item.name} {text}\\n")

class Recipes:
    # pytest's documentation, "incremental testing": it looks at the call, before there is a report
    def pytest_runtest_makereport(self, item, call):
        if call.excinfo is not None:
            note("call", item, call.excinfo.typename)

class Wrapper:
    # as plugins take screenshots
    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        before = call.excinfo is not None
        report = (yield).get_result()
        if report.failed:
            told = "198.51.100.7" in report.longreprtext
            note("wrapper", item, f"{before} {told} {hasattr(report, 'wasxfail')}")

class First:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            note("first", item, "198.51.100.7" in report.longreprtext)
        return report

def pytest_configure(config):
    for plugin in (Recipes(), Wrapper(), First()):
        config.pluginmanager.register(plugin)
"""


def write(runs: Runs, **files: str) -> None:
    for name, text in {"test_it": TESTS, **files}.items():
        (runs.directory / f"{name}.py").write_text(text, encoding="utf-8")


def of_tests(found: Mapping[str, str]) -> Mapping[str, str]:
    """The same by the mere name of the test."""
    return {re.split(r"::|\.|#", name)[-1]: what for name, what in found.items()}


WAYS = [[], ["-n", "2"], ["--fence-scope=test"]]


@pytest.mark.needs("module:allure_pytest", "module:pytest_jsonreport", "module:pytest_reportlog", "module:pytest_html")
@pytest.mark.parametrize("way", WAYS, ids=["", "xdist", "scope"])
def test_files(runs: Runs, way: list[str]) -> None:
    """Allure, JUnit, json-report, reportlog and html, in one run."""
    runs.load("xdist", "allure_pytest", "pytest_metadata.plugin", "pytest_jsonreport.plugin", "pytest_reportlog.plugin",
              "pytest_html.plugin", "pytest_html.fixtures")  # fmt: skip
    write(runs)
    files = ["--alluredir=allure", "--junitxml=junit.xml", "--json-report", "--json-report-file=report.json",
             "--report-log=log.jsonl", "--html=page.html", "--self-contained-html"]  # fmt: skip
    ended = runs.pytest(*files, "-p", "no:cacheprovider", *way)
    assert ended.status == 1, ended
    directory = runs.directory
    if "--fence-scope=test" not in way:  # Allure gathers in pytest's process what this way happens in the test's own
        check_allure(directory)
    for check in (check_junit, check_json_report, check_reportlog, check_html):
        check(directory)


def check_allure(directory: Path) -> None:
    results = [json.loads(path.read_text()) for path in (directory / "allure").glob("*-result.json")]
    found = {result["name"]: result for result in results}
    assert len(results) == len(found) == len(GUILTY) + len(INNOCENT)
    for name in GUILTY:
        status, details = found[name]["status"], found[name]["statusDetails"]
        assert status == ("broken" if name == "test_fails_too" else "failed"), found[name]
        assert RULE in details["trace"], details
        assert REMEDY in details["trace"], details
        assert ("its own" in details["message"]) == (name in OWN), details
        assert name in OWN or "FenceViolation: fence: connect" in details["message"]
    assert found["test_ok"]["status"] == "passed"
    assert found["test_innocent_xfail"]["status"] == found["test_innocent_skip"]["status"] == "skipped"
    assert "fence" not in json.dumps(found["test_innocent_failure"])


def check_junit(directory: Path) -> None:
    cases: dict[str, list[ElementTree.Element]] = {}
    for case in ElementTree.parse(directory / "junit.xml").iter("testcase"):
        cases.setdefault(case.attrib["name"], []).extend(case)
    for name in GUILTY:
        (failure,) = [each for each in cases[name] if each.tag in ("failure", "error")]
        assert failure.attrib["message"].startswith(("fence: " + WHAT, "failed on ")), failure.attrib
        assert WHAT in failure.attrib["message"]
        assert RULE in str(failure.text)
        assert ("its own" in str(failure.text)) == (name in OWN)
    assert not cases["test_ok"]
    assert {each.tag for each in cases["test_innocent_xfail"]} == {"skipped"}
    assert all("fence" not in str(each.text) for each in cases["test_innocent_failure"])


def check_json_report(directory: Path) -> None:
    tests = json.loads((directory / "report.json").read_text())["tests"]
    found = of_tests({test["nodeid"]: test["outcome"] for test in tests})
    expected = {**dict.fromkeys(GUILTY, "failed"), **INNOCENT, "test_setup": "error", "test_teardown": "error"}
    assert found == expected
    for test in tests:
        name = test["nodeid"].rpartition("::")[2]
        texts = [test[phase].get("longrepr", "") for phase in ("setup", "call", "teardown") if phase in test]
        assert any(RULE in text for text in texts) == (name in GUILTY), test
        crash = [
            test[phase]["crash"]["message"] for phase in ("setup", "call", "teardown") if "crash" in test.get(phase, ())
        ]
        assert name not in GUILTY or [text for text in crash if text.startswith(f"fence: {WHAT}")], test


def check_reportlog(directory: Path) -> None:
    reports: dict[str, list[dict[str, Any]]] = {}
    for line in (directory / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["$report_type"] == "TestReport":
            reports.setdefault(entry["nodeid"].rpartition("::")[2], []).append(entry)
    for name, entries in reports.items():
        guilty = [entry for entry in entries if entry.get("fence")]
        assert [entry["outcome"] for entry in guilty] == (["failed"] if name in GUILTY else []), entries
        for entry in guilty:
            assert RULE in json.dumps(entry["longrepr"])
            (violation,) = entry["fence"]
            assert {frame["path"] for frame in violation["stack"]} == {str(directory / "test_it.py")}


def check_html(directory: Path) -> None:
    page = (directory / "page.html").read_text()
    (blob,) = re.findall(r'data-jsonblob="([^"]*)"', page)
    import html

    tests = json.loads(html.unescape(blob))["tests"]
    found = {}
    for nodeid, rows in tests.items():
        for row in rows:
            name = nodeid.partition(" ")[0].rpartition("::")[2].partition(":")[0]
            found.setdefault(name, []).append((row["result"].lower(), html.unescape(row["log"])))
    for name in GUILTY:
        assert any(result in ("failed", "error") and RULE in log for result, log in found[name]), (name, found[name])
    for name, outcome in INNOCENT.items():
        assert [result for result, _ in found[name]] == [outcome], (name, found[name])


@pytest.mark.parametrize("way", WAYS, ids=["", "xdist", "scope"])
def test_any_wrapper(runs: Runs, way: list[str]) -> None:
    """Whatever looks at the call or at the report, before or after others, sees a failure with the violation."""
    runs.load("xdist")
    write(runs, conftest=CONFTEST)
    ended = runs.pytest("-rA", "-p", "no:cacheprovider", *way)
    assert ended.status == 1, ended
    noted = {
        kind: dict(line.split(" ", 1) for line in (runs.directory / f"noted-{kind}").read_text().splitlines())
        for kind in ("call", "wrapper", "first")
    }
    for name in GUILTY:
        own = {"test_fails_too": "KeyError", "test_unit_fails_too": "AssertionError"}
        assert noted["call"][name] == own.get(name, "FenceViolation"), (name, noted)
        assert noted["wrapper"][name].split()[1:] == ["True", "False"], (name, noted)
        assert noted["first"][name] == "True", (name, noted)
    assert noted["wrapper"]["test_innocent_failure"].split()[1] == "False"
    assert "test_ok" not in noted["call"]
    assert noted["call"]["test_innocent_xfail"] == "AssertionError"
    for name, outcome in INNOCENT.items():
        word = {"xfailed": "XFAIL"}.get(outcome, outcome.upper())
        ended.has(rf"^{word} \S*(::{name}| .*test_it.py)")
