"""What a config builds on: presets, files, the user's own; merged as documented, with the line of each entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fence_core.config_files import mentions_fence
from fence_core.errors import PolicyError
from fence_core.policy.decide import Judge
from fence_core.policy.model import Config, Settings
from fence_core.policy.requests import Connect
from fence_core.policy.sources.lines import located
from fence_core.policy.sources.load import config_in, find_config, find_settings
from fence_core.policy.sources.merge import merge_settings
from fence_core.policy.sources.templates import TemplateContext


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    there = tmp_path / "home"
    there.mkdir()
    monkeypatch.setenv("HOME", str(there))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return there


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


def find(root: Path, home: str = "") -> Config:
    context = TemplateContext(str(root), ("/nowhere/tmp",), home or str(root.parent / "home"), f"{root}/.cache")
    return find_config(root, context=context)


def domains(config: Config) -> list[str]:
    return [entry.text for entry in config.policy.network.allowed_domains]


def errors(root: Path) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        find(root)
    return list(map(str, caught.value.problems))


def test_three_files_and_a_template(project: Path) -> None:
    write(
        project / "fence.jsonc",
        """{
          "extends": "shared/middle.yaml", // a file: there is a slash in it
          "network": {"allowedDomains": ["own.test"], "allowLocalBinding": false},
        }""",
    )
    write(
        project / "shared/middle.yaml",
        "extends: ../../base.toml\nmode: warn\nallow_local_binding: true\nallowed_domains:\n- middle.test\n"
        "allow_write: [out]\n",
    )
    base = write(
        project.parent / "base.toml",
        "[tool.fence]\nextends = 'strict'\nmode = 'audit'\nallowed_domains = ['base.test']\ndeny_write = ['*.key']\n",
    )
    config = find(project)
    assert domains(config) == ["base.test", "middle.test", "own.test"]
    assert config.policy.network.allow_local_binding is False, "the closest file has the last word"
    assert config.settings.mode == "warn"
    assert [source.name for source in config.policy.sources] == [
        "preset strict", f"{base} [tool.fence]", "shared/middle.yaml", "fence.jsonc",
    ]  # fmt: skip
    assert config.source == "fence.jsonc"
    locked = config.policy.filesystem.locked
    assert {f"{project}/fence.jsonc", f"{project}/shared/middle.yaml", str(base)} <= set(locked)
    judge = Judge(config.policy)
    assert judge.may_write(f"{project}/out"), "as in a preset, paths count from the project"
    assert not judge.may_write(f"{project}/shared/out")
    assert not judge.may_write(f"{project}/out/x.key")


def test_the_lines_of_all_of_them(project: Path) -> None:
    write(project / "fence.json", '{"extends": "./b.yaml",\n"network": {"allowedDomains": [\n"own.test"]}}')
    write(project / "b.yaml", "# ours\nextends: ./c.toml\nallowed_domains:\n\n- b.test\n")
    write(project / "c.toml", "[tool.fence]\n\n\nallowed_domains = [\n  'c.test',\n  'd.test']\n")
    entries = find(project).policy.network.allowed_domains
    places = [(entry.text, *located(entry.source)[:3:2]) for entry in entries]
    assert places == [
        ("c.test", "c.toml [tool.fence]", 5), ("d.test", "c.toml [tool.fence]", 6), ("b.test", "b.yaml", 5),
        ("own.test", "fence.json", 3),
    ]  # fmt: skip


def test_what_is_wrong_in_any_of_them(project: Path) -> None:
    write(project / "fence.json", '{"extends": "./b.yaml",\n"moed": "warn"}')
    write(project / "b.yaml", "extends: ./c.toml\n\nallow_write: x\n")
    write(project / "c.toml", "[tool.fence]\nallowed_domains = ['*.com']\nextends = 'cod'\n")
    found = errors(project)
    assert [line.split(": ")[0] for line in found] == [
        "fence.json, line 2", "b.yaml, line 3", "c.toml [tool.fence], line 2", "c.toml [tool.fence], line 3",
    ]  # fmt: skip


def test_a_circle(project: Path) -> None:
    write(project / "fence.json", '{\n"extends": "./a.json"}')
    write(project / "a.json", '{"extends": "./b.json"}')
    write(project / "b.json", '{"extends": "../project/a.json"}')
    (found,) = errors(project)
    assert "b.json, line 1: extends: goes round in a circle: a.json → b.json → a.json" in found
    write(project / "fence.json", '{"extends": "./fence.json"}')
    assert "in a circle: fence.json → fence.json" in errors(project)[0]


@pytest.mark.parametrize(("length", "fine"), [(10, True), (11, False)])
def test_how_long_a_chain_may_be(project: Path, length: int, fine: bool) -> None:
    names = ["fence.json", *(f"{number}.json" for number in range(2, length + 1))]
    for name, following in zip(names, [*names[1:], ""], strict=True):
        extends = f'"extends": "./{following}", ' if following else ""
        write(project / name, f'{{{extends}"network": {{"allowedDomains": ["n{name[:-5]}.test"]}}}}')
    if fine:
        assert len(domains(find(project))) == length
    else:
        (found,) = errors(project)
        assert "makes a chain of more than 10 files: fence.json → ... → 10.json → 11.json" in found


def test_a_file_that_is_not_there(project: Path) -> None:
    write(project / "fence.json", '{\n"extends": "./gone.json"}')
    (found,) = errors(project)
    assert "gone.json: cannot be read: No such file or directory (it is extended by fence.json, line 2)" in found


def test_the_users_own(project: Path, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(project / "fence.json", '{"extends": "@base", "network": {"allowedDomains": ["own.test"]}}')
    config = find(project)
    assert domains(config) == ["own.test"]
    assert config.policy.sources[0].name == "preset pytest", "who has none gets what holds without any"
    write(home / ".fence.json", '{"network": {"allowedDomains": ["old.test"]}}')
    assert domains(find(project)) == ["old.test", "own.test"]
    write(home / ".config/fence/fence.yaml", "extends: strict\nallowed_domains: [user.test]\nallow_write: [out]\n")
    config = find(project)
    assert domains(config) == ["user.test", "own.test"]
    assert [source.name for source in config.policy.sources] == [
        "preset strict", "~/.config/fence/fence.yaml", "fence.json",
    ]  # fmt: skip
    assert Judge(config.policy).may_write(f"{project}/out")
    write(tmp_path / "xdg/fence/fence.jsonc", '{"network": {"allowedDomains": ["xdg.test"],}}')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert domains(find(project)) == ["xdg.test", "own.test"]
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert domains(find(project)) == ["user.test", "own.test"]


def test_the_users_own_extends_itself(project: Path, home: Path) -> None:
    write(project / "fence.json", '{"extends": "@base"}')
    write(home / ".config/fence/fence.json", '{"extends": "@base"}')
    assert "~/.config/fence/fence.json → ~/.config/fence/fence.json" in errors(project)[0]


def test_two_of_the_users_own(project: Path, home: Path) -> None:
    write(project / "fence.json", '{"extends": "@base"}')
    write(home / ".fence.json", "{}")
    write(home / ".fence.jsonc", "{}")
    assert "more than one config of the fence: .fence.json and .fence.jsonc" in errors(project)[0]


def test_one_of_the_users_own_that_anybody_can_write(project: Path, home: Path) -> None:
    write(project / "fence.json", '{"extends": "@base"}')
    write(home / ".config/fence/fence.json", "{}").chmod(0o666)
    assert "can be written by anybody (mode 0666)" in errors(project)[0]


def test_whether_a_run_is_fenced(project: Path) -> None:
    """It may say so in a file that is extended; where none could, nothing is parsed."""
    write(project / "fence.json", '{"extends": "./base.json"}')
    write(project / "base.json", '{"enabled": true, "unsupported": "skip"}')
    assert mentions_fence(project) is not None
    assert find(project).settings.enabled
    found = config_in(str(project))
    assert found is not None
    assert found[2] is True
    settings = find_settings(project)
    assert settings == [merge_settings(Settings())._replace(**settings[0]._asdict())]
    assert (settings[0].enabled, settings[0].unsupported) == (True, "skip")
    write(project / "fence.json", '{"extends": "./base.json", "enabled": false}')
    assert not find(project).settings.enabled
    found = config_in(str(project))
    assert found is not None
    assert found[2] is False


@pytest.mark.parametrize(
    ("name", "text", "asks"),
    [
        ("fence.json", '{"extends": "strict"}', False),
        ("fence.json", '{"mode": "warn",\n "extends" : "no-secrets",\n"network": {}}', False),
        ("pyproject.toml", "[tool.fence]\nextends = 'strict'  # all of it\n", False),
        ("pyproject.toml", "[tool.other]\nextends = './x'\n", False),
        ("fence.json", '{"extends": "./strict"}', True),
        ("fence.json", '{"extends": "@base"}', True),
        ("fence.jsonc", '{"extends": /* "strict" */ "./strict"}', True),
        ("fence.yaml", "extends: strict\n  /x", True),
        ("pyproject.toml", "[tool.fence]\nextends = '''\n./x'''\n", True),
    ],
)
def test_which_configs_are_worth_a_parse(project: Path, name: str, text: str, asks: bool) -> None:
    write(project / name, text)
    assert (mentions_fence(project) is not None) is asks


def test_packages_extend_files_too(project: Path) -> None:
    write(project / "pyproject.toml", "[tool.fence]\npackages = ['a']\n")
    write(project / "a/fence.yaml", "extends: ../shared.yaml\nallow_write: [own]\n")
    shared = write(
        project / "shared.yaml", "extends: strict\nallow_write: [out]\nenv_deny: [X]\nallowed_domains: [a.test]\n"
    )
    config = find(project)
    (package,) = config.packages
    judge = Judge(package.policy)
    assert judge.may_write(f"{project}/a/out")
    assert judge.may_write(f"{project}/a/own")
    assert not judge.may_write(f"{project}/a/else"), "strict"
    assert not Judge(config.policy).decide(Connect("a.test", 1)).allowed
    assert judge.decide(Connect("a.test", 1)).allowed
    assert [entry.text for entry in config.settings.env_deny] == ["X"]
    assert str(shared) in config.policy.filesystem.locked
    write(shared, "extends: ./gone.yaml\npackages: [b]\n")
    assert "a/fence.yaml" not in errors(project)[0]


@pytest.mark.parametrize("preset", ["code", "ci", "offline", "django", "disable-telemetry"])
def test_templates_of_the_command_serve_pytest_too(project: Path, preset: str) -> None:
    write(project / "fence.json", f'{{"extends": "{preset}"}}')
    judge: Any = Judge(find(project).policy)
    assert judge.may_write(f"{project}/x")
    assert judge.may_write("/nowhere/tmp/x")
