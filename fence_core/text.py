"""Text of strangers (node ids, paths, names, source lines) made safe to show."""

from __future__ import annotations


def escape(text: str) -> str:
    r"""Everything escaped that a terminal or a log would act on or hide: ``\n``, ``\x1b``.

    That is control characters, bidirectional overrides, odd spaces and lone surrogates; a byte that was not UTF-8 (a
    surrogate of `os.fsdecode`) becomes the byte it was. What is escaped already stays as it is.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def encodable(text: str) -> str:
    """As `escape`, but only what cannot be encoded."""
    if text.isascii():
        return text
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
