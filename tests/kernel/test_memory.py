"""Reading and writing another process's memory, up to the last byte before a hole."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading

import pytest

from fence_core.errors import KernelCallError
from fence_core.kernel import arch, features, libc, memory, process
from tests.kernel.children import become_user


@pytest.fixture(
    autouse=True,
    params=[pytest.param(True, marks=pytest.mark.needs("kernel:process_vm_readv"), id="borrowed"), False],
    ids=lambda borrows: "by file",
)
def way(request):
    """Both ways to another's memory answer the same."""
    memory.choose(borrows=request.param)
    yield
    memory.choose(borrows=features.detect().available("process_vm_readv"))


PAGE = mmap.PAGESIZE
SELF = os.getpid()


class Island:
    """Some mapped pages with an unmapped one behind them."""

    def __init__(self, pages: int) -> None:
        self.size = pages * PAGE
        calls = arch.current().calls
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        rights = mmap.PROT_READ | mmap.PROT_WRITE
        self.start = libc.syscall(calls["mmap"], 0, self.size + PAGE, rights, anonymous, -1, 0, call="mmap")
        libc.syscall(calls["munmap"], self.start + self.size, PAGE, call="munmap")
        self.end = self.start + self.size

    def put(self, data: bytes, at: int) -> int:
        ctypes.memmove(at, data, len(data))
        return at

    def put_last(self, data: bytes) -> int:
        return self.put(data, self.end - len(data))

    def free(self) -> None:
        libc.syscall(arch.current().calls["munmap"], self.start, self.size, call="munmap")


@pytest.fixture
def island():
    island = Island(2)
    yield island
    island.free()


def refused(call, *args) -> int:
    with pytest.raises(KernelCallError) as caught:
        call(*args)
    assert caught.value.errno is not None
    return caught.value.errno


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 1000, 4000, 4095])
def test_string_of_any_length(island, length) -> None:
    text = bytes(1 + i % 255 for i in range(length))
    assert memory.read_string(os.getpid(), island.put(text + b"\0garbage", island.start)) == text
    assert memory.read_string(os.getpid(), island.put_last(text + b"\0")) == text


@pytest.mark.parametrize("length", [0, 1, 100, 256, 300, 4000])
@pytest.mark.parametrize("before_the_edge", [1, 2, 255, 256, 257])
def test_string_across_a_page_edge(island, length, before_the_edge) -> None:
    text = b"x" * length
    at = island.put(text + b"\0", island.start + PAGE - before_the_edge)
    assert memory.read_string(os.getpid(), at) == text


def test_string_into_a_hole_is_efault(island) -> None:
    at = island.put_last(b"no end")
    assert refused(memory.read_string, os.getpid(), at) == errno.EFAULT
    assert refused(memory.read_string, os.getpid(), island.end) == errno.EFAULT
    assert refused(memory.read_string, os.getpid(), 0) == errno.EFAULT
    assert refused(memory.read_string, os.getpid(), (1 << 64) - 1) == errno.EFAULT


def test_string_without_an_end_within_the_limit(island) -> None:
    at = island.put(b"x" * 4096 + b"\0", island.start)
    assert refused(memory.read_string, os.getpid(), at) == errno.ENAMETOOLONG
    assert memory.read_string(os.getpid(), at, 4097) == b"x" * 4096
    assert memory.read_string(os.getpid(), at + 4086, 11) == b"x" * 10
    assert refused(memory.read_string, os.getpid(), at + 4086, 10) == errno.ENAMETOOLONG


def test_what_an_earlier_read_left_behind_is_not_seen(island) -> None:
    """Buffers are reused: a NUL or a text from before must not end or lengthen the next one."""
    assert memory.read_string(os.getpid(), island.put(b"a" * 200 + b"\0", island.start)) == b"a" * 200
    assert memory.read_string(os.getpid(), island.put(b"b\0", island.start)) == b"b"
    # Ten bytes to the edge, without NUL; the buffer still has one at position 1.
    at = island.put(b"c" * 20 + b"\0", island.start + PAGE - 10)
    assert memory.read_string(os.getpid(), at) == b"c" * 20
    assert refused(memory.read_string, os.getpid(), island.put_last(b"d")) == errno.EFAULT


@pytest.mark.parametrize("length", [0, 1, 16, 4096, 4097, 2 * PAGE])
def test_read_exactly(island, length) -> None:
    data = os.urandom(length)
    assert memory.read(os.getpid(), island.put(data, island.start), length) == data
    assert memory.read(os.getpid(), island.put_last(data), length) == data


@pytest.mark.parametrize("lengths", [[], [1], [PAGE], [1, PAGE, 5], [3] * 1024])
def test_gather(island, lengths) -> None:
    data = os.urandom(sum(lengths))
    at = island.put_last(data)
    pieces = []
    for length in lengths:
        pieces.append((at, length))
        at += length
    assert memory.gather(SELF, pieces) == data
    if pieces:
        pieces[-1] = (pieces[-1][0], pieces[-1][1] + 1)
        assert refused(memory.gather, SELF, pieces) == errno.EFAULT


def test_short_read_is_efault(island) -> None:
    assert memory.read(os.getpid(), island.end - 8, 8) == bytes(8)
    assert refused(memory.read, os.getpid(), island.end - 8, 9) == errno.EFAULT
    assert refused(memory.read, os.getpid(), island.start, 2 * PAGE + 1) == errno.EFAULT


