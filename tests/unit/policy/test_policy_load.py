"""Finding and reading a project's config, whatever it is written in, and what is said when that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fence_core.config_files import mentions_fence
from fence_core.errors import PolicyError
from fence_core.policy.decide import Judge
from fence_core.policy.model import Config, Settings
from fence_core.policy.requests import Resolve, Write
from fence_core.policy.sources.files import source_kind
from fence_core.policy.sources.lines import located
from fence_core.policy.sources.load import find_config
from fence_core.policy.sources.templates import TemplateContext
from fence_core.report.rule import sentence

SAME = {
    "pyproject.toml": """
        [project]
        name = "x"
        [tool.fence]
        enabled = true
        mode = "warn"
        allowed_domains = ["a.example"]
        network.allow_local_binding = false
        filesystem.deny_write = ["*.key"]
    """,
    "fence.json": """{
        "enabled": true, "mode": "warn",
        "network": {"allowedDomains": ["a.example"], "allowLocalBinding": false},
        "filesystem": {"denyWrite": ["*.key"]}
    }""",
    "fence.jsonc": """// why
    {
        "enabled": true, /* always */ "mode": "warn",
        "network": {"allowedDomains": ["a.example", /* , */ ], "allowLocalBinding": false, },
        "filesystem": {"denyWrite": ["*.key"],},
    } // done
    """,
    "fence.yaml": """
enabled: yes
mode: warn
allowed_domains: [a.example]
network:
  allowLocalBinding: false
filesystem:
  deny_write:
  - "*.key"
""",
    "fence.yml": "{enabled: true, mode: warn, network: {allowed_domains: [a.example], allow_local_binding: false},"
    " deny_write: ['*.key']}",
}


def context(root: Path) -> TemplateContext:
    """Nothing of this machine: the tests' own directories are temporary ones."""
    return TemplateContext(
        root=str(root), temp_dirs=("/nowhere/tmp",), home="/nowhere/home", cache_dir=f"{root}/.pytest_cache"
    )


def find(root: Path, explicit: Path | None = None, default_template: str = "pytest") -> Config:
    return find_config(root, explicit, default_template=default_template, context=context(root))


def errors(root: Path, explicit: Path | None = None) -> str:
    with pytest.raises(PolicyError) as caught:
        find(root, explicit)
    return str(caught.value)


@pytest.mark.parametrize("name", SAME)
def test_every_kind_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SAME[name])
    config = find(tmp_path)
    assert config.path == tmp_path / name
    assert config.source == ("pyproject.toml [tool.fence]" if name == "pyproject.toml" else name)
    assert (config.settings.enabled, config.settings.mode) == (True, "warn")
    assert config.policy.network.allow_local_binding is False
    assert tuple(map(str, config.policy.sources)) == ("preset pytest", config.source)
    judge = Judge(config.policy)
    assert (
        sentence(judge.decide(Resolve("a.example")))
        == f'allowed: network.allowed_domains "a.example" ({config.source})'
    )
    assert judge.decide(Write("open", f"{tmp_path}/x.key")).why == "denied"
    assert judge.may_write(f"{tmp_path}/x")


@pytest.mark.parametrize("name", SAME)
def test_a_file_can_be_named(tmp_path: Path, name: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "fence.json").write_text("{")  # not looked at
    (elsewhere / name).write_text(SAME[name].replace("*.key", "./out"))
    config = find(root, elsewhere / name)
    assert config.settings.mode == "warn"
    assert str(elsewhere / name) in config.source
    rules = {entry.text: entry.pattern for entry in config.policy.filesystem.deny_write}
    assert rules == {"./out": f"{elsewhere}/out"}, "paths count from the file that says them"
    assert str(elsewhere / name) in config.policy.filesystem.locked


