"""Whose rights the broker acts with: ids of namespaces, umasks, and when there is anything to look up."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker.paths import identity
from fence_core.broker.paths.identity import Identities
from fence_core.kernel import arch
from tests.unit.broker.kit import who

NOBODY = 0xFFFF_FFFF


def table(monkeypatch: pytest.MonkeyPatch, *rows: tuple[int, int, int]) -> None:
    text = "".join(f"{first:>10} {outer:>10} {count:>10}\n" for first, outer, count in rows)
    monkeypatch.setattr(identity, "read_proc", lambda path: text.encode())


@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [
        ([(0, 1000, 1)], 0, 1000),
        ([(0, 1000, 1)], 1, None),
        ([(0, 1000, 1), (1, 100_000, 65536)], 1, 100_000),
        ([(0, 1000, 1), (1, 100_000, 65536)], 65536, 165_535),
        ([(0, 1000, 1), (1, 100_000, 65536)], 65537, None),
        ([(0, NOBODY, 1)], 0, None),
        ([], 0, None),
    ],
)
def test_ids_of_a_namespace(
    monkeypatch: pytest.MonkeyPatch, rows: list[tuple[int, int, int]], inner: int, outer: int | None
) -> None:
    table(monkeypatch, *rows)
    assert identity._outer_id("/proc/1/uid_map", inner) == outer


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.integers(1, 1 << 16), st.integers(0, 1 << 21))
def test_what_is_mapped_is_mapped_one_to_one(first: int, outer: int, count: int, inner: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        table(patch, (first, outer, count))
        found = identity._outer_id("/proc/1/uid_map", inner)
    assert found == (inner - first + outer if first <= inner < first + count else None)


def test_in_our_namespace_ids_are_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity.namespaces, "is_ours", lambda tid, kind: True)
    assert Identities().outer_ids(1, 5, NOBODY) == (5, NOBODY)


@pytest.mark.parametrize(
    ("uid", "gid", "outer"),
    [(0, 0, (1000, 1000)), (NOBODY, 0, (NOBODY, 1000)), (0, NOBODY, (1000, NOBODY)), (7, 0, None), (0, 7, None)],
)
def test_leave_it_alone_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch, uid: int, gid: int, outer: tuple[int, int] | None
) -> None:
    made = Identities()
    monkeypatch.setattr(identity.namespaces, "is_ours", lambda tid, kind: False)
    table(monkeypatch, (0, 1000, 1))
    assert made.outer_ids(1, uid, gid) == outer


class Became:
    """Whom the broker became, in place of the calls that make it so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, made: Identities) -> None:
        self.log: list[object] = []
        monkeypatch.setattr(made, "_become", lambda somebody: self.log.append(somebody.uid))
        monkeypatch.setattr(made, "_become_ourselves", lambda: self.log.append("ourselves"))


def status(uid: int, umask: int = 0o22) -> bytes:
    ids = "\t".join([str(uid)] * 4)
    return f"Name:\tx\nUmask:\t{umask:04o}\nUid:\t{ids}\nGid:\t{ids}\nGroups:\t\nCapEff:\t0000000000000000\n".encode()


@pytest.fixture
def privileged(monkeypatch: pytest.MonkeyPatch) -> Identities:
    made = Identities()
    monkeypatch.setattr(made, "_privileged", True)
    monkeypatch.setattr(identity.namespaces, "is_ours", lambda tid, kind: True)
    return made


def test_until_somebody_changes_there_is_nothing_to_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Identities()
    monkeypatch.setattr(identity, "read_proc", lambda path: pytest.fail("looked up"))
    with made.acting_as(1):
        pass
    assert (made.changed, made.differ) == (False, False)


CALLS = arch.current().calls


@pytest.mark.parametrize(
    ("name", "args", "changes"),
    [
        ("setfsuid", (4321,), False),
        ("setfsuid", (4321, 5), False),  # what is left in the registers of other arguments is none
        ("setfsuid", (NOBODY,), False),
        ("setfsgid", (5, 4321), True),
        ("setfsgid", (1 << 32 | 4321,), False),  # ids have 32 bits
        ("setuid", (0,), True),
        ("setgid", (4321,), False),
        ("setreuid", (NOBODY, 4321), False),
        ("setregid", (4321, 0), True),
        ("setresuid", (4321, 4321, 4321), False),
        ("setresgid", (NOBODY, NOBODY, 5), True),
    ],
)
def test_who_asks_for_the_same_ids_has_not_changed(
    privileged: Identities, monkeypatch: pytest.MonkeyPatch, name: str, args: tuple[int, ...], changes: bool
) -> None:
    monkeypatch.setattr(identity.credentials, "of", lambda tid: who(4321, 4321))
    privileged.note_ids(1, CALLS[name], args)
    assert (privileged.changed, privileged.differ) == (changes, changes)


def test_who_has_several_ids_may_change(privileged: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = who(4321)
    somebody.uids = (4321, 4321, 0, 4321)
    monkeypatch.setattr(identity.credentials, "of", lambda tid: somebody)
    privileged.note_ids(1, CALLS["setfsuid"], (4321,))
    assert privileged.differ


def test_an_ordinary_users_broker_has_nothing_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Identities()
    monkeypatch.setattr(made, "_privileged", False)
    made.note_change()
    assert (made.changed, made.differ) == (True, False)


def test_it_acts_as_the_caller_and_is_itself_again(privileged: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    became = Became(monkeypatch, privileged)
    privileged.note_change()
    monkeypatch.setattr(identity, "read_proc", lambda path: status(4321))
    with privileged.acting_as(1):
        assert became.log == [4321]
    assert became.log == [4321, "ourselves"]
    with pytest.raises(FileExistsError), privileged.acting_as(1):
        raise FileExistsError
    assert became.log == [4321, "ourselves"] * 2


def test_for_itself_it_changes_nothing(privileged: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    became = Became(monkeypatch, privileged)
    privileged.note_change()
    monkeypatch.setattr(privileged, "_own", who(4321, 4321))
    monkeypatch.setattr(identity, "read_proc", lambda path: status(4321))
    with privileged.acting_as(1):
        assert became.log == []


@pytest.mark.parametrize(("mask", "mode"), [(0o000, 0o666), (0o077, 0o600), (0o222, 0o444)])
def test_what_it_makes_has_the_callers_umask(
    privileged: Identities, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mask: int, mode: int
) -> None:
    monkeypatch.setattr(identity, "read_proc", lambda path: status(os.getuid(), mask))
    before = os.umask(0o027)
    try:
        with privileged.acting_as(1, creates=True):
            os.close(os.open(tmp_path / "new", os.O_CREAT | os.O_WRONLY, 0o666))
        assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == mode
        assert os.umask(0o027) == 0o027, "and has its own again"
    finally:
        os.umask(before)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others come to, unlike the directories of pytest."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.mark.needs("user:root")
@pytest.mark.parametrize("writable", [True, False])
def test_root_has_the_rights_of_the_caller_and_no_more(
    monkeypatch: pytest.MonkeyPatch, place: Path, writable: bool
) -> None:
    made = Identities()
    made.note_change()
    monkeypatch.setattr(identity, "read_proc", lambda path: status(65_534))
    attempt = place / "new"
    place.chmod(0o777 if writable else 0o755)
    with made.acting_as(os.getpid()):
        if writable:
            attempt.touch()
        else:
            with pytest.raises(PermissionError):
                attempt.touch()
    if writable:
        assert attempt.stat().st_uid == 65_534
    (place / "ours").touch()
    assert (place / "ours").stat().st_uid == 0
