"""Several sources, one policy: lists add up, the closest scalar counts, nothing of the base is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fence_core.policy.compiler import Links
from fence_core.policy.decide import Judge
from fence_core.policy.model import FilesystemRules, NetworkRules, Policy, Settings, Source
from fence_core.policy.requests import Connect, Write
from fence_core.policy.sources.merge import Overlay, merge, merge_settings
from fence_core.policy.sources.validate import parse_overlay


def overlay(source: str, /, **keys: Any) -> Overlay:
    return parse_overlay(keys, source=Source(source), base_dir="/proj", settings=True, home="/home/ci")


def test_lists_add_up_and_each_entry_keeps_its_source() -> None:
    policy = merge(
        Policy(),
        overlay("file", allowed_domains=["a.test"], allow_write=["/a"], allow_local_outbound_ports=[1]),
        overlay("marker", allowed_domains=["b.test", "a.test"], allow_write=["/a"], allow_local_outbound_ports=[2, 1]),
    )
    assert [(entry.text, entry.source.name) for entry in policy.network.allowed_domains] == [
        ("a.test", "file"), ("b.test", "marker"), ("a.test", "marker"),
    ]  # fmt: skip
    assert policy.network.allow_local_outbound_ports == (1, 2)
    assert policy.sources == (Source("file"), Source("marker"))


def test_the_closest_scalar_counts_and_says_where_it_was_written() -> None:
    policy = merge(
        Policy(),
        overlay("preset", allow_local_binding=True, allow_git_config=True),
        overlay("file", allow_local_binding=False, allow_local_outbound=True),
        overlay("marker", allow_write=["/a"]),
    )
    assert policy.network.allow_local_binding is False
    assert str(policy.network.source_of("allow_local_binding")) == "file"
    assert policy.network.allow_local_outbound is True
    assert policy.filesystem.allow_git_config is True
    assert str(policy.filesystem.source_of("allow_git_config")) == "preset"


def test_ports_of_loopback_and_the_closest_word_on_all_of_them() -> None:
    def reaches(*overlays: Overlay) -> list[int]:
        judge = Judge(merge(Policy(), overlay("preset", allow_local_binding=True), *overlays))
        return [port for port in (1, 2, 3) if judge.decide(Connect("127.0.0.1", port)).allowed]

    one = overlay("file", allow_local_outbound_ports=[1])
    assert reaches() == [1, 2, 3]
    assert reaches(one) == [1]
    assert reaches(overlay("base", allow_local_outbound=True), one) == [1]
    assert reaches(overlay("both", allow_local_outbound=True, allow_local_outbound_ports=[1])) == [1]  # as in Go
    assert reaches(one, overlay("marker", allow_local_outbound_ports=[2])) == [1, 2]
    assert reaches(one, overlay("marker", allow_local_outbound=True)) == [1, 2, 3]
    assert reaches(one, overlay("marker", allow_local_outbound=False)) == []
    assert reaches(one, overlay("marker", allow_local_outbound=False, allow_local_outbound_ports=[3])) == [1, 3]


def test_a_scalar_that_is_not_written_replaces_nothing() -> None:
    base = Policy(
        network=NetworkRules(allow_all_unix_sockets=True, sources=(("allow_all_unix_sockets", Source("file")),))
    )
    assert merge(base, overlay("marker")).network == base.network


def test_a_scalar_can_be_set_back_to_its_default() -> None:
    policy = merge(Policy(), overlay("file", allow_all_unix_sockets=True), overlay("m", allow_all_unix_sockets=False))
    assert policy.network.allow_all_unix_sockets is False


def test_denials_of_an_outer_source_win_over_a_closer_permission() -> None:
    policy = merge(
        Policy(),
        overlay("file", deny_write=["*.key"], denied_domains=["10.0.0.1"]),
        overlay("marker", allow_write=["/a/x.key"], allowed_domains=["10.0.0.1"]),
    )
    judge = Judge(policy, links=Links(lambda path: None))
    assert not judge.may_write("/a/x.key")
    assert judge.decide(Connect("10.0.0.1", 1)).why == "denied"


def test_where_the_project_lies_comes_from_the_base_alone() -> None:
    base = Policy(filesystem=FilesystemRules(root="/proj", home="/home/ci", scratch=("/tmp",), locked=("/proj/f",)))
    files = merge(base, overlay("file", allow_write=["x"])).filesystem
    assert (files.root, files.home, files.scratch, files.locked) == ("/proj", "/home/ci", ("/tmp",), ("/proj/f",))


def test_settings_merge_alike() -> None:
    settings = merge_settings(
        Settings(),
        overlay("file", enabled=True, mode="warn", require=["landlock"]),
        overlay("--fence-mode", mode="audit", require=["seccomp", "landlock"]),
    )
    assert (settings.enabled, settings.mode, settings.require) == (True, "audit", ("landlock", "seccomp"))
    assert str(settings.source_of("mode")) == "--fence-mode"
    assert str(settings.source_of("enabled")) == "file"


keys = st.fixed_dictionaries(
    {},
    optional={
        "allow_write": st.lists(st.sampled_from(["/a", "/b", "*.x"]), max_size=2),
        "deny_write": st.lists(st.sampled_from(["/a/b", "*.x"]), max_size=2),
        "allow_local_binding": st.booleans(),
        "allow_git_config": st.booleans(),
    },
)


@given(keys, keys)
def test_merging_one_by_one_is_merging_at_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, two = overlay("one", **first), overlay("two", **second)
    assert merge(merge(Policy(), one), two) == merge(Policy(), one, two)


@given(keys, keys, st.sampled_from(["/a/b", "/a/c", "/b/y.x", "/proj/z.x"]))
def test_a_denial_of_any_source_holds(first: dict[str, Any], second: dict[str, Any], path: str) -> None:
    def judge(*overlays: Overlay) -> Judge:
        return Judge(merge(Policy(), *overlays), links=Links(lambda path: None))

    request = Write("open", path)
    one, two = overlay("one", **first), overlay("two", **second)
    if "denied" in (judge(one).decide(request).why, judge(two).decide(request).why):
        assert judge(one, two).decide(request).why == "denied"
