"""May this path be changed? The rules, their order, what is always protected, and that the fast answer is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.policy import tree
from fence_core.policy.compiler import Links
from fence_core.policy.decide import Decision, Judge
from fence_core.policy.model import FilesystemRules, Policy, Rule, Source
from fence_core.policy.protected import PROTECTED, config_names, containers
from fence_core.policy.requests import Read, Run, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence

NO_LINKS = Links(lambda path: None, lambda path: True)
PLACES = FilesystemRules(
    root="/home/ci/proj",
    home="/home/ci",
    scratch=("/tmp", "/home/ci/proj/.tox/tmp"),
    locked=("/home/ci/proj/pyproject.toml",),
)


def policy(places: FilesystemRules = PLACES, **keys: Any) -> Policy:
    overlay = parse_overlay(keys, source=Source("test.toml"), base_dir="/home/ci/proj", home="/home/ci")
    return merge(Policy(filesystem=places), overlay)


def judge(places: FilesystemRules = PLACES, links: Links = NO_LINKS, **keys: Any) -> Judge:
    return Judge(policy(places, **keys), links=links)


def test_the_empty_policy_allows_nothing() -> None:
    answer = Judge(Policy()).decide(Write("open", "/tmp/x"))
    assert not answer.allowed
    assert answer.why == "unlisted"
    assert sentence(answer) == "no rule in filesystem.allow_write allows it (the policy is empty)"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/home/ci/proj/out", True),
        ("/home/ci/proj/out/a/b", True),
        ("/home/ci/proj/outer", False),
        ("/home/ci/proj", False),
        ("/data/x", True),
        ("/data/deep/x", True),
        ("/data", False),
        ("/home/ci/proj/a/b.log", True),
        ("/home/ci/proj/b.log/inside", True),
        ("/elsewhere/b.log", False),
        ("/home/ci/.cache/tool", True),
        ("/home/ci/.cache/tool/x", True),
        ("/home/ci/.cache", False),
        ("/srv/x/y/cache", True),
        ("/", False),
    ],
)
def test_allow_write(path: str, allowed: bool) -> None:
    it = judge(allow_write=["out", "/data/*", "*.log", "~/.cache/tool", "/srv/**/cache"])
    assert it.decide(Write("open", path)).allowed is allowed
    assert it.may_write(path) is allowed


@pytest.mark.parametrize(
    "path",
    ["/home/ci/proj/x.key", "/home/ci/proj/a/b.key", "/tmp/b.key", "/home/ci/proj/secret/x", "/tmp/a/secret"],
)
def test_a_denial_wins_wherever_it_stands(path: str) -> None:
    """Bare names forbid at any depth, also outside the project."""
    it = judge(allow_write=[".", "/tmp"], deny_write=["*.key", "secret"])
    answer = it.decide(Write("open", path))
    assert not answer.allowed
    assert answer.why == "denied"
    assert sentence(answer) in (
        'denied: filesystem.deny_write "*.key" (test.toml)',
        'denied: filesystem.deny_write "secret" (test.toml)',
    )
    assert it.may_write(path) is False


def test_a_decision_names_the_rule_that_allows() -> None:
    answer = judge(allow_write=["out", "out/deeper"]).decide(Write("open", "/home/ci/proj/out/deeper/x"))
    assert answer == Decision(True, Rule("filesystem.allow_write", "out", Source("test.toml")))
    assert sentence(answer) == 'allowed: filesystem.allow_write "out" (test.toml)'


def test_a_refusal_names_all_sources_that_could_have_allowed() -> None:
    both = merge(
        Policy(sources=(Source("preset pytest"),)),
        parse_overlay({"allow_write": ["x"]}, source=Source("pyproject.toml [tool.fence]"), base_dir="/p", home="/h"),
    )
    assert sentence(Judge(both).decide(Write("open", "/y"))) == (
        "no rule in filesystem.allow_write allows it (preset pytest, pyproject.toml [tool.fence])"
    )


# --- protected targets ---

EVERYWHERE = [name for row in PROTECTED for name in row.names]


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("directory", ["/home/ci", "/home/ci/proj", "/home/ci/proj/a/b", "/srv", ""])
def test_protected_names_are_refused_at_any_depth(name: str, directory: str) -> None:
    it = judge(allow_write=["/"])
    path = f"{directory}/{name}"
    for target in (path, f"{path}/inside"):
        answer = it.decide(Write("open", target))
        assert (answer.allowed, answer.why) == (False, "protected")
        assert f'"{name}"' in sentence(answer)
        assert it.may_write(target) is False
    assert it.may_write(f"{path}x") is True


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("directory", ["/tmp/pytest-of-ci/pytest-0/test_x0/repo", "/home/ci/proj/.tox/tmp/a"])
def test_protected_names_are_free_below_temporary_directories(name: str, directory: str) -> None:
    """A repository made by a test configures nobody's git."""
    it = judge(allow_write=["/"])
    assert it.decide(Write("open", f"{directory}/{name}")).allowed
    assert it.may_write(f"{directory}/{name}/inside")


