"""May this get another name, with all that lies in it? And does anybody have to look what that is?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.policy.compiler import Links
from fence_core.policy.decide import Judge
from fence_core.policy.model import FilesystemRules, Policy, Source
from fence_core.policy.protected import PROTECTED
from fence_core.policy.requests import Move, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence

PLACES = FilesystemRules(
    root="/home/ci/proj",
    home="/home/ci",
    scratch=("/tmp", "/home/ci/proj/.tox/tmp"),
    locked=("/home/ci/proj/fence.json",),
)
PROJECT, SCRATCH = "/home/ci/proj/sub", "/tmp/sub"


def judge(
    places: FilesystemRules = PLACES, links: dict[str, str] | None = None, deny_read: tuple[str, ...] = (), **keys: Any
) -> Judge:
    def read(**given: Any) -> Policy:
        overlay = parse_overlay(given, source=Source("test.toml"), base_dir="/home/ci/proj", home="/home/ci")
        return merge(Policy(filesystem=places), overlay)

    policy = read(**{"allow_write": ["/"], **keys})
    hidden = read(deny_write=list(deny_read)).filesystem.deny_write
    policy = policy._replace(filesystem=policy.filesystem._replace(deny_read=hidden))
    return Judge(policy, links=Links((links or {}).get, lambda path: True))


@pytest.mark.parametrize(
    ("old", "new", "minds"),
    [
        (PROJECT, PROJECT + "2", False),
        (PROJECT, "/srv/x", False),
        (SCRATCH, "/tmp/a/b/c", False),
        (SCRATCH, "/home/ci/proj/.tox/tmp/x", False),
        (PROJECT, SCRATCH, True),
        (SCRATCH, PROJECT, True),
        ("/home/ci/proj/.tox", "/home/ci/proj/.tox2", True),  # the exempted place lies in it
        ("/home/ci/proj/.tox/tmp", "/home/ci/proj/other", True),
    ],
)
def test_without_deny_rules_only_the_kind_of_place_counts(old: str, new: str, minds: bool) -> None:
    it = judge()
    assert it.minds_move(old, new) is minds
    assert it.minds_move(new, old) is minds


def test_a_project_or_home_in_a_directory_for_temporary_files() -> None:
    it = judge(FilesystemRules(root="/tmp/a/proj", home="/tmp/b/home", scratch=("/tmp",)))
    assert it.minds_move("/tmp/a", "/tmp/c")
    assert it.minds_move("/tmp/b", "/tmp/c")
    assert it.minds_move("/tmp/c", "/tmp/a/proj/c")
    assert not it.minds_move("/tmp/c", "/tmp/d")


@pytest.mark.parametrize("key", ["deny_write", "deny_read"])
@pytest.mark.parametrize(
    ("rule", "old", "minds"),
    [
        ("/srv/a/b", "/srv/a", True),
        ("/srv/a/b", "/srv", True),
        ("/srv/a/b", "/srv/c", False),
        ("/srv/a/b", "/srv/a2", False),
        ("/srv/a/*.key", "/srv/a/c", True),
        ("/srv/a/*.key", "/srv", True),
        ("/srv/a/*.key", "/srv/c", False),
        ("*.key", "/srv/c", True),
        ("~/.ssh", "/home/ci", True),
        ("/link/x", "/srv/behind", True),
        ("/link/*.x", "/srv/behind/deeper", True),
    ],
)
def test_deny_rules_that_may_speak_of_what_lies_in_it(key: str, rule: str, old: str, minds: bool) -> None:
    it = judge(links={"/link": "/srv/behind"}, **{key: [rule]})
    assert it.minds_move(old, "/opt/new") is minds
    assert it.minds_move("/opt/new", old) is minds


@pytest.mark.parametrize("name", [name for row in PROTECTED for name in row.names])
@pytest.mark.parametrize("deeper", ["", "deep/"])
def test_a_protected_name_goes_neither_in_nor_out(name: str, deeper: str) -> None:
    it = judge()
    inside = deeper + name
    for old, new in (SCRATCH, PROJECT), (PROJECT, SCRATCH):
        answer = it.decide(Move("rename", old, new, inside))
        assert (answer.allowed, answer.why) == (False, "protected")
        assert f'"{name}"' in sentence(answer)
        assert it.decide(Move("rename", old, new, inside + "x")).allowed
    assert it.decide(Move("rename", PROJECT, PROJECT + "2", inside)).allowed
    assert it.decide(Move("rename", SCRATCH, SCRATCH + "2", inside)).allowed


@pytest.mark.parametrize("name", [name for row in PROTECTED for name in row.names if "/" in name])
def test_no_directory_becomes_a_part_of_a_protected_name(name: str) -> None:
    """Whatever the directory holds already: it is refused by its own name."""
    it = judge()
    parts = name.split("/")
    for place in range(1, len(parts)):
        assert not it.may_write(f"{PROJECT}/{'/'.join(parts[:place])}", "rename")


def test_git_config_where_it_is_allowed() -> None:
    assert judge(allow_git_config=True).decide(Move("rename", SCRATCH, PROJECT, ".git/config", False)).allowed
    assert not judge().decide(Move("rename", SCRATCH, PROJECT, ".git/config", False)).allowed
    assert not judge(allow_git_config=True).decide(Move("rename", SCRATCH, PROJECT, ".git/hooks", True)).allowed


def test_a_link_or_file_in_place_of_a_directory_with_protected_names() -> None:
    it = judge()
    assert it.decide(Move("rename", SCRATCH, PROJECT, ".git", True)).allowed  # what lies in it is asked for, too
    assert not it.decide(Move("rename", SCRATCH, PROJECT, ".git", False)).allowed
    assert not it.decide(Move("rename", PROJECT, SCRATCH, "a/.git", False)).allowed
    assert it.decide(Move("rename", PROJECT, PROJECT + "2", "a/.git", False)).allowed


@pytest.mark.parametrize("key", ["deny_write", "deny_read"])
def test_a_denial_counts_under_both_names(key: str) -> None:
    it = judge(**{key: ["/srv/a/secret", "*.key"]})
    for move in (
        Move("rename", "/srv/a", "/srv/b", "secret"),
        Move("rename", "/srv/b", "/srv/a", "secret"),
        Move("rename", "/srv/b", "/srv/c", "deep/x.key"),
        Move("rename", "/srv", "/opt", "a/secret/inside"),
    ):
        answer = it.decide(move)
        assert (answer.allowed, answer.why) == (False, "denied")
        assert f"filesystem.{key}" in sentence(answer)
    assert it.decide(Move("rename", "/srv/b", "/srv/c", "secret")).allowed


def test_a_file_that_may_not_be_read_gets_no_other_name() -> None:
    it = judge(deny_read=["/srv/secret"])
    assert not it.decide(Move("link", "/srv/secret", "/srv/x")).allowed
    assert not it.decide(Move("rename", "/srv/secret", "/srv/x")).allowed
    assert not it.decide(Move("rename", "/srv/x", "/srv/secret")).allowed
    assert it.decide(Move("link", "/srv/x", "/srv/y")).allowed
    assert it.minds_move("/srv/secret", "/srv/x")
    assert it.minds_move("/srv/x", "/srv/secret")
    assert not it.minds_move("/srv/x", "/srv/y")


def test_what_nobody_could_look_through() -> None:
    answer = judge().decide(Move("rename", SCRATCH, PROJECT, unseen="it cannot be opened"))
    assert (answer.allowed, answer.why) == (False, "impossible")
    assert sentence(answer) == "what lies in it has to be looked through, and it cannot be opened"
    assert judge().decide(Move("rename", SCRATCH, SCRATCH + "2", unseen="it cannot be opened")).allowed


NAMES = st.sampled_from(["a", ".git", "hooks", "x.key", "secret", ".vscode", ".tox", "tmp", "fence.json", "config"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
STARTS = st.sampled_from(["/tmp/", "/home/ci/proj/", "/home/ci/", "/srv/"])


@given(STARTS, STARTS, PATHS, PATHS, PATHS, st.booleans(), st.booleans())
def test_the_quick_answers_are_right(
    start: str, end: str, old: str, new: str, inside: str, directory: bool, denies: bool
) -> None:
    it = QUICK[denies]
    move = Move("rename", start + old, end + new, inside, directory)
    itself = all(it.decide(Write("rename", path)).allowed for path in (move.old, move.new))
    if itself and not it.minds_move(move.old, move.new):
        assert it.decide(move).allowed
    if it.frees(*move.names()):
        assert it.decide(move).allowed


QUICK = {False: judge(), True: judge(deny_write=["*.key", "/srv/a/secret"], deny_read=["/srv/secret", "hooks"])}
