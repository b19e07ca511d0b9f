"""Holding a process and borrowing its descriptors."""

from __future__ import annotations

import errno
import os

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import libc, pidfd
from tests.kernel.children import become_user

pytestmark = pytest.mark.needs("kernel:pidfd_getfd")


def test_borrowed_descriptor_is_the_same_file(start) -> None:
    ready, go = os.pipe(), os.pipe()
    inside: list[int] = []

    def work() -> None:
        read, write = os.pipe()
        os.write(ready[1], b"%d" % write)
        os.read(go[0], 1)
        os.close(write)
        inside.append(read)

    child = start(work)
    number = int(os.read(ready[0], 20))
    borrowed = pidfd.get_fd(child.pidfd, number)
    assert os.fstat(borrowed).st_ino == os.stat(f"/proc/{child.pid}/fd/{number}").st_ino
    assert not os.get_inheritable(borrowed)
    with pytest.raises(KernelCallError) as caught:
        pidfd.get_fd(child.pidfd, 1 << 15)
    assert caught.value.errno == errno.EBADF
    os.write(go[1], b"!")
    child.result()
    with pytest.raises(KernelCallError) as caught:
        pidfd.get_fd(child.pidfd, number)
    assert caught.value.errno == errno.ESRCH
    for fd in (borrowed, *ready, *go):
        os.close(fd)


def test_undumpable_process_lends_nothing_to_its_own_user(in_child) -> None:
    def work() -> tuple[bool, int | None]:
        become_user()
        ready, go = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            libc.set_dumpable(False)
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            libc.exit_now(0)
        held = pidfd.open_pidfd(pid)
        os.read(ready[0], 1)
        before = pidfd.get_fd(held, 0)
        os.write(go[1], b"!")
        os.read(ready[0], 1)
        try:
            pidfd.get_fd(held, 0)
            refused = None
        except KernelCallError as error:
            refused = error.errno
        os.write(go[1], b"!")
        os.waitpid(pid, 0)
        return before >= 0, refused

    assert in_child(work) == (True, errno.EPERM)


def test_process_that_is_gone_cannot_be_opened(start) -> None:
    child = start(lambda: None)
    child.result()
    with pytest.raises(KernelCallError) as caught:
        pidfd.open_pidfd(child.pid)
    assert caught.value.errno == errno.ESRCH
