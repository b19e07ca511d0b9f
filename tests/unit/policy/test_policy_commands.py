"""Which command lines a rule for commands speaks of."""

from __future__ import annotations

import pytest

from fence_core.policy.commands import CommandJudge, Reading, is_called, parse
from fence_core.policy.decide import Judge
from fence_core.policy.model import CommandRules, Entry, Policy, Source
from fence_core.policy.requests import Execute

SOURCE = Source("fence.json")


def rules(deny: str, *allow: str) -> CommandRules:
    return CommandRules((Entry(deny, SOURCE),), tuple(Entry(text, SOURCE) for text in allow))


def is_denied(line: str, deny: str, *allow: str) -> bool:
    program, *words = line.split()
    readings = [Reading((program,), tuple(words))]
    return CommandJudge(rules(deny, *allow)).denies(readings) is not None


@pytest.mark.parametrize(
    ("deny", "line"),
    [
        ("git push", "git push"),
        ("git push", "git push origin main"),
        ("git push", "git -C x push"),
        ("git push", "git -c a=b push"),
        ("git push", "git --git-dir x push"),
        ("git push", "git --git-dir=x push"),
        ("git push", "git --no-pager push"),
        ("git push origin", "git push --force origin"),
        ("python3 -c", "python3 -c 1"),
        ("python3 -c", "python3.11 -Ic 1"),
        ("python3 -c", "python3 -W error -c 1"),
        ("python3 -c", "python3 -X dev -c 1"),
        ("python -c", "python3.11 -c 1"),
        ("rm -rf", "rm -rf x"),
        ("rm -rf", "rm -r -f x"),
        ("rm -rf", "rm -fr x"),
        ("rm -rf", "rm -vfr x"),
        ("rm -rf", "rm x -rf"),
        ("dd if=", "dd of=x if=y"),
        ("docker run --privileged", "docker --debug run --name x --privileged image"),
        ("docker run --privileged", "docker run --privileged=true image"),
        ("systemctl poweroff", "systemctl --no-block poweroff"),
        ("shutdown", "shutdown -h now"),
        ("/opt/tool go", "/opt/tool go"),
    ],
)
def test_is_spoken_of(deny: str, line: str) -> None:
    assert is_denied(line, deny)


@pytest.mark.parametrize(
    ("deny", "line"),
    [
        ("git push", "git status"),
        ("git push", "git -C x log"),
        ("git push", "git stash push"),
        ("git push", "git -p stash push"),
        ("git push", "git -C x stash push"),
        ("git push", "gitk push"),
        ("git push", "git"),
        ("git push origin", "git push other"),
        ("python3 -c", "python3 x.py"),
        ("python3 -c", "python3 x.py -c 1"),
        ("python3 -c", "python3 -m pytest -c x"),
        ("python3 -c", "python3"),
        ("python3 -c", "python2 -c 1"),
        ("rm -rf", "rm -r x"),
        ("rm -rf", "rm -f x"),
        ("rm -rf", "rm -- -rf"),
        ("dd if=", "dd --version"),
        ("docker run --privileged", "docker ps"),
        ("docker run --privileged", "docker run --privileges image"),
        ("docker run --privileged", "docker exec --privileged x"),
        ("/opt/tool go", "tool go"),
    ],
)
def test_is_not_spoken_of(deny: str, line: str) -> None:
    assert not is_denied(line, deny)


@pytest.mark.parametrize(
    ("line", "denied"),
    [
        ("git push origin docs", False),
        ("git push origin docs main", False),
        ("git push origin docs-evil", True),
        ("git push origin main", True),
        ("git -C x push origin docs", True),
        ("git push", True),
    ],
)
def test_an_exception_is_a_strict_beginning(line: str, denied: bool) -> None:
    assert is_denied(line, "git push", "git push origin docs") == denied


def test_any_reading_is_enough_and_an_exception_is_for_one() -> None:
    judge = CommandJudge(rules("git push", "script"))
    script, inner = Reading(("script", "/srv/script"), ()), Reading(("git",), ("push", "/srv/script"))
    assert judge.denies([script, inner]) is not None
    assert judge.denies([script]) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no command"),
        ("-c x", "does not begin with the name of a program"),
        ("A=b git", "does not begin with the name of a program"),
        ("./git push", "by its base name or by its absolute path"),
        ("git push && rm", "is not a plain word"),
        ("git *", "is not a plain word"),
        ('sh -c "x"', "is not a plain word"),
    ],
)
def test_what_is_not_a_rule(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


@pytest.mark.parametrize(
    ("name", "program", "is_it"),
    [
        ("python3.11", "python3", True),
        ("python3", "python", True),
        ("python3", "python3.11", False),
        ("gitk", "git", False),
    ],
)
def test_versions(name: str, program: str, is_it: bool) -> None:
    assert is_called(name, program) == is_it


def test_the_judge_names_the_rule() -> None:
    judge = Judge(Policy(command=rules("git push")))
    readings = (Reading(("git",), ("push",)),)
    decision = judge.decide(Execute(("git", "push"), readings))
    assert not decision.allowed
    assert (decision.rule.key, decision.rule.entry, decision.rule.source) == ("command.deny", "git push", SOURCE)
    assert "changed its words" in judge.decide(Execute(("git", "push"), readings, late=True)).rule.reason
    assert judge.decide(Execute(("git", "log"), (Reading(("git",), ("log",)),))).allowed
    assert judge.programs == {"git"}
    assert Judge(Policy()).decide(Execute(("git", "push"), readings)).allowed
