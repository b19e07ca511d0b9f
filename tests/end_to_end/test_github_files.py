"""Files by which a step of GitHub Actions talks to its runner: one to report in, others that later steps obey."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

CONFTEST = """
import os

def add(name):
    try:
        with open(os.environ[name], "a") as file:
            file.write(name)
    except OSError as error:
        return error.errno

def pytest_sessionfinish(): add("GITHUB_STEP_SUMMARY")
def pytest_terminal_summary(): add("GITHUB_STEP_SUMMARY")
"""
TEST = """
from conftest import add

def test_clean():
    add("OTHER")

def test_{lower}():
    assert add("{name}") == 13
"""


def test_summary(fenced: Fenced) -> None:
    """When the tests are over plugins may write it; no test may."""
    file, other = fenced.outside / "summary.md", fenced.outside / "other"
    env = {"GITHUB_STEP_SUMMARY": str(file), "OTHER": str(fenced.directory / "other")}
    test = TEST.format(lower="summary", name="GITHUB_STEP_SUMMARY")
    run = fenced.run(test, files={"conftest.py": CONFTEST}, policy=ONLY_HERE, env=env)
    run.refused("test_summary", f"write {file}")
    run.clean("test_clean")
    run.nothing_else("test_summary")
    assert file.read_text() == "GITHUB_STEP_SUMMARY" * 2
    # The control: another file may not be written then either.
    changed = (
        CONFTEST.replace('def pytest_terminal_summary(): add("GITHUB_STEP_SUMMARY")', "")
        + f"""
def pytest_terminal_summary():
    os.environ["GITHUB_STEP_SUMMARY"] = {str(other)!r}
    add("GITHUB_STEP_SUMMARY")
"""
    )
    run = fenced.run("def test_it(): pass", files={"conftest.py": changed}, policy=ONLY_HERE, env=env)
    run.outside(f"write {other}", phase="finish")
    assert not other.exists()


@pytest.mark.parametrize("name", ["GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE"])
def test_what_later_steps_obey(fenced: Fenced, name: str) -> None:
    """Whatever the policy allows."""
    file = fenced.outside / "commands"
    policy = f"[tool.fence]\nallow_write = ['{fenced.outside}']"
    env = {name: str(file), "GITHUB_STEP_SUMMARY": str(fenced.outside / "summary"), "OTHER": str(fenced.outside / "x")}
    run = fenced.run(TEST.format(lower="it", name=name), files={"conftest.py": CONFTEST}, policy=policy, env=env)
    attempt = run.refused("test_it", f"write {file}")
    assert f"({name} (set by GitHub Actions))" in attempt.rule
    run.clean("test_clean")
    assert fenced.untouched(summary="GITHUB_STEP_SUMMARY" * 2, x="OTHER")
