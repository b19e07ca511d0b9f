"""Ancillary data: the broker says what its caller would have said, and passes nothing malformed on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker.call import Call
from fence_core.broker.calls.ancillary import CMSG_SIZE, Control, InvalidMessageError, headers, own_number
from fence_core.broker.services.sockets import Borrowed
from tests.unit.broker.kit import call

SCM_CREDENTIALS = 2


def part(level: int, kind: int, body: bytes) -> bytes:
    """As CMSG_DATA(3) and CMSG_SPACE lay it out."""
    size = CMSG_SIZE + len(body)
    return (struct.pack("@Nii", size, level, kind) + body).ljust((size + 7) & ~7, b"\0")


PARTS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=40)), max_size=4)


@given(PARTS)
def test_parts_are_found_where_they_are(parts: list[tuple[int, int, bytes]]) -> None:
    control = b"".join(part(*each) for each in parts)
    found = list(headers(control))
    assert [(level, kind) for _, _, level, kind in found] == [(level, kind) for level, kind, _ in parts]
    assert [control[at + CMSG_SIZE : at + size] for at, size, _, _ in found] == [body for *_, body in parts]


@given(st.binary(max_size=80))
def test_nothing_is_read_beyond_the_end(control: bytes) -> None:
    with contextlib.suppress(InvalidMessageError):
        for at, size, _, _ in headers(control):
            assert CMSG_SIZE <= size <= len(control) - at


@pytest.mark.parametrize("size", [0, 1, CMSG_SIZE - 1, CMSG_SIZE + 9, 1 << 40])
def test_a_length_that_cannot_be_is_refused(size: int) -> None:
    control = struct.pack("@Nii", size, socket.SOL_SOCKET, socket.SCM_RIGHTS) + bytes(8)
    with pytest.raises(InvalidMessageError) as caught:
        list(headers(control))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("left", range(CMSG_SIZE))
def test_what_is_left_over_is_no_part(left: int) -> None:
    first = part(socket.SOL_SOCKET, 1, b"x" * 8)
    assert len(list(headers(first + bytes(left)))) == 1


# ---------------------------------------------------------------- what is sent instead


@pytest.fixture
def asked() -> Call:
    identities = SimpleNamespace(differ=False, outer_ids=lambda tid, uid, gid: (uid, gid))
    return call(identities=identities, made=None)


def control(asked: Call, given: bytes, family: int = socket.AF_UNIX) -> Control:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        borrowed = Borrowed(os.dup(sock.fileno()))
        try:
            return Control(asked, borrowed, given)
        finally:
            borrowed.close()


def received(raw: bytes) -> list[tuple[int, int, bytes]]:
    """What the other end of a socket gets of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        parts = [(level, kind, raw[at + CMSG_SIZE : at + size]) for at, size, level, kind in headers(raw)]
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.sendmsg([b"x"], parts)
        return theirs.recvmsg(9, 4096)[1]


def test_descriptors_are_the_callers(asked: Call, tmp_path: object) -> None:
    reading, writing = os.pipe()
    made = control(asked, part(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("@2i", reading, writing)))
    ((_, size, *_),) = [each for each in headers(made.raw) if each[3] == socket.SCM_RIGHTS]
    assert size == CMSG_SIZE + 8
    numbers = struct.unpack_from("@2i", made.raw, CMSG_SIZE)
    assert not {reading, writing} & set(numbers), "copies"
    assert [os.fstat(each).st_ino for each in numbers] == [os.fstat(reading).st_ino] * 2
    made.close()
    for number in numbers:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    os.fstat(reading)
    os.close(reading)
    os.close(writing)


def test_a_descriptor_that_is_none_is_an_error_and_leaves_nothing_open(asked: Call) -> None:
    reading, writing = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        control(asked, part(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("@2i", reading, 999_999)))
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("count", "fits"), [(253, True), (254, False)])
def test_no_more_descriptors_than_the_kernel_takes(asked: Call, count: int, fits: bool) -> None:
    given = part(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"@{count}i", *[0] * count))
    if fits:
        control(asked, given).close()
        return
    with pytest.raises(InvalidMessageError) as caught:
        control(asked, given)
    assert caught.value.errno == errno.EINVAL


def test_the_limit_holds_for_all_parts_together(asked: Call) -> None:
    one = part(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("@127i", *[0] * 127))
    with pytest.raises(InvalidMessageError):
        control(asked, one * 2)


def test_the_receiver_is_told_the_callers_credentials(asked: Call) -> None:
    named = struct.pack("@iII", os.getpid(), os.getuid(), os.getgid())
    made = control(asked, part(socket.SOL_SOCKET, SCM_CREDENTIALS, named))
    assert (socket.SOL_SOCKET, SCM_CREDENTIALS, named) in received(made.raw)
    assert [kind for *_, kind in headers(made.raw)] == [SCM_CREDENTIALS], "once"
    made.close()


@pytest.mark.needs("user:root")
def test_root_names_the_caller_where_it_names_nobody(asked: Call) -> None:
    asked.process.pid = os.getppid()
    made = control(asked, b"")
    ((_, kind, body),) = [each for each in received(made.raw) if each[1] == SCM_CREDENTIALS]
    assert kind == SCM_CREDENTIALS
    assert struct.unpack("@iII", body)[0] == os.getppid()


@pytest.mark.parametrize("size", [0, 11, 13])
def test_credentials_of_another_size_are_none(asked: Call, size: int) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        control(asked, part(socket.SOL_SOCKET, SCM_CREDENTIALS, bytes(size)))
    assert caught.value.errno == errno.EINVAL


def test_ids_that_have_no_counterpart_are_refused() -> None:
    identities = SimpleNamespace(differ=False, outer_ids=lambda tid, uid, gid: None)
    named = struct.pack("@iII", os.getpid(), os.getuid(), os.getgid())
    with pytest.raises(InvalidMessageError) as caught:
        control(call(identities=identities), part(socket.SOL_SOCKET, SCM_CREDENTIALS, named))
    assert caught.value.errno == errno.EINVAL


@given(PARTS)
def test_on_internet_sockets_all_is_passed_on_as_it_is(parts: list[tuple[int, int, bytes]]) -> None:
    given = b"".join(part(*each) for each in parts)
    asked = call(identities=SimpleNamespace(differ=False))
    assert control(asked, given, socket.AF_INET).raw == given


def test_what_a_process_calls_itself() -> None:
    assert own_number(os.getpid()) == os.getpid()
