"""Calls that are closed to everybody inside: io_uring, and the call tables of other architectures."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_io_uring_is_not_there(fenced: Fenced) -> None:
    """Its requests never pass a filter; programs take "not implemented" for an old kernel and do without."""
    run = fenced.run(
        """
        import ctypes, errno
        import pytest
        from fence_core.kernel import arch

        libc = ctypes.CDLL(None, use_errno=True)

        @pytest.mark.parametrize("name", ["io_uring_setup", "io_uring_enter", "io_uring_register"])
        def test_it(name):
            parameters = ctypes.create_string_buffer(256)
            ctypes.set_errno(0)
            assert libc.syscall(arch.current().calls[name], 8, parameters, 0, 0, 0, 0) == -1
            assert ctypes.get_errno() == errno.ENOSYS

        def test_another_call():
            assert libc.syscall(arch.current().calls["getppid"]) > 0
        """
    )
    run.clean(*(f"test_it[io_uring_{name}]" for name in ("setup", "enter", "register")), "test_another_call")


def test_ways_around_every_rule(fenced: Fenced) -> None:
    names = [
        "bpf",
        "keyctl",
        "add_key",
        "mount",
        "umount2",
        "pivot_root",
        "init_module",
        "kexec_load",
        "open_by_handle_at",
    ]
    run = fenced.run(
        f"""
        import ctypes, errno
        import pytest
        from fence_core.kernel import arch

        libc = ctypes.CDLL(None, use_errno=True)

        @pytest.mark.parametrize("name", {names!r})
        def test_it(name):
            ctypes.set_errno(0)
            assert libc.syscall(arch.current().calls[name], 0, 0, 0, 0, 0, 0) == -1
            # As root some of them would fail for their arguments, and do.
            assert ctypes.get_errno() in (errno.EPERM, errno.EFAULT, errno.ENOEXEC, errno.EBADF)
        """
    )
    for name in ("bpf", "keyctl", "add_key", *(() if os.geteuid() == 0 else names)):
        run.clean(f"test_it[{name}]")
    assert all(
        run.report(f"test_it[{name}]")["outcome"] == "passed" or run.attempts(f"test_it[{name}]") for name in names
    )


@pytest.mark.needs("program:cc")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere: only x86_64 has other architectures' tables")
def test_calls_of_other_architectures(fenced: Fenced, probe: Callable[..., Path], tmp_path: Path) -> None:
    program = probe("foreign_calls")
    plainly = subprocess.run([program, tmp_path], capture_output=True, text=True, check=True).stdout
    # Where the kernel was built without them there is nothing to refuse; i386 it has nearly everywhere.
    assert "native mkdir 0" in plainly
    run = fenced.run(
        f"""
        import errno, os, subprocess

        def test_it(tmp_path):
            done = subprocess.run([{str(program)!r}, tmp_path], capture_output=True, text=True)
            i386, x32, native = done.stdout.splitlines()
            refused = f"mkdir -{{errno.ENOSYS}} getpid -{{errno.ENOSYS}}"
            assert (i386, x32) == (f"i386 {{refused}}", f"x32 {{refused}}")
            assert native.startswith("native mkdir 0 getpid ")
            assert os.listdir(tmp_path) == ["native"]
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_it")
    assert run.status == 0, plainly
