"""Path patterns: how they are expanded, what they match, and which symbolic links are believed."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fence_core.policy.paths import (
    PathError,
    PatternSet,
    escape,
    expand,
    has_glob,
    literal_of,
    resolve_trusted,
    split_fixed,
)


def allow(text: str) -> str:
    return expand(text, base="/proj", home="/home/ci", deny=False)


def deny(text: str) -> str:
    return expand(text, base="/proj", home="/home/ci", deny=True)


@pytest.mark.parametrize(
    ("text", "allowed", "denied"),
    [
        ("/var/x", "/var/x", "/var/x"),
        ("/var/x/", "/var/x", "/var/x"),
        ("/var//./x/../y", "/var/y", "/var/y"),
        ("/../etc", "/etc", "/etc"),
        ("/", "/", "/"),
        ("~", "/home/ci", "/home/ci"),
        ("~/x", "/home/ci/x", "/home/ci/x"),
        (".", "/proj", "/proj"),
        ("..", "/", "/"),
        ("../sibling", "/sibling", "/sibling"),
        ("./a/b", "/proj/a/b", "/proj/a/b"),
        ("a/b", "/proj/a/b", "/proj/a/b"),
        ("build", "/proj/build", "/**/build"),
        ("build/", "/proj/build", "/**/build"),
        ("./build", "/proj/build", "/proj/build"),
        ("*.key", "/proj/**/*.key", "/**/*.key"),
        ("./*.key", "/proj/*.key", "/proj/*.key"),
        ("a/*.key", "/proj/a/*.key", "/proj/a/*.key"),
        ("**/x", "/proj/**/x", "/**/x"),
        ("**/x/y*", "/proj/**/x/y*", "/**/x/y*"),
        ("/a/**", "/a", "/a"),
        ("/a/**/**/b/**", "/a/**/b", "/a/**/b"),
        ("/a/*", "/a/*", "/a/*"),
        ("[ab]", "/proj/**/[ab]", "/**/[ab]"),
    ],
)
def test_expand(text: str, allowed: str, denied: str) -> None:
    assert allow(text) == allowed
    assert deny(text) == denied


@pytest.mark.parametrize("text", ["", "~root/x", "a\0b", "/a/*/../b", "/a" * 2049])
def test_what_cannot_be_a_pattern(text: str) -> None:
    with pytest.raises(PathError):
        allow(text)


def test_a_tilde_without_a_home_is_an_error() -> None:
    with pytest.raises(PathError, match="no home"):
        expand("~/x", base="/proj", home="", deny=False)


def test_base_and_home_are_taken_literally() -> None:
    pattern = expand("x", base="/a[1]*", home="/h?", deny=False)
    assert literal_of(pattern) == "/a[1]*/x"
    assert literal_of(expand("~/y", base="/", home="/h?", deny=True)) == "/h?/y"


def matches(pattern: str, path: str) -> bool:
    """Whether a set of this one pattern names this very path: asked as the judge asks it."""
    patterns: PatternSet[str] = PatternSet()
    patterns.add(pattern, "hit")
    parent, _, name = path.rpartition("/")
    if "hit" in patterns.below(parent):
        return True
    interesting = (
        name in patterns.names
        or name.startswith(patterns.heads)
        or name.endswith(patterns.tails)
        or (patterns.glob is not None and patterns.glob(name) is not None)
    )
    found = "hit" in patterns.at(path, name)
    assert interesting or not found, "the quick check must let through whatever matches"
    return found


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/bc", False),
        ("/a/b", "/a/b/c", False),  # covered by inheritance, not by matching
        ("/a/*", "/a/b", True),
        ("/a/*", "/a", False),
        ("/a/*", "/ab", False),
        ("/*", "/x", True),
        ("/a/*/c", "/a/b/c", True),
        ("/a/*/c", "/a/b/b/c", False),
        ("/a/*/*", "/a/b/c", True),
        ("/a/*/*", "/a/b", False),
        ("/a/**/c", "/a/c", True),
        ("/a/**/c", "/a/x/y/c", True),
        ("/a/**/c", "/b/c", False),
        ("/a/**/c", "/a/xc", False),
        ("/a/**/x*", "/a/xc", True),
        ("/a/**/x*", "/ab/xc", False),
        ("/a/x*", "/a/xc", True),
        ("/a/x*", "/a/b/xc", False),
        ("/**/*.key", "/a/b.key", True),
        ("/**/*.key", "/.key", True),
        ("/**/*.key", "/a/b.keys", False),
        ("/**/a*a", "/x/aa", True),
        ("/**/a*a", "/x/a", False),  # head and tail may not overlap
        ("/**/.git/hooks", "/p/.git/hooks", True),
        ("/**/.git/hooks", "/p/x.git/hooks", False),
        ("/**/.git/hooks", "/.git/hooks", True),
        ("/**/hooks", "/hooks", True),
        ("/**/a/?", "/a/b", True),
        ("/**/a/?", "/x/a/b", True),
        ("/**/a/?", "/x/y/a/b", True),
        ("/**/a/?", "/a/a/b/b", False),
        ("/a?/**/b/**/c", "/ax/b/c", True),
        ("/a?/**/b/**/c", "/ax/x/b/c/b/x/c", True),
        ("/a?/**/b/**/c", "/ax/c/b", False),
        ("/a?/**/*", "/ax", False),
        ("/a?/**/*", "/ax/b", True),
        ("/a?/**/*", "/ax/b/c", True),
        ("/a/?.txt", "/a/b.txt", True),
        ("/a/?.txt", "/a/bb.txt", False),
        ("/a/?", "/a/\udcff", True),
        ("/a/?", "/a/\n", True),
        ("/a/[bc]", "/a/b", True),
        ("/a/[bc]", "/a/d", False),
        ("/a/[!bc]", "/a/d", True),
        ("/a/[!bc]", "/a/b", False),
        ("/a/[^bc]", "/a/b", False),
        ("/a/[a-c]x", "/a/bx", True),
        ("/a/[]]", "/a/]", True),
        ("/a/[[]1]", "/a/[1]", True),
        ("/a/[x", "/a/[x", True),  # no class without its end
        ("/a/.x", "/a/bx", False),  # a dot is a dot
        ("/a/(b|c)", "/a/b", False),
        ("/a/b+", "/a/bb", False),
        ("/a/**b/c", "/a/xb/c", True),
        ("/a/**b/c", "/a/x/b/c", False),  # "**" spans components only as a component of its own
    ],
)
def test_match(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_a_class_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(PathError, match="class"):
        PatternSet[None]().add("/a/[z-a]", None)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/**/" + "*a" * 40 + "b", "/x/" + "a" * 255),
        ("/x/" + "?*" * 60 + "b", "/x/" + "a" * 255),
        ("/**/a" * 60 + "/b?", "/a" * 2000),
        ("/**/*a*" * 60 + "/b?", "/a" * 2000),
    ],
)
def test_no_pattern_and_no_name_make_matching_slow(pattern: str, path: str) -> None:
    """Both can come from a test. With backtracking these take years, and the broker answers nobody meanwhile."""
    assert matches(pattern, path) is False


def by_components(pattern: list[str], path: list[str]) -> bool:
    """The meaning of a pattern, spelled out as slowly as possible."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(by_components(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and by_components(pattern[1:], path[1:])


