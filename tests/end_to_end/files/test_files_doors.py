"""Ways around every path: handles, mounts, other roots, other processes' memory, the kernel's settings, devices, and
descriptors that were open before there was a fence."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.files import trees

CALL = """
import ctypes, errno, os
import pytest
from fence_core.kernel import arch
from here import OUTSIDE

LIBC = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    "The result of a system call, or its error number with a minus."
    ctypes.set_errno(0)
    words = [each if isinstance(each, (bytes, type(None), ctypes.Array)) else ctypes.c_long(each) for each in arguments]
    result = LIBC.syscall(ctypes.c_long(arch.current().calls[name]), *words)
    return -ctypes.get_errno() if result < 0 else result
"""


@pytest.fixture
def planted(fenced: Fenced) -> Path:
    (fenced.outside / "file").write_text("as it was\n", encoding="ascii")
    (fenced.outside / "file").chmod(0o644)
    return fenced.outside / "file"


def test_handles(fenced: Fenced, planted: Path) -> None:
    before = trees.account(fenced.outside)
    run = fenced.run(
        CALL
        + """
def handle(path):
    "A struct file_handle, open_by_handle_at(2)."
    found = ctypes.create_string_buffer((128).to_bytes(4, "little") + b"\\0" * 132)
    mount = ctypes.create_string_buffer(8)
    assert call("name_to_handle_at", -100, os.fsencode(path), found, mount, 0) == 0
    return found

@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_PATH])
def test_it(flags):
    directory = os.open(OUTSIDE, os.O_RDONLY)
    assert call("open_by_handle_at", directory, handle(OUTSIDE + "/file"), flags) == -errno.EPERM
""",
        policy=ONLY_HERE,
    )
    for test in (f"test_it[{flags}]" for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH)):
        if os.geteuid() == 0:
            run.refused(test, "open a file by handle (open_by_handle_at)")
        else:
            run.clean(test)  # it takes CAP_DAC_READ_SEARCH
    assert not trees.changes(before, trees.account(fenced.outside))


def test_mounts(fenced: Fenced, planted: Path) -> None:
    """Neither in the session's own namespace nor in one that the test makes, in which it has every right."""
    before = trees.account(fenced.outside)
    run = fenced.run(
        CALL
        + """
CLONE_NEWNS, CLONE_NEWUSER, MS_BIND = 0x20000, 0x10000000, 0x1000
CALLS = {
    "mount": (OUTSIDE.encode(), b"over", None, MS_BIND, None),
    "umount2": (b"over", 0),
    "pivot_root": (b"over", b"over"),
    "open_tree": (-100, OUTSIDE.encode(), 1),
    "move_mount": (-100, OUTSIDE.encode(), -100, b"over", 0),
    "fsopen": (b"tmpfs", 0),
    "fsconfig": (0, 6, None, None, 0),
    "fsmount": (0, 0, 0),
    "fspick": (-100, OUTSIDE.encode(), 0),
    "mount_setattr": (-100, OUTSIDE.encode(), 0, None, 0),
}

def none_succeeds():
    # What would have failed anyway fails as it does without a fence: EINVAL of no mount, EBADF of no descriptor.
    return all(call(name, *arguments) < 0 for name, arguments in CALLS.items())

def test_here():
    os.mkdir("over")
    assert none_succeeds()
    open("held-here", "x").close()

def test_in_a_namespace_of_ones_own():
    pid = os.fork()
    if pid == 0:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)  # refused or not
        os._exit(not none_succeeds())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    open("held-there", "x").close()
""",
        policy=ONLY_HERE,
    )
    # Whether anybody is blamed depends on who could have done it: see test_privileged_calls.py.
    assert (fenced.directory / "held-here").exists(), run
    assert (fenced.directory / "held-there").exists(), run
    if os.geteuid() != 0:
        run.clean("test_here")
    assert not trees.changes(before, trees.account(fenced.outside))


@pytest.mark.needs("user:root")
def test_another_root(fenced: Fenced, planted: Path) -> None:
    """A path means what it means to its caller, and is told of as everybody else knows it."""
    before = trees.account(fenced.outside)
    run = fenced.run(
        """
        import os
        import pytest
        from here import OUTSIDE

        def below(root, work):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.chroot(root)
                    os.chdir("/")
                    work()
                    status = 0
                except PermissionError:
                    status = 2
                finally:
                    os._exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        WORK = {
            "open": lambda: open("/new", "w").close(),
            "mkdir": lambda: os.mkdir("/../new"),
            "chmod": lambda: os.chmod("/file", 0o600),
            "rename": lambda: os.rename("file", "new"),
        }

        @pytest.mark.parametrize("name", WORK)
        def test_outside(name):
            assert below(OUTSIDE, WORK[name]) == 2

        @pytest.mark.parametrize("name", WORK)
        def test_inside(name, tmp_path):
            (tmp_path / "file").write_text("x")
            assert below(tmp_path, WORK[name]) == 0
            assert (tmp_path / "new").exists() or (tmp_path / "file").stat().st_mode & 0o777 == 0o600
        """,
        policy=ONLY_HERE,
    )
    for name, what in ("open", "write new"), ("mkdir", "mkdir new"), ("chmod", "chmod file"), ("rename", "rename file"):
        op, _, target = what.partition(" ")
        run.refused(f"test_outside[{name}]", f"{op} {fenced.outside}/{target}", by=["python"])
        run.clean(f"test_inside[{name}]")
    assert not trees.changes(before, trees.account(fenced.outside))


