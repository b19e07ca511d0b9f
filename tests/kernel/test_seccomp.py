"""Filters and notifications, answered for a real child by the real kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import threading
import time

import pytest

from fence_core.errors import FenceUnavailable, KernelCallError
from fence_core.kernel import arch, bpf, libc, memory, seccomp, signals
from fence_core.kernel.bpf import Case, Condition
from tests.kernel.children import SECONDS, become_user, install_filter

pytestmark = pytest.mark.needs("kernel:seccomp", "kernel:pidfd_getfd")

EACCES = bpf.errno_action(errno.EACCES)
NOTIFY = bpf.RET_USER_NOTIF


def number(name: str) -> int:
    return arch.current().calls[name]


def call(name: str, *args: int) -> int:
    """The result of a bare system call, or its errno as a negative number."""
    try:
        return libc.syscall(number(name), *args, call=name)
    except KernelCallError as error:
        return -(error.errno or 0)


def with_filter(rules, work):
    def inside():
        libc.set_no_new_privs()
        install_filter(bpf.assemble(rules))
        return work()

    return inside


# --- filters -----------------------------------------------------------------------------------------


def test_filter_refuses_what_it_names_and_nothing_else(in_child) -> None:
    work = with_filter({number("getppid"): EACCES}, lambda: (call("getppid"), call("getpid") == os.getpid()))
    assert in_child(work) == (-errno.EACCES, True)


def test_filter_looks_at_arguments(in_child) -> None:
    """As a filter of opens does: those that can change something, by their flags."""
    writes = Condition(2, "any_bits", os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    rules = {number("openat"): (Case((writes,), EACCES), bpf.RET_ALLOW)}
    path = ctypes.create_string_buffer(b"/dev/null")
    at = ctypes.addressof(path)

    def work() -> tuple[bool, int, int, int]:
        upper_half = 1 << 40  # of a register: not part of the int, must not hide a flag
        return (
            call("openat", 0, at, os.O_RDONLY) >= 0,
            call("openat", 0, at, os.O_WRONLY),
            call("openat", 0, at, os.O_RDWR | os.O_CLOEXEC),
            call("openat", 0, at, os.O_WRONLY | upper_half),
        )

    assert in_child(with_filter(rules, work)) == (True, -errno.EACCES, -errno.EACCES, -errno.EACCES)


def test_filter_compares_pointers_in_both_halves(in_child) -> None:
    """sendto with and without an address, the way the broker's filter tells them apart."""
    rules = {number("sendto"): (Case((Condition(4, "ne", 0, 64),), EACCES), bpf.RET_ALLOW)}

    def work() -> list[int]:
        import socket

        a, b = socket.socketpair()
        with a, b:
            data = ctypes.create_string_buffer(b"x")
            return [
                call("sendto", a.fileno(), ctypes.addressof(data), 1, 0, address, 0)
                for address in (0, 1, 1 << 32, ctypes.addressof(data))
            ]

    assert in_child(with_filter(rules, work)) == [1, -errno.EACCES, -errno.EACCES, -errno.EACCES]


def test_every_call_of_a_large_filter_gets_its_own_answer(in_child) -> None:
    """Unused numbers far up, so that the child can still work."""
    numbers = range(1000, 1400)
    rules = {nr: bpf.errno_action(1 + nr % 100) for nr in numbers}
    work = with_filter(rules, lambda: [libc_errno(nr) for nr in numbers] + [libc_errno(999), libc_errno(1400)])
    assert in_child(work) == [1 + nr % 100 for nr in numbers] + [errno.ENOSYS] * 2


def libc_errno(nr: int) -> int | None:
    try:
        libc.syscall(nr)
    except KernelCallError as error:
        return error.errno
    return None


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="elsewhere: x86_64 has these other conventions")
def test_x32_is_closed(in_child) -> None:
    """getpid by its x32 number. Without a filter it answers only where the kernel has x32."""
    x32 = 0x40000000 | 39
    assert libc_errno(x32) in (None, errno.ENOSYS)
    work = with_filter({}, lambda: (libc_errno(x32), call("getpid") == os.getpid()))
    assert in_child(work) == (errno.ENOSYS, True)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="elsewhere: x86_64 has these other conventions")
def test_i386_is_closed(start) -> None:
    """The same process enters the kernel by int 0x80, where 20 is getpid and 39 is mkdir."""

    def getpid_as_i386() -> int:
        code = b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3"  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
        memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(code)
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return ctypes.CFUNCTYPE(ctypes.c_int)(at)()

    control = start(lambda: getpid_as_i386() == os.getpid())
    if os.WIFSIGNALED(control.wait()):
        pytest.skip("elsewhere: this kernel has no i386 calls")
    assert control.result()
    assert start(with_filter({}, getpid_as_i386)).result() == -errno.ENOSYS