def test_a_project_in_a_temporary_directory_is_a_project() -> None:
    places = PLACES._replace(root="/tmp/build/proj", home="/tmp/home", scratch=("/tmp",), locked=())
    it = judge(places, allow_write=["/"])
    assert not it.may_write("/tmp/build/proj/.git/config")
    assert not it.may_write("/tmp/home/.bashrc")
    assert it.may_write("/tmp/pytest-of-ci/x/.git/config")


def test_a_root_that_is_the_temporary_directory_stays_one() -> None:
    it = judge(PLACES._replace(root="/tmp", scratch=("/tmp",), locked=()), allow_write=["/"])
    assert it.may_write("/tmp/x/.git/config")


def test_a_project_below_a_protected_name_is_a_project_like_any_other() -> None:
    places = PLACES._replace(root="/home/ci/.vscode/ext", locked=())
    it = judge(places, allow_write=["/home/ci/.vscode/ext/*"])
    assert it.may_write("/home/ci/.vscode/ext/src/x.py")
    assert not it.may_write("/home/ci/.vscode/ext/.vscode/tasks.json")
    assert not it.may_write("/home/ci/.vscode/tasks.json")


def test_allow_git_config_frees_git_config_and_nothing_else() -> None:
    it = judge(allow_write=["/"], allow_git_config=True)
    assert it.may_write("/home/ci/proj/.git/config")
    assert not it.may_write("/home/ci/proj/.git/hooks/pre-commit")
    assert not it.may_write("/home/ci/.gitconfig")
    rule = sentence(judge(allow_write=["/"]).decide(Write("open", "/home/ci/proj/.git/config")))
    assert "filesystem.allow_git_config would allow it" in rule


@pytest.mark.parametrize("op", ["rename", "link", "symlink"])
@pytest.mark.parametrize("name", sorted(containers()))
def test_a_ready_made_tree_cannot_be_put_where_protected_names_lie(op: str, name: str) -> None:
    it = judge(allow_write=["/"])
    answer = it.decide(Write(op, f"/home/ci/proj/{name}"))
    assert (answer.allowed, answer.why) == (False, "protected")
    assert it.may_write(f"/home/ci/proj/{name}", op) is False
    assert it.may_write(f"/tmp/x/{name}", op) is True
    assert it.may_write(f"/home/ci/proj/{name}", "mkdir") is True


@pytest.mark.parametrize("path", ["/home/ci/proj/pyproject.toml"])
def test_the_policy_of_tomorrow_is_locked(path: str) -> None:
    it = judge(allow_write=["/", path])
    answer = it.decide(Write("open", path))
    assert (answer.allowed, answer.why) == (False, "protected")
    assert it.may_write("/home/ci/proj/sub/pyproject.toml")


def test_a_locked_file_is_locked_below_a_temporary_directory_too() -> None:
    places = FilesystemRules(root="/tmp/p", scratch=("/tmp",), locked=("/tmp/p/pyproject.toml",))
    assert not judge(places, allow_write=["/"]).may_write("/tmp/p/pyproject.toml")


