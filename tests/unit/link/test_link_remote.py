"""The lines that carry a ledger home."""

from __future__ import annotations

import pytest

from fence_core.link import remote


def test_lines_are_whole_however_they_arrive() -> None:
    data = b"".join(remote.line(kind) for kind in (remote.READY, remote.VIOLATIONS, remote.OVER))
    lines = remote.Lines()
    found = [line for n in range(0, len(data), 7) for line in lines.of(data[n : n + 7])]
    assert [remote.read(line)["kind"] for line in found] == [remote.READY, remote.VIOLATIONS, remote.OVER]
    assert lines.of(b"") == []


@pytest.mark.parametrize("text", [b"", b"x", b"{}", b'{"kind": "other"}'])
def test_what_is_no_message_is_not_read(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        remote.read(text)
