"""What no rule can allow: it does not happen, and is reported where it would have happened without a fence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.support import kernel_has

LIBC = """
    import ctypes, errno, fcntl, os, signal, struct, subprocess, sys
    import pytest
    from fence_core.kernel import arch

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *args):
        '''The error number of a call, 0 if it succeeded.'''
        ctypes.set_errno(0)
        given = [ctypes.c_long(each) if isinstance(each, int) else each for each in args]
        return ctypes.get_errno() if libc.syscall(ctypes.c_long(arch.current().calls[name]), *given) < 0 else 0
"""
OF_ROOT = {
    "mount": 'call("mount", b"none", b"here", b"tmpfs", 0, None)',
    "bind mount": 'call("mount", b"/usr", b"here", None, 0x1000, None)',
    "fsopen": 'call("fsopen", b"tmpfs", 0)',
    "open_tree": 'call("open_tree", -100, b"here", 1)',
    "umount2": 'call("umount2", b"/proc", 2)',
    "pivot_root": 'call("pivot_root", b"here", b"here")',
    "swapon": 'call("swapon", b"here", 0)',
    "reboot": 'call("reboot", 0xFEE1DEAD, 672274793, 0, None)',
    "acct": 'call("acct", b"test_it.py")',
    "init_module": 'call("init_module", b"xxxx", 4, b"")',
    "open_by_handle_at": 'call("open_by_handle_at", -100, struct.pack("Ii8x", 8, 1), 0)',
    "type into a terminal": "type_into_terminal()",
}
"""What root could do (or try with some hope)."""
WOULD_FAIL = {
    "mount on nothing": ('call("mount", b"none", b"missing", b"tmpfs", 0, None)', "ENOENT"),
    "mount of no such file system": ('call("mount", b"none", b"here", b"nonesuch", 0, None)', "ENODEV"),
    "bind mount of nothing": ('call("mount", b"missing", b"here", None, 0x1000, None)', "ENOENT"),
    "umount of no mount": ('call("umount2", b"here", 0)', "EINVAL"),
    "swapoff of no swap": ('call("swapoff", b"here")', "EINVAL"),
    "reboot without its magic number": ('call("reboot", 1, 2, 0, None)', "EINVAL"),
    "removal of no module": ('call("delete_module", b"nonesuch", 0)', "ENOENT"),
    "a bad address": ('call("umount2", 0, 0)', "EFAULT"),
}


@pytest.mark.needs("user:root")
def test_as_root(fenced: Fenced) -> None:
    run = fenced.run(
        f"""{LIBC}
    OF_ROOT, WOULD_FAIL = {OF_ROOT!r}, {WOULD_FAIL!r}

    def type_into_terminal():
        master, slave = os.openpty()
        try:
            fcntl.ioctl(slave, 0x5412, b"x")
        except OSError as error:
            return error.errno

    @pytest.fixture(autouse=True)
    def here():
        os.makedirs("here", exist_ok=True)

    @pytest.mark.parametrize("name", OF_ROOT)
    def test_refused(name):
        assert eval(OF_ROOT[name]) == errno.EPERM

    @pytest.mark.parametrize("name", WOULD_FAIL)
    def test_fails_anyway(name):
        assert errno.errorcode[eval(WOULD_FAIL[name][0])] == WOULD_FAIL[name][1]
    """,
    )
    first = Path("/proc/self/uid_map").read_text().split()[2] == "4294967295"
    of_namespaces = ("mount", "bind mount", "fsopen", "open_tree", "umount2", "pivot_root")
    for name in OF_ROOT:
        found = run.attempts(f"test_refused[{name}]")
        if first or name in of_namespaces:
            assert [each.plain["kind"] for each in found] == ["system"], f"{name}: {run!r}"
            assert not found[0].marker, run
    run.clean(*(f"test_fails_anyway[{name}]" for name in WOULD_FAIL))


@pytest.mark.needs("user:ordinary")
def test_as_user(fenced: Fenced) -> None:
    """The kernel would not let them."""
    calls = {name: act for name, act in OF_ROOT.items() if name != "type into a terminal"}
    run = fenced.run(
        f"""{LIBC}
    ACTS = {calls!r}

    @pytest.mark.parametrize("name", ACTS)
    def test_it(name):
        os.makedirs("here", exist_ok=True)
        assert eval(ACTS[name]) == errno.EPERM
    """,
    )
    run.clean(*(f"test_it[{name}]" for name in calls))


def test_asked_in_passing(fenced: Fenced) -> None:
    """Libraries try these and do without: no violation, for root neither."""
    run = fenced.run(
        f"""{LIBC}
    @pytest.mark.parametrize("name", ["io_uring_setup", "openat2", "memfd_secret"])
    def test_not_there(name):
        assert call(name, 0, 0, 0) == errno.ENOSYS

    @pytest.mark.parametrize("name", ["keyctl", "add_key", "request_key", "bpf"])
    def test_not_permitted(name):
        assert call(name, 0, 0, 0) == errno.EPERM

    def test_quota():
        assert call("quotactl", 0x800007 << 8, b"/dev/nonesuch", 0, b"x" * 100) == errno.EPERM
    """
    )
    assert not run.ledger, run
    assert run.status == 0, run


# ---------------------------------------------------------------- processes outside


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user outside, with a file open for writing as descriptor 3."""
    with open(tmp_path / "held", "wb") as held:
        code = f"import os, time; os.dup2({held.fileno()}, 3); print('up', flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", code], pass_fds=(held.fileno(),), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_processes_outside(fenced: Fenced, victim: subprocess.Popen[bytes]) -> None:
    takes, writes = kernel_has("pidfd_getfd"), kernel_has("process_vm_readv")
    run = fenced.run(
        f"""{LIBC}
    PID = {victim.pid}

    @pytest.fixture(scope="module")
    def inside():
        process = subprocess.Popen(["sleep", "600"])
        yield process.pid
        process.kill()
        process.wait()

    def kill(pid):
        return call("kill", pid, signal.SIGUSR2)

    def is_there(pid):
        return call("kill", pid, 0)

    def trace(pid):
        return call("ptrace", 0x4206, pid, 0, 0)

    def write_memory(pid):
        buffer = ctypes.create_string_buffer(8)
        ours = struct.pack("QQ", ctypes.addressof(buffer), 1)
        return call("process_vm_writev", pid, ours, 1, struct.pack("QQ", 1, 1), 1, 0)

    def take(pid):
        fd = os.pidfd_open(pid)
        return call("pidfd_getfd", fd, 2, 0)

    def measure(pid):
        return call("perf_event_open", struct.pack("II120x", 1, 128), pid, -1, -1, 0)

    @pytest.mark.parametrize("act", [kill, trace, write_memory, take, measure])
    def test_outside(act):
        assert act(PID) in (errno.EPERM, errno.EACCES)

    def test_only_asked():
        is_there(PID)

    def test_inside(inside):
        '''None of it is the fence's business there: the kernel's own answers.'''
        assert is_there(inside) == 0
        assert take(inside) == {0 if takes else "errno.EPERM"}
        assert write_memory(inside) == errno.{"EFAULT" if writes else "EPERM"}
        assert trace(inside) == 0
        os.kill(inside, signal.SIGUSR2)
        os.kill(os.getpid(), 0)

    def test_many_signals():
        '''A call that never ends with EINTR does not do so here.'''
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        try:
            for _ in range(5000):
                os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(seen) >= 5000

    def test_gone():
        process = subprocess.Popen(["true"])
        process.wait()
        assert kill(process.pid) == errno.ESRCH
    """
    )
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    traces = os.geteuid() == 0 or not yama.exists() or yama.read_text().strip() == "0"
    assert victim.poll() is None
    for name in [name for name, can in (("trace", True), ("write_memory", writes), ("take", takes)) if traces and can]:
        found = run.attempts(f"test_outside[{name}]")
        assert [each.plain["kind"] for each in found] == ["system"], f"{name}: {run!r}"
        assert found[0].what.endswith(", a process outside"), run
    run.clean("test_outside[kill]", "test_only_asked", "test_inside", "test_gone", "test_many_signals")


