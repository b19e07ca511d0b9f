"""What the two sides of the fork say to one another: as it was said, whatever is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fence_core.link import start

Ends = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Ends]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass  # by the test


@pytest.mark.parametrize(
    "places",
    [
        [],
        [("/", "d")],
        [("/tmp", "d"), ("/dev/null", "f"), ("/dev", "o")],
        [("/a b\n\xe9", "d"), (os.fsdecode(b"/\xff"), "f")],
    ],
)
@pytest.mark.parametrize("program", [b"", b"\x00\n1 2\n", bytes(range(256)) * 8])
def test_program_and_places(pipe: Ends, program: bytes, places: list[tuple[str, str]]) -> None:
    start.send_program(pipe[1], program, places)
    assert start.read_program(pipe[0]) == (program, places)


def test_a_program_in_pieces(pipe: Ends) -> None:
    """A pipe gives what is there."""
    start.send_program(pipe[1], b"0123456789", [("/x", "d")])
    whole = os.read(pipe[0], 1000)
    os.write(pipe[1], whole[:3])
    os.write(pipe[1], whole[3:])
    assert start.read_program(pipe[0]) == (b"0123456789", [("/x", "d")])


def test_a_supervisor_that_has_ended(pipe: Ends) -> None:
    os.write(pipe[1], b"100 0\nonly a part")
    os.close(pipe[1])
    with pytest.raises(OSError, match="supervisor is gone"):
        start.read_program(pipe[0])


def test_the_number_of_the_listener(pipe: Ends) -> None:
    start.tell_listener(pipe[1], 17)
    assert start.read_listener(pipe[0]) == (17, "")


def test_why_there_is_no_listener(pipe: Ends) -> None:
    start.tell_failure(pipe[1], "n\xf6 \udc80" + "x" * 9000)
    number, why = start.read_listener(pipe[0])
    assert number < 0
    assert why.startswith("n\xf6 ?xxx")
    assert len(why) < 5000


def test_a_child_that_has_ended_without_a_word(pipe: Ends) -> None:
    os.close(pipe[1])
    number, why = start.read_listener(pipe[0])
    assert number < 0
    assert "ended before" in why


def test_packets_of_the_guardian_are_one_size() -> None:
    commands = (start.COUNT, start.LIST, start.TERMINATE, start.KILL, start.QUIT, start.KNOW)
    assert len(set(commands)) == len(commands)
    for command in commands:
        packet = start.PACKET.pack(command, (1 << 22) - 1, (1 << 64) - 1)
        assert start.PACKET.unpack(packet) == (command, (1 << 22) - 1, (1 << 64) - 1)
