"""Plugins that print failures, and debuggers: each violation is told in full where they tell failures, and once."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.support import Ended, Runs, Terminal
from tests.end_to_end.test_report_plugins import REMEDY, RULE, TESTS, WAYS, WHAT, write

FEW = f"""
{TESTS.partition("@pytest.mark.xfail")[0]}
"""
NOT_HERE = "elsewhere: pytest-pretty changes what every pytest prints, so it is not installed with the others"
FEW_GUILTY = ("test_swallows", "test_fails_too", "test_setup", "test_teardown")


def told_once(ended: Ended, text: str) -> None:
    """Each has its whole story, once: where pytest, or the plugin in its place, shows failures; else in the section."""
    assert ended.status == 1, ended
    assert text.count(RULE) == len(FEW_GUILTY), ended
    assert text.count(REMEDY) == len(FEW_GUILTY) + 1, ended  # what one came for is at the end, too
    for name in FEW_GUILTY:
        assert name in text, ended


@pytest.mark.parametrize(
    ("plugin", "args"),
    [
        ("", ()),
        ("", ("--tb=native",)),
        ("pytest_sugar", ("--force-sugar",)),
        ("pytest_instafail", ("--instafail",)),
        ("pytest_pretty", ()),
    ],
)
def test_terminals(runs: Runs, plugin: str, args: tuple[str, ...]) -> None:
    if plugin:
        pytest.importorskip(plugin, reason=NOT_HERE)
        runs.load(plugin)
    write(runs, test_it=FEW)
    told = runs.pytest("-p", "no:cacheprovider", *args)
    told_once(told, told.out)


@pytest.mark.parametrize("way", WAYS[:2], ids=["", "xdist"])
def test_pretty_fills_its_table(runs: Runs, way: list[str]) -> None:
    """File, function, its line, the line of the error, and the error."""
    pytest.importorskip("pytest_pretty", reason=NOT_HERE)
    runs.load("pytest_pretty", "xdist")
    write(runs, test_it=FEW)
    ended = runs.pytest("-p", "no:cacheprovider", *way, env={"COLUMNS": "200"})
    numbers = {name: number for number, name in enumerate(FEW.splitlines(), 1)}
    first = numbers["def test_swallows():"]
    ended.has(rf"│ +test_it.py +│ +test_swallows +│ +{first} +│ +{first + 1} +│ +fence: {WHAT} +│")


@pytest.mark.needs("module:pytest_rich")
def test_rich(runs: Runs) -> None:
    """It takes the place of pytest's own reporter, on a terminal only."""
    runs.load("pytest_rich.plugin")
    write(runs, test_it=FEW)
    terminal = Terminal(runs, runs.argv(["-p", "no:cacheprovider", "--rich"], fenced=True))
    ended = terminal.end()
    assert ended.status == 1, ended
    assert "Total Tests" in ended.out, ended  # it was in force
    for name in FEW_GUILTY:
        assert re.search(rf"^{re.escape('test_it.py::')}{name}$", ended.out, re.MULTILINE), ended  # our section
    assert ended.out.count(f"fence: {WHAT}") >= 2, ended
    assert RULE in ended.out


@pytest.mark.needs("module:pytest_github_actions_annotate_failures")
def test_annotations(runs: Runs) -> None:
    """One for each test that has failed in its call, at the line of the test; the plugin makes none of other phases."""
    runs.load("pytest_github_actions_annotate_failures.plugin")
    write(runs, test_it=FEW)
    ended = runs.pytest("-p", "no:cacheprovider", env={"GITHUB_ACTIONS": "true"})
    found = dict(re.findall(r"^::error file=test_it.py,line=(\d+)::(.*)$", ended.err, re.MULTILINE))
    lines = FEW.splitlines()
    told = {lines[int(number) - 1].strip(): text for number, text in found.items()}
    assert told["reach()"] == f"test_swallows%0A%0Afence: {WHAT}", ended
    assert told['raise KeyError("its own")'] == f"test_fails_too%0A%0Afence: {WHAT} (KeyError: 'its own')", ended


def test_debugger_stops_at_the_line(runs: Runs) -> None:
    """Also where the test has swallowed the error; and where it stops everything is printed, which is enough."""
    write(runs, test_it=FEW)
    (runs.directory / "commands").write_text("where\ncontinue\n" * len(FEW_GUILTY))
    with open(runs.directory / "commands") as commands:
        ended = runs.command(*runs.argv(["--pdb", "-p", "no:cacheprovider"], fenced=True), stdin=commands)
    told_once(ended, ended.out)
    assert ended.out.count("entering PDB") == len(FEW_GUILTY)
    reached = [number for number, line in enumerate(FEW.splitlines(), 1) if "connect_ex" in line]
    # Not for the one that fails by itself: that is in its own last line.
    assert len(re.findall(rf"^> .*test_it.py\({reached[0]}\)reach\(\)$", ended.out, re.MULTILINE)) >= 3, ended
    for name in ("test_swallows", "before", "after"):
        ended.has(rf"  \S*test_it.py\(\d+\){name}\(\)\n-> reach\(\)")


def test_no_terminal(runs: Runs) -> None:
    """Nobody prints failures: all is said on standard error, and once."""
    write(runs, test_it=FEW)
    ended = runs.pytest("-p", "no:terminal", "-p", "no:cacheprovider")
    assert (ended.status, ended.out) == (1, ""), ended
    for name in FEW_GUILTY:
        assert len(re.findall(rf"^test_it.py::{name}$", ended.err, re.MULTILINE)) == 1, ended
    assert RULE in ended.err
    assert REMEDY in ended.err
    assert "not shown above" not in ended.err


@pytest.mark.needs("module:pytest_rerunfailures")
def test_reruns_can_leave_it_out(runs: Runs) -> None:
    """What hit the fence hits it again: it has a name by which it is not tried again; other failures are."""
    runs.load("pytest_rerunfailures")
    write(runs, test_it=FEW)
    for args, reruns in (("--reruns=1", 4), ("--reruns=1 --rerun-except=FenceViolation", 1)):
        ended = runs.pytest("-p", "no:cacheprovider", *args.split())
        assert ended.status == 1
        ended.has(rf", {reruns} rerun")
