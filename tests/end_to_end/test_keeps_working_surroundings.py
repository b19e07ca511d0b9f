"""Odd surroundings: limits, directories that are gone, closed descriptors, files that cannot be written."""

from __future__ import annotations

import os
import re
import resource
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs, assert_same

ODD = """
    import gc, os, resource, signal, socket, subprocess, sys, threading
    import pytest

    def refused():
        '''Whether the broker still answers, and still refuses.'''
        with socket.socket() as client:
            return client.connect_ex(("192.0.2.1", 80)) == 13

    def test_closerange(tmp_path):
        '''Descriptors of others, of pytest's capture among them, closed by a careless test of daemons.'''
        made = tmp_path / "made"
        pid = os.fork()
        if pid == 0:
            os.closerange(3, 1024)
            open(made, "w").close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.unlink(made)

    def test_low_limit(tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard))
        try:
            (tmp_path / "x").touch()
            assert subprocess.run(["sh", "-c", "echo x > y"], cwd=tmp_path).returncode == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_exhausted(tmp_path):
        '''EMFILE is the kernel's own, and passes.'''
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        opened = []
        try:
            with pytest.raises(OSError) as caught:
                while True:
                    opened.append(os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT))
            assert caught.value.errno == 24
            with pytest.raises(OSError) as caught:
                socket.socket()
            assert caught.value.errno == 24
            os.mkdir(tmp_path / "d")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in opened:
                os.close(fd)
        socket.socket().close()

    def test_deleted_directory(tmp_path, monkeypatch):
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        for make in (lambda: open("x", "w"), lambda: os.mkdir("d"), lambda: os.symlink("a", "b")):
            with pytest.raises(FileNotFoundError):
                make()
        with open(tmp_path / "elsewhere", "w"):
            pass
        assert subprocess.run(["true"]).returncode == 0

    def test_setsid_and_groups(tmp_path):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() == 0:
                (tmp_path / "daemon").touch()
                os._exit(0)
            os.wait()
            os._exit(0)
        os.waitpid(pid, 0)
        assert (tmp_path / "daemon").exists()
        before = os.getpgid(0)
        os.setpgid(0, 0) if os.getpid() != os.getsid(0) else None
        assert subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode == -15

    def test_umask(tmp_path):
        before = os.umask(0o077)
        try:
            (tmp_path / "x").touch()
            os.mkdir(tmp_path / "d")
            assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
            assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
        finally:
            os.umask(before)

    def test_signals_to_children():
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        assert child.wait() == -15
        for number in (0, signal.SIGCONT):
            os.kill(os.getpid(), number)
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)

    def test_raise_and_pthread_kill():
        got = []
        before = signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
        signal.raise_signal(signal.SIGUSR1)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        os.kill(0, 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
        assert len(got) == 3

    def test_file_size_limit(tmp_path):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with open(tmp_path / "x", "wb", 0) as file, pytest.raises(OSError) as caught:
                file.write(b"x" * 100)
                file.write(b"x")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert caught.value.errno == 27
        with open("/dev/full", "wb", 0) as full, pytest.raises(OSError) as caught:
            full.write(b"x")
        assert caught.value.errno == 28

    def test_proc(tmp_path):
        '''What programs write to about themselves.'''
        with open("/proc/self/comm", "r+") as file:
            before = file.read()
        for name, text in (("comm", before.strip()), ("oom_score_adj", open("/proc/self/oom_score_adj").read()),
                           ("coredump_filter", "0x33"), ("timerslack_ns", "50000")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        with open("/proc/thread-self/comm", "w") as file:
            file.write(before.strip())
        with open("/dev/stdout", "w"), open("/dev/fd/2", "a"), open("/dev/null", "r+b", 0), open("/dev/tty", "w") \\
                if os.isatty(0) else open("/dev/null", "w"):
            pass

    def test_memory(tmp_path):
        import mmap, shutil, tempfile
        with tempfile.TemporaryFile() as file:
            file.truncate(4096)
            with mmap.mmap(file.fileno(), 4096) as memory:
                memory[:2] = b"ab"
        with tempfile.NamedTemporaryFile() as file:
            os.fchmod(file.fileno(), 0o600)
            shutil.copystat(__file__, file.name)
        fd = os.memfd_create("x")
        os.write(fd, b"x")
        with open(f"/proc/self/fd/{fd}", "r+b") as again:
            assert again.read() == b"x"
        os.close(fd)
        read, write = os.pipe()
        with open(f"/dev/fd/{write}", "wb", 0) as again:
            again.write(b"y")
        assert os.read(read, 9) == b"y"
        os.close(read), os.close(write)
        os.mkfifo(tmp_path / "fifo"), os.unlink(tmp_path / "fifo")

    def test_errors_are_the_kernels(tmp_path):
        for call, number in (
            (lambda: os.mkdir("/"), 17), (lambda: os.mkdir("/usr"), 17), (lambda: os.rmdir("/proc"), 16),
            (lambda: os.unlink("/nowhere/x"), 2), (lambda: open("/nowhere/x", "w"), 2),
            (lambda: os.makedirs("/etc", exist_ok=True), 0), (lambda: open("/etc", "w"), 21),
            (lambda: os.rename("/nowhere", "/nothing"), 2), (lambda: os.open(tmp_path / ("x" * 300), 65), 36),
            (lambda: os.symlink("x", "/usr"), 17), (lambda: open(tmp_path / "a" / "b", "w"), 2),
            (lambda: os.mkdir(""), 2),
        ):
            try:
                call()
                found = 0
            except OSError as error:
                found = error.errno
            assert found == number or (number == 16 and found in (1, 13, 16)), (call, number, found)
"""


