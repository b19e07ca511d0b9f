"""Text of strangers (node ids, source lines, programs) made safe to print, and the plain words for counts."""

from __future__ import annotations

from fence_core.text import escape


def source_text(line: str) -> str:
    """A source line for showing: no indentation, tabs as spaces."""
    return escape(line.strip().expandtabs(4))


def plural(number: int, singular: str, plural: str = "") -> str:
    """``1 test``, ``2 tests``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def times(count: int) -> str:
    """How often, to be put after what: empty where it was once."""
    return f", {count} times" if count > 1 else ""


def shorten(text: str, width: int) -> str:
    """At most `width` characters; what was cut is marked."""
    return text if len(text) <= width else text[: width - 3] + "..."