def test_memory_of_others(fenced: Fenced) -> None:
    """Of a process outside nothing is written to, by whatever file of its own. An ordinary user is refused most of it
    by the kernel, which is no violation."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        names = ["mem", f"task/{other.pid}/mem", "oom_score_adj", "comm", "uid_map"]
        run = fenced.run(
            f"""
            import os
            import pytest

            @pytest.mark.parametrize("name", {names!r})
            def test_of_another(name):
                with pytest.raises(PermissionError):
                    os.open("/proc/{other.pid}/" + name, os.O_RDWR)

            def test_own():
                os.close(os.open("/proc/self/mem", os.O_RDONLY))

            @pytest.mark.fence(allow_write=["/proc/self/oom_score_adj"])
            def test_of_a_child():
                "One that has made no call yet which the fence has seen."
                ours, theirs = os.pipe()
                child = os.fork()
                if child == 0:
                    os.read(ours, 1)
                    os._exit(0)
                try:
                    with open(f"/proc/{{child}}/oom_score_adj", "w") as file:
                        file.write("1000")
                    with open(f"/proc/{{child}}/oom_score_adj") as file:
                        assert file.read() == "1000\\n"
                finally:
                    os.write(theirs, b"!")
                    os.waitpid(child, 0)
            """,
            policy=ONLY_HERE,
        )
    assert "DID NOT RAISE" not in run.out
    run.clean("test_own", "test_of_a_child")
    if os.geteuid() == 0:
        for name in names:
            run.refused(f"test_of_another[{name}]", f"write /proc/{other.pid}/{name}")


@pytest.mark.needs("user:root")
def test_settings_of_the_kernel(fenced: Fenced) -> None:
    """Nothing is written here, should it be let through: only opened. A user is refused by the kernel."""
    paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sysrq-trigger",
        "/proc/self/../sys/vm/drop_caches",
    ]
    there = [path for path in paths if os.path.exists(path)]
    run = fenced.run(
        f"""
        import os
        import pytest

        @pytest.mark.parametrize("number", range({len(there)}))
        def test_it(number):
            path = {there!r}[number]
            with pytest.raises(PermissionError):
                os.open(path, os.O_WRONLY)
            os.close(os.open(path, os.O_PATH))
        """,
        policy=ONLY_HERE,
    )
    for number, path in enumerate(there):
        run.refused(f"test_it[{number}]", f"write {os.path.realpath(path.replace('self/..', ''))}")


@pytest.mark.needs("user:root")
def test_devices(fenced: Fenced) -> None:
    """A device's node in a writable place leads to the device, whatever rules there are for paths."""
    run = fenced.run(
        """
        import os, stat
        import pytest

        @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
        def test_it(kind, tmp_path):
            with pytest.raises(PermissionError):
                os.mknod(tmp_path / "device", kind | 0o600, os.makedev(1, 3))
            assert os.listdir(tmp_path) == []
        """,
        policy=ONLY_HERE,
    )
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        where = fenced.directory / "basetemp" / f"test_it_{kind}_0" / "device"
        run.refused(f"test_it[{kind}]", f"mknod {where}")


def test_inherited_descriptor(fenced: Fenced, planted: Path) -> None:
    """One that was open for reading before there was a fence lets nobody change its file."""
    before = trees.account(fenced.outside)
    run = fenced.run(
        """
        import os
        import pytest

        WORK = {
            "chmod": lambda: os.fchmod(9, 0o600),
            "utime": lambda: os.utime(9, (1, 1)),
            "write": lambda: os.open("/proc/self/fd/9", os.O_WRONLY),
            "truncate": lambda: os.truncate("/dev/fd/9", 0),
        }

        @pytest.mark.parametrize("name", WORK)
        def test_it(name):
            assert os.pread(9, 100, 0) == b"as it was\\n"
            with pytest.raises(PermissionError):
                WORK[name]()
        """,
        policy=ONLY_HERE,
        prefix=["sh", "-c", f'exec "$@" 9<{planted}', "sh"],
    )
    for name in ("chmod", "utime", "write", "truncate"):
        run.refused(f"test_it[{name}]", f"{name} {planted}")
    assert not trees.changes(before, trees.account(fenced.outside))


@pytest.mark.parametrize("name", ["new\nline", "esc\x1b[31mred", "\udcff\udcfe", "tab\t", "bell\x07", "\u202ereversed"])
def test_odd_names(fenced: Fenced, name: str) -> None:
    """What a name holds is shown, not done: no second line in the report, no colours, no bytes that are no text."""
    run = fenced.run(
        f"""
        import os
        import pytest
        from here import OUTSIDE

        def test_it(tmp_path):
            with pytest.raises(PermissionError):
                os.mkdir(OUTSIDE + "/" + {name!r})
            os.mkdir(tmp_path / {name!r})
        """,
        policy=ONLY_HERE,
    )
    (attempt,) = run.attempts("test_it")
    assert attempt.what.startswith(f"mkdir {fenced.outside}/"), run
    assert attempt.what.isprintable(), run
    assert attempt.what.isascii() or name.isprintable(), run
    assert "\x1b[31m" not in run.out
    assert not list(fenced.outside.iterdir())