def test_inside_a_test(pytester: pytest.Pytester, runs: Runs) -> None:
    """What tests do to their own process and its surroundings."""
    pytester.makepyfile(test_odd=ODD)
    runs.same("-rA", "-p", "no:cacheprovider")


def test_descriptors_closed_in_the_test_process(pytester: pytest.Pytester, runs: Runs) -> None:
    """closerange(3, 1024) in pytest's own process: the fence goes on, refuses and reports, with `-s`."""
    pytester.makepyfile(
        """
        import os, socket

        def test_closes():
            os.closerange(3, 1024)

        def test_refused():
            with socket.socket() as client:
                assert client.connect_ex(("192.0.2.1", 80)) == 13

        def test_fine(tmp_path):
            (tmp_path / "x").touch()
        """
    )
    ended = runs.pytest("-rA", "-s", "-p", "no:cacheprovider")
    assert ended.status == 1
    assert [line.split("::")[0].split()[0] + line.split("::")[1] for line in ended.outcomes()] == [
        "FAILEDtest_refused",
        "PASSEDtest_closes",
        "PASSEDtest_fine",
    ], ended
    ended.has("connect 192.0.2.1:80/tcp")


LIMITS = {
    "files": "ulimit -n 40",
    "hard files": "ulimit -Hn 64",
    "core": "ulimit -c 0",
    "stack": "ulimit -s 1024",
    "memory": "ulimit -v 4000000",
    "umask": "umask 077",
    "priority": "exec nice -n 5",
    "empty environment": "exec env -i",
    "no HOME": "unset HOME",
    "HOME nowhere": "export HOME=/nowhere/at/all",
    "no PATH": "unset PATH; export PATH",
    "no TMPDIR": "export TMPDIR=/nowhere/at/all",
    "locale": "export LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_of_the_run(pytester: pytest.Pytester, runs: Runs, limit: str) -> None:
    """Set by the shell that starts the run."""
    (pytester.path / "conftest.py").write_text("# \u00e4\u20ac\n", encoding="utf-8")
    pytester.makepyfile(
        """
        import socket, subprocess, sys

        def test_it(tmp_path):
            (tmp_path / "x").touch()
            print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout)
            socket.create_server(("127.0.0.1", 0)).close()
        """
    )
    ends = []
    for fenced in (False, True):
        words = shlex.join(runs.argv(["-rA", "-p", "no:cacheprovider"], fenced=fenced))
        if limit == "empty environment":
            # Without a root of its own the run would put its files beside those of whoever runs this suite, and clear
            # away at its end what the last of their runs left: minutes, where those were large.
            words = f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTEST_DEBUG_TEMPROOT={shlex.quote(str(pytester.path))} {words}"
        setting = LIMITS[limit]
        line = f"{setting} {words}" if setting.startswith("exec") else f"{setting}; exec {words}"
        ends.append(runs.command("sh", "-c", line))
    assert ends[0].status == 0, ends[0]
    assert_same(*ends)


@pytest.mark.parametrize("limit", ["ulimit -S -f 0", "ulimit -S -f 1", "true"])
def test_disk_is_full(pytester: pytest.Pytester, runs: Runs, limit: str) -> None:
    """No room for a byte, by /dev/full and a limit of file sizes: the same end as without a fence."""
    pytester.makepyfile("def test(): print('x' * 5000); assert 0")
    plain, fenced = (
        runs.command(
            "sh",
            "-c",
            f"{limit}; exec {shlex.join(runs.argv(['-p', 'no:cacheprovider', '-s'], fenced=way))} > /dev/full",
        )
        for way in (False, True)
    )
    assert (plain.status, fenced.status) == (1, 1), (plain, fenced)
    assert plain.err.splitlines()[-1] == fenced.err.splitlines()[-1]


def test_no_room_for_the_fence(pytester: pytest.Pytester, runs: Runs) -> None:
    """Where the fence itself cannot be put up for want of space, no test runs, and one line says why."""
    pytester.makepyfile("def test(): print('ran')")
    ended = runs.command("sh", "-c", f"ulimit -f 1; exec {shlex.join(runs.argv(['-s'], fenced=True))}")
    if os.geteuid() == 0 and ended.status == 0:
        return  # CAP_SYS_RESOURCE
    assert ended.status == 4, ended
    assert re.fullmatch("ERROR: fence: could not set up the fence: .*File too large\n", ended.err)
    assert "ran" not in ended.out


def test_temporary_directory_of_a_conftest(pytester: pytest.Pytester, runs: Runs) -> None:
    """`tempfile` is not asked before the conftest has said where to."""
    pytester.makeconftest(
        "import os, pathlib\npathlib.Path('mine').mkdir()\nos.environ['TMPDIR'] = os.path.abspath('mine')"
    )
    pytester.makepyfile(
        "import os, tempfile\ndef test():\n    assert tempfile.gettempdir() == os.path.abspath('mine')\n"
        "    tempfile.mkdtemp()"
    )
    ended = runs.pytest("-s", env={"PYTEST_DEBUG_TEMPROOT": None})  # without capture, which asks it earlier
    assert ended.status == 0, ended


@pytest.mark.needs("user:ordinary")
def test_nothing_can_be_written(pytester: pytest.Pytester, runs: Runs) -> None:
    """A project directory that belongs to somebody else: no cache, no report, but the tests run."""
    pytester.makepyfile(test_it="def test(tmp_path): (tmp_path / 'x').touch()")
    os.chmod(pytester.path, 0o555)
    try:
        plain, fenced = runs.both("-rA", "-W", "default")
    finally:
        os.chmod(pytester.path, 0o755)
    assert plain.status == 0
    assert_same(plain, fenced)


@pytest.mark.needs("user:ordinary")
def test_no_further_process(pytester: pytest.Pytester, runs: Runs) -> None:
    """RLIMIT_NPROC used up: the run is refused with a message, as it cannot be fenced."""
    pytester.makepyfile("def test(): pass")
    ended = runs.pytest(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)))
    assert ended.status != 0
    assert "Resource temporarily unavailable" in ended.err
    assert "fence" in ended.err
    assert "Traceback" not in ended.err


