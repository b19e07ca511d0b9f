"""What may be written, in which spelling, and that everything wrong is reported at once and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fence_core.errors import PolicyError
from fence_core.policy.keys import KEYS, Key
from fence_core.policy.model import Entry, Policy, Settings, Source
from fence_core.policy.sources.merge import Overlay, merge, merge_settings
from fence_core.policy.sources.validate import parse_overlay


def parse(raw: dict[str, Any], *, flat: bool = True, settings: bool = True) -> Overlay:
    """What it says, by the paths of the keys."""
    return parse_overlay(raw, source=Source("here"), base_dir="/proj", flat=flat, settings=settings, home="/home/ci")


def problems(raw: dict[str, Any], *, flat: bool = True, settings: bool = True) -> list[tuple[str, str, str]]:
    with pytest.raises(PolicyError) as caught:
        parse(raw, flat=flat, settings=settings)
    assert {problem.source for problem in caught.value.problems} == {"here"}
    return [(problem.key, problem.found, problem.accepted) for problem in caught.value.problems]


def problem(raw: dict[str, Any], **how: bool) -> tuple[str, str, str]:
    found = problems(raw, **how)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    "raw",
    [
        {"network": {"allowed_domains": ["a.example"], "allow_local_binding": True}},
        {"network": {"allowedDomains": ["a.example"], "allowLocalBinding": True}},
        {"allowed_domains": ["a.example"], "allow_local_binding": True},
        {"allowedDomains": ("a.example",), "network": {"allowLocalBinding": True}},
    ],
)
def test_one_meaning_in_every_spelling(raw: dict[str, Any]) -> None:
    network = merge(Policy(), parse(raw)).network
    assert network.allowed_domains == (Entry("a.example", Source("here")),)
    assert network.allow_local_binding is True
    assert str(network.source_of("allow_local_binding")) == "here"
    assert str(network.source_of("allow_all_unix_sockets")) == "the built-in default"


def test_camel_case_is_that_of_the_go_tool() -> None:
    assert [key.camel for key in KEYS if key.name in ("http_proxy_port", "allow_git_config", "deny")] == [
        "httpProxyPort", "allowGitConfig", "deny",
    ]  # fmt: skip


def test_a_config_of_the_go_tool_loads() -> None:
    """Every key of its `Config` struct, with the values it writes itself."""
    overlay = parse(
        {
            "$schema": "https://example.com/schema.json",
            "allowPty": True,
            "network": {
                "allowedDomains": ["github.com", "*.npmjs.org", "localhost"],
                "deniedDomains": ["evil.com"],
                "allowUnixSockets": ["/var/run/docker.sock"],
                "allowAllUnixSockets": False,
                "allowLocalBinding": False,
                "allowLocalOutbound": None,
                "httpProxyPort": 0,
                "socksProxyPort": 0,
            },
            "filesystem": {
                "denyRead": [],
                "allowWrite": [".", "node_modules", "/tmp"],
                "denyWrite": [".git/hooks"],
                "allowGitConfig": False,
            },
            "command": {"deny": None, "allow": [], "useDefaults": True},
        },
        flat=False,
    )
    policy = merge(Policy(), overlay)
    assert policy.network.allow_local_outbound is None
    written = {entry.text: entry.pattern for entry in policy.filesystem.allow_write}
    assert written["."] == "/proj"
    assert written["node_modules"] == "/proj/node_modules"
    assert "/dev/ptmx" in written
    assert policy.filesystem.deny_write[0].pattern == "/proj/.git/hooks"


def test_all_settings() -> None:
    said = {"enabled": True, "mode": "warn", "require": ["landlock"], "leftovers": "wait", "extends": "strict"}
    settings = merge_settings(Settings(), parse(said))
    assert (settings.enabled, settings.mode, settings.require, settings.leftovers) == (
        True, "warn", ("landlock",), "wait",
    )  # fmt: skip
    assert str(settings.source_of("mode")) == "here"
    assert parse({"extends": "strict"}).values == {"extends": "strict"}


def test_paths_may_be_path_objects() -> None:
    (entry,) = parse({"allow_write": [Path("/data/x")]}).values["filesystem.allow_write"]
    assert entry == Entry("/data/x", Source("here"), "/data/x")


def test_an_empty_section_or_key_sets_nothing() -> None:
    """As YAML has it when everything below is commented out."""
    assert parse({"network": None, "filesystem": {"allow_write": None}, "mode": None}) == parse({})


def test_a_relative_base_counts_from_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    overlay = parse_overlay({"allow_write": ["x"]}, source=Source("s"), base_dir=Path(), home="/h")
    assert overlay.values["filesystem.allow_write"][0].pattern == f"{tmp_path}/x"


@pytest.mark.parametrize(
    ("raw", "key", "found", "accepted"),
    [
        ({"allowed_domain": []}, "allowed_domain", 'not a key of the fence; did you mean "allowed_domains"?', ""),
        ({"allowedDomain": []}, "allowedDomain", 'not a key of the fence; did you mean "allowedDomains"?', ""),
        ({"network": {"allowWrite": []}}, "network.allowWrite", "wrong section", "filesystem.allowWrite"),
        ({"network": {"zzz": 1}}, "network.zzz", "not a key of the fence", "allowed_domains, denied_domains"),
        ({"zzz": 1}, "zzz", "not a key of the fence", "enabled"),
        ({"network": {7: 1}}, "network", "a key that is a number", "names"),
        ({"network": []}, "network", "a list", "a table"),
        ({"deny": ["x"]}, "deny", "outside its section", "command.deny"),
        ({"allowed_domains": "a.example"}, "allowed_domains", '"a.example" (a string), not a list', '["a.example"]'),
        ({"allow_write": Path("/x")}, "allow_write", "not a list", '["/x"]'),
        ({"allowed_domains": {"a.example": 1}}, "allowed_domains", "a table", "a list of strings"),
        ({"allowed_domains": [1]}, "allowed_domains[0]", "1 (a number)", "a string"),
        ({"allowed_domains": ["ok.test", ""]}, "allowed_domains[1]", "empty", "a list of strings"),
        ({"allowed_domains": ["a\nb"]}, "allowed_domains[0]", '"a\\nb" holds a control character', "?"),
        ({"allowed_domains": ["*.com"]}, "allowed_domains[0]", '"*.com" is too broad', '"*.example.com"'),
        ({"denied_domains": ["https://x.test"]}, "denied_domains[0]", "is a URL", '"api.example.com"'),
        ({"allow_write": ["~bob/x"]}, "allow_write[0]", '"~bob/x" starts with "~user"', "a path"),
        ({"allow_write": ["[z-a]"]}, "allow_write[0]", "class", "a path"),
        ({"allow_local_binding": 1}, "allow_local_binding", "1 (a number)", "true or false"),
        ({"allow_local_binding": "true"}, "allow_local_binding", '"true" (a string)', "true or false"),
        ({"allow_local_outbound": [80]}, "allow_local_outbound", "a list", "goes into allow_local_outbound_ports"),
        ({"allow_local_outbound_ports": 80}, "allow_local_outbound_ports", "80 (a number)", "[80]"),
        ({"allow_local_outbound_ports": [True]}, "allow_local_outbound_ports[0]", "a boolean", "1 to 65535"),
        ({"allow_local_outbound_ports": [65536]}, "allow_local_outbound_ports[0]", "65536", "1 to 65535"),
        ({"mode": "strict"}, "mode", '"strict" (a string)', '"enforce" or "warn" or "audit"'),
        ({"mode": ["warn"]}, "mode", "a list", '"enforce"'),
        ({"leftovers": "kill"}, "leftovers", '"kill"', '"end" or "wait"'),
        ({"extends": "coed"}, "extends", '"coed" is not a template', '"pytest", "browser", "strict", "default-'),
        ({"extends": ["code"]}, "extends", "is a list", 'or a file, with a "/" in it or a "." before it; or "@base"'),
        ({"extends": "./a\nb"}, "extends", "holds a control character", "the path of a file"),
        ({"enabled": 1}, "enabled", "1 (a number)", "true or false"),
        ({"require": "landlock"}, "require", "not a list", '["landlock"]'),
        ({"allow_pty": "yes"}, "allow_pty", '"yes" (a string)', "true or false"),
        (
            {"allowed_domains": [], "allowedDomains": []},
            "allowedDomains", "allowed_domains is the same key", "each key once",
        ),
        (
            {"network": {"allowed_domains": []}, "allowed_domains": []},
            "allowed_domains", "network.allowed_domains is the same key", "each key once",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_is_right(raw: dict[str, Any], key: str, found: str, accepted: str) -> None:
    actual = problem(raw)
    assert actual[0] == key
    assert found in actual[1]
    assert accepted in actual[2]


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        {
            "network": {"allowedDomains": ["*.com", "ok.test", "a b"], "allowLocalBinding": "no"},
            "filesystem": {"allowWrite": "x"},
            "moed": "warn",
        }
    )
    assert [key for key, _, _ in found] == [
        "network.allowedDomains[0]", "network.allowedDomains[2]", "network.allowLocalBinding", "filesystem.allowWrite",
        "moed",
    ]  # fmt: skip


def test_problems_show_no_raw_control_characters() -> None:
    with pytest.raises(PolicyError) as caught:
        parse({"a\x1b[31m": 1, "allowed_domains": ["x\x1b[0m"], "mode": "\x07"})
    assert str(caught.value).replace("\n", "").isprintable()


def test_json_keeps_its_sections() -> None:
    key, found, accepted = problem({"allowedDomains": []}, flat=False)
    assert (key, found) == ("allowedDomains", "is outside its section")
    assert accepted == 'under "network": network.allowedDomains'


@pytest.mark.parametrize("name", ["enabled", "mode", "require", "leftovers", "extends"])
def test_a_marker_says_nothing_about_the_run_as_a_whole(name: str) -> None:
    key, found, _ = problem({name: True}, settings=False)
    assert (key, found) == (name, "is set for the run as a whole")


def nested(path: str, value: object) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    return {section: {name: value}} if section else {name: value}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_what_is_not_set_changes_nothing_and_is_taken(key: Key) -> None:
    """As the Go tool writes it."""
    for empty in (None, *key.kind.unset):
        assert parse(nested(key.path, empty)) == parse({})


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_what_concerns_the_whole_run_is_in_no_marker(key: Key) -> None:
    value = {"boolean": True, "choice": (*key.choices, "")[0], "port": 80, "table": {}}.get(key.kind.words, ["9"])
    accepted: list[str] = []
    try:
        parse(nested(key.path, value), settings=False)
    except PolicyError as error:
        accepted = [problem.accepted for problem in error.problems if problem.found == "is set for the run as a whole"]
    assert bool(accepted) is not key.marker
    assert all(key.flag in text for text in accepted)


def test_ill_typed_values_are_no_defaults() -> None:
    assert problem({"proxy_env": 0})[1] == "is 0 (a number)"
    assert problem({"http_proxy_port": False})[1] == "is False (a boolean)"