def test_config_names_hold_what_pytest_and_we_read() -> None:
    assert {"pyproject.toml", "fence.json", "fence.yaml", "pytest.ini", "tox.ini"} <= set(config_names())


# --- symbolic links in rules ---


def links(table: dict[str, str], *, replaceable: bool = True) -> Links:
    return Links(table.get, lambda path: replaceable)


def test_a_rule_counts_for_the_place_its_path_leads_to() -> None:
    it = judge(links=links({"/var/run": "/run", "/scratch": "/mnt/1"}), allow_write=["/var/run/app", "/scratch/*"])
    assert it.may_write("/run/app/x")
    assert it.may_write("/var/run/app/x")
    assert it.may_write("/mnt/1/x")
    assert not it.may_write("/run/other")


def test_a_denial_counts_for_the_place_its_path_leads_to() -> None:
    it = judge(links=links({"/home/ci/proj/keys": "/srv/keys"}), allow_write=["/"], deny_write=["./keys", "./keys/*.k"])
    assert not it.may_write("/srv/keys/x")
    assert not it.may_write("/home/ci/proj/keys")


def test_a_glob_counts_below_the_place_its_directory_leads_to() -> None:
    it = judge(links=links({"/var/log": "/srv/log"}), allow_write=["/var/log/*.log"])
    assert it.may_write("/srv/log/a.log")
    assert not it.may_write("/srv/log/a.txt")


@pytest.mark.parametrize("rule", ["out", "out/x"])
def test_a_link_that_a_test_could_have_made_widens_nothing(rule: str) -> None:
    """Else a test replaces `out` by a link to the home directory, and the next run allows writing there."""
    planted = {"/home/ci/proj/out": "/home/ci"}
    it = judge(links=links(planted), allow_write=[rule, "."])
    assert not it.may_write("/home/ci/x")
    assert it.may_write("/home/ci/proj/out/x")


def test_a_link_where_permissions_keep_tests_from_writing_is_believed() -> None:
    it = judge(links=links({"/opt/data": "/mnt/data"}, replaceable=False), allow_write=["/opt/data"])
    assert it.may_write("/mnt/data/x")


def test_links_of_procfs_are_not_followed() -> None:
    it = judge(
        links=links({"/proc/self": "4711", "/dev/stdout": "/etc/passwd"}),
        allow_write=["/proc/self/comm", "/dev/stdout"],
    )
    assert it.may_write("/proc/self/comm")
    assert not it.may_write("/proc/4711/comm")
    assert not it.may_write("/etc/passwd")


def test_the_disk_is_asked_for_links_by_default(tmp_path: Any) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    it = Judge(policy(allow_write=[f"{link}/*"]))
    assert it.may_write(str(real / "x"))


# --- reading ---


def test_reading_is_free_without_deny_read() -> None:
    assert judge().decide(Read("/etc/shadow")).allowed


def test_deny_read_is_judged_where_it_is_set() -> None:
    rules = policy().filesystem
    secret = parse_overlay({"deny_write": ["~/.aws", "*.pem"]}, source=Source("s"), base_dir="/p", home="/home/ci")
    it = Judge(Policy(filesystem=rules._replace(deny_read=secret.values["filesystem.deny_write"])), links=NO_LINKS)
    assert it.decide(Read("/home/ci/.aws/credentials")).why == "denied"
    assert sentence(it.decide(Read("/x/a.pem"))) == 'denied: filesystem.deny_read "*.pem" (s)'
    assert it.decide(Read("/x/a.txt")).allowed
    assert it.decide(Run("/x/a.pem")) == it.decide(Read("/x/a.pem"))
    assert it.decide(Run("/x/a.txt")).allowed
    assert not it.decide(Read("pipe:[1]")).allowed


# --- odd input ---