def test_deleted_start_directory(pytester: pytest.Pytester, runs: Runs) -> None:
    """Started in a directory that is gone: the same error as plain pytest's."""
    ends = []
    for fenced in (False, True):
        gone = pytester.mkdir("gone")
        ends.append(
            runs.command("sh", "-c", f"rmdir {gone}; exec {shlex.join(runs.argv([], fenced=fenced))}", cwd=gone)
        )
    assert ends[0].status != 0
    assert ends[0].status == ends[1].status
    assert ends[0].err.splitlines()[-1] == ends[1].err.splitlines()[-1]


def test_root_directory_is_elsewhere(pytester: pytest.Pytester, runs: Runs, tmp_path: Path) -> None:
    """--rootdir, a path argument from another directory, a symlink to the project, a name with odd letters."""
    odd = pytester.mkdir("od\u00e4 d 'x' \"y\" *")
    (odd / "test_it.py").write_text(
        textwrap.dedent("""
        import pathlib
        def test_it(tmp_path, request):
            pathlib.Path(request.config.rootpath, "written").write_text("x")
        """),
        encoding="utf-8",
    )
    (odd / "pytest.ini").touch()
    link = pytester.path / "link"
    link.symlink_to(odd)
    for args in ((str(odd),), (f"--rootdir={odd}", str(odd / "test_it.py")), (f"--rootdir={link}", str(link))):
        ended = runs.pytest("-q", "-p", "no:cacheprovider", *args, cwd=tmp_path)
        assert ended.status == 0, ended
        (odd / "written").unlink()
    assert runs.pytest("-q", cwd=link).status == 0
    assert sys.version_info >= (3, 10)
