"""Facts from /proc about processes that are there, and a fork that makes a sibling."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

import pytest

from fence_core.errors import BrokerError
from fence_core.kernel import arch, credentials, libc, namespaces, process
from tests.kernel.children import ended


def test_clone_parent_makes_a_sibling(in_child) -> None:
    """The new process is invisible to our wait and our parent's to wait for."""

    def work() -> dict[str, object]:
        report = os.pipe()
        own = os.getpid()
        middle = os.fork()
        if middle == 0:
            made = process.clone_parent()
            if made == 0:
                facts = b"%d %d %d" % (os.getpid(), os.getppid(), threading.get_native_id())
                os.write(report[1], facts)
                libc.exit_now(9)
            try:
                os.waitpid(made, 0)
            except ChildProcessError:
                libc.exit_now(3 if not process.children() else 4)
            libc.exit_now(5)
        os.close(report[1])
        facts = b""
        while part := os.read(report[0], 100):
            facts += part
        pid, parent, tid = map(int, facts.split())
        statuses = {}
        for _ in range(2):
            ended_pid, status = os.waitpid(-1, 0)
            statuses[ended_pid] = os.waitstatus_to_exitcode(status)
        return {
            "sibling": parent == own and tid == pid,
            "statuses": statuses == {middle: 3, pid: 9},
        }

    assert in_child(work) == {"sibling": True, "statuses": True}


def test_clone_parent_amid_threads_is_refused(in_child) -> None:
    """The new process would wait for ever for locks of threads that it does not have."""

    def work() -> tuple[str, int]:
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        try:
            process.clone_parent()
            refused = ""
        except BrokerError as error:
            refused = str(error)
        go.set()
        thread.join()
        middle = os.fork()
        if middle == 0:
            libc.exit_now(0 if process.clone_parent() >= 0 else 1)  # alone again: both of them leave here
        statuses = [os.waitpid(-1, 0)[1] for _ in range(2)]
        return refused, sum(statuses)

    refused, statuses = in_child(work)
    assert "more than one thread" in refused
    assert statuses == 0


def test_status_of_this_process() -> None:
    status = process.status_fields(os.getpid())
    assert (status.tgid, status.ppid) == (os.getpid(), os.getppid())


def test_credentials_of_this_process() -> None:
    who = credentials.of(os.getpid())
    assert who.uids[:3] == os.getresuid()
    assert who.gids[:3] == os.getresgid()
    assert set(who.groups) == set(os.getgroups())
    before = os.umask(0o27)
    try:
        assert credentials.umask(process.read_proc("/proc/self/status")) == 0o27
    finally:
        os.umask(before)


def test_namespaces(in_child) -> None:
    def work() -> list[bool]:
        found = [namespaces.is_ours(os.getppid(), kind) for kind in ("ipc", "mnt", "net", "pid", "user")]
        return [*found, namespaces.of(os.getpid(), "net").startswith("net:[")]

    assert in_child(work) == [True] * 6
    with pytest.raises(OSError):
        namespaces.is_ours(1 << 22, "user")  # PID_MAX_LIMIT
    assert not credentials.count_here(1 << 22)


def test_threads(in_child) -> None:
    def work() -> list[object]:
        before = process.thread_count()
        go = threading.Event()
        tids: list[int] = []
        ready = threading.Event()
        thread = threading.Thread(target=lambda: (tids.append(threading.get_native_id()), ready.set(), go.wait()))
        thread.start()
        ready.wait()
        found = [before, process.thread_count(), int(process.stat_fields("self")[process.NUM_THREADS])]
        found.append(process.thread_group(tids[0]) == os.getpid() != tids[0])
        go.set()
        thread.join()
        return found

    assert in_child(work) == [1, 2, 2, True]


def test_process_that_has_ended_and_is_not_yet_waited_for(start) -> None:
    child = start(lambda: None)
    assert ended(child.pidfd)
    status = process.status_fields(child.pid)
    assert (status.tgid, status.ppid) == (child.pid, os.getpid())
    assert process.argv(child.pid) == ()
    assert child.pid in process.children()
    child.wait()
    assert child.pid not in process.children()
    with pytest.raises(ProcessLookupError):
        process.status_fields(child.pid)


@pytest.mark.parametrize("by_search", [False, True])
def test_children(in_child, by_search) -> None:
    """Those of every thread; by_search is the way of kernels without the list."""

    def work() -> tuple[bool, list[int]]:
        hold = os.pipe()
        pids: list[int] = []

        def make() -> None:
            pid = os.fork()
            if pid == 0:
                os.close(hold[1])
                os.read(hold[0], 1)
                libc.exit_now(0)
            pids.append(pid)

        make()
        # A process made by a thread is that thread's child.
        import warnings

        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
        done, looked = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: (make(), done.set(), looked.wait()))
        thread.start()
        done.wait()
        if by_search:
            found = process._children_by_search(os.getpid())
        else:
            found = process.children()
        looked.set()
        thread.join()
        os.close(hold[1])
        for pid in pids:
            os.waitpid(pid, 0)
        return sorted(found) == sorted(pids), process.children()

    assert in_child(work) == (True, [])


def test_start_time_tells_processes_apart_and_survives_odd_names(in_child) -> None:
    def work() -> tuple[bool, bool, str]:
        before = process.start_time(os.getpid())
        name = ctypes.create_string_buffer(b"a) R 1 (\n\xff")
        libc.syscall(arch.current().calls["prctl"], 15, ctypes.addressof(name))  # PR_SET_NAME
        return (
            before == process.start_time(os.getpid()),
            process.status_fields(os.getpid()).ppid == os.getppid(),
            process.program_name(os.getpid()),
        )

    assert in_child(work) == (True, True, "a) R 1 (\n\udcff")
    assert process.start_time(os.getpid()) > process.start_time(1) >= 0


def test_program_name_and_argv() -> None:
    words = [sys.executable, "-S", "-c", "print('up', flush=True); input()", "a b", "", "ü\udcff"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        assert process.argv(other.pid) == tuple(words)
        assert os.path.basename(os.path.realpath(sys.executable)).startswith(process.program_name(other.pid)[:6])
        assert process.status_fields(other.pid).ppid == os.getpid()
        other.send_signal(signal.SIGKILL)
