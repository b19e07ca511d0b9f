"""Nothing that a stranger has named reaches a terminal unescaped, or a file unencodable."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.text import encodable, escape


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("ünïcode", "ünïcode"),
        ("tab\there", "tab\\there"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("back\\slash", "back\\slash"),
        ("a\u202eb", "a\\u202eb"),  # right-to-left override
        ("a\u00a0b", "a\\xa0b"),
        ("line\u2028end", "line\\u2028end"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),  # a tag character, invisible
    ],
)
def test_escape(raw: str, shown: str) -> None:
    assert escape(raw) == shown


@given(st.text(st.characters(codec=None)))
def test_escaped_text_is_printable_and_encodable(raw: str) -> None:
    shown = escape(raw)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@given(st.text(st.characters(codec=None)))
def test_what_is_escaped_stays_as_it_is(raw: str) -> None:
    assert escape(escape(raw)) == escape(raw)


@given(st.text(st.characters(codec=None)))
def test_what_can_be_encoded_stays_as_it_is(raw: str) -> None:
    assert encodable(raw).encode().decode() == encodable(raw)
    plain = "".join(char for char in raw if not "\ud800" <= char <= "\udfff")
    assert encodable(plain) == plain
