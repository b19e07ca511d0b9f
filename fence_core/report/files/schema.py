"""The schema of the report, and whether something fits it: whoever reads a file that others have written asks first.

As much of JSON Schema (draft 2020-12) as our own schema has. What a schema does not name is left alone.
"""

from __future__ import annotations

import os
from typing import Any

from fence_core.report.files.arrange import VERSION

__all__ = ["FILE", "misfit", "text"]

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"report-{VERSION}.json")
_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def text() -> str:
    with open(FILE, encoding="utf-8") as file:
        return file.read()


def misfit(report: Any) -> str:
    """Where a report is not as its schema says, and what is wrong there; empty if it is."""
    import json

    schema = json.loads(text())
    return _misfit(report, schema, schema["$defs"], "the report")


def _misfit(value: Any, schema: dict[str, Any], defs: dict[str, Any], where: str) -> str:
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is none of {', '.join(map(str, schema['enum']))}"
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(_is(value, name) for name in names):
        return f"{where} is not of type {' or '.join(names)}"
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"{where} has no {missing[0]!r}"
        known = schema.get("properties", {})
        more = schema.get("additionalProperties")
        rows = [(name, each, known.get(name, more)) for name, each in value.items()]
        wrong = (_misfit(each, of, defs, f"{where}.{name}") for name, each, of in rows if isinstance(of, dict))
    elif isinstance(value, list) and "items" in schema:
        wrong = (_misfit(each, schema["items"], defs, f"{where}[{place}]") for place, each in enumerate(value))
    else:
        return ""
    return next(filter(None, wrong), "")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (isinstance(value, bool) and name != "boolean")