def test_filter_needs_no_new_privs_and_says_so(in_child) -> None:
    def work() -> tuple[int | None, str]:
        become_user()
        try:
            install_filter(bpf.assemble({}))
        except KernelCallError as error:
            return error.errno, str(error)
        return None, ""

    assert in_child(lambda: libc.set_no_new_privs() or work()) == (None, "")
    refused, text = in_child(work)
    if refused is None:
        pytest.skip("elsewhere: this process had no_new_privs from the start")
    assert refused == errno.EACCES
    assert "set_no_new_privs" in text


def test_malformed_program_is_einval(in_child) -> None:
    def work() -> int | None:
        libc.set_no_new_privs()
        try:
            install_filter(bytes(8))  # loads something, returns nothing
        except KernelCallError as error:
            return error.errno
        return None

    assert in_child(work) == errno.EINVAL


# --- notifications -----------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize(
    "wait_killable",
    [pytest.param(True, marks=pytest.mark.needs("kernel:wait_killable"), id="killable"), False],
)


@BOTH
def test_notification_says_who_and_what(supervise, wait_killable) -> None:
    args = (1, (1 << 64) - 1, 1 << 63, 0, 5, 6)
    child = supervise({number("getppid"): NOTIFY}, lambda: call("getppid", *args), wait_killable=wait_killable)
    id, tid, flags, nr, ip, *registers = child.next()
    assert (tid, flags, nr, tuple(registers)) == (child.pid, 0, number("getppid"), args)
    assert ip
    assert child.listener.is_valid(id)
    assert child.listener.reply_value(id, 12345)
    assert child.result() == 12345


@BOTH
def test_the_three_answers(supervise, wait_killable) -> None:
    child = supervise(
        {number("getppid"): NOTIFY}, lambda: [call("getppid") for _ in range(4)], wait_killable=wait_killable
    )
    assert child.listener.reply_continue(child.next()[0])
    assert child.listener.reply_error(child.next()[0], errno.EHOSTUNREACH)
    assert child.listener.reply_value(child.next()[0], 1 << 40)
    assert child.listener.reply_value(child.next()[0], 0)
    assert child.result() == [os.getpid(), -errno.EHOSTUNREACH, 1 << 40, 0]


def test_untrapped_call_is_not_notified(supervise) -> None:
    child = supervise({number("getppid"): NOTIFY}, lambda: (call("getpid"), call("getppid")))
    id, _, _, nr, *_ = child.next()
    assert nr == number("getppid")
    child.listener.reply_value(id, 3)
    assert child.result() == (child.pid, 3)


def test_a_thread_is_named_by_its_own_id(supervise) -> None:
    def work() -> int:

        seen: list[int] = []
        thread = threading.Thread(target=lambda: (seen.append(threading.get_native_id()), call("getppid")))
        thread.start()
        thread.join()
        return seen[0]

    child = supervise({number("getppid"): NOTIFY}, work)
    id, tid, *_ = child.next()
    child.listener.reply_continue(id)
    assert tid != child.pid
    assert child.result() == tid


def test_descendants_are_notified_too(supervise) -> None:
    def work() -> int:
        pid = os.fork()
        if pid == 0:
            libc.exit_now(call("getppid"))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    child = supervise({number("getppid"): NOTIFY}, work)
    id, tid, *_ = child.next()
    assert tid != child.pid
    child.listener.reply_value(id, 42)
    assert child.result() == 42


@BOTH
def test_target_that_died_is_a_false_and_not_an_error(supervise, wait_killable) -> None:
    child = supervise({number("getppid"): NOTIFY}, lambda: call("getppid"), wait_killable=wait_killable)
    id = child.next()[0]
    assert child.listener.is_valid(id)
    child.kill()
    child.wait()
    listener = child.listener
    assert not listener.is_valid(id)
    assert not listener.reply_continue(id)
    assert not listener.reply_error(id, errno.EACCES)
    assert not listener.reply_value(id, 0)
    with pytest.raises(KernelCallError) as caught:
        listener.add_fd(id, 0)
    assert caught.value.errno == errno.ENOENT


def test_target_that_died_before_it_was_received_is_none(supervise) -> None:
    child = supervise({number("getppid"): NOTIFY}, lambda: call("getppid"))
    poll = select.poll()
    poll.register(child.listener.fd, select.POLLIN)
    assert poll.poll(SECONDS * 1000) == [(child.listener.fd, select.POLLIN)]
    child.kill()
    child.wait()
    # The kernel finds its list empty: ENOENT.
    assert child.listener.receive() is None