# ---------------------------------------------------------------- devices of the machine


def test_requests_of_root(fenced: Fenced) -> None:
    """To block devices, consoles and terminals, by descriptors that are open for reading: refused by the filter itself,
    whatever they are asked of. So here of a file, which has none of them."""
    from fence_core.broker.calls import registers

    requests = (*registers.OF_ROOT, *registers.OF_ROOT_SIZED)
    run = fenced.run(
        f"""{LIBC}
    def test_all():
        fd = os.open("test_it.py", os.O_RDONLY)
        said = {{}}
        for request in {requests!r}:
            try:
                fcntl.ioctl(fd, request, bytes(512))
            except OSError as error:
                said[hex(request)] = error.errno
        assert set(said.values()) <= {{errno.EPERM, *([errno.ENOTTY] if os.geteuid() else [])}}, said

    def test_others():
        master, slave = os.openpty()
        fcntl.ioctl(slave, 0x5413, bytes(8))
        os.write(master, b"x\\n")
        assert fcntl.ioctl(slave, 0x541B, bytes(4))
    """
    )
    run.clean("test_all", "test_others")


@pytest.mark.needs("user:root")
def test_permission_events(fenced: Fenced) -> None:
    """Who watches for them could deny everybody every file."""
    run = fenced.run(
        f"""{LIBC}
    @pytest.mark.parametrize("flags", [4, 8])
    def test_permission(flags):
        assert call("fanotify_init", flags, os.O_RDONLY) == errno.EPERM

    def test_notification():
        assert call("fanotify_init", 0, os.O_RDONLY) == 0
    """
    )
    run.clean("test_permission[4]", "test_permission[8]", "test_notification")


