"""The environment, and the names that Python looks for before a fence stands: what is closed there, and how little."""

from __future__ import annotations

import pytest

from fence_core.policy.compiler import Links
from fence_core.policy.decide import Judge
from fence_core.policy.model import FilesystemRules, Policy, Source
from fence_core.policy.requests import Move, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.policy.sources.wire import from_wire, to_wire

PACKAGES = "/p/.venv/lib/python3/site-packages"
PLACES = FilesystemRules(
    root="/p",
    environment=(PACKAGES, "/p/.venv/pyvenv.cfg", "/usr/lib/python3"),
    early_names=(("/p", ("json", "sitecustomize", "space/")), ("/p/mine", ("__init__", "plugin"))),
    byte_code_dir="/p/bytes",
)


def judge(*allow: str, links: dict[str, str] | None = None) -> Judge:
    found = links or {}
    overlay = parse_overlay({"allow_write": list(allow)}, source=Source("test.toml"), base_dir="/p", home="/home/ci")
    return Judge(merge(Policy(filesystem=PLACES), overlay), links=Links(found.get, lambda path: False))


@pytest.mark.parametrize(
    ("path", "op", "why"),
    [
        (PACKAGES, "rename", "protected"),
        (f"{PACKAGES}/x.pth", "open", "unlisted"),
        (f"{PACKAGES}/pluggy/__init__.py", "open", "unlisted"),
        (f"{PACKAGES}/pluggy/__pycache__/__init__.cpython-311.pyc", "open", "unlisted"),
        (f"{PACKAGES}/__pycache__/early.cpython-311.pyc", "rename", "unlisted"),
        (f"{PACKAGES}/__pycache__", "rename", "unlisted"),
        (f"{PACKAGES}/late/__pycache__/x.py", "open", "unlisted"),
        (f"{PACKAGES}/late/__pycache__/x.cpython-311.pyc", "open", "unlisted"),
        (f"{PACKAGES}/late/__pycache__", "mkdir", "unlisted"),
        ("/p/bytes/p/x.cpython-311.pyc", "open", "unlisted"),
        ("/p/space/x.py", "open", "protected"),
        ("/p/space", "mkdir", "protected"),
        ("/p/X-1.0.DIST-INFO", "mkdir", "protected"),
        ("/p/.venv/lib/python3", "rename", "protected"),
        ("/p/.venv/lib", "symlink", "protected"),
        ("/p/.venv/pyvenv.cfg", "open", "unlisted"),
        ("/p/json.py", "open", "protected"),
        ("/p/json.cpython-311-x86_64-linux-gnu.so", "rename", "protected"),
        ("/p/json/__init__.py", "open", "protected"),
        ("/p/json/__init__.pyc", "open", "protected"),
        ("/p/json", "symlink", "protected"),
        ("/p/x-1.0.dist-info", "mkdir", "protected"),
        ("/p/x.egg-info/entry_points.txt", "open", "protected"),
        ("/p/mine/plugin.py", "unlink", "protected"),
        ("/p/mine/plugin/__init__.py", "open", "protected"),
        ("/p/mine", "rename", "protected"),
    ],
)
def test_closed(path: str, op: str, why: str) -> None:
    it = judge("./*")
    answer = it.decide(Write(op, path))
    assert (answer.allowed, answer.why) == (False, why)
    assert not it.may_write(path, op)


@pytest.mark.parametrize(
    ("path", "op"),
    [
        ("/p/late/__pycache__/x.cpython-311.pyc", "open"),
        ("/p/json.txt", "open"),
        ("/p/json.xml", "rename"),
        ("/p/.venv/share/jupyter/x", "open"),
        ("/p/json/x.txt", "open"),
        ("/p/json", "mkdir"),
        ("/p/json/deeper/__init__.py", "open"),
        ("/p/jsonx.py", "open"),
        ("/p/sub/json.py", "open"),
        ("/p/mine/json.py", "open"),
        ("/p/mine/sub/plugin.py", "open"),
        ("/p/sub", "rename"),
    ],
)
def test_open(path: str, op: str) -> None:
    it = judge("./*")
    assert it.decide(Write(op, path)).allowed
    assert it.may_write(path, op)


def test_nothing_is_allowed_that_no_rule_allows() -> None:
    it = judge("/elsewhere")
    for path in (f"{PACKAGES}/late/__pycache__/x.cpython-311.pyc", f"{PACKAGES}/x", "/p/json/x.txt", "/p/json.py"):
        assert not it.decide(Write("open", path)).allowed
        assert not it.may_write(path)


def test_a_rule_that_names_it_reaches_into_it() -> None:
    assert judge("./*", PACKAGES).may_write(f"{PACKAGES}/x.pth")
    assert judge("./*", f"{PACKAGES}/mine").may_write(f"{PACKAGES}/mine/x.py")
    assert not judge("./*", f"{PACKAGES}/mine").may_write(f"{PACKAGES}/x.pth")
    for pattern in "**/*.pth", "**/__pycache__", "*.pth", "/p/**":
        assert not judge("./*", pattern).may_write(f"{PACKAGES}/x.pth"), "no glob that begins outside of it"
        assert not judge(pattern).may_write(f"{PACKAGES}/__pycache__/x.cpython-311.pyc")
    assert not judge("./*", "/p/json.py").may_write("/p/json.py"), "no marker of a test's own opens tomorrow's run"


def test_under_another_name() -> None:
    links = {"/p/.venv": "/p/envs/a"}
    it = judge("./*", links=links)
    assert not it.may_write(f"{PACKAGES}/x.pth".replace(".venv", "envs/a"))
    assert not it.may_write("/p/envs", "rename")
    assert not it.decide(Move("link", "/p/mine/plugin.py", "/p/other.py")).allowed


def test_directories_under_a_name_that_is_taken() -> None:
    """Only what makes a package of it is one, and moving it away does no harm."""
    it = judge("./*")
    assert it.minds_move("/p/made", "/p/json")
    assert not it.minds_move("/p/json", "/p/made")
    assert not it.minds_move("/p/made", "/p/other")
    assert it.decide(Write("rename", "/p/json")).allowed
    assert it.decide(Move("rename", "/p/made", "/p/json", "data.txt")).allowed
    assert not it.decide(Move("rename", "/p/made", "/p/json", "__init__.py")).allowed


def test_byte_code_that_is_refused_is_nobodys_fault() -> None:
    it = judge("./*")
    assert it.decide(Write("open", f"{PACKAGES}/__pycache__/early.cpython-311.pyc")).quiet
    assert it.decide(Write("mkdir", "/p/bytes/p")).quiet
    assert it.decide(Write("rename", "/p/mine/__pycache__/plugin.cpython-311.pyc")).allowed


def test_on_the_wire() -> None:
    policy = Policy(filesystem=PLACES)
    assert from_wire(Policy, to_wire(policy)) == policy
