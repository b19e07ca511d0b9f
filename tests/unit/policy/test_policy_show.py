"""A policy written out means what it meant, and names where each of its rules is from; what is odd in it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fence_core.command.doubts import doubts
from fence_core.policy.keys import PRESETS
from fence_core.policy.model import Policy
from fence_core.policy.sources.discover import Discovered, discover
from fence_core.policy.sources.files import without_comments
from fence_core.policy.sources.show import as_text, written

FILE = {
    "extends": "code",
    "mode": "warn",
    "envDeny": ["*_TOKEN"],
    "network": {
        "allowedDomains": ["a.test", "*.b.test:443", "10.0.0.0/8:5432"],
        "allowPrivate": ["db"],
        "ignoredDomains": ["c.test"],
        "ignoredUnixSockets": ["/run/bus"],
        "allowLocalOutboundPorts": [5432],
        "hosts": {"gone.test": False, "here.test": "127.0.0.1:80"},
        "upstreamProxy": "http://proxy.test:3128",
    },
    "filesystem": {
        "allowWrite": ["out", "./a/b", "~/x", "*.log", "/srv/a[b]", "odd[*]"],
        "denyWrite": ["*.key", "./sub/.env"],
        "denyRead": ["secret"],
        "ignoreWrite": ["*.tmp", "./sub/x"],
    },
    "command": {"deny": ["git push"], "allow": ["chroot"], "useDefaults": False},
    "devices": {"allow": ["/dev/dri"]},
}


def find(directory: Path, home: Path, **how: Any) -> Discovered:
    return discover(str(directory), environ={"HOME": str(home)}, **how)


def meaning(policy: Policy) -> Any:
    """What is allowed, without who has said so and in which order."""

    def plain(entries: Any) -> Any:
        return sorted({(each.pattern or each.text) for each in entries})

    network, files, command = policy.network, policy.filesystem, policy.command
    lists = (
        "allowed_domains", "denied_domains", "ignored_domains", "allow_private", "allow_unix_sockets",
        "ignored_unix_sockets",
    )  # fmt: skip
    return (
        [plain(getattr(network, name)) for name in lists],
        network._replace(sources=(), **dict.fromkeys(lists, ())),
        [plain(getattr(files, name)) for name in ("allow_write", "deny_write", "deny_read", "ignore_write")],
        files.allow_git_config,
        (plain(command.deny), plain(command.allow), command.use_defaults),
    )


def again(tmp_path: Path, shown: str, home: Path) -> Discovered:
    """Read in another place: nothing in it may count from where it is read."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "shown.jsonc").write_text(shown, encoding="utf-8")
    return find(elsewhere, home, settings="shown.jsonc")


@pytest.mark.parametrize("sources", [False, True])
def test_a_file(tmp_path: Path, sources: bool) -> None:
    (tmp_path / "fence.json").write_text(json.dumps(FILE), encoding="utf-8")
    (tmp_path / "fence.json").chmod(0o644)
    found = find(tmp_path, tmp_path)
    shown = as_text(found.config, sources=sources)
    read = again(tmp_path, shown, tmp_path)
    assert meaning(read.config.policy) == meaning(found.config.policy)
    assert written(read.config) == written(found.config)
    assert read.config.settings.mode == "warn"
    assert [entry.text for entry in read.config.settings.env_deny] == ["*_TOKEN"]


@pytest.mark.parametrize("name", PRESETS)
def test_templates(tmp_path: Path, name: str) -> None:
    found = find(tmp_path, tmp_path, template=name)
    read = again(tmp_path, as_text(found.config), tmp_path)
    assert meaning(read.config.policy) == meaning(found.config.policy)
    assert as_text(read.config) == as_text(found.config), "a fixed point"


def test_what_it_looks_like(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_text(
        '{"network": {\n"allowedDomains": ["a.test",\n"b.test"], "allowLocalBinding": true},\n'
        '"filesystem": {"allowWrite": ["~/x", "y"]}}', encoding="utf-8",
    )  # fmt: skip
    (tmp_path / "fence.json").chmod(0o644)
    found = find(tmp_path, tmp_path)
    shown = written(found.config)
    assert shown["extends"] == "default-deny"
    assert shown["network"] == {"allowedDomains": ["a.test", "b.test"], "allowLocalBinding": True}
    assert shown["filesystem"]["allowWrite"][-2:] == ["~/x", "~/y"]
    assert json.loads(as_text(found.config)) == shown
    lines = as_text(found.config, sources=True).split("\n")
    at = f"{tmp_path}/fence.json"
    assert f'      "a.test",  // {at}:2' in lines
    assert f'      "b.test"  // {at}:3' in lines
    assert f'    "allowLocalBinding": true  // {at}:3' in lines
    assert f'      "~/y"  // {at}:4' in lines
    assert '      "/dev/null",  // template default-deny' in lines
    assert json.loads(without_comments("\n".join(lines), "")) == shown


def test_what_is_odd(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "fence.yaml").write_text(
        "allow_write:\n- build\n- biuld\n- made-later\n- ~/.bashrc\n- build/x.key\n- '*.gone'\n- fence.yaml\n"
        "deny_write: ['*.key']\nallowed_domains:\n- a.test\n- b.test\ndenied_domains: [b.test]\n",
        encoding="utf-8",
    )
    (tmp_path / "fence.yaml").chmod(0o644)
    found = [(each.line, f"{each.key}: {each.found}") for each in doubts(find(tmp_path, tmp_path / "home").config)]
    at = f"{tmp_path}/fence.yaml"
    assert found == [
        (3, 'filesystem.allowWrite "biuld": does not exist; did you mean "build"?'),
        (4, 'filesystem.allowWrite "made-later": does not exist (yet)'),
        (
            5,
            'filesystem.allowWrite "~/.bashrc": has no effect: protected: ".bashrc": the shell runs it at its next '
            "start (built in)",
        ),
        (6, f'filesystem.allowWrite "build/x.key": has no effect: denied: filesystem.denyWrite "*.key" ({at}:9)'),
        (
            8,
            f'filesystem.allowWrite "fence.yaml": has no effect: protected: "{tmp_path}/fence.yaml": it decides what '
            "the next run allows (built in)",
        ),
        (12, f'network.allowedDomains "b.test": has no effect: denied: network.deniedDomains "b.test" ({at}:13)'),
    ]
