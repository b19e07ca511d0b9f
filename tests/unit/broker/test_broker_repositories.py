"""Which directories are repositories of git, which never become one, and what of a `.git` tests may change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fence_core.broker.call import Call
from fence_core.broker.paths import repositories
from fence_core.broker.paths.identity import Identities
from fence_core.broker.paths.resolve import AT_FDCWD, Located, Resolver
from fence_core.policy.requests import Write
from tests.unit.broker.kit import Sessions, call, sessions

HARMLESS = "[core]\n\tbare = false\n"
OBEYED = "[core]\n\tfsmonitor = ./run-me\n"


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    return Resolver(lambda pid: True, Identities())


@pytest.fixture
def nested() -> Iterator[Sessions]:
    with sessions() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path.resolve()


@pytest.fixture
def asked(nested: Sessions, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """By a session that may write all of it, where it counts: in no directory for temporary files."""
    monkeypatch.setattr(repositories, "is_free_place", lambda call, path: False)
    account = nested.account({"filesystem": {"allow_write": [str(place)]}})
    made = call(account, drafts=SimpleNamespace(own_repositories=set()))
    made.process.may_write = lambda path, op="open": True  # type: ignore[method-assign]
    yield made
    made.close()


def directory(
    place: Path, *names: str, config: str = HARMLESS, hooks: tuple[str, ...] = ("pre-commit.sample",)
) -> Path:
    """One that holds these."""
    place.mkdir(exist_ok=True)
    for name in names:
        if name in ("objects", "refs"):
            (place / name).mkdir()
        elif name == "hooks":
            (place / name).mkdir()
            for hook in hooks:
                (place / name / hook).touch()
        else:
            (place / name).write_text(config if name == "config" else "x")
    return place


def objection(asked: Call, resolver: Resolver, op: str, path: Path) -> str | None:
    """What it would be obeyed as; None where it may be done."""
    located = resolver.locate(asked, AT_FDCWD, os.fsencode(path), follow=False)
    request = repositories.objection(asked, op, located)
    assert request is None or (request.op, request.path) == (op, str(path))
    return None if request is None else request.known


# ---------------------------------------------------------------- becoming one


@pytest.mark.parametrize(
    ("there", "made", "known"),
    [
        pytest.param((), "HEAD", None, id="nothing else"),
        pytest.param(("objects", "refs"), "HEAD", None, id="an empty one"),
        pytest.param(("objects", "refs", "config"), "HEAD", None, id="with a harmless config"),
        pytest.param(("HEAD", "refs"), "objects", None, id="whatever comes last"),
        pytest.param(("HEAD", "objects", "hooks"), "refs", None, id="with samples"),
        pytest.param(("objects", "config.worktree"), "HEAD", None, id="refs are missing"),
        pytest.param(("objects", "refs", "config.worktree"), "HEAD", "config", id="with a config of its worktree"),
        pytest.param(("HEAD",), "commondir", "hooks", id="a worktree"),
        pytest.param(("commondir",), "HEAD", "hooks", id="a worktree, the other way round"),
        pytest.param(("HEAD", "objects", "refs"), "config", "config", id="a config for a repository"),
        pytest.param(("HEAD", "objects", "refs"), "hooks", "hooks", id="hooks for a repository"),
        pytest.param(("HEAD", "objects", "refs"), "commondir", "hooks", id="a repository that says it is a worktree"),
        pytest.param(("HEAD", "objects", "refs", "config"), "config", "config", id="its config"),
        pytest.param(("HEAD", "objects"), "config", None, id="of what is none yet"),
        pytest.param(("HEAD", "objects", "refs"), "index", None, id="what git does not obey"),
    ],
)
def test_no_directory_becomes_one_that_git_would_obey(
    asked: Call, resolver: Resolver, place: Path, there: tuple[str, ...], made: str, known: str | None
) -> None:
    directory(place / "plain", *there)
    assert objection(asked, resolver, "create", place / "plain" / made) == known


def test_a_config_that_git_would_obey_keeps_it_from_becoming_one(asked: Call, resolver: Resolver, place: Path) -> None:
    directory(place / "plain", "objects", "refs", "config", config=OBEYED)
    assert objection(asked, resolver, "create", place / "plain" / "HEAD") == "config"


@pytest.mark.parametrize("hooks", [("pre-commit",), ("pre-commit.sample", "pre-commit")])
def test_so_do_hooks_that_are_no_samples(asked: Call, resolver: Resolver, place: Path, hooks: tuple[str, ...]) -> None:
    directory(place / "plain", "objects", "refs", "hooks", hooks=hooks)
    assert objection(asked, resolver, "create", place / "plain" / "HEAD") == "hooks"


def test_and_hooks_that_lie_elsewhere(asked: Call, resolver: Resolver, place: Path) -> None:
    directory(place / "plain", "objects", "refs")
    (place / "elsewhere").mkdir()
    (place / "plain" / "hooks").symlink_to("../elsewhere")
    assert objection(asked, resolver, "create", place / "plain" / "HEAD") == "hooks"


def test_a_config_that_somebody_has_open_is_a_copy_from_then_on(asked: Call, resolver: Resolver, place: Path) -> None:
    plain = directory(place / "plain", "objects", "refs", "config")
    with open(plain / "config", "a") as held:
        assert objection(asked, resolver, "create", plain / "HEAD") is None
        held.write(OBEYED)
    assert (plain / "config").read_text() == HARMLESS


@pytest.mark.parametrize("op", ["unlink", "rmdir", "chmod", "chown", "utime"])
def test_nothing_becomes_one_by_losing_something(asked: Call, resolver: Resolver, place: Path, op: str) -> None:
    directory(place / "plain", "HEAD", "objects", "refs", "config")
    assert objection(asked, resolver, op, place / "plain" / "config") is None


@pytest.mark.parametrize(
    ("op", "name", "known"),
    [
        ("create", "pre-commit", "hooks"),
        ("create", "pre-commit.sample", None),
        ("open", "pre-commit.sample", None),
        ("rename", "pre-commit.sample", "hooks"),
        ("symlink", "post-commit", "hooks"),
    ],
)
def test_hooks_of_a_repository(
    asked: Call, resolver: Resolver, place: Path, op: str, name: str, known: str | None
) -> None:
    directory(place / "plain", "HEAD", "objects", "refs", "hooks")
    assert objection(asked, resolver, op, place / "plain" / "hooks" / name) == known


def test_hooks_of_what_is_no_repository_are_files_like_others(asked: Call, resolver: Resolver, place: Path) -> None:
    directory(place / "plain", "hooks")
    assert objection(asked, resolver, "create", place / "plain" / "hooks" / "pre-commit") is None


def test_where_nobody_works_tomorrow_anything_goes(
    asked: Call, resolver: Resolver, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "is_free_place", lambda call, path: True)
    directory(place / "plain", "HEAD", "objects", "refs")
    assert objection(asked, resolver, "create", place / "plain" / "config") is None


@pytest.mark.parametrize(
    ("path", "telling"),
    [
        ("/project/HEAD", True),
        ("/project/hooks/pre-commit", True),
        ("/project/config", True),
        ("/project/config.worktree", True),
        ("/project/HEADER", False),
        ("/project/x/config.py", False),
        ("/project/hooks.py", False),
    ],
)
def test_names_that_say_nothing_are_not_looked_at(path: str, telling: bool) -> None:
    assert repositories.is_telling(path) == telling


@pytest.mark.parametrize(
    ("there", "config", "known"),
    [
        (("HEAD", "objects", "refs", "config"), HARMLESS, None),
        (("HEAD", "objects", "refs", "config"), OBEYED, "config"),
        (("HEAD", "objects", "refs", "commondir"), HARMLESS, "hooks"),
        (("HEAD", "config"), OBEYED, None),
    ],
)
@pytest.mark.parametrize("to", ["elsewhere", ".git"])
def test_a_repository_that_is_moved_here(
    asked: Call, place: Path, there: tuple[str, ...], config: str, known: str | None, to: str
) -> None:
    """From a place where anything goes: what git would obey in it is judged where it comes to be."""
    handle = os.open(directory(place / "moved", *there, config=config), os.O_PATH)
    judge = asked.process.account().judges[0][1]
    try:
        request = repositories.objection_inside(judge, "rename", handle, f"{place}/{to}")
    finally:
        os.close(handle)
    assert (request is not None and request.known) == (known or False if to != ".git" else False)


# ---------------------------------------------------------------- .git


LETS = [
    ("mkdir", "hooks", False, True),
    ("create", "hooks/pre-commit.sample", False, True),
    ("create", "hooks/pre-commit", False, False),
    ("unlink", "config", False, False),
    ("unlink", "config", True, True),
    ("rmdir", "hooks", True, True),
    ("chmod", "config", True, True),
    ("chmod", "config", False, False),
    ("mkdir", "rebase-merge", True, True),
    ("mkdir", "rebase-merge", False, False),
    ("create", "rebase-merge/git-rebase-todo", True, True),
    ("create", "rebase-merge", True, False),
    ("create", "hooks/pre-commit", True, False),
    ("create", "config", True, False),
    ("rename", "hooks/pre-commit.sample", True, False),
]


@pytest.mark.parametrize(("op", "name", "own", "lets"), LETS)
def test_what_of_a_git_directory_may_change(
    asked: Call, resolver: Resolver, place: Path, op: str, name: str, own: bool, lets: bool
) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs")
    (git / name).parent.mkdir(exist_ok=True)
    if own:
        status = os.lstat(git)
        asked.services.drafts.own_repositories.add((status.st_dev, status.st_ino))
    located = resolver.locate(asked, AT_FDCWD, os.fsencode(git / name), follow=False)
    assert repositories.lets(asked, op, located) == lets


def test_a_sample_that_is_there_is_somebodys(asked: Call, resolver: Resolver, place: Path) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs", "hooks")
    found = resolver.locate(asked, AT_FDCWD, os.fsencode(git / "hooks" / "pre-commit.sample"), follow=True)
    assert not repositories.lets(asked, "open", found)


def test_nothing_else_is_gits(asked: Call, place: Path) -> None:
    assert not repositories.lets(asked, "unlink", Located(f"{place}/plain/config"))
    assert not repositories.lets(asked, "unlink", Located(f"{place}/.git/config", errno=2))


# ---------------------------------------------------------------- config


def new_config(asked: Call, resolver: Resolver, old: Path, new: Path) -> object:
    found = [resolver.locate(asked, AT_FDCWD, os.fsencode(path), follow=False) for path in (old, new)]
    return repositories.new_config(asked, found[0], found[1])


def test_a_harmless_config_takes_its_place(asked: Call, resolver: Resolver, place: Path) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs")
    (git / "config.lock").write_text(HARMLESS)
    made = new_config(asked, resolver, git / "config.lock", git / "config")
    assert isinstance(made, repositories.NewConfig)
    assert made.text.decode() == HARMLESS
    status = os.stat(git)
    assert made.repository == (status.st_dev, status.st_ino), "the first one makes it the tests' own"


def test_one_that_git_would_obey_does_not(asked: Call, resolver: Resolver, place: Path) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs")
    (git / "config.lock").write_text(OBEYED)
    refused = new_config(asked, resolver, git / "config.lock", git / "config")
    assert isinstance(refused, Write)
    assert (refused.known, refused.around) == ("config", "core.fsmonitor")


def test_a_users_config_is_not_replaced(asked: Call, resolver: Resolver, place: Path) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs", "config")
    (git / "config.lock").write_text(HARMLESS)
    assert new_config(asked, resolver, git / "config.lock", git / "config") is None
    status = os.stat(git)
    asked.services.drafts.own_repositories.add((status.st_dev, status.st_ino))
    assert isinstance(new_config(asked, resolver, git / "config.lock", git / "config"), repositories.NewConfig)


def test_what_has_a_second_name_could_be_changed_by_it(asked: Call, resolver: Resolver, place: Path) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs")
    (git / "config.lock").write_text(HARMLESS)
    os.link(git / "config.lock", place / "second")
    assert new_config(asked, resolver, git / "config.lock", git / "config") is None


@pytest.mark.parametrize("name", ["config.old", "HEAD"])
def test_other_renames_are_none_of_this(asked: Call, resolver: Resolver, place: Path, name: str) -> None:
    git = directory(place / ".git", "HEAD", "objects", "refs")
    (git / "config.lock").write_text(HARMLESS)
    assert new_config(asked, resolver, git / "config.lock", git / name) is None
