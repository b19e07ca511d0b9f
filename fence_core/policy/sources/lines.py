"""On which line of a config file something stands. Imported when something is refused or reported, not before.

Nothing is read here but what `files.py` has read for this process, and kept: a place may come from a nested session,
and neither its file nor anything else of it is to be trusted.

- YAML: its parser gives the line of every node.
- JSON: what has been parsed once falls into tokens by a pattern. (YAML's parser takes most of JSON, but no key of more
  than one line or 1,024 characters.)
- TOML: the parser of the standard library gives no lines. But every statement of a document is a document, so the
  lines are handed to it one after the other, and more of them where one alone is not complete; items of a list alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from fence_core.errors import Problem
from fence_core.policy.sources import files
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.policy.kinds import At
    from fence_core.policy.model import Rule, Source

__all__ = ["in_full", "located", "problem"]


def located(source: Source) -> Source:
    """The source with its line, as far as that can be told: of what has no line of its own, that of what it is in."""
    if source.line is not None or source.file not in files.texts:
        return source
    lines = _lines(source.file, files.texts[source.file])
    at = source.at
    while at and at not in lines:
        at = at[:-1]
    return source._replace(line=lines.get(at))


def in_full(rule: Rule) -> Rule:
    """The rule with the lines on which it was written, and others were looked for."""
    source = None if rule.source is None else located(rule.source)
    return rule._replace(source=source, tried=tuple(map(located, rule.tried)))


def problem(source: Source, key: str, found: str, accepted: str) -> Problem:
    """What is wrong with something that was written there."""
    return Problem(source.name, escape(key), found, accepted, located(source).line)


@cache
def _lines(file: str, text: str) -> dict[At, int]:
    """The line of every key and item, by its place. Empty for what does not parse, which is told where it is read."""
    kind = files.source_kind(file)
    try:
        if kind == "toml":
            own = len(files.TABLE)
            found = list(_of_toml(text.replace("\r\n", "\n").split("\n")))
            # The first counts: a table may be gone on with.
            return {at[own:]: line for at, line in reversed(found) if at[:own] == files.TABLE}
        return dict(_of_json(files.without_comments(text, file))) if kind == "json" else _of_yaml(text)
    except (ValueError, RecursionError):
        return {}


# --- JSON ---


def _of_json(text: str) -> Iterator[tuple[At, int]]:
    tokens = re.finditer(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', text)

    def line(token: re.Match[str]) -> int:
        return text.count("\n", 0, token.start()) + 1

    def value(token: re.Match[str], at: At) -> Iterator[tuple[At, int]]:
        yield at, line(token)
        place = 0
        for each in tokens if token[0] in "{[" else ():
            if each[0] in "}]":
                return
            if each[0] == ",":
                continue
            if token[0] == "[":
                yield from value(each, (*at, place))
                place += 1
            else:
                inside = (*at, json.loads(each[0]))
                next(tokens)  # the colon
                yield from value(next(tokens), inside)
                yield inside, line(each)

    for token in tokens:
        yield from value(token, ())


# --- YAML ---

_DEPTH_MAX = 4
"""Deeper than any key of ours: a document may refer to its own parts, and be endless."""


def _of_yaml(text: str) -> dict[At, int]:
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    return {} if root is None else dict(_of_node(root, ()))


def _of_node(node: Any, at: At) -> Iterator[tuple[At, int]]:
    yield at, node.start_mark.line + 1
    if node.id == "scalar" or len(at) == _DEPTH_MAX:
        return
    for place, item in enumerate(node.value):
        if node.id == "sequence":
            yield from _of_node(item, (*at, place))
        elif item[0].id == "scalar":
            inside = (*at, item[0].value)
            yield from _of_node(item[1], inside)
            yield inside, item[0].start_mark.line + 1


# --- TOML ---


def _of_toml(lines: list[str]) -> Iterator[tuple[At, int]]:
    table: At = ()
    start = 0
    while start < len(lines):
        end, said = _statement(lines, start)
        at: At = ()
        while isinstance(said, dict) and len(said) == 1:
            ((name, said),) = said.items()
            at = (*at, name)
        if lines[start].lstrip().startswith("["):
            table = at
            yield at, start + 1
        else:
            yield from ((table + at[:depth], start + 1) for depth in range(1, len(at) + 1))
            yield from ((table + at + (place,), line + 1) for place, line in enumerate(_items(lines, start, end)))
        start = end


def _statement(lines: list[str], start: int) -> tuple[int, Any]:
    """Where the statement that begins here ends, and what it says. ValueError if it never does."""
    for end in range(start + 1, len(lines) + 1):
        # Of several lines only such a one can be the last.
        if end == start + 1 or any(mark in lines[end - 1] for mark in ("]", "}", '"""', "'''")):
            said = _parsed(lines[start:end])
            if said is not None:
                return end, said
    raise ValueError


def _items(lines: list[str], start: int, end: int) -> Iterator[int]:
    """The line of each item of a list of more than one line, as far as they can be told apart."""
    said = _parsed([lines[start], "]"]) if end > start + 1 else None
    for value in (said or {}).values():
        yield from (start for _ in _list_in(value))
    begin = start + 1
    for after in range(start + 2, end + 1) if said else ():
        said = _parsed(["x = [", *lines[begin:after], *(["]"] if after < end else [])])
        if said is not None:
            yield from (begin for _ in said["x"])
            begin = after


def _list_in(value: Any) -> list[Any]:
    """The list that a statement sets, below however many dotted keys."""
    while isinstance(value, dict):
        (value,) = value.values()
    return value if isinstance(value, list) else []


def _parsed(lines: list[str]) -> dict[str, Any] | None:
    try:
        return files.parse_toml("\n".join(lines))
    except ValueError:
        return None