@pytest.mark.parametrize("path", ["", "x", "pipe:[123]", "a/b", "./x", "(unreachable)/tmp/x", "\0", "\udcff"])
@pytest.mark.parametrize("op", ["open", "rename"])
def test_what_is_no_absolute_path_is_refused(path: str, op: str) -> None:
    it = judge(allow_write=["/"])
    assert not it.may_write(path, op)
    answer = it.decide(Write(op, path))
    assert (answer.allowed, answer.why) == (False, "impossible")
    assert sentence(answer).isprintable()


def test_a_path_of_thousands_of_components_is_judged() -> None:
    it = judge(allow_write=["/a"], deny_write=["secret"])
    deep = "/a" + "/d" * 20_000
    assert it.may_write(deep)
    assert not it.may_write(f"{deep}/secret/{'x/' * 2000}y")


def test_what_is_remembered_is_bounded() -> None:
    it = judge(allow_write=["/a"])
    for number in range(tree.NODES_MAX * 2 + 10):
        assert it.may_write(f"/a/{number}/x")
    assert len(it._writes._nodes) <= tree.NODES_MAX
    assert f"/a/{number}" in it._writes._nodes, "what was asked last is remembered, whatever came before"
    assert not it.may_write("/b/x")


names = st.sampled_from(
    [
        "a",
        "b",
        "a.pyc",
        "b.py",
        "__pycache__",
        ".git",
        "hooks",
        "config",
        "x.key",
        "x.log",
        ".bashrc",
        "proj",
        "tmp",
        "\udcff\n",
    ]
)
paths = st.lists(names, min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))
patterns = st.sampled_from(
    ["/", "/*", "/a", "/a/*", "/a/**/b", "*.key", "x.*", ".", "./a/*", "**/config", "/a/?", "/*/b", "~", "/tmp/*/b"]
)
ops = st.sampled_from(["open", "create", "mkdir", "unlink", "rename", "symlink", "chmod"])
places = st.sampled_from(
    [
        PLACES,
        FilesystemRules(),
        FilesystemRules(root="/a", home="/", scratch=("/tmp", "/a/tmp"), locked=("/a/b",)),
        FilesystemRules(
            root="/a",
            environment=("/a/b", "/proj"),
            byte_code_dir="/a/x.key",
            early_names=(("/a", ("b", "config")), ("/tmp/a", ("x",))),
        ),
    ]
)


@given(
    st.lists(patterns, max_size=4), st.lists(patterns, max_size=2), places, st.lists(st.tuples(ops, paths), max_size=12)
)
def test_the_fast_answer_is_the_full_answer(
    allow: list[str], deny: list[str], where: FilesystemRules, asked: list[tuple[str, str]]
) -> None:
    """Whatever was asked before, and however a path is asked about."""
    used = judge(where, allow_write=allow, deny_write=deny)
    for op, path in asked:
        fresh = judge(where, allow_write=allow, deny_write=deny)
        assert used.may_write(path, op) is fresh.decide(Write(op, path)).allowed
        assert used.decide(Write(op, path)) == fresh.decide(Write(op, path))


@given(st.lists(patterns, max_size=4), st.lists(patterns, min_size=1, max_size=3), paths)
def test_adding_a_denial_never_allows_more(allow: list[str], deny: list[str], path: str) -> None:
    more = judge(allow_write=allow)
    less = judge(allow_write=allow, deny_write=deny)
    assert more.may_write(path) or not less.may_write(path)


@given(st.lists(patterns, max_size=4), st.lists(patterns, max_size=3), paths)
def test_what_is_allowed_matches_no_denial(allow: list[str], deny: list[str], path: str) -> None:
    """The deny list alone, asked as an allow list would be, never covers what the policy allows."""
    denials = policy(allow_write=allow, deny_write=deny).filesystem.deny_write
    as_allowed = Judge(Policy(filesystem=FilesystemRules(allow_write=denials, scratch=("/",))), links=NO_LINKS)
    if judge(allow_write=allow, deny_write=deny).may_write(path):
        assert not as_allowed.may_write(path)


