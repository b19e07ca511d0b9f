"""What somebody who looked at the disk knows, and what the judge makes of it."""

from __future__ import annotations

import pytest

from fence_core.launcher.early_modules import protect_early_modules
from fence_core.policy.decide import Judge
from fence_core.policy.model import FilesystemRules, Policy, Source
from fence_core.policy.requests import Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay

PLACES = FilesystemRules(root="/home/ci/proj", home="/home/ci", scratch=("/tmp",))


def judge(places: FilesystemRules = PLACES, **keys: object) -> Judge:
    overlay = parse_overlay(keys, source=Source("s"), base_dir="/home/ci/proj", home="/home/ci")
    return Judge(merge(Policy(filesystem=places), overlay))


def test_an_environment_ends_rules_for_what_is_around_it() -> None:
    path = "/home/ci/proj/w/env/bin/x"
    asked = Write("create", path, known="environment", around="/home/ci/proj/w/env")
    assert judge(allow_write=["."]).decide(Write("create", path)).allowed
    refused = judge(allow_write=["."]).decide(asked)
    assert (refused.allowed, refused.why) == (False, "unlisted")
    assert judge(allow_write=[".", "w/env/bin"]).decide(asked).allowed
    assert not judge(allow_write=[".", "w/env/lib"]).decide(asked).allowed


def test_a_session_need_not_mind_environments() -> None:
    """As for a command, of which only the interpreter that runs the fence matters."""
    asked = Write("create", "/home/ci/proj/env/bin/x", known="environment", around="/home/ci/proj/env")
    assert judge(PLACES._replace(guards_environments=False), allow_write=["."]).decide(asked).allowed


@pytest.mark.parametrize("guards", [True, False])
def test_others_are_looked_for_only_then(guards: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "env/lib/python3.11/site-packages").mkdir(parents=True)
    (root / "env/pyvenv.cfg").touch()
    files = FilesystemRules(root=str(root), guards_environments=guards)
    found = protect_early_modules(Policy(filesystem=files)).filesystem.environment
    assert (f"{root}/env/lib/python3.11/site-packages" in found) is guards


def test_a_socket_of_others_is_allowed_by_its_own_name_only() -> None:
    asked = Write("unlink", "/tmp/agent", known="socket")
    assert judge(allow_write=["/tmp"]).decide(Write("unlink", "/tmp/agent")).allowed
    assert not judge(allow_write=["/tmp"]).decide(asked).allowed
    assert judge(allow_write=["/tmp", "/tmp/agent"]).decide(asked).allowed


@pytest.mark.parametrize(("known", "lifted"), [("config", True), ("hooks", False)])
def test_what_git_would_obey(known: str, lifted: bool) -> None:
    asked = Write("create", "/home/ci/proj/lib/HEAD", known=known)
    refused = judge(allow_write=["."]).decide(asked)
    assert (refused.allowed, refused.why) == (False, "protected")
    assert judge(allow_write=["."], allow_git_config=True).decide(asked).allowed is lifted
    assert judge(allow_write=["/tmp"]).decide(Write("create", "/tmp/lib/HEAD", known=known)).allowed


def test_own_repositories_are_freed_of_gits_names_only() -> None:
    it = judge(allow_write=["."], deny_write=["*.key"])
    for name in ("config", "hooks/x.sample", "config.worktree"):
        assert not it.decide(Write("create", f"/home/ci/proj/r/.git/{name}")).allowed
        assert it.decide(Write("create", f"/home/ci/proj/r/.git/{name}", known="own")).allowed
    for path in ("/home/ci/proj/r/.git/x.key", "/home/ci/proj/.husky/x", "/srv/r/.git/config", "/home/ci/.gitconfig"):
        assert not it.decide(Write("create", path, known="own")).allowed