parts = st.sampled_from(["a", "b", "ab", "a.key", "b.key", ".x", "a*b"])
globs = st.sampled_from(["a", "b", "*", "**", "a*", "*b", "*.key", "?", "a?", "[ab]", "*a*", "a[*]b", ".x"])


@settings(max_examples=500)
@given(st.lists(globs, min_size=1, max_size=4), st.lists(parts, min_size=1, max_size=5))
def test_every_way_of_matching_means_the_same(pattern: list[str], path: list[str]) -> None:
    """Dictionaries, heads, tails and expressions are short cuts; the plain meaning is the reference."""
    try:
        expanded = expand("/" + "/".join(pattern), base="/", home="/", deny=False)
    except PathError:
        return
    if expanded == "/":
        return
    assert matches(expanded, "/" + "/".join(path)) is by_components(expanded[1:].split("/"), path)


names = st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(names, min_size=1, max_size=4), names)
def test_an_escaped_path_matches_itself_and_no_other(components: list[str], other: str) -> None:
    path = "/" + "/".join(components)
    pattern = escape(path)
    assert literal_of(pattern) == path
    assert matches(pattern, path)
    assert matches(pattern, path + other) is False
    assert matches(pattern, path + "/" + other) is False


@pytest.mark.parametrize(
    ("pattern", "fixed", "rest"),
    [
        ("/a/b/*.log", "/a/b", "/*.log"),
        ("/a/**/c", "/a", "/**/c"),
        ("/**/c", "", "/**/c"),
        ("/a[*]/x/*", "/a*/x", "/*"),
        ("/a/b", "/a/b", ""),
    ],
)
def test_split_fixed(pattern: str, fixed: str, rest: str) -> None:
    assert split_fixed(pattern) == (fixed, rest)


def test_has_glob() -> None:
    assert has_glob("a*")
    assert has_glob("a[bc]")
    assert not has_glob("a[b")
    assert not has_glob("a]b")


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/var/run/docker.sock", "/run/docker.sock"),
        ("/tmp", "/private/tmp"),
        ("/tmp/x/y", "/private/tmp/x/y"),
        ("/opt/chain", "/run/end"),
        ("/opt/up/x", "/x"),
        ("/nowhere/x", "/nowhere/x"),
        ("/", "/"),
        ("/loop/x", "/loop/x"),
    ],
)
def test_links_are_followed_component_by_component(path: str, resolved: str) -> None:
    links = {
        "/var/run": "/run",
        "/tmp": "private/tmp",
        "/opt/chain": "second",
        "/opt/second": "/var/run/end",
        "/opt/up": "../.",
        "/loop": "/loop",
    }
    assert resolve_trusted(path, links.get) == resolved
