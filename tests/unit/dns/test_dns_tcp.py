"""Messages in a stream: whole, in order, whatever the pieces, and never without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.dns.tcp import FramingError, Splitter, frame


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(1, 40), max_size=30))
def test_messages_come_out_whole_and_in_order(messages: list[bytes], pieces: list[int]) -> None:
    stream = b"".join(map(frame, messages))
    splitter, found, at = Splitter(), [], 0
    for size in [*pieces, len(stream)]:
        found += splitter.feed(stream[at : at + size])
        at += size
    assert found == messages


def test_the_longest_message_is_taken_and_no_longer() -> None:
    assert Splitter(limit=5).feed(frame(b"12345")) == [b"12345"]
    with pytest.raises(FramingError, match=r"6 bytes.*at most 5"):
        Splitter(limit=5).feed(frame(b"123456")[:2])  # by its length alone: nothing is gathered


def test_an_empty_message_ends_the_stream() -> None:
    with pytest.raises(FramingError):
        Splitter().feed(b"\0\0")


def test_what_came_before_the_error_is_still_answered_and_the_error_stays() -> None:
    splitter = Splitter(limit=5)
    assert splitter.feed(frame(b"12345") + b"\xff\xff" + bytes(100)) == [b"12345"]
    for _ in range(2):
        with pytest.raises(FramingError):
            splitter.feed(b"")


def test_no_more_than_one_incomplete_message_is_held() -> None:
    splitter = Splitter(limit=100)
    splitter.feed(frame(b"x" * 100) * 50 + frame(b"y" * 100)[:-1])
    assert len(splitter._pending) == 101
