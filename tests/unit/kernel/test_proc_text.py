"""What is read from /proc, parsed from texts that this machine need not show."""

from __future__ import annotations

import os

import pytest

from fence_core.kernel import credentials, process, signals
from fence_core.kernel.credentials import Credentials

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
CapInh:\t0000000000000000
CapEff:\t0000000000002008
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


def test_credentials() -> None:
    who = Credentials(STATUS)
    assert (who.uid, who.gid) == (1003, 2003)  # those of the file system
    assert who.uids[:3] == (1000, 1001, 1002)
    assert who.gids[:3] == (2000, 2001, 2002)
    assert [group for group in (4, 24, 1000, 2000, 2003) if who.is_in(group)] == [4, 24, 1000, 2003]
    assert who.may(credentials.CAP_FOWNER)
    assert who.may(credentials.CAP_NET_RAW)
    assert not who.may(credentials.CAP_CHOWN)
    assert credentials.umask(STATUS) == 0o077
    assert credentials.umask(b"Name:\tx\n") == 0o022  # before Linux 4.7


def test_capabilities_of_another_user_namespace_mean_nothing() -> None:
    elsewhere = Credentials(STATUS, here=False)
    assert not elsewhere.may(credentials.CAP_FOWNER)
    assert elsewhere != Credentials(STATUS) == Credentials(STATUS.replace(b"Uid:\t1000", b"Uid:\t7"))


def file(mode: int, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("of", "may"),
    [
        (file(0o200, uid=1003), True),
        (file(0o022, uid=1003), False),  # the owner's bits count, and no others
        (file(0o020, gid=2003), True),
        (file(0o020, gid=24), True),
        (file(0o002, gid=24), False),
        (file(0o002), True),
        (file(0o220), False),
    ],
)
def test_who_may_write_by_the_mode(of: os.stat_result, may: bool) -> None:
    assert Credentials(STATUS).may_write(of) is may
    assert Credentials(STATUS.replace(b"2008", b"000a")).may_write(of)  # CAP_DAC_OVERRIDE


def test_who_owns() -> None:
    assert Credentials(STATUS, here=False).owns(file(0, uid=1003))
    assert not Credentials(STATUS, here=False).owns(file(0, uid=1000))
    assert Credentials(STATUS).owns(file(0, uid=1000))  # CAP_FOWNER


def test_fields_of_stat_have_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's name may hold anything, brackets and spaces included."""
    line = b"7 (a) R 1 (b)) S " + b" ".join(b"%d" % number for number in range(4, 53)) + b"\n"
    monkeypatch.setattr(process, "read_proc", lambda path: line)
    found = process.stat_fields(7)
    assert found[process.STATE] == b"S"
    assert [int(found[number]) for number in (process.PPID, process.TTY_NR, process.ENV_END)] == [4, 7, 51]
    assert int(process.stat_fields(7, process.NUM_THREADS)[process.NUM_THREADS]) == 20
    assert process.start_time(7) == 22


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
