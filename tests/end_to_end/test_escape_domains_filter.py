"""Ways around the names through the filter process and the name server themselves: taken over, or drowned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.recorder import Recorder, recording
from tests.end_to_end.support import kernel_has
from tests.end_to_end.test_escape_domains_names import QUERY

FETCH = """
import contextlib, ctypes, errno, os, signal, socket, struct, subprocess, sys, time
from pathlib import Path
import pytest
from query import ask, query, read

def fetch(name="allowed.test"):
    with socket.create_connection((name, 80), 10) as s:
        s.sendall(b"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n")
        return s.recv(999).endswith(b"heard")
"""


@pytest.fixture
def allowed(fenced: Fenced) -> Iterator[Recorder]:
    fenced.write("query.py", QUERY)
    with recording() as recorder:
        yield recorder


def policy(allowed: Recorder) -> str:
    return f"""
[tool.fence.network]
allow_local_outbound = false
allowed_domains = ["*.wild.test"]
hosts = {{"allowed.test" = "127.0.0.1:{allowed.port}"}}
"""


WITH_A_CALL = {"descriptor": "pidfd_getfd", "memory": "process_vm_readv"}
"""Ways into a process that a container's profile may refuse to everybody."""


@pytest.mark.needs("kernel:landlock_scopes")
def test_reaching_into_the_filter(fenced: Fenced, allowed: Recorder) -> None:
    """It cannot be read, written, traced, signalled or limited from inside, by root either."""
    refused = [way for way, call in WITH_A_CALL.items() if not kernel_has(call)]
    run = fenced.run(
        FETCH
        + f"REFUSED = {refused!r}\n"
        + """
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_DETACH = 16, 0x4206, 17
CALLS = {"pidfd_getfd": 438, "process_vm_readv": {"x86_64": 310, "aarch64": 270}[os.uname().machine]}

class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "call")

def trace(pid, how):
    done(libc.ptrace(how, pid, 0, 0))
    if how == PTRACE_ATTACH:
        os.waitpid(pid, os.WUNTRACED)
    else:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
    done(libc.ptrace(PTRACE_DETACH, pid, 0, 0))
    os.kill(pid, signal.SIGCONT)

def take(pid):
    handle = os.pidfd_open(pid)
    try:
        got = libc.syscall(CALLS["pidfd_getfd"], handle, 0, 0)
        done(got)
        os.close(got)
    finally:
        os.close(handle)

def signal_by_handle(pid):
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGCONT)
    finally:
        os.close(handle)

def read_memory(pid):
    # Any mapped address will do: who may not look gets EPERM before it is.
    memory = ctypes.create_string_buffer(8)
    ours, theirs = Iovec(ctypes.addressof(memory), 8), Iovec(ctypes.addressof(memory), 8)
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    got = libc.syscall(CALLS["process_vm_readv"], pid, ctypes.byref(ours), one, ctypes.byref(theirs), one, none)
    if got < 0 and ctypes.get_errno() != errno.EFAULT:
        done(got)

def limit(pid):
    import resource
    resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE))

def write_memory(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))

WAYS = {
    "SIGCONT": lambda pid: os.kill(pid, signal.SIGCONT),
    "no signal": lambda pid: os.kill(pid, 0),
    "SIGCONT by handle": signal_by_handle,
    "attach": lambda pid: trace(pid, PTRACE_ATTACH),
    "seize": lambda pid: trace(pid, PTRACE_SEIZE),
    "descriptor": take,
    "memory": read_memory,
    "mem": lambda pid: open(f"/proc/{pid}/mem", "rb").close(),
    "working directory": lambda pid: os.readlink(f"/proc/{pid}/cwd"),
    "a file": lambda pid: open(f"/proc/{pid}/fd/0").close(),
    "root": lambda pid: os.listdir(f"/proc/{pid}/root/"),
    "limit": limit,
}
if os.geteuid():
    # Root reads these of anybody (CAP_PERFMON), as it reads every file.
    WAYS |= {
        "descriptors": lambda pid: os.listdir(f"/proc/{pid}/fd"),
        "environment": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
        "maps": lambda pid: Path(f"/proc/{pid}/maps").read_bytes(),
    }

for way in REFUSED:
    del WAYS[way]

def beside_us():
    "What our parent, the supervisor, has started besides."
    found = set()
    for number in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split()[1]) == os.getppid():
                found.add(int(number))
    return found - {os.getpid()}

@pytest.fixture(scope="module")
def strangers():
    # The filter is started for the first connection; the supervisor's other helpers are no less out of reach.
    before = beside_us()
    assert fetch()
    after = beside_us() - before
    assert after
    return after

@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()

@pytest.mark.parametrize("way", WAYS)
def test_filter(way, strangers):
    for pid in strangers:
        with pytest.raises(PermissionError):
            WAYS[way](pid)
    assert fetch()

@pytest.mark.parametrize("way", WAYS)
def test_control(way, child):
    WAYS[way](child)

def test_written(strangers):
    for pid in strangers:
        with pytest.raises(PermissionError):
            write_memory(pid)
    assert fetch()
""",
        policy=policy(allowed),
    )
    names = [r["nodeid"] for r in run.reports if r["phase"] == "call"]
    ways = (12 if os.geteuid() == 0 else 15) - len(refused)
    assert len(names) == 2 * ways + 1, run
    # Who could do it to a process outside is told that the fence is in the way. What the kernel refuses anyway is
    # not a violation; see test_privileged_calls.py for which of them are refused without a line.
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() == 0:
        told = {f"test_filter[{way}]" for way in ("attach", "seize", "descriptor") if way not in refused}
    elif not yama.exists() or yama.read_text().strip() == "0":
        told = {"test_filter[attach]", "test_filter[seize]"}
    else:
        told = set()
    run.clean(*(name for name in names if "test_written" not in name and name.rpartition("::")[2] not in told))
    for name in told:
        assert len(run.attempts(name)) == 1, run
    assert {v.what.rpartition("/")[2] for v in run.attempts("test_written")} == (
        {"mem"} if os.geteuid() == 0 else set()
    )


