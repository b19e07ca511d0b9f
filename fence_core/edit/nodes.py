"""YAML and JSON: lines are put in where PyYAML says that a value stands. Nothing else of the text is touched.

JSON is read as the YAML that it nearly is, once comments and trailing commas are blanks. What comes out is checked by
whoever asked for it, so a document that is odd is refused and not spoilt.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from fence_core.edit.additions import Addition, EditError, Item
from fence_core.policy.sources.files import without_comments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import yaml

__all__ = ["edit_json", "edit_yaml"]

_STEP = 2
_PLAIN = re.compile(r"[A-Za-z./_][A-Za-z0-9./_-]*\Z")


class _Style(NamedTuple):
    """How something new is written."""

    sign: str
    """What comments begin with; empty: there are to be none."""
    newline: str
    step: str
    """One more level."""


class _Text:
    """A text that pieces are put into."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._pieces: list[tuple[int, int, str]] = []

    def put(self, at: int, piece: str) -> None:
        self._pieces.append((at, len(self._pieces), piece))

    def cut(self, start: int, end: int) -> None:
        self.text = self.text[:start] + " " * (end - start) + self.text[end:]

    def result(self) -> str:
        text = self.text
        for at, _, piece in sorted(self._pieces, reverse=True):
            text = text[:at] + piece + text[at:]
        return text

    def line_end(self, at: int) -> int:
        """Where the line ends that this place is in, before its line feed."""
        end = self.text.find("\n", at)
        end = len(self.text) if end < 0 else end
        return end - 1 if end and self.text[end - 1 : end] == "\r" and end > at else end

    def indent(self, at: int) -> str:
        """The blanks that the line begins with."""
        start = self.text.rfind("\n", 0, at) + 1
        found = re.match(r"[ \t]*", self.text[start:])
        return found[0] if found else ""


def edit_yaml(text: str, additions: Sequence[Addition]) -> str:
    """Raises EditError."""
    style = _Style("#", "\r\n" if "\r\n" in text else "\n", " " * _STEP)
    for each in additions:  # one after the other: each finds what the one before has made
        text = _one(text, text, each, style)
    return text


def edit_json(text: str, additions: Sequence[Addition], *, comments: bool) -> str:
    """`comments`: the file may have them. Raises EditError."""
    found = re.search(r"\n([ \t]+)\S", text)
    style = _Style("//" if comments else "", "\r\n" if "\r\n" in text else "\n", found[1] if found else " " * _STEP)
    if not without_comments(text, "").strip():
        text = text.rstrip() + (style.newline if text.strip() else "") + "{}" + style.newline
    for each in additions:
        text = _one(text, without_comments(text, "").replace("\t", " "), each, style)
    return text


