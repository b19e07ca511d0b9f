"""A row of `keys.py` is all that reading, merging and sending a value need: each key makes the whole way here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from fence_core.policy.keys import FLAT_SECTIONS, KEYS, SECTIONS, Key, is_known, of_section, spellings
from fence_core.policy.model import CommandRules, FilesystemRules, NetworkRules, Policy, Settings, Source
from fence_core.policy.sources.merge import merge, merge_settings
from fence_core.policy.sources.validate import parse_overlay
from fence_core.policy.sources.wire import from_wire, to_wire

RULES = {"network": NetworkRules, "filesystem": FilesystemRules, "command": CommandRules, "": Settings}
NO_FIELDS = {"extends", "allow_pty"} | {key.path for key in KEYS if key.foreign} - {"command.use_defaults"}
"""What chooses that which the rest is added to, or is short for entries of another key; what the Go tool alone has."""
NOT_CHOSEN = {"mode": {"learn"}}
"""Values that no config may ask for: only `--fence-learn` and `fence learn` do."""
OF_THE_RUN = {
    "root", "base", "home", "scratch", "locked", "environment", "early_names", "guards_environments", "byte_code_dir",
    "opened_ports",
}  # fmt: skip
"""What the model has of the machine and the project: nobody can set it."""

SAMPLES: dict[str, tuple[object, object, object]] = {
    "boolean": (True, True, "bool | None"),
    "port": (3128, 3128, "int | None"),
    "address and port": ("127.0.0.1:8899", "127.0.0.1:8899", "str"),
    "URL": ("http://p.example:1", "http://p.example:1", "str | None"),
    "list of ports": ([8000], (8000,), "tuple[int, ...]"),
    "list of numbers above 2": ([9], (9,), "tuple[int, ...]"),
    "list of reports": (["json:/a/b.json"], ("json:/a/b.json",), "tuple[str, ...]"),
    "list of layers": (["landlock"], ("landlock",), "tuple[str, ...]"),
    "table of names and addresses": ({"A.test": False}, (("a.test", ""),), "tuple[tuple[str, str], ...]"),
    "list": (["a.test"], "a.test", "tuple[Entry, ...]"),
    "list of names": (["db"], "db", "tuple[Entry, ...]"),
    "list of paths": (["/a"], "/a", "tuple[Entry, ...]"),
    "list of commands": (["git push"], "git push", "tuple[Entry, ...]"),
    "list of patterns": (["*_TOKEN"], "*_TOKEN", "tuple[Entry, ...]"),
    "list of directories": (["packages/*"], "packages/*", "tuple[Entry, ...]"),
}
"""By the words for a kind: a value as it is written, what it is read as, and the type of the field."""

by_path = pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
enforced = pytest.mark.parametrize(
    "key", [key for key in KEYS if not key.refused and key.path not in NO_FIELDS], ids=lambda key: key.path
)


def sample(key: Key) -> tuple[Any, Any]:
    """A value that is not the default, as it is written, and as it is read."""
    if key.choices:
        return key.choices[-1], key.choices[-1]
    if isinstance(key.default, bool):
        return not key.default, not key.default
    return SAMPLES[key.kind.words][:2]


def field(rules: Policy | Settings, key: Key) -> Any:
    section = getattr(rules, key.section) if key.section else rules
    return getattr(section, key.name)


def test_each_spelling_means_one_key() -> None:
    assert len({key.path for key in KEYS}) == len(KEYS)
    spelled = [spelling for section in FLAT_SECTIONS for spelling in spellings(section)] + list(spellings(""))
    assert len(set(spelled)) == len(spelled), "without its section a key would be two"
    assert not set(spelled) & set(SECTIONS)
    foreign = {spelling for key in KEYS if key.foreign for spelling in (key.name, key.camel)}
    assert all(is_known(name) for name in {"network", "filesystem", "command", *spelled, "deny"} - foreign)
    assert not any(map(is_known, ("allow_nothing", "devices", "forceNewSession")))


@pytest.mark.parametrize("section", RULES)
def test_every_field_of_the_model_is_a_key(section: str) -> None:
    fields = {name for name in RULES[section]._fields if name != "sources"} - OF_THE_RUN
    assert fields == {key.name for key in of_section(section) if key.path not in NO_FIELDS}


@by_path
def test_the_field_has_the_type_of_the_kind(key: Key) -> None:
    if key.path in NO_FIELDS:
        return
    hint = RULES[key.section].__annotations__[key.name]
    if key.choices:
        found = get_type_hints(RULES[key.section])[key.name]
        assert set(found.__args__) - NOT_CHOSEN.get(key.path, set()) == set(key.choices)
    else:
        assert hint in str(SAMPLES[key.kind.words][2])


@by_path
def test_the_reference_has_a_line_for_it(key: Key) -> None:
    assert key.help
    assert "\n" not in key.help
    assert "](" not in key.help


@enforced
def test_a_value_is_read_merged_and_sent(key: Key, tmp_path: Path) -> None:
    written, read = sample(key)
    raw = {key.section: {key.camel: written}} if key.section else {key.camel: written}
    source = Source("fence.json", str(tmp_path / "fence.json"))
    overlay = parse_overlay(raw, source=source, base_dir=tmp_path, flat=False, settings=True)
    rules: Policy | Settings = merge_settings(Settings(), overlay) if not key.section else merge(Policy(), overlay)
    found = field(rules, key)
    assert found != key.default
    if key.kind.entries:
        (entry,) = found
        assert (entry.text, entry.source.at[-1]) == (read, 0)
    else:
        assert found == read
    again = from_wire(type(rules), json.loads(json.dumps(to_wire(rules))))
    assert again == rules
    nothing = parse_overlay({}, source=Source("marker"), base_dir=tmp_path)
    assert field(merge(rules, nothing) if isinstance(rules, Policy) else merge_settings(rules, nothing), key) == found


def test_each_item_that_is_no_entry_knows_its_source() -> None:
    def said(source: str, ports: list[int], hosts: dict[str, str]) -> Any:
        return parse_overlay({"expose_ports": ports, "hosts": hosts}, source=Source(source), base_dir="/")

    network = merge(
        Policy(), said("file", [1], {"A.test": "127.0.0.1"}), said("marker", [2], {"b.test": "::1"})
    ).network
    assert [str(network.source_of("expose_ports", port)) for port in (1, 2)] == ["file", "marker"]
    assert [str(network.source_of("hosts", name)) for name in ("a.test", "b.test")] == ["file", "marker"]
    assert str(network.source_of("hosts")) == "marker"


def test_the_closest_word_on_what_is_short_for_entries() -> None:
    def devices(*words: bool) -> list[str]:
        overlays = [
            parse_overlay({"allow_pty": word}, source=Source(str(place)), base_dir="/")
            for place, word in enumerate(words)
        ]
        return [entry.source.name for entry in merge(Policy(), *overlays).filesystem.allow_write]

    assert devices() == devices(False) == devices(True, False) == []
    assert devices(False, True) == ["1"] * 3