def test_poll_says_when_nobody_is_left(supervise) -> None:
    child = supervise({}, lambda: None)
    child.result()
    poll = select.poll()
    poll.register(child.listener.fd, select.POLLIN)
    assert poll.poll(SECONDS * 1000) == [(child.listener.fd, select.POLLHUP)]


def test_answering_twice_is_an_error_of_ours(supervise) -> None:
    """The id is known until the target has woken up, and unknown after: an error or False, never True."""
    child = supervise({number("getppid"): NOTIFY}, lambda: (call("getppid"), call("getppid")))
    id = child.next()[0]
    assert child.listener.reply_value(id, 1)
    second: object
    try:
        second = child.listener.reply_value(id, 2)
    except KernelCallError as error:
        second = error.errno
    assert second in (False, errno.EINPROGRESS)
    child.listener.reply_value(child.next()[0], 3)
    assert child.result() == (1, 3)


def test_listener_gone_closes_the_fence(supervise) -> None:
    def work() -> tuple[int, bool]:
        os.read(go[0], 1)
        return call("getppid"), call("getpid") == os.getpid()

    go = os.pipe()
    child = supervise({number("getppid"): NOTIFY}, work)
    child.close_listener()
    os.write(go[1], b"!")
    assert child.result() == (-errno.ENOSYS, True)
    for fd in go:
        os.close(fd)


def test_second_listener_is_unavailable_with_a_reason(supervise) -> None:
    def work() -> tuple[str, str]:
        try:
            seccomp.install_listener(bpf.assemble({}), wait_killable=False)
        except FenceUnavailable as error:
            return error.reason, error.remedy
        return "", ""

    reason, remedy = supervise({number("getppid"): NOTIFY}, work).result()
    assert "another program" in reason
    assert remedy


def test_a_filter_without_listener_stacks_on_one_with(supervise) -> None:
    """The control of the test above."""
    work = with_filter({number("getpid"): EACCES}, lambda: call("getpid"))
    assert supervise({number("getppid"): NOTIFY}, work).result() == -errno.EACCES


def test_sync_wake_up() -> None:
    """Asked of a descriptor that is no listener: False there is what old kernels answer."""
    read, write = os.pipe()
    assert seccomp.Listener(read).set_sync_wake_up() is False
    os.close(read)
    os.close(write)


def test_sync_wake_up_of_a_listener(supervise) -> None:
    child = supervise({number("getppid"): NOTIFY}, lambda: [call("getppid") for _ in range(100)])
    assert child.listener.set_sync_wake_up() in (True, False)  # Linux 6.6
    for _ in range(100):
        child.listener.reply_continue(child.next()[0])
    assert child.result() == [os.getpid()] * 100


def test_listener_of_something_else_raises() -> None:
    read, write = os.pipe()
    listener = seccomp.Listener(read)
    for refused in (
        listener.receive,
        lambda: listener.reply_continue(1),
        lambda: listener.reply_error(1, 1),
        lambda: listener.reply_value(1, 1),
        lambda: listener.is_valid(1),
        lambda: listener.add_fd(1, 0),
    ):
        with pytest.raises(KernelCallError) as caught:
            refused()
        assert caught.value.errno == errno.ENOTTY
        assert caught.value.call.startswith("SECCOMP_IOCTL_NOTIF_")
    os.close(read)
    os.close(write)


# --- descriptors -------------------------------------------------------------------------------------

OPEN = Condition(2, "any_bits", os.O_CREAT)
OPENS = {"openat": (Case((OPEN,), NOTIFY), bpf.RET_ALLOW)}


def open_rules():
    return {number(name): action for name, action in OPENS.items()}


@pytest.mark.parametrize("cloexec", [True, False])
def test_broker_opens_in_the_target_s_place(supervise, tmp_path, cloexec) -> None:
    """The answer and the descriptor in one step, with the bytes the target asked for read from its memory."""
    path = str(tmp_path / "named by the target")
    (tmp_path / "opened by us").write_text("content")

    def work() -> tuple[str, bytes, bool]:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT)
        return os.readlink(f"/proc/self/fd/{fd}"), os.read(fd, 100), libc_cloexec(fd)

    def libc_cloexec(fd: int) -> bool:
        return not os.get_inheritable(fd)

    child = supervise(open_rules(), work)
    id, tid, _, _, _, _, address, *_ = child.next()
    assert memory.read_string(tid, address) == os.fsencode(path)
    assert child.listener.is_valid(id)
    with open(tmp_path / "opened by us", "rb") as file:
        added = child.listener.add_fd(id, file.fileno(), cloexec=cloexec, send=True)
    assert added >= 0
    assert not child.listener.is_valid(id)
    assert child.result() == (str(tmp_path / "opened by us"), b"content", cloexec)
    assert not os.path.exists(path)