def test_without_a_config_the_preset_counts(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'fence'\n")
    config = find(tmp_path)
    assert config == Config(config.policy, Settings(), "preset pytest", None)
    assert Judge(config.policy).may_write(f"{tmp_path}/x")


def test_the_default_template_is_the_callers(tmp_path: Path) -> None:
    assert not Judge(find(tmp_path, default_template="default-deny").policy).may_write(f"{tmp_path}/x")
    (tmp_path / "fence.json").write_text("{}")
    config = find(tmp_path, default_template="default-deny")
    assert tuple(map(str, config.policy.sources)) == ("preset default-deny", "fence.json")


def test_extends_chooses_the_template(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_text('{"extends": "strict"}')
    config = find(tmp_path, default_template="default-deny")
    assert tuple(map(str, config.policy.sources)) == ("preset strict", "fence.json")
    assert not Judge(config.policy).may_write(f"{tmp_path}/x")
    assert Judge(config.policy).may_write(f"{tmp_path}/.coverage.host.1")


@pytest.mark.parametrize("text", ["", "  \n", "// nothing\n"])
def test_an_empty_file_sets_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "fence.json").write_text(text)
    assert tuple(map(str, find(tmp_path).policy.sources)) == ("preset pytest", "fence.json")


def test_comments_and_commas_inside_strings_are_text(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_text(
        r'{"filesystem": {"allowWrite": ["/a//b", "/c/*x*/d", "/e,]", "/q\"//,}", "/back\\"], }}'
    )
    texts = [entry.text for entry in find(tmp_path).policy.filesystem.allow_write]
    assert texts[-5:] == ["/a//b", "/c/*x*/d", "/e,]", '/q"//,}', "/back\\"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_bytes(b'\xef\xbb\xbf{"mode": "warn"}')
    assert find(tmp_path).settings.mode == "warn"


@pytest.mark.parametrize(
    ("first", "second"),
    [("pyproject.toml", "fence.json"), ("fence.json", "fence.jsonc"), ("fence.yaml", "fence.yml")],
)
def test_two_configs_are_one_too_many(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        (tmp_path / name).write_text(SAME[name])
    text = errors(tmp_path)
    assert "more than one config" in text
    assert first in text
    assert second in text
    assert "--fence-config=FILE" in text
    assert find(tmp_path, tmp_path / second).path == tmp_path / second


def test_a_pyproject_without_our_table_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nfence = 1\n")
    (tmp_path / "fence.json").write_text("{}")
    assert find(tmp_path).source == "fence.json"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("fence.json", '{\n  "mode": warn\n}', "fence.json: line 2, column 11: is not valid JSON"),
        ("fence.jsonc", '{ // x\n/* y */ "mode" "warn"}', "fence.jsonc: line 2, column 16: is not valid JSON"),
        ("fence.json", '{"mode": "warn"} x', "line 1, column 18"),
        ("fence.json", '{\n"a": 1 /* no end', "line 2, column 8: a comment is not closed"),
        ("fence.json", '{"mode": "warn", "mode": "audit"}', "fence.json: mode: is given twice"),
        ("fence.json", '{"network": {"x": NaN}}', "NaN, which is not JSON"),
        ("fence.json", "[1]", "holds a list at its top level"),
        ("fence.json", "[" * 100_000, "nested too deeply"),
        ("fence.yaml", "mode: " + "[" * 10_000, "nested too deeply"),
        ("pyproject.toml", "[tool.fence]\nmode = " + "[" * 10_000, "nested too deeply"),
        (
            "fence.json",
            '{"mode": "warn",\n"allowedDomains": []}',
            "fence.json, line 2: allowedDomains: is outside its section",
        ),
        ("fence.yaml", "mode: warn\nmode: audit\n", "fence.yaml: line 2: mode: is given twice"),
        ("fence.yaml", "network:\n  a: 1\n  a: 2\n", "line 3: a: is given twice"),
        ("fence.yaml", "a: [1\n", "is not valid YAML"),
        ("fence.yaml", "a: b: c\n", "line 1, column 5: is not valid YAML"),
        ("fence.yaml", "- a\n", "holds a list at its top level"),
        ("fence.yaml", "a: !!python/object:os.system {}\n", "is not valid YAML"),
        ("pyproject.toml", "[tool.fence]\nmode = warn\n", "pyproject.toml: is not valid TOML"),
        ("pyproject.toml", "[tool.fence]\nmode = 'a'\nmode = 'b'\n", "line 3"),
        ("pyproject.toml", "[tool]\nfence = true\n", "tool.fence: is a bool; accepted: a table: [tool.fence]"),
        (
            "pyproject.toml",
            "[tool.fence]\nmdoe = 'warn'\n",
            'pyproject.toml [tool.fence], line 2: mdoe: is not a key of the fence; did you mean "mode"?',
        ),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    assert expected in errors(tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_bytes(b'{\n"mode": "\xff"}')
    assert "fence.json: line 2: byte 0xff is not UTF-8" in errors(tmp_path)


@pytest.mark.parametrize("name", SAME)
def test_a_config_that_cannot_be_opened_is_an_error(tmp_path: Path, name: str) -> None:
    """Also a dangling link: a config that was there yesterday must not turn into none."""
    (tmp_path / name).symlink_to(tmp_path / "gone")
    text = errors(tmp_path)
    assert "cannot be read: No such file" in text
    assert "--fence-config=FILE" in text
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert "cannot be read: Is a directory" in errors(tmp_path)


def test_a_named_file_must_be_there_and_of_a_known_kind(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in errors(tmp_path, tmp_path / "x.json")
    assert "is of no kind that the fence reads" in errors(tmp_path, tmp_path / "x.ini")
    (tmp_path / "other.toml").write_text("[tool.x]\n")
    assert "has no [tool.fence]" in errors(tmp_path, tmp_path / "other.toml")


def test_the_files_of_the_policy_are_locked(tmp_path: Path) -> None:
    """No test loosens tomorrow's run, neither by changing its config nor by making one."""
    judge = Judge(find(tmp_path).policy)
    for name in ("pyproject.toml", "fence.json", "fence.yaml", "pytest.ini", "tox.ini"):
        assert judge.decide(Write("create", f"{tmp_path}/{name}")).why == "protected"
        # Whatever the directory, pytest and the fence read their own files; the others serve other tools too.
        assert judge.may_write(f"{tmp_path}/sub/{name}") is name.startswith(("pyproject", "tox"))


@pytest.mark.parametrize("name", SAME)
def test_mentions_fence_sees_every_config_that_switches_it_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SAME[name])
    assert mentions_fence(tmp_path) == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[tool.fence]\nmode = 'warn'\n"),
        ("pyproject.toml", "[tool.other]\nenabled = true\n"),
        ("fence.json", "{}"),
    ],
)
def test_what_sets_nothing_is_not_mentioned(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert mentions_fence(tmp_path) is None


def test_mentions_fence_spots_an_escaped_spelling(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_text('{"\\u0065nabled": true}')
    assert mentions_fence(tmp_path) == str(tmp_path / "fence.json")
    assert find(tmp_path).settings.enabled is True


def test_mentions_fence_does_not_miss_what_it_cannot_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "fence.yaml").write_text("enabled: true", encoding="utf-16")
    assert mentions_fence(tmp_path) == str(tmp_path / "fence.yaml")
    assert "is not UTF-8" in errors(tmp_path)


def test_mentions_fence_never_raises(tmp_path: Path) -> None:
    assert mentions_fence(tmp_path / "missing") is None
    assert mentions_fence(Path("a\0b")) is not None
    (tmp_path / "fence.json").mkdir()
    assert mentions_fence(tmp_path) == str(tmp_path / "fence.json")
    (tmp_path / "fence.json").rmdir()
    os.mkfifo(tmp_path / "fence.json")
    assert mentions_fence(tmp_path) is None  # and does not wait for a writer


@pytest.mark.parametrize(
    ("path", "kind"),
    [(None, "toml"), ("pyproject.toml", "toml"), ("a/fence.JSON", "json"), ("fence.jsonc", "json"), ("f.yml", "yaml")],
)
def test_source_kind(path: str | None, kind: str) -> None:
    assert source_kind(None if path is None else Path(path)) == kind


def test_each_entry_of_a_package_knows_its_line(tmp_path: Path) -> None:
    """The root's that of the root's file, and the package's its own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.fence]\npackages = ['*']\nallow_write = ['x']\n")
    (tmp_path / "a" / "fence.yaml").write_text("# ours\nfilesystem:\n  allow_write:\n  - x\n")
    (package,) = find_config(tmp_path).packages
    entries = package.policy.filesystem.allow_write[-2:]
    places = [(located(entry.source).name, located(entry.source).line, entry.pattern) for entry in entries]
    assert places == [("pyproject.toml [tool.fence]", 3, f"{tmp_path}/x"), ("a/fence.yaml", 4, f"{tmp_path}/a/x")]