def test_write(island) -> None:
    memory.write(os.getpid(), island.end - 5, b"hello")
    assert ctypes.string_at(island.end - 5, 5) == b"hello"
    memory.write(os.getpid(), island.start, b"")
    memory.write(os.getpid(), island.start, b"z" * island.size)
    assert ctypes.string_at(island.start, island.size) == b"z" * island.size
    assert refused(memory.write, os.getpid(), island.end - 4, b"hello") == errno.EFAULT


def test_write_does_not_pierce_read_only_memory(island) -> None:
    libc.syscall(arch.current().calls["mprotect"], island.start, PAGE, mmap.PROT_READ, call="mprotect")
    assert refused(memory.write, os.getpid(), island.start, b"x") == errno.EFAULT
    assert memory.read(os.getpid(), island.start, 1) == b"\0"


def test_another_process_by_the_id_of_any_of_its_threads(start) -> None:
    buffer = ctypes.create_string_buffer(b"of the parent")
    address = ctypes.addressof(buffer)
    tell, told = os.pipe(), os.pipe()

    def work() -> bytes:
        buffer.value = b"of the child"

        def thread() -> None:
            os.write(tell[1], b"%d" % threading.get_native_id())
            os.read(told[0], 1)

        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()
        return buffer.value

    child = start(work)
    tid = int(os.read(tell[0], 20))
    assert tid != child.pid
    for number in (child.pid, tid):
        assert memory.read_string(number, address) == b"of the child"
    memory.write(tid, address, b"OF")
    os.write(told[1], b"!")
    assert child.result() == b"OF the child"
    assert buffer.value == b"of the parent"
    for fd in (*tell, *told):
        os.close(fd)


def test_process_that_is_gone_is_esrch(start) -> None:
    buffer = ctypes.create_string_buffer(b"x")
    child = start(lambda: None)
    child.result()
    for call in (memory.read, memory.read_string):
        assert refused(call, child.pid, ctypes.addressof(buffer), 1) == errno.ESRCH
    assert refused(memory.write, child.pid, ctypes.addressof(buffer), b"x") == errno.ESRCH


def test_undumpable_process_is_eperm_for_its_own_user(in_child) -> None:
    """Not EFAULT: the caller gives it a report of its own. Root would be let in."""

    def work() -> tuple[bytes, int]:
        become_user()
        buffer = ctypes.create_string_buffer(b"secret")
        ready, go = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            libc.set_dumpable(False)
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            libc.exit_now(0)
        try:
            os.read(ready[0], 1)
            before = memory.read_string(pid, ctypes.addressof(buffer))
            os.write(go[1], b"!")
            os.read(ready[0], 1)
            return before, refused(memory.read_string, pid, ctypes.addressof(buffer))
        finally:
            os.write(go[1], b"!")
            os.waitpid(pid, 0)

    assert in_child(work) == (b"secret", errno.EPERM)


def test_threads_do_not_share_buffers() -> None:
    """Each reads its own text 3000 times while the others read theirs."""
    texts = [bytes([65 + number]) * (100 + 37 * number) for number in range(6)]
    buffers = [ctypes.create_string_buffer(text) for text in texts]
    wrong: list[bytes] = []

    def work(number: int) -> None:
        address = ctypes.addressof(buffers[number])
        for _ in range(3000):
            if (found := memory.read_string(SELF, address)) != texts[number]:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_own_memory_whatever_is_refused(island) -> None:
    data = os.urandom(island.size)
    island.put(data, island.start)
    assert memory.read_own(island.start, island.size) == data
    assert refused(memory.read_own, island.start + 1, island.size) == errno.EFAULT
    memory.write_own(island.end - 5, b"hello")
    assert ctypes.string_at(island.end - 5, 5) == b"hello"
    assert refused(memory.write_own, island.end - 4, b"hello") == errno.EFAULT


def test_within_a_call_a_file_is_opened_once(start) -> None:
    """And once more for the next: an exec has changed the memory by then."""
    memory.choose(borrows=False)
    buffer = ctypes.create_string_buffer(b"of the parent")
    address = ctypes.addressof(buffer)
    told = os.pipe()

    def work() -> None:
        os.read(told[0], 1)
        os.execvp("sleep", ["sleep", "60"])

    child = start(work)
    link = f"/proc/{child.pid}/mem"
    seen: list[tuple[bytes | int, int]] = []

    def step() -> None:
        for _ in range(2):
            try:
                found: bytes | int = memory.read_string(child.pid, address)
            except KernelCallError as error:
                found = error.errno or 0
            opened = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
            seen.append((found, sum(os.readlink(f"/proc/self/fd/{fd}") == link for fd in opened)))

    try:
        call = memory.for_each_call(step)
        call()
        os.write(told[1], b"!")
        while process.program_name(child.pid) != "sleep":
            os.sched_yield()
        call()
        assert seen[:2] == [(b"of the parent", 1)] * 2
        assert [opened for _, opened in seen[2:]] == [1] * 2
        assert b"of the parent" not in [found for found, _ in seen[2:]]
    finally:
        memory._let_go()
        memory.choose(borrows=True)
        assert memory.for_each_call(step) is step  # nothing is kept any more
        for fd in told:
            os.close(fd)
