"""TOML, by tomlkit: it keeps what it does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fence_core.edit.additions import EditError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fence_core.edit.additions import Addition

__all__ = ["edit_toml", "is_there"]

_TABLE = ("tool", "fence")
_INDENT = "    "


def is_there() -> bool:
    """Whether tomlkit is installed. Afterwards it is imported: ask before anything foreign has run."""
    try:
        import tomlkit  # noqa: F401
    except ImportError:
        return False
    return True


def edit_toml(text: str, additions: Sequence[Addition]) -> str:
    """Raises EditError."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    newline = "\r\n" if "\r\n" in text else "\n"
    try:
        document = tomlkit.parse(text)
        table = _ours(document)
        if table is None:
            return _with_new_table(text, additions, newline)
        for each in additions:
            _add(table, each)
        written = tomlkit.dumps(document)
        only = text.count("\n") == text.count(newline)
        return written.replace("\r\n", "\n").replace("\n", newline) if only else written
    except (TOMLKitError, TypeError, ValueError, AttributeError) as error:
        raise EditError(f"its TOML is not understood: {error}") from None


def _ours(document: Any) -> Any:
    table: Any = document
    for name in _TABLE:
        if name not in table:
            return None
        table = table[name]
    return table


def _with_new_table(text: str, additions: Sequence[Addition], newline: str) -> str:
    """The text as it is, with a table of ours at its end."""
    import tomlkit

    table = tomlkit.table()
    for each in additions:
        _add(table, each)
    document = tomlkit.document()
    document["tool"] = tomlkit.table(is_super_table=True)
    document["tool"]["fence"] = table
    before = text.rstrip()
    written = tomlkit.dumps(document).strip().replace("\n", newline)
    return f"{before}{newline * 2 if before else ''}{written}{newline}"


def _add(table: Any, addition: Addition) -> None:
    import tomlkit

    for name in addition.at[:-1]:
        if name not in table:
            table[name] = tomlkit.table()
        table = table[name]
    last = addition.at[-1]
    if addition.shape == "switch":
        value = tomlkit.boolean("true")
        if last not in table and addition.items[0].comment:
            value.comment(addition.items[0].comment)
        table[last] = value
    elif addition.shape == "table":
        if last not in table:
            table[last] = tomlkit.table()
        for item in addition.items:
            value = tomlkit.boolean("false")
            if item.comment:
                value.comment(item.comment)
            table[last][str(item.value)] = value
    else:
        if last not in table:
            table[last] = tomlkit.array()
        _extend(table[last], addition)


def _extend(array: Any, addition: Addition) -> None:
    """One line for each item, with its comment; where there is one item without a comment, all stays on one line."""
    import tomlkit

    is_open = "\n" in array.as_string()
    if not is_open and not any(item.comment for item in addition.items):
        for item in addition.items:
            array.append(item.value)
        return
    if not is_open:
        kept = list(array)
        array.clear()
        for value in kept:
            array.add_line(value, indent=_INDENT)
    for item in addition.items:
        array.add_line(tomlkit.item(item.value), indent=_INDENT, comment=item.comment or None)
    if not is_open:
        array.add_line(indent="")