def test_descriptor_under_a_chosen_number_before_the_answer(supervise, tmp_path) -> None:
    def work() -> tuple[int, bytes]:
        return os.open(str(tmp_path / "x"), os.O_RDONLY | os.O_CREAT), os.read(77, 100)

    child = supervise(open_rules(), work)
    id = child.next()[0]
    read, write = os.pipe()
    os.write(write, b"hello")
    assert child.listener.add_fd(id, read, newfd=77) == 77
    assert child.listener.is_valid(id)
    assert child.listener.reply_value(id, 78)
    assert child.result() == (78, b"hello")
    os.close(read)
    os.close(write)


def test_exhausted_descriptors_of_the_target_are_emfile(supervise, tmp_path) -> None:
    import resource

    def work() -> int | None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        taken = []
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        try:
            os.open(str(tmp_path / "x"), os.O_RDONLY | os.O_CREAT)
        except OSError as error:
            return error.errno
        return None

    child = supervise(open_rules(), work)
    id = child.next()[0]
    with pytest.raises(KernelCallError) as caught:
        child.listener.add_fd(id, 0, send=True)
    assert caught.value.errno == errno.EMFILE
    assert child.listener.is_valid(id)
    assert child.listener.reply_error(id, errno.EMFILE)
    assert child.result() == errno.EMFILE


def test_descriptor_we_do_not_have_is_ebadf(supervise, tmp_path) -> None:
    child = supervise(open_rules(), lambda: os.open(str(tmp_path / "x"), os.O_RDONLY | os.O_CREAT))
    id = child.next()[0]
    with pytest.raises(KernelCallError) as caught:
        child.listener.add_fd(id, 1 << 20, send=True)
    assert caught.value.errno == errno.EBADF
    assert child.listener.reply_continue(id)
    assert child.result() >= 0
    assert (tmp_path / "x").exists()


# --- signals while a call waits ------------------------------------------------------------------------


def pending(tid: int, signo: int) -> None:
    """Wait until the signal has arrived at the thread; the kernel has no event for that."""
    deadline = time.monotonic() + SECONDS
    while not signals.state(tid).deliverable(main_thread=True) & signals.bit(signo):
        assert time.monotonic() < deadline
        os.sched_yield()


def interrupted_call(restart: bool):
    def work() -> tuple[list[int], int]:
        seen: list[int] = []
        signal.signal(signal.SIGUSR1, lambda signo, _frame: seen.append(signo))
        signal.siginterrupt(signal.SIGUSR1, not restart)
        return seen, call("getppid")

    return work


@pytest.mark.needs("kernel:wait_killable")
@pytest.mark.parametrize("restart", [False, True])
def test_waiting_call_is_let_go_for_a_signal(supervise, restart) -> None:
    """ERESTARTSYS: EINTR for a handler without SA_RESTART, trapped again with it; never seen by the program."""
    child = supervise({number("getppid"): NOTIFY}, interrupted_call(restart))
    id = child.next()[0]
    os.kill(child.pid, signal.SIGUSR1)
    pending(child.pid, signal.SIGUSR1)
    assert child.listener.is_valid(id)  # the signal alone did not end the wait
    assert child.listener.reply_error(id, seccomp.ERESTARTSYS)
    if restart:
        again = child.next()
        assert again[0] != id
        child.listener.reply_value(again[0], 9)
    assert child.result() == ([signal.SIGUSR1], 9 if restart else -errno.EINTR)


def test_without_wait_killable_a_signal_ends_the_wait(supervise) -> None:
    child = supervise({number("getppid"): NOTIFY}, interrupted_call(False), wait_killable=False)
    id = child.next()[0]
    os.kill(child.pid, signal.SIGUSR1)
    assert child.result() == ([signal.SIGUSR1], -errno.EINTR)
    assert not child.listener.is_valid(id)


@pytest.mark.needs("kernel:wait_killable")
def test_restart_without_a_signal_leaks(supervise) -> None:
    """Why the broker looks at the pending signals first."""
    child = supervise({number("getppid"): NOTIFY}, lambda: call("getppid"))
    child.listener.reply_error(child.next()[0], seccomp.ERESTARTSYS)
    assert child.result() == -seccomp.ERESTARTSYS
