"""The schema that is shipped is what the rows of the keys make, and it says of files what the loader says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fence_core.errors import PolicyError
from fence_core.policy.keys import KEYS, PRESETS, Key, of_section
from fence_core.policy.kinds import leads_to_file
from fence_core.policy.model import Source
from fence_core.policy.schema import generate
from fence_core.policy.sources import templates
from fence_core.policy.sources.files import parse_toml, read_explicit
from fence_core.policy.sources.validate import parse_overlay
from tests.unit.policy.test_policy_go_keys import EMPTY, REFUSED, TAKEN, nested
from tests.unit.policy.test_policy_keys import sample
from tests.unit.policy.test_policy_lines import TEXTS
from tests.unit.policy.test_policy_load import SAME

ROOT = Path(__file__).resolve().parents[3]
by_path = pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)


def takes(raw: object) -> bool:
    """Whether the schema does."""
    import jsonschema

    return bool(jsonschema.Draft202012Validator(generate.generated()).is_valid(raw))


def loads(raw: dict[str, Any], *, flat: bool = True) -> bool:
    try:
        parse_overlay(raw, source=Source("here"), base_dir="/p", home="/h", flat=flat, settings=True)
    except PolicyError:
        return False
    return True


def test_what_is_shipped() -> None:
    shipped = Path(generate.FILE).read_text(encoding="utf-8")
    assert shipped == generate.text(), "write it: python -m fence_core.policy.schema.generate"


@pytest.mark.needs("module:jsonschema")
def test_it_is_a_schema() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(json.loads(generate.text()))


@pytest.mark.needs("module:jsonschema")
@by_path
def test_every_key_in_both_spellings(key: Key) -> None:
    if key.refused:
        return
    of_kind = {"table": {}, "list of devices": ["/dev/dri"], "list of strings": ["x"], "boolean": True}
    written = of_kind.get(key.kind.words)
    if written is None:
        written = sample(key)[0]
    for name in key.name, key.camel:
        raw = {key.section: {name: written}} if key.section else {name: written}
        assert takes(raw)
        assert loads(raw)
        assert not takes({key.section: {name: object()}} if key.section else {name: object()})
    if key.name != key.camel:
        twice = {key.name: written, key.camel: written}
        assert not takes({key.section: twice} if key.section else twice)


@pytest.mark.needs("module:jsonschema")
def test_the_keys_of_the_go_tool() -> None:
    assert takes(EMPTY)
    for path, value in TAKEN:
        assert takes(nested(path, value)), path
    for path, value in REFUSED:
        assert not takes(nested(path, value)), path


def test_what_is_refused_says_why() -> None:
    schema = generate.generated()
    for key in KEYS:
        row = schema["properties"][key.section]["properties"][key.name] if key.section else None
        if key.refused:
            assert row is not None
            assert row["deprecated"] is True
            assert key.refused.replace("`", "") in row["description"]


@pytest.mark.needs("module:jsonschema")
@pytest.mark.parametrize("name", PRESETS)
def test_the_templates(name: str) -> None:
    text = (Path(templates.__file__).parent / "templates" / f"{name}.json").read_text(encoding="utf-8")
    # What is filled in for each run stands there as {root} and the like.
    assert takes(json.loads(text))


@pytest.mark.needs("module:jsonschema")
@pytest.mark.parametrize("name", sorted({*SAME, *TEXTS}))
def test_the_files_of_other_tests(tmp_path: Path, name: str) -> None:
    for text in SAME.get(name), TEXTS.get(name):
        if text is not None:
            path = tmp_path / name
            path.write_text(text, encoding="utf-8")
            assert takes(read_explicit(path)[2])


@pytest.mark.needs("module:jsonschema")
def test_the_examples_and_the_docs() -> None:
    tried = 0
    for page in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]:
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            table = parse_toml(block).get("tool", {}).get("fence")
            if table is not None:
                assert takes(table), (page, table)
                tried += 1
    for path in sorted((ROOT / "examples").rglob("pyproject.toml")):
        assert takes(read_explicit(path)[2]), path
        tried += 1
    for path in sorted((ROOT / "examples").rglob("fence.*")):
        assert takes(read_explicit(path)[2]), path
        tried += 1
    assert tried > 10


@pytest.mark.needs("module:jsonschema")
@pytest.mark.parametrize(
    "raw",
    [
        {"allowed_domain": []},
        {"network": {"allowWrite": []}},
        {"zzz": 1},
        {"network": []},
        {"deny": ["x"]},
        {"allowed_domains": "a.example"},
        {"allowed_domains": {"a.example": 1}},
        {"allowed_domains": [1]},
        {"allowed_domains": ["ok.test", ""]},
        {"allowed_domains": ["a\nb"]},
        {"allowed_domains": ["https://x.test"]},
        {"allow_private": ["*"]},
        {"allow_write": ["~bob/x"]},
        {"allow_write": ["  "]},
        {"allow_local_binding": 1},
        {"allow_local_outbound": [80]},
        {"allow_local_outbound_ports": 80},
        {"allow_local_outbound_ports": [True]},
        {"allow_local_outbound_ports": [65536]},
        {"mode": "strict"},
        {"leftovers": ["end"]},
        {"extends": "coed"},
        {"extends": ["code"]},
        {"enabled": 1},
        {"require": "landlock"},
        {"keep_fds": [2]},
        {"upstream_proxy": "https://p.example"},
        {"hosts": {"a.test": True}},
        {"packages": ["../x"]},
        {"packages": ["/x"]},
        {"env_deny": ["A=1"]},
        {"devices": {"allow": ["/etc"]}},
        {"devices": {"mode": "full"}},
        {"allowed_domains": [], "allowedDomains": []},
    ],
)
def test_what_neither_takes(raw: dict[str, Any]) -> None:
    assert not loads(raw)
    assert not takes(raw)


@pytest.mark.needs("module:jsonschema")
def test_sections_may_be_left_out_where_the_syntax_allows() -> None:
    assert takes({"allow_write": ["x"]})
    assert loads({"allow_write": ["x"]})
    named = {"$schema": "fence.schema.json"}
    assert not takes({**named, "allowWrite": ["x"]})
    assert not loads({**named, "allowWrite": ["x"]}, flat=False)
    assert takes({**named, "filesystem": {"allowWrite": ["x"]}, "allowPty": True})


@pytest.mark.needs("module:jsonschema")
@pytest.mark.parametrize(
    "value", ["code", "./a", "../a.json", "/etc/x.toml", "@base", "a/b", ".x", "", None, "@other", "a.json"]
)
def test_what_may_be_extended(value: str | None) -> None:
    assert takes({"extends": value}) is loads({"extends": value})
    assert leads_to_file(value) <= takes({"extends": value})


def test_it_has_nothing_that_is_no_key() -> None:
    properties = generate.generated()["properties"]
    for section in ("network", "filesystem", "command", "devices", "ssh", "macos"):
        names = {name for key in of_section(section) for name in (key.name, key.camel)}
        assert set(properties[section]["properties"]) == names
