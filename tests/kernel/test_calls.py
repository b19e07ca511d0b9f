"""Which calls the kernel has: the answer is that of the call itself, and asking changes nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from fence_core.kernel import arch, calls


def test_a_call_exists_where_it_works(tmp_path: Path) -> None:
    """fchmodat2 either changes the file, or is ENOSYS."""
    path = tmp_path / "file"
    path.touch(0o600)
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.syscall(arch.current().calls["fchmodat2"], -100, os.fsencode(path), 0o640, 0)
    assert calls.exists("fchmodat2") == (failed == 0)
    assert failed == 0 or ctypes.get_errno() == errno.ENOSYS


def test_asking_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to the working directory, which -100 would mean."""
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ctime_ns
    calls.exists.cache_clear()
    for name in "fchmodat2", "setxattrat", "removexattrat", "file_setattr":
        assert calls.exists(name) in (True, False)
    assert tmp_path.stat().st_ctime_ns == before


def test_other_calls_are_not_tried() -> None:
    with pytest.raises(ValueError, match="exit_group cannot be tried safely"):
        calls.exists("exit_group")
