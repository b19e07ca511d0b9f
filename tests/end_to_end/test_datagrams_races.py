"""A thread swaps where a datagram goes, while the broker looks at it: none arrives outside, whatever comes of it.

The race is run until both ends of it are seen: messages sent inside, and refused outside.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced

ROUNDS = int(os.environ.get("FENCE_RACE_ROUNDS", "20000")) // 4
"""Enough to break an engine that judges messages and leaves them to the kernel; with 100,000 they take a minute."""

TEST = """
import subprocess
import pytest
from race import ALLOWED, ARGV

@pytest.mark.fence(allow_unix_sockets=ALLOWED)
def test_race():
    with open("counted", "w") as counted:
        subprocess.run(ARGV, stdout=counted, check=True)
"""


WITHOUT_SCOPES = """
import sys, pytest
from fence_core.kernel import features

found = features.detect()
features._features = features.Features(
    [each._replace(available=each.available and each.name != "landlock_scopes") for each in found], found.landlock_abi)
sys.exit(pytest.main(sys.argv[sys.argv.index("pytest") + 1:]))
"""


UNHELD = pytest.mark.needs("kernel:pidfd_getfd")
"""Without it the kernel carries out a message of a connected socket: docs/security-model.md says what a swap gains."""


@pytest.mark.needs("program:cc")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "swap",
    [
        "name",
        "later",
        "link",
        pytest.param("packets", marks=UNHELD),
        pytest.param("stream", marks=UNHELD),
        "internet",
        "netlink",
    ],
)
def test_race(fenced: Fenced, probe: Callable[..., Path], swap: str) -> None:
    _race(fenced, probe, swap)


@pytest.mark.needs("program:cc")
@pytest.mark.timeout(120)
def test_race_at_an_allowed_path(fenced: Fenced, probe: Callable[..., Path]) -> None:
    """What is allowed by its path is that socket, and not what the path leads to a moment later."""
    _race(fenced, probe, "entry", allowed=[str(fenced.directory / "i")])


@pytest.mark.needs("program:cc")
@pytest.mark.timeout(120)
def test_race_of_abstract_names(fenced: Fenced, probe: Callable[..., Path]) -> None:
    """On a kernel whose Landlock does not know them (before 6.12), so that nothing stands below the broker."""
    fenced.write("without.py", WITHOUT_SCOPES)
    names = tuple(f"@fence-test-{os.getpid()}-{letter}" for letter in "io")
    _race(fenced, probe, "name", names=names, prefix=(sys.executable, "without.py"))


def _race(
    fenced: Fenced,
    probe: Callable[..., Path],
    swap: str,
    *,
    allowed: Sequence[str] = (),
    names: tuple[str, ...] = (),
    prefix: Sequence[str] = (),
) -> None:
    inside, outside = names or tuple(str(fenced.directory / letter) for letter in "io")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(outside.replace("@", "\0"))
        host.setblocking(False)
        argv = [str(probe("datagram_races", "-pthread")), swap, str(ROUNDS), inside, outside]
        given = f"ARGV, ALLOWED = {argv!r}, {list(allowed)!r}\n"
        run = fenced.run(TEST, files={"race.py": given}, prefix=prefix)
        arrived = 0
        try:
            while host.recv(99):
                arrived += 1
        except BlockingIOError:
            pass
        assert not arrived, f"{arrived} (or more: that is all that the socket holds) arrived\n{run!r}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", outside.replace("@", "\0"))
        assert host.recv(99) == b"x"
    text = (fenced.directory / "counted").read_text(encoding="ascii")
    counted = {name: tuple(map(int, rest)) for name, *rest in map(str.split, text.splitlines())}
    assert sum(sum(counts[:3]) for counts in counted.values()) >= ROUNDS, run
    assert all(counts[0] and counts[1] for counts in counted.values()), counted
    assert {attempt.what for attempt in run.attempts("test_race")} == {f"connect unix:{outside}"}, run


def test_descriptor_of_a_thread_with_a_table_of_its_own(fenced: Fenced) -> None:
    """The number means what it means in that thread: what is judged is the socket that is sent on."""
    path = fenced.directory / "o"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(path))
        host.setblocking(False)
        run = fenced.run(
            f"""
            import ctypes, os, socket, threading

            def test_it():
                libc = ctypes.CDLL(None, use_errno=True)
                packets, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                ended = []

                def send():
                    assert libc.unshare(0x400) == 0  # CLONE_FILES
                    os.dup2(datagrams.fileno(), packets.fileno())
                    again = socket.socket(fileno=packets.fileno())
                    assert again.type == socket.SOCK_DGRAM
                    try:
                        again.sendmsg([b"secret"], [], 0, {str(path)!r})
                    except PermissionError:
                        ended.append("refused")
                    again.detach()

                thread = threading.Thread(target=send)
                thread.start()
                thread.join()
                assert ended == ["refused"]
                assert packets.send(b"x") == 1 and other.recv(9) == b"x"
            """
        )
        with pytest.raises(BlockingIOError):
            host.recv(99)
    run.refused("test_it", f"connect unix:{path}")