@given(st.text(st.characters(codec=None), max_size=40), ops)
def test_no_path_makes_the_judge_raise(path: str, op: str) -> None:
    it = judge(allow_write=["/tmp", "*.log", "[a-c]*"], deny_write=["*.key"])
    for asked in (path, "/" + path):
        answer = it.decide(Write(op, asked))
        assert answer.allowed is it.may_write(asked, op)
        assert sentence(answer).isprintable()


@pytest.mark.parametrize(("path", "allowed"), [("/home/ci/proj/sub/.git", False), ("/tmp/sub/.git", True)])
def test_a_file_that_git_takes_for_a_link_to_its_directory(path: str, allowed: bool) -> None:
    assert judge(allow_write=["./*", "/tmp/*"]).may_write(path, "create") is allowed
    assert judge(allow_write=["./*", "/tmp/*"]).may_write(path, "mkdir")


@pytest.mark.parametrize("path", ["/home/ci/.ssh/id_rsa", "/srv/x.pem", "/home/ci/proj/conf/a", "/srv/readable", "/"])
def test_the_fast_answer_on_reading_is_the_same(path: str) -> None:
    asked = judge(deny_read=["~/.ssh", "*.pem", "conf/*"])
    assert asked.may_read(path) == asked.decide(Read(path)).allowed


def test_a_hard_link_to_what_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("")
    (tmp_path / "other").hardlink_to(tmp_path / "secret")
    (tmp_path / "free").write_text("")
    asked = judge(deny_read=[str(tmp_path / "secret")])
    assert asked.secret_name((tmp_path / "other").stat()) == str(tmp_path / "secret")
    assert asked.secret_name((tmp_path / "free").stat()) == ""


@pytest.mark.parametrize(
    ("denied", "shut"),
    [
        ("/home/ci/proj/out", True),
        ("/home/ci/proj", True),
        ("/home/ci/proj/out/*", False),
        ("/home/ci/proj/out/a", False),
        ("out", True),
        ("*.key", False),
    ],
)
def test_which_places_are_shut_altogether(denied: str, shut: bool) -> None:
    """By a rule for the place or for what it lies in; never by the want of a rule that allows it."""
    found = judge(allow_write=["/home/ci/proj/out/*"], deny_write=[denied])
    assert found.shuts("/home/ci/proj/out") is shut
    assert not judge().shuts("/home/ci/proj/out")


@pytest.mark.parametrize("name", ["parsetab.py", "lextab.py", "parser.out", "Grammar3.11.7.final.0.pickle"])
def test_tables_beside_installed_parsers_are_refused_without_blame(name: str) -> None:
    it = judge(PLACES._replace(environment=("/home/ci/proj/.venv/lib",)), allow_write=["."])
    answer = it.decide(Write("create", f"/home/ci/proj/.venv/lib/thing/{name}"))
    assert (answer.allowed, answer.quiet) == (False, True)
    assert not it.decide(Write("create", f"/home/ci/proj/.venv/lib/thing/other_{name}")).quiet
    assert it.decide(Write("create", f"/home/ci/proj/thing/{name}")).allowed


def test_directories_above_what_is_allowed_may_be_made() -> None:
    op = "mkdir"
    it = judge(allow_write=["~/a/b/c", "/srv/x/*", "/data/**/y", "/dev/z/w"], deny_write=["~/a/b/c/d"])
    for path in ("/home/ci/a", "/home/ci/a/b", "/srv/x", "/srv", "/data", "/home"):
        assert it.may_write(path, op), path
        answer = it.decide(Write(op, path))
        assert answer.allowed
        assert "what it allows lies in there" in sentence(answer)
        assert not it.may_write(path)
        assert not it.decide(Write("rename", path)).allowed
    for path in ("/home/ci/a/x", "/dev/z", "/srv2", "/"):
        assert not it.may_write(path, op), path
        assert not it.decide(Write(op, path)).allowed


def test_the_judge_knows_that_no_device_is_made() -> None:
    answer = judge(allow_write=["/"]).decide(Write("mknod device", "/srv/x"))
    assert (answer.allowed, answer.why) == (False, "impossible")
    assert judge(allow_write=["/"]).decide(Write("mknod", "/srv/x")).allowed