def _one(text: str, plain: str, addition: Addition, style: _Style) -> str:
    """`plain`: the same, of the same length, as PyYAML reads it."""
    import yaml

    try:
        root = yaml.compose(plain, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise EditError(f"it is not understood: {error}") from None
    into = _Text(text)
    here: Any = root
    names = list(addition.at)
    while names:
        inner = _value(here, names[0])
        if inner is None:
            break
        here, names = inner, names[1:]
    if here is None or _is_null(here):
        _fill_empty(into, here, names, addition, style)
    elif names:
        _put_entry(into, here, _nest(names, addition), style)
    elif addition.shape == "switch":
        return text[: here.start_mark.index] + "true" + text[here.end_mark.index :]
    else:
        _put_items(into, here, addition, style)
    return into.result()


def _value(node: Any, name: str) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return value
    return None


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


class _Entry(NamedTuple):
    """A key that is new, with what is in it: another such, or items."""

    name: str
    inner: _Entry | None
    addition: Addition


def _nest(names: Sequence[str], addition: Addition) -> _Entry:
    inner = _nest(names[1:], addition) if len(names) > 1 else None
    return _Entry(names[0], inner, addition)


# ---------------------------------------------------------------- block style: indented lines


def _fill_empty(into: _Text, node: Any, names: Sequence[str], addition: Addition, style: _Style) -> None:
    """An empty document, or a key without a value."""
    if node is None:
        if names:
            lines = _block(_nest(names, addition), "", style)
            end = into.text.rstrip("\r\n \t")
            into.put(len(end), (style.newline if end else "") + style.newline.join(lines) + style.newline)
            into.text = end
        return
    start = node.start_mark.index
    indent = into.indent(max(start - 1, 0)) + style.step
    if node.end_mark.index > start:  # `null` or `~`
        into.cut(start, node.end_mark.index)
    lines = _block(_nest(names, addition), indent, style) if names else _block_items(addition, indent, style)
    into.put(into.line_end(max(start - 1, 0)), "".join(style.newline + line for line in lines))


def _put_entry(into: _Text, node: yaml.Node, entry: _Entry, style: _Style) -> None:
    """A new key in a table."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise EditError("there is something else where a table should be")
    if node.flow_style:
        _put_in_flow(into, node, lambda style: _flow(entry, style), style)
        return
    indent = " " * node.start_mark.column
    lines = _block(entry, indent, style)
    into.put(into.line_end(_end(node)), "".join(style.newline + line for line in lines))


def _put_items(into: _Text, node: yaml.Node, addition: Addition, style: _Style) -> None:
    import yaml

    if not isinstance(node, yaml.CollectionNode):
        raise EditError(f"{addition.at[-1]} is neither a list nor a table")
    if node.flow_style:
        items = [(_flow_item(item, addition.shape), item.comment) for item in addition.items]
        _put_in_flow(into, node, lambda _: items, style)
        return
    lines = _block_items(addition, " " * node.start_mark.column, style)
    into.put(into.line_end(_end(node)), "".join(style.newline + line for line in lines))


def _end(node: Any) -> int:
    """Where the last thing in it ends: of what is in block style PyYAML only knows where the next thing begins."""
    if not isinstance(node.value, str) and not node.flow_style and node.value:
        last = node.value[-1]
        key, value = last if isinstance(last, tuple) else (last, last)
        end = _end(value)
        return end if end > key.start_mark.index else int(key.end_mark.index)
    return max(int(node.end_mark.index) - (1 if getattr(node, "style", None) in ("|", ">") else 0), 0)


def _block(entry: _Entry, indent: str, style: _Style) -> list[str]:
    addition = entry.addition
    if entry.inner is not None:
        return [f"{indent}{entry.name}:", *_block(entry.inner, indent + style.step, style)]
    if addition.shape == "switch":
        return [f"{indent}{entry.name}: true{_remark(addition.items[0].comment, style)}"]
    inner = indent if addition.shape == "list" else indent + style.step
    return [f"{indent}{entry.name}:", *_block_items(addition, inner, style)]


def _block_items(addition: Addition, indent: str, style: _Style) -> list[str]:
    if addition.shape == "table":
        return [f"{indent}{_json(item.value)}: false{_remark(item.comment, style)}" for item in addition.items]
    return [f"{indent}- {_scalar(item.value)}{_remark(item.comment, style)}" for item in addition.items]


def _scalar(value: str | int | bool) -> str:
    """As plain YAML where that is surely the same text."""
    import yaml

    if isinstance(value, str) and _PLAIN.match(value) and yaml.safe_load(value) == value:
        return value
    return _json(value)


# ---------------------------------------------------------------- flow style: brackets, and all of JSON


def _flow(entry: _Entry, style: _Style) -> list[tuple[str, str]]:
    """The entry as text, with the comment behind it. Inner lines are indented from nothing."""
    addition = entry.addition
    name = _json(entry.name)
    if entry.inner is not None:
        return [(f"{name}: {_braced('{}', _flow(entry.inner, style), style)}", "")]
    if addition.shape == "switch":
        return [(f"{name}: true", addition.items[0].comment)]
    brackets = "[]" if addition.shape == "list" else "{}"
    items = [(_flow_item(item, addition.shape), item.comment) for item in addition.items]
    return [(f"{name}: {_braced(brackets, items, style)}", "")]


def _braced(brackets: str, items: Iterable[tuple[str, str]], style: _Style) -> str:
    """Several lines in brackets."""
    listed = list(items)
    lines = []
    for number, (text, comment) in enumerate(listed):
        comma = "," if number < len(listed) - 1 else ""
        shown = text.replace(style.newline, style.newline + style.step)
        lines.append(f"{style.step}{shown}{comma}{_remark(comment, style)}")
    return style.newline.join([brackets[0], *lines, brackets[1]])


def _flow_item(item: Item, shape: str) -> str:
    return f"{_json(item.value)}: false" if shape == "table" else _json(item.value)


def _put_in_flow(into: _Text, node: Any, written: Callable[[_Style], Sequence[tuple[str, str]]], style: _Style) -> None:
    """More members for what is in brackets: on lines of their own if the brackets are on several.

    `written`: the members as text, each with the comment behind it.
    """
    start, end = node.start_mark.index, node.end_mark.index - 1
    members = [each[1] if isinstance(each, tuple) else each for each in node.value]
    items = written(style)
    if not members:
        if into.text[start + 1 : end].strip():
            raise EditError("there is a comment where nothing else is")
        outer = into.indent(start)
        inner = outer + style.step
        lines = [_shift(each, inner, style, last=number == len(items) - 1) for number, each in enumerate(items)]
        into.text = into.text[: start + 1] + into.text[end:]
        into.put(start + 1, style.newline + style.newline.join(lines) + style.newline + outer)
        return
    after = int(members[-1].end_mark.index)
    comma = re.match(r"\s*,", into.text[after:end])
    if comma is None:
        into.put(after, ",")
    else:
        after += comma.end()
    if "\n" not in into.text[after:end]:
        texts = [re.sub(r"\s*\n\s*", " ", text) for text, _ in written(style._replace(sign=""))]
        into.put(after, " " + ", ".join(texts))
        return
    inner = into.indent(members[-1].start_mark.index)
    trailing = comma is not None
    lines = [
        _shift(each, inner, style, last=number == len(items) - 1 and not trailing) for number, each in enumerate(items)
    ]
    into.put(into.line_end(after), "".join(style.newline + line for line in lines))


def _shift(item: tuple[str, str], indent: str, style: _Style, *, last: bool) -> str:
    text, comment = item
    shown = text.replace(style.newline, style.newline + indent)
    return f"{indent}{shown}{'' if last else ','}{_remark(comment, style)}"


def _remark(comment: str, style: _Style) -> str:
    return f"  {style.sign} {comment}" if comment and style.sign else ""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