def test_taking_a_terminal(fenced: Fenced) -> None:
    """setsid --ctty does, of the one that it was given."""
    run = fenced.run(
        f"""{LIBC}
    def test_own():
        master, slave = os.openpty()
        done = subprocess.run(["setsid", "--ctty", "--wait", "sh", "-c", "echo x > /dev/tty"], stdin=slave)
        assert done.returncode == 0
        assert os.read(master, 9) == b"x\\r\\n"
    """
    )
    run.clean("test_own")


# ---------------------------------------------------------------- namespaces


def test_what_is_not_a_namespace(fenced: Fenced) -> None:
    run = fenced.run(
        f"""{LIBC}
    @pytest.mark.parametrize("path", ["/dev/null", "test_it.py", "."])
    @pytest.mark.parametrize("kind", [0, 0x40000000])
    def test_it(path, kind):
        assert call("setns", os.open(path, os.O_RDONLY), kind) == errno.EINVAL

    def test_pipe():
        assert call("setns", os.pipe()[0], 0) == errno.EINVAL

    def test_closed():
        assert call("setns", 999, 0) == errno.EBADF
    """
    )
    assert not run.ledger, run
    assert run.status == 0, run


@pytest.mark.needs("user:root", "program:unshare")
def test_named_namespace(fenced: Fenced) -> None:
    """One of the machine's: refused, unless it is of another kind than the caller says."""
    run = fenced.run(
        f"""{LIBC}
    def test_enter():
        assert call("setns", os.open("name", os.O_RDONLY), 0) == errno.EPERM

    def test_other_kind():
        assert call("setns", os.open("name", os.O_RDONLY), 0x20000) == errno.EINVAL
    """,
        prefix=(
            "unshare",
            "--mount",
            "sh",
            "-ec",
            'touch name; mount --bind /proc/self/ns/net name; exec "$@"',
            "sh",
        ),
    )
    attempt = run.refused("test_enter", f"enter namespace {fenced.directory}/name")
    assert attempt.plain["kind"] == "system"
    run.clean("test_other_kind")


# ---------------------------------------------------------------- memory that nobody else reads


def test_secret_memory(fenced: Fenced) -> None:
    """A path there could not be judged. Programs take the answer for that of a kernel without it."""
    run = fenced.run(
        f"""{LIBC}
    def test_it():
        assert call("memfd_secret", 0) == errno.ENOSYS
        assert call("memfd_create", b"x", 0) == 0
    """,
        policy=ONLY_HERE,
    )
    run.clean("test_it")


# ---------------------------------------------------------------- files of processes


LINKS = {
    "descriptor": "open(f'/proc/{PID}/fd/1', 'w')",
    "task's descriptor": "open(f'/proc/{PID}/task/{PID}/fd/1', 'wb')",
    "file in its root": "open(f'/proc/{PID}/root{OUTSIDE}/old', 'w')",
    "new file in its root": "open(f'/proc/{PID}/root{OUTSIDE}/new', 'x')",
    "new file in its directory": "open(f'/proc/{PID}/cwd/new', 'w')",
    "by way of a link": "(os.path.lexists('way') or os.symlink(f'/proc/{PID}/cwd', 'way'), open('way/new', 'w'))",
    "mode": "os.chmod(f'/proc/{PID}/root{OUTSIDE}/old', 0o600)",
    "length": "os.truncate(f'/proc/{PID}/root{OUTSIDE}/old', 0)",
    "directory": "os.mkdir(f'/proc/{PID}/cwd/made')",
    "removal": "os.unlink(f'/proc/{PID}/cwd/old')",
    "own file": "open(f'/proc/{PID}/oom_score_adj', 'w')",
    "name": "open(f'/proc/{PID}/comm', 'w')",
}


