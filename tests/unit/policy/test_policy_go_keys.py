"""Each key of the Go tool: it loads with the same meaning, or is refused by its own name, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from fence_core.errors import PolicyError, Problem
from fence_core.policy.keys import KEYS
from fence_core.policy.model import Policy, Source
from fence_core.policy.sources.merge import Overlay, merge
from fence_core.policy.sources.validate import parse_overlay

EMPTY: dict[str, Any] = {
    "$schema": "https://example.com/fence.schema.json",
    "extends": None,
    "allowPty": False,
    "forceNewSession": None,
    "network": {
        "allowedDomains": [],
        "deniedDomains": None,
        "allowUnixSockets": [],
        "allowAllUnixSockets": False,
        "allowLocalBinding": False,
        "allowLocalOutbound": None,
        "allowLocalOutboundPorts": [],
        "httpProxyPort": 0,
        "socksProxyPort": 0,
        "upstreamProxy": "",
        "defaultAction": "",
    },
    "filesystem": {
        "defaultDenyRead": False,
        "strictDenyRead": False,
        "wslInterop": None,
        "allowRead": [],
        "allowExecute": None,
        "denyRead": [],
        "allowWrite": [],
        "denyWrite": [],
        "allowGitConfig": False,
    },
    "command": {
        "deny": [],
        "allow": [],
        "useDefaults": None,
        "runtimeExecPolicy": "",
        "acceptSharedBinaryCannotRuntimeDeny": [],
    },
    "devices": {"mode": "", "allow": []},
    "ssh": {
        "allowedHosts": [],
        "deniedHosts": [],
        "allowedCommands": [],
        "deniedCommands": [],
        "allowAllCommands": False,
        "inheritDeny": False,
    },
    "macos": {"gpu": None, "mach": {}},
}
"""Every key, as the Go tool writes what is not set."""

TAKEN: list[tuple[str, Any]] = [
    ("allowPty", True),
    ("forceNewSession", True),
    ("extends", "default-deny"),
    ("network.allowedDomains", ["api.example.com", "*.example.org", "localhost"]),
    ("network.deniedDomains", ["169.254.169.254", "*.sentry.io"]),
    ("network.allowUnixSockets", ["/var/run/docker.sock"]),
    ("network.allowAllUnixSockets", True),
    ("network.allowLocalBinding", True),
    ("network.allowLocalOutbound", False),
    ("network.allowLocalOutboundPorts", [5432]),
    ("network.httpProxyPort", 3128),
    ("network.upstreamProxy", "http://127.0.0.1:8080"),
    ("network.defaultAction", "deny"),
    ("filesystem.defaultDenyRead", False),
    ("filesystem.wslInterop", False),
    ("filesystem.denyRead", ["~/.ssh/id_*", "~/.gnupg/**"]),
    ("filesystem.allowWrite", [".", "~/.claude*", "/tmp", "**/out"]),
    ("filesystem.denyWrite", ["**/.env.*", "*.key"]),
    ("filesystem.allowGitConfig", True),
    ("command.deny", ["git push"]),
    ("command.allow", ["git push origin docs"]),
    ("command.useDefaults", True),
    ("command.useDefaults", False),
    ("command.runtimeExecPolicy", "path"),
    ("command.runtimeExecPolicy", "argv"),
    ("command.acceptSharedBinaryCannotRuntimeDeny", ["dd"]),
    ("devices.mode", "auto"),
    ("devices.mode", "host"),
    ("devices.allow", ["/dev/dri", "/dev/fuse"]),
    ("macos.gpu", True),
    ("macos.mach", {"lookup": ["org.chromium.*"], "register": []}),
]

REFUSED: list[tuple[str, Any]] = [
    ("network.socksProxyPort", 1080),
    ("network.defaultAction", "proxy"),
    ("filesystem.allowRead", ["/srv"]),
    ("filesystem.allowExecute", ["/usr/bin/env"]),
    ("filesystem.defaultDenyRead", True),
    ("filesystem.strictDenyRead", True),
    ("filesystem.wslInterop", True),
    ("devices.mode", "minimal"),
    ("ssh.allowedHosts", ["*.example.com"]),
    ("ssh.deniedHosts", ["prod-*"]),
    ("ssh.allowedCommands", ["ls"]),
    ("ssh.deniedCommands", ["rm -rf"]),
    ("ssh.allowAllCommands", True),
    ("ssh.inheritDeny", True),
]


def nested(path: str, value: object) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def parse(raw: dict[str, Any]) -> Overlay:
    return parse_overlay(raw, source=Source("fence.json"), base_dir="/proj", flat=False, settings=True, home="/home/ci")


def problem(raw: dict[str, Any]) -> Problem:
    with pytest.raises(PolicyError) as caught:
        parse(raw)
    (found,) = caught.value.problems
    return found


def test_every_key_is_here() -> None:
    sections = {"network", "filesystem", "command", "devices", "ssh", "macos"}
    named = {f"{each}.{name}" for each in sections for name in EMPTY[each]}
    named |= set(EMPTY) - sections - {"$schema"}
    tried = {path for path, _ in TAKEN + REFUSED}
    assert named == tried


def test_what_is_not_set_is_taken() -> None:
    assert parse(EMPTY).values == {
        "allow_pty": False, "network.allow_all_unix_sockets": False, "network.allow_local_binding": False,
        "filesystem.allow_git_config": False, "filesystem.default_deny_read": False,
        "filesystem.strict_deny_read": False, "ssh.allow_all_commands": False, "ssh.inherit_deny": False,
        "macos.mach": {},
    }  # fmt: skip


@pytest.mark.parametrize(("path", "value"), TAKEN)
def test_taken(path: str, value: object) -> None:
    assert len(parse(nested(path, value)).values) == 1


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_refused_by_its_name(path: str, value: object) -> None:
    found = problem(nested(path, value))
    assert found.key == path
    assert found.found.startswith("is refused: ")
    assert len(found.found.removeprefix("is refused: ").split()) >= 5
    assert "did you mean" not in str(found)
    assert found.accepted


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("network.defaultAction", "prox", '"deny" or "proxy"'),
        ("filesystem.allowRead", "/srv", '["/srv"]'),
        ("filesystem.wslInterop", "auto", "true or false"),
        ("command.runtimeExecPolicy", "both", '"path" or "argv"'),
        ("devices.mode", "full", '"auto" or "minimal" or "host"'),
        ("devices.allow", ["/dev/../etc"], "the path of a device"),
        ("devices.allow", ["/dev"], "the path of a device"),
        ("devices.allow", ["dri"], "the path of a device"),
        ("macos.mach", ["x"], "a table"),
        ("ssh", ["host"], "a table of ssh keys"),
    ],
)
def test_of_the_wrong_type(path: str, value: object, said: str) -> None:
    assert said in problem(nested(path, value)).accepted


def test_unknown_ones_beside_them() -> None:
    assert 'did you mean "allowedHosts"' in problem({"ssh": {"allowedHost": []}}).found
    assert 'did you mean "allowRead"' in problem({"filesystem": {"allowReads": []}}).found
    listed = problem({"filesystem": {"zzz": 1}}).accepted
    assert listed.split(", ") == ["allow_write", "deny_write", "deny_read", "ignore_write", "allow_git_config"]


def test_devices_are_entries_of_allow_write() -> None:
    said = parse({"devices": {"allow": ["/dev/dri"]}, "filesystem": {"allowWrite": ["."]}})
    rules = merge(Policy(), said).filesystem.allow_write
    assert [(entry.text, entry.pattern) for entry in rules] == [(".", "/proj"), ("/dev/dri", "/dev/dri")]


def test_no_marker_has_them() -> None:
    for key in KEYS:
        assert not (key.foreign and key.marker), key.path
