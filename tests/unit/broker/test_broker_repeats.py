"""A call that is made again is known by what it says, and only until the thread makes one that may have undone it."""

from __future__ import annotations

import ctypes
import os
import socket
import time

import pytest

from fence_core.broker import repeats, table
from fence_core.broker.repeats import Key, Repeats
from fence_core.broker.reply import HandOver, Value
from fence_core.kernel import arch

CALLS = arch.current().calls
AT_FDCWD = (1 << 64) - 100


def test_every_trapped_call_is_thought_of() -> None:
    """Whoever adds a call says what a second time does, and of what is not to be done twice how to know it again."""
    for name, row in table.TRAPPED.items():
        assert row.again in (table.KERNEL, table.HARMLESS, *repeats._UNDOES), name
        assert set(row.arguments) <= set("vsfbmn"), name
        assert row.arguments or row.again == table.KERNEL, name


class Caller:
    """Calls of this thread, as the kernel would tell of them."""

    def __init__(self) -> None:
        self.repeats = Repeats(table.shapes(arch.current()))
        self._kept: list[object] = []

    def key(self, name: str, *args: int | bytes, at: int = 1) -> Key | None:
        registers = []
        for arg in args:
            if isinstance(arg, bytes):
                buffer = ctypes.create_string_buffer(arg)  # another one each time
                self._kept.append(buffer)
                arg = ctypes.addressof(buffer)
            registers.append(arg)
        registers += [0] * (6 - len(registers))
        return self.repeats.key(os.getpid(), (7, os.getpid(), 0, CALLS[name], at, *registers))

    def asks(self, name: str, *args: int | bytes) -> repeats.Answer | None:
        return self.repeats.take(os.getpid(), CALLS[name], self.key(name, *args))

    def did_not_get(self, answer: repeats.Answer, name: str, *args: int | bytes) -> None:
        key = self.key(name, *args)
        assert key is not None
        self.repeats.keep(os.getpid(), key, answer)


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_a_call_is_what_it_says(caller: Caller) -> None:
    """Paths, modes, directories and the place of the call count; where the text lies does not."""
    key = caller.key("mkdirat", AT_FDCWD, b"/a", 0o755)
    assert key is not None
    assert key == caller.key("mkdirat", AT_FDCWD, b"/a", 0o755)
    others = [
        caller.key("mkdirat", AT_FDCWD, b"/b", 0o755),
        caller.key("mkdirat", AT_FDCWD, b"/a", 0o700),
        caller.key("mkdirat", AT_FDCWD, b"/a", 0o755, at=2),
        caller.key("unlinkat", AT_FDCWD, b"/a", 0o755),
    ]
    assert key not in others


def test_a_relative_path_is_another_one_elsewhere(
    caller: Caller, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("a"))
    key = caller.key("mkdirat", AT_FDCWD, b"x", 0)
    assert key == caller.key("mkdirat", AT_FDCWD, b"x", 0)
    monkeypatch.chdir(tmp_path_factory.mktemp("b"))
    assert key != caller.key("mkdirat", AT_FDCWD, b"x", 0)


def test_a_number_is_another_socket_after_a_close(caller: Caller) -> None:
    address = b"\x01\0/nowhere"
    with socket.socket(socket.AF_UNIX) as first:
        number = first.fileno()
        key = caller.key("connect", number, address, len(address))
        assert key == caller.key("connect", number, address, len(address))
    with socket.socket(socket.AF_UNIX) as second:
        assert second.fileno() == number
        assert key != caller.key("connect", number, address, len(address))


def test_another_message_in_the_same_buffer(caller: Caller) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        buffer = ctypes.create_string_buffer(b"1")
        where = (sender.fileno(), ctypes.addressof(buffer), 1, 0, b"\x02\0\0\0", 4)
        key = caller.key("sendto", *where)
        assert key is not None
        assert key == caller.key("sendto", *where)
        buffer.value = b"2"
        assert key != caller.key("sendto", *where)


def test_what_cannot_be_read_is_not_recognised(caller: Caller) -> None:
    assert caller.key("mkdirat", AT_FDCWD, 1, 0) is None
    assert caller.key("connect", 1 << 20, b"", 0) is None


def test_an_answer_is_given_once(caller: Caller) -> None:
    answer = Value(0)
    caller.did_not_get(answer, "mkdirat", AT_FDCWD, b"/a", 0)
    assert caller.asks("mkdirat", AT_FDCWD, b"/a", 0) is answer
    assert caller.asks("mkdirat", AT_FDCWD, b"/a", 0) is None


def test_what_may_have_undone_it_ends_it(caller: Caller) -> None:
    """mkdir, rmdir and mkdir are three calls; an open in between, as by a handler, is none of them."""
    answer = Value(0)
    caller.did_not_get(answer, "mkdirat", AT_FDCWD, b"/a", 0)
    assert caller.asks("openat", AT_FDCWD, b"/log", os.O_WRONLY, 0) is None
    assert caller.asks("socket") is None
    assert caller.asks("mkdirat", AT_FDCWD, b"/a", 0) is answer
    caller.did_not_get(answer, "mkdirat", AT_FDCWD, b"/a", 0)
    assert caller.asks("unlinkat", AT_FDCWD, b"/a", 0x200) is None
    assert caller.asks("mkdirat", AT_FDCWD, b"/a", 0) is None


def test_calls_of_a_handler_are_kept_beside(caller: Caller) -> None:
    outer, inner = Value(0), Value(1)
    caller.did_not_get(outer, "openat", AT_FDCWD, b"/a", os.O_CREAT | os.O_EXCL, 0)
    caller.did_not_get(inner, "openat", AT_FDCWD, b"/log", os.O_WRONLY, 0)
    assert caller.asks("openat", AT_FDCWD, b"/log", os.O_WRONLY, 0) is inner
    assert caller.asks("openat", AT_FDCWD, b"/a", os.O_CREAT | os.O_EXCL, 0) is outer


def test_it_is_kept_for_a_while(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is forgotten, and a descriptor closed."""
    reading, writing = os.pipe()
    os.close(writing)
    caller.did_not_get(HandOver(reading, cloexec=True), "openat", AT_FDCWD, b"/a", os.O_WRONLY, 0)
    caller.repeats.expire()
    os.fstat(reading)
    later = time.monotonic() + repeats.KEPT_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    caller.repeats.expire()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    assert caller.asks("openat", AT_FDCWD, b"/a", os.O_WRONLY, 0) is None