def test_floods(fenced: Fenced, allowed: Recorder) -> None:
    """Whoever drowns the name server or the filter keeps himself waiting; what they keep is bounded.

    The next one is served within the patience of a client: `fetch` and `ask` give up by themselves.
    """
    run = fenced.run(
        FETCH
        + """
def memory(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

@pytest.fixture(autouse=True)
def bounded():
    assert fetch()
    before = memory(os.getppid())
    yield
    assert fetch()
    assert ask([b"x", b"wild", b"test"]) == (0, 1)
    assert memory(os.getppid()) - before < 60 << 20

def test_questions_that_nobody_reads():
    message = query([b"a", b"wild", b"test"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.53", 53))
        s.setblocking(False)
        for _ in range(5000):
            with contextlib.suppress(BlockingIOError):
                s.send(message)

def test_many_who_ask():
    for number in range(400):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(query([b"%d" % number, b"wild", b"test"]), ("192.0.2.53", 53))

def test_conversations_that_nobody_ends():
    with contextlib.ExitStack() as stack:
        for number in range(700):
            s = stack.enter_context(socket.socket())
            s.settimeout(10)
            try:
                s.connect(("192.0.2.53", 53))
                s.sendall(b"\\x0f\\xff\\0")
            except OSError:
                pass
        assert ask([b"y", b"wild", b"test"]) == (0, 1)

def test_questions_of_no_kind():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.53", 53))
        for size in range(0, 2000, 50):
            s.send(b"\\xff" * size)
        s.settimeout(5)
        s.send(query([b"last", b"wild", b"test"]))
        assert read(s.recv(999)) == (0, 1)

def test_names_that_are_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect(("192.0.2.53", 53))
        for number in range(1200):
            s.send(query([b"%d" % number, b"example"]))
            s.recv(999)

def test_connections_that_say_nothing():
    with contextlib.ExitStack() as stack:
        for _ in range(250):
            stack.enter_context(socket.create_connection(("allowed.test", 80), 10))
        assert fetch()

def test_heads_without_an_end():
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            s = stack.enter_context(socket.create_connection(("allowed.test", 80), 10))
            with contextlib.suppress(OSError):
                s.sendall(b"GET / HTTP/1.1\\r\\nX: " + b"x" * 200000)
        assert fetch()
""",
        policy=policy(allowed),
    )
    run.clean(
        "test_questions_that_nobody_reads",
        "test_many_who_ask",
        "test_conversations_that_nobody_ends",
        "test_connections_that_say_nothing",
    )
    run.refused("test_questions_of_no_kind", "connect 192.0.2.53:53/udp", count=None)
    refused = run.attempts("test_names_that_are_refused")
    assert 900 < len(refused) <= 1000, len(refused)
    assert {v.what.partition(" ")[0] for v in refused} == {"resolve"}
    for test in ("test_questions_of_no_kind", "test_names_that_are_refused", "test_heads_without_an_end"):
        assert run.report(test, "teardown")["outcome"] != "failed", run
        assert run.attempts(test), run