def test_by_way_of_a_process_outside(fenced: Fenced) -> None:
    """Also where a rule allows the file itself: the kernel lets nobody inside look into a process outside."""
    old = fenced.outside / "old"
    old.write_text("old")
    with open(old, "a") as held, subprocess.Popen(["sleep", "600"], cwd=fenced.outside, stdout=held) as process:
        try:
            run = fenced.run(
                f"""
    import os
    import pytest
    from here import OUTSIDE

    PID, LINKS = {process.pid}, {LINKS!r}

    @pytest.mark.parametrize("name", LINKS)
    def test_it(name):
        with pytest.raises(PermissionError):
            eval(LINKS[name])

    @pytest.mark.fence(allow_write=[OUTSIDE])
    def test_allowed_there():
        with pytest.raises(PermissionError):
            open(f"/proc/{{PID}}/cwd/old", "a")
        open(OUTSIDE + "/old", "a").close()

    def test_would_fail():
        with pytest.raises(FileNotFoundError):
            open(f"/proc/{{PID}}/cwd/missing/new", "w")
        with pytest.raises(FileExistsError):
            os.mkdir(f"/proc/{{PID}}/cwd/old")
        with pytest.raises(FileNotFoundError):
            open(f"/proc/{{PID}}/fd/999", "w")

    def test_read():
        open(f"/proc/{{PID}}/comm").close()
                """,
                policy=ONLY_HERE,
            )
        finally:
            process.kill()
    for name in LINKS:
        found = run.attempts(f"test_it[{name}]")
        assert [each.plain["kind"] for each in found] == ["write"], f"{name}: {run!r}"
        assert not found[0].marker, run
    assert len(run.attempts("test_allowed_there")) == 1, run
    run.clean("test_would_fail", "test_read")
    assert fenced.untouched(old="old")


def test_remedies_without_numbers(fenced: Fenced) -> None:
    """What is offered fits the next run, too, and works."""
    act = """
        child = subprocess.Popen(["sleep", "600"])
        try:
            for name in ("coredump_filter", "clear_refs"):
                with open(f"/proc/{child.pid}/{name}", "w") as file:
                    file.write("1")
            with open(f"/proc/self/task/{os.getpid()}/comm", "w") as file:
                file.write("x")
        except PermissionError:
            pass
        finally:
            child.kill()
            child.wait()
    """
    run = fenced.run(
        f"""
    import os, subprocess
    import pytest

    def test_first():{act}

    @pytest.mark.fence(allow_write=["/proc/self/coredump_filter"])
    def test_second():{act}

    @pytest.mark.fence(allow_write=["/proc/self/coredump_filter", "/proc/self/clear_refs"])
    def test_third():{act}

    @pytest.mark.fence(allow_write=["/proc/self/coredump_filter", "/proc/self/clear_refs", "/proc/self/task/*/comm"])
    def test_last():{act}
        """,
        policy=ONLY_HERE,
    )
    for test, path in (
        ("first", "/proc/self/coredump_filter"),
        ("second", "/proc/self/clear_refs"),
        ("third", "/proc/self/task/*/comm"),
    ):
        (attempt,) = run.attempts(f"test_{test}")
        assert attempt.marker == f'@pytest.mark.fence(allow_write=["{path}"])', run
    run.clean("test_last")


@pytest.mark.needs("user:ordinary", "program:unshare")
def test_remedy_of_user_namespaces(fenced: Fenced) -> None:
    maps = '["/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"]'
    plain = subprocess.run(["unshare", "-U", "-r", "true"], capture_output=True)
    if plain.returncode:
        pytest.skip("kernel: no user namespaces for ordinary users")
    run = fenced.run(
        f"""
    import subprocess
    import pytest

    def test_it():
        assert subprocess.run(["unshare", "-U", "-r", "true"]).returncode

    @pytest.mark.fence(allow_write={maps})
    def test_allowed():
        assert subprocess.run(["unshare", "-U", "-r", "true"]).returncode == 0
        """
    )
    attempt = run.refused("test_it", "write /proc/self/uid_map", by=["unshare"])
    assert attempt.marker == f"@pytest.mark.fence(allow_write={maps})"
    assert "--no-sandbox" in attempt.rule
    run.clean("test_allowed")
