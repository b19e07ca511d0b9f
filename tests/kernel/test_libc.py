"""Calls that change this process."""

from __future__ import annotations

import ctypes
import errno
import os
import signal

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import arch, libc, pidfd, process
from tests.kernel.children import adopt_orphans, ended


def own_status(name: bytes) -> bytes:
    return process.field(process.read_proc("/proc/self/status"), name)


def test_syscall_returns_what_the_kernel_says() -> None:
    assert libc.syscall(arch.current().calls["getpid"]) == os.getpid()


def test_syscall_raises_with_its_name_and_errno() -> None:
    with pytest.raises(KernelCallError) as caught:
        libc.syscall(arch.current().calls["close"], 1 << 20, call="close")
    assert (caught.value.call, caught.value.errno) == ("close", errno.EBADF)


def test_an_old_errno_does_not_condemn_a_good_call() -> None:
    ctypes.set_errno(errno.EPERM)
    assert libc.syscall(arch.current().calls["getpid"]) == os.getpid()


def test_registers_are_passed_whole() -> None:
    """An int cut to 32 bits would seek to 0."""
    with open("/proc/self/exe", "rb") as file:
        lseek = arch.current().calls["lseek"]
        assert libc.syscall(lseek, file.fileno(), 1 << 33, os.SEEK_SET) == 1 << 33


def test_unknown_libc_function_fails_only_when_called() -> None:
    missing = libc.function("no_such_function_anywhere", ctypes.c_int)
    with pytest.raises(Exception, match="no_such_function_anywhere"):
        missing()


def test_set_name_of_a_process_that_hides_itself(in_child) -> None:
    def work() -> str:
        libc.set_dumpable(False)
        libc.set_name("fence-something")
        return process.program_name(os.getpid())

    assert in_child(work) == "fence-something"


def test_exit_now_is_not_the_patched_exit(start) -> None:
    def work() -> None:
        def patched(_status: int) -> None:
            raise AssertionError("os._exit was called")

        os._exit = patched  # as coverage does
        libc.exit_now(37)

    child = start(work)
    assert os.waitstatus_to_exitcode(child.wait()) == 37


def test_no_new_privs(in_child) -> None:
    def work() -> tuple[bytes, bytes]:
        before = own_status(b"NoNewPrivs")
        libc.set_no_new_privs()
        return before, own_status(b"NoNewPrivs")

    before, after = in_child(work)
    assert after == b"1"
    assert before == own_status(b"NoNewPrivs")  # what this process has, not what the child set


def test_dumpable(in_child) -> None:
    def work() -> list[int]:
        calls = arch.current().calls
        pr_get_dumpable = 3
        found = []
        for value in (True, False, True):
            libc.set_dumpable(value)
            found.append(libc.syscall(calls["prctl"], pr_get_dumpable))
        return found

    assert in_child(work) == [1, 0, 1]


@pytest.mark.parametrize("deadly", [True, False])
def test_parent_death_signal(in_child, deadly) -> None:
    """The grandchild ends with its parent; the control lives on, handed to the subreaper."""

    def work() -> tuple[bool, int]:
        adopt_orphans()
        ready, tell = os.pipe()
        hold, go = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                libc.set_parent_death_signal(signal.SIGKILL if deadly else 0)
                os.write(tell, b"%d" % os.getpid())
                os.close(go)
                os.read(hold, 1)  # until nobody can write
                libc.exit_now(5)
            os.read(hold, 1)
            libc.exit_now(0)
        pid = int(os.read(ready, 20))
        grandchild = pidfd.open_pidfd(pid)
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)
        gone = ended(grandchild) if deadly else ended(grandchild, 0)
        os.close(go)
        _, status = os.waitpid(pid, 0)  # ours, because we are the subreaper
        return gone, os.waitstatus_to_exitcode(status)

    assert in_child(work) == ((True, -signal.SIGKILL) if deadly else (False, 5))
