"""What is read from /proc, parsed from texts that this machine need not show."""

from __future__ import annotations

import os

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import process, signals

STATUS = b"""Name:\tsleep\\nTgid:\t1
Umask:\t0077
State:\tS (sleeping)
Tgid:\t4660
Ngid:\t0
Pid:\t4661
PPid:\t4656
TracerPid:\t7
Uid:\t1000\t1001\t1002\t1003
Gid:\t2000\t2001\t2002\t2003
FDSize:\t256
Groups:\t4 24 1000\x20
Threads:\t3
SigQ:\t0/96365
SigPnd:\t0000000000000200
ShdPnd:\t0000000000004000
SigBlk:\t0000000000000800
SigIgn:\t0000000000000000
SigCgt:\t0000000400000a00
"""


def test_field_finds_whole_names_only() -> None:
    assert process.field(STATUS, b"Tgid") == b"4660"
    assert process.field(STATUS, b"Pid") == b"4661"
    assert process.field(STATUS, b"Groups") == b"4 24 1000"
    assert process.field(STATUS, b"gid") == b""
    assert process.field(b"Name:\tx\nPid:\t5", b"Pid") == b"5"


def test_signal_state_in_masks() -> None:
    state = signals.parse_state(STATUS)
    assert state == signals.SignalState(1 << 9, 1 << 14, 1 << 11, 0x400000A00)
    assert state.has_handler(10)
    assert not state.has_handler(12)  # caught and blocked
    assert not state.has_handler(2)
    assert state.has_handler(35)


def test_shared_signals_count_for_the_main_thread_only() -> None:
    state = signals.SignalState(pending_thread=0b001, pending_shared=0b110, blocked=0b010, caught=0)
    assert state.deliverable(main_thread=True) == 0b101
    assert state.deliverable(main_thread=False) == 0b001


def test_masks() -> None:
    assert signals.bit(1) == 1
    assert signals.bit(64) == 1 << 63
    assert signals.mask([1, 2, 64]) == 1 << 63 | 3
    assert signals.mask([]) == 0


def test_is_gone() -> None:
    assert process.is_gone(ProcessLookupError())
    assert process.is_gone(KernelCallError("x", 3))
    assert not process.is_gone(KernelCallError("x", 1))
    assert not process.is_gone(PermissionError())


def test_process_that_never_was() -> None:
    for ask in (
        process.status_fields,
        process.thread_group,
        process.children,
        process.start_time,
        process.program_name,
        process.argv,
        signals.state,
    ):
        with pytest.raises(ProcessLookupError):
            ask(1 << 22)  # PID_MAX_LIMIT


def test_long_file_comes_whole(tmp_path) -> None:
    path = tmp_path / "status"
    content = os.urandom(3 * 8192 + 5)
    path.write_bytes(content)
    assert process.read_proc(str(path)) == content
