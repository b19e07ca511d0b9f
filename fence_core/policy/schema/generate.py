"""The schema of a configuration, made from `keys.py`: `python -m fence_core.policy.schema.generate` writes the file.

It is for editors and for whoever checks files without this package: draft 2020-12, both spellings of each key. It says
less than the loader does, which knows what a domain or a glob is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from fence_core.policy import kinds
from fence_core.policy.keys import FLAT_SECTIONS, PRESETS, SECTIONS, Key, of_section
from fence_core.policy.reports import TYPES

__all__ = ["FILE", "generated", "text"]

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fence.schema.json")
"""What is shipped."""

_Schema = dict[str, Any]
_PRINTABLE = r"^[^\u0000-\u001f\u007f]*[^\s\u0000-\u001f\u007f][^\u0000-\u001f\u007f]*$"


def _list(**items: Any) -> _Schema:
    return {"type": ["array", "null"], "items": items}


def _strings(pattern: str = _PRINTABLE) -> _Schema:
    return _list(type="string", pattern=pattern)


_OF_KIND: dict[str, _Schema] = {
    kinds.BOOLEAN.words: {"type": ["boolean", "null"]},
    kinds.PORT.words: {"type": ["integer", "null"], "minimum": 0, "maximum": 65535},
    kinds.PORTS.words: _list(type="integer", minimum=1, maximum=65535),
    kinds.DESCRIPTORS.words: _list(type="integer", minimum=3),
    kinds.LISTENING.words: {"type": ["string", "null"], "pattern": r"^(.+:[0-9]{1,5})?$"},
    kinds.URL.words: {"type": ["string", "null"], "pattern": r"^(http://[^\s/]+/?)?$"},
    kinds.HOSTS.words: {
        "type": ["object", "null"],
        "additionalProperties": {"anyOf": [{"type": "string", "minLength": 1}, {"const": False}]},
    },
    kinds.DOMAINS.words: _strings(r"^(?!.*://)[^\s@]+$"),
    kinds.NAMES.words: _strings(r"^(?!.*://)(?!\*$)[^\s@]+$"),
    kinds.PATHS.words: _strings(r"^(?!~[^/])" + _PRINTABLE[1:]),
    kinds.DIRECTORIES.words: _strings(r"^(?![/~])(?!(.*/)?\.\.(/|$))" + _PRINTABLE[1:]),
    kinds.DEVICES.words: _strings("^/dev/.+"),
    kinds.VARIABLES.words: _strings(r"^[^=\[\s]([^=\[]*[^=\[\s])?$"),
    kinds.COMMANDS.words: _strings(),
    kinds.REPORTS.words: _strings(rf"^({'|'.join(TYPES)})(:.+)?$"),
    kinds.LAYERS.words: _strings(),
    kinds.STRINGS.words: _strings(),
    kinds.TABLE.words: {"type": ["object", "null"]},
    kinds.EXTENDS.words: {
        "anyOf": [
            {"enum": [*PRESETS, kinds.BASE, "", None]},
            {"type": "string", "pattern": r"^\.|[/\\]"},
        ]
    },
}
"""By the words for a kind."""


def generated() -> _Schema:
    """The schema, as plain data."""
    sections = {section: _table(of_section(section)) for section in SECTIONS}
    top = _properties(of_section(""))
    flat = {
        name: {"$ref": f"#/properties/{section}/properties/{key.name}"}
        for section in FLAT_SECTIONS
        for key in of_section(section)
        for name in (key.name, key.camel)
    }
    loose = [key for section in ("", *FLAT_SECTIONS) for key in of_section(section)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of pytest-fence and of the fence command",
        "description": "fence.json, fence.jsonc, fence.yaml, and [tool.fence] of pyproject.toml. Each key may be "
        "written as here or in the other of both spellings (allow_write, allowWrite), once.",
        "type": ["object", "null"],
        "properties": {"$schema": {"type": "string"}, **sections, **top, **flat},
        "additionalProperties": False,
        "dependentSchemas": _spelled_once(loose),
        # Only JSON files name their schema in this way, and only these have to have their sections.
        "if": {"required": ["$schema"], "type": "object"},
        "then": {"propertyNames": {"enum": ["$schema", *SECTIONS, *top]}},
    }


def _table(keys: tuple[Key, ...]) -> _Schema:
    table: _Schema = {"type": ["object", "null"], "properties": _properties(keys), "additionalProperties": False}
    once = _spelled_once(keys)
    return {**table, "dependentSchemas": once} if once else table


def _properties(keys: tuple[Key, ...]) -> _Schema:
    found: _Schema = {}
    for key in keys:
        place = f"#/properties/{key.section}/properties/{key.name}" if key.section else f"#/properties/{key.name}"
        found[key.camel] = {"$ref": place}
        found[key.name] = _property(key)
    return found


def _spelled_once(keys: Iterable[Key]) -> _Schema:
    return {key.name: {"properties": {key.camel: False}} for key in keys if key.name != key.camel}


def _property(key: Key) -> _Schema:
    said = key.help.replace("`", "")
    if key.refused:
        nothing = [None, *(list(each) if isinstance(each, tuple) else each for each in key.kind.unset)]
        empty = [""] if key.choices else []
        values = [each for place, each in enumerate(nothing) if each not in nothing[:place]]
        return {
            "description": f"{said}. Refused: {key.refused.replace('`', '')}",
            "deprecated": True,
            "enum": [*key.harmless, *empty, *values],
        }
    schema: _Schema = {"description": said}
    if key.choices and key.kind is kinds.CHOICE:
        return {**schema, "enum": [*key.choices, *([""] if key.foreign else []), None]}
    schema.update(_OF_KIND[key.kind.words])
    if key.default not in (None, ()):
        schema["default"] = key.default
    return schema


def text() -> str:
    """The file."""
    return json.dumps(generated(), indent=2) + "\n"


if __name__ == "__main__":
    with open(FILE, "w", encoding="utf-8") as file:
        file.write(text())
