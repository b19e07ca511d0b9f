"""What the kernel would have said to a refused change of a file's own properties, by who asks and whose the file is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fence_core.broker.paths import inode_errno
from fence_core.kernel.credentials import (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_FOWNER,
    CAP_SYS_ADMIN,
    Credentials,
)
from tests.unit.broker.kit import who

OWNER, STRANGER, GROUP = os.getuid(), os.getuid() + 1, os.getgid() + 5
KEEP = 0xFFFF_FFFF
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2

As = Callable[[Credentials], int]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch(0o644)
    return path


def ask(
    monkeypatch: pytest.MonkeyPatch, path: Path, somebody: Credentials, question: Callable[[int], int], flags: int = 0
) -> int:
    monkeypatch.setattr(inode_errno.credentials, "of", lambda tid: somebody)
    fd = os.open(path, os.O_PATH | flags)
    try:
        return question(fd)
    finally:
        os.close(fd)


def test_links_have_no_mode(monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    assert ask(monkeypatch, file, who(), inode_errno.of_mode) == 0
    assert ask(monkeypatch, tmp_path / "link", who(), inode_errno.of_mode, os.O_NOFOLLOW) == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("somebody", "uid", "gid", "told"),
    [
        pytest.param(who(OWNER), KEEP, KEEP, 0, id="nothing"),
        pytest.param(who(OWNER), OWNER, KEEP, 0, id="to the owner"),
        pytest.param(who(OWNER), STRANGER, KEEP, errno.EPERM, id="given away"),
        pytest.param(who(OWNER, groups=(GROUP,)), KEEP, GROUP, 0, id="to a group of one's own"),
        pytest.param(who(OWNER, GROUP), KEEP, GROUP, 0, id="to the group one is in"),
        pytest.param(who(OWNER), KEEP, GROUP, errno.EPERM, id="to a group of others"),
        pytest.param(who(OWNER), KEEP, os.getgid(), 0, id="to its own group"),
        pytest.param(who(STRANGER), KEEP, KEEP, errno.EPERM, id="of a file of others"),
        pytest.param(who(STRANGER, groups=(GROUP,)), KEEP, GROUP, errno.EPERM, id="of others, to one's own group"),
        pytest.param(who(STRANGER, capabilities=1 << CAP_CHOWN), STRANGER, GROUP, 0, id="with the capability"),
        pytest.param(who(STRANGER, capabilities=1 << CAP_FOWNER), STRANGER, KEEP, errno.EPERM, id="with another"),
    ],
)
def test_owners(
    monkeypatch: pytest.MonkeyPatch, file: Path, somebody: Credentials, uid: int, gid: int, told: int
) -> None:
    assert ask(monkeypatch, file, somebody, lambda fd: inode_errno.of_owner(0, fd, uid, gid)) == told


@pytest.mark.parametrize(
    ("somebody", "seconds", "mode", "told"),
    [
        pytest.param(who(OWNER), None, 0o400, 0, id="the owner, to now"),
        pytest.param(who(OWNER), (5, 5), 0o400, 0, id="the owner, to any time"),
        pytest.param(who(STRANGER), None, 0o644, errno.EACCES, id="others, to now"),
        pytest.param(who(STRANGER), None, 0o646, 0, id="who may write it, to now"),
        pytest.param(who(STRANGER), (NOW, NOW), 0o646, 0, id="now, twice"),
        pytest.param(who(STRANGER), (NOW, OMIT), 0o646, errno.EPERM, id="one of them is not all"),
        pytest.param(who(STRANGER), (5, 5), 0o646, errno.EPERM, id="others, to any time"),
        pytest.param(who(STRANGER, capabilities=1 << CAP_FOWNER), (5, 5), 0o600, 0, id="with the capability"),
        pytest.param(who(STRANGER, capabilities=1 << CAP_DAC_OVERRIDE), None, 0o600, 0, id="who may write anything"),
        pytest.param(who(OWNER), (10**9, 0), 0o644, errno.EINVAL, id="no nanoseconds"),
        pytest.param(who(OWNER), (0, -1), 0o644, errno.EINVAL, id="fewer than none"),
        pytest.param(who(OWNER), (10**9 - 1, NOW), 0o644, 0, id="the last"),
        pytest.param(who(STRANGER), (10**9, 0), 0o644, errno.EINVAL, id="the arguments come first"),
    ],
)
def test_times(
    monkeypatch: pytest.MonkeyPatch, file: Path, somebody: Credentials, seconds: tuple[int, int] | None, mode: int,
    told: int,
) -> None:  # fmt: skip
    file.chmod(mode)
    assert ask(monkeypatch, file, somebody, lambda fd: inode_errno.of_times(0, fd, seconds)) == told


@pytest.mark.parametrize(
    ("name", "somebody", "mode", "told"),
    [
        (b"user.x", who(OWNER), 0o644, 0),
        (b"user.x", who(OWNER), 0o444, errno.EACCES),
        (b"user.x", who(STRANGER), 0o644, errno.EACCES),
        (b"user.x", who(STRANGER), 0o646, 0),
        (b"trusted.x", who(OWNER), 0o644, errno.EPERM),
        (b"trusted.x", who(STRANGER, capabilities=1 << CAP_SYS_ADMIN), 0o600, 0),
        (b"security.x", who(STRANGER), 0o600, 0),
        (b"system.posix_acl_access", who(STRANGER), 0o600, 0),
    ],
)
def test_attributes(
    monkeypatch: pytest.MonkeyPatch, file: Path, name: bytes, somebody: Credentials, mode: int, told: int
) -> None:
    file.chmod(mode)
    assert ask(monkeypatch, file, somebody, lambda fd: inode_errno.of_attribute(0, fd, name)) == told


@pytest.mark.parametrize(
    ("mode", "somebody", "told"),
    [
        (0o777, who(STRANGER), 0),
        (0o1777, who(STRANGER), errno.EPERM),
        (0o1777, who(OWNER), 0),
        (0o1777, who(STRANGER, capabilities=1 << CAP_FOWNER), 0),
    ],
)
def test_attributes_of_directories_for_everybody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, somebody: Credentials, told: int
) -> None:
    tmp_path.chmod(mode)
    assert ask(monkeypatch, tmp_path, somebody, lambda fd: inode_errno.of_attribute(0, fd, b"user.x")) == told


def test_what_is_neither_file_nor_directory_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o666)
    question = lambda fd: inode_errno.of_attribute(0, fd, b"user.x")  # noqa: E731
    assert ask(monkeypatch, tmp_path / "pipe", who(OWNER), question) == errno.EPERM
