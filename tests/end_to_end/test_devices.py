"""A permission for a device is one to open it for writing. Its name, mode, owner and times are the machine's.

The tests as root have a /dev of their own: what they try would otherwise be done to that of this machine.
"""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced

OWN_DEV = (
    "unshare",
    "--mount",
    "sh",
    "-ec",
    "mount -t tmpfs -o mode=755 none /mnt;"
    "cp -a /dev/null /dev/zero /dev/full /dev/urandom /dev/tty /mnt;"
    "mknod /mnt/loop9 b 7 9; mkdir -m 1777 /mnt/shm; mkdir /mnt/pts; ln -s pts/ptmx /mnt/ptmx;"
    "ln -s /proc/self/fd /mnt/fd; ln -s /proc/self/fd/0 /mnt/stdin;"
    "mount -t devpts -o newinstance,ptmxmode=0666 none /mnt/pts; mount --move /mnt /dev;"
    'exec "$@"',
    "sh",
)
"""Words before a command that give it a /dev with the usual devices, of which /dev/random is missing."""
ACTS = {
    "chmod": "os.chmod('/dev/null', 0o600)",
    "chown": "os.chown('/dev/full', 1, 1)",
    "utime": "os.utime('/dev/urandom')",
    "setxattr": "os.setxattr('/dev/zero', 'trusted.x', b'1')",
    "unlink": "os.unlink('/dev/null')",
    "unlink of a link": "os.unlink('/dev/stdin')",
    "lchown of a link": "os.lchown('/dev/ptmx', 1, 1)",
    "rename": "os.rename('/dev/null', '/dev/shm/null')",
    "rename onto it": "os.rename(there, '/dev/full')",
    "link": "os.link('/dev/zero', '/dev/zero2')",
    "link out of it": "os.link('/dev/zero', '/dev/shm/zero')",
    "by descriptor": "os.fchmod(os.open('/dev/zero', os.O_RDONLY), 0o600)",
    "by descriptor, found again": "os.chmod(f'/proc/self/fd/{os.open(\"/dev/zero\", os.O_RDONLY)}', 0o600)",
    "a file in its place": "open('/dev/random', 'x')",
    "mknod in its place": "os.mknod('/dev/random')",
    "a link in its place": "os.symlink('x', '/dev/random')",
    "a directory in its place": "os.mkdir('/dev/random')",
    "a socket in its place": "socket.socket(socket.AF_UNIX).bind('/dev/random')",
    "of a block device": "os.chmod('/dev/loop9', 0o666)",
    "removal of a block device": "os.unlink('/dev/loop9')",
    "of a device elsewhere": "os.chmod(OUTSIDE + '/device', 0o600)",
    "removal of a device elsewhere": "os.unlink(OUTSIDE + '/device')",
}
"""What a permission for a device does not allow, and root could do."""
RULES = """
[tool.fence]
extends = "{preset}"
allow_write = ["./*", "/dev/shm/*", "/dev/random", "/dev/loop9", {device!r}]
"""


@pytest.mark.needs("user:root", "program:unshare")
@pytest.mark.parametrize("preset", ["pytest", "strict", "default-deny", "no-secrets"])
def test_changes_of_devices(fenced: Fenced, preset: str) -> None:
    device = fenced.outside / "device"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    run = fenced.run(
        f"""
        import os, socket, stat
        import pytest
        from here import OUTSIDE

        ACTS = {ACTS!r}

        @pytest.mark.parametrize("name", ACTS)
        def test_it(name):
            there = "/dev/shm/there"
            open(there, "w").close()
            before = {{path: os.lstat(path) for path in os.scandir("/dev")}}
            with pytest.raises(PermissionError):
                eval(ACTS[name])
            after = {{path: os.lstat(path) for path in os.scandir("/dev")}}
            assert {{e.path: s[:3] for e, s in before.items()}} == {{e.path: s[:3] for e, s in after.items()}}

        @pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/zero", OUTSIDE + "/device"])
        def test_open(device):
            open(device, "w").close()
            open(device, "r+b", buffering=0).close()
        """,
        prefix=OWN_DEV,
        policy=RULES.format(preset=preset, device=str(device)).replace("'", '"'),
        flags=("--fence", "-s"),
    )
    for name in ACTS:
        if preset == "default-deny" and "/dev/urandom" in ACTS[name]:
            continue
        attempts = run.attempts(f"test_it[{name}]")
        assert len(attempts) == 1, f"{name}: {run!r}"
        (attempt,) = attempts
        assert attempt.what.split()[0] in ACTS[name] or "in its place" in name or "descriptor" in name, run
        assert not attempt.marker, run
    run.clean(*(f"test_open[{device}]" for device in ("/dev/null", "/dev/full", "/dev/zero")))
    assert device.exists()


@pytest.mark.needs("user:root", "program:unshare")
def test_all_of_dev(fenced: Fenced) -> None:
    """A rule for the whole directory means no more; what is no device there, nor a terminal, is like any other file."""
    run = fenced.run(
        """
        import os
        import pytest

        def test_null():
            with pytest.raises(PermissionError):
                os.unlink("/dev/null")

        def test_fine():
            open("/dev/null", "w").close()
            open("/dev/shm/a", "w").close()
            os.chmod("/dev/shm/a", 0o600)
            os.rename("/dev/shm/a", "/dev/shm/b")
            os.link("/dev/shm/b", "/dev/shm/c")
            os.unlink("/dev/shm/b")
            os.mkdir("/dev/shm/d")
            os.mkfifo("/dev/shm/d/fifo")
            os.chmod("/dev/shm/d/fifo", 0o600)
            os.unlink("/dev/shm/d/fifo")
        """,
        prefix=OWN_DEV,
        policy='[tool.fence]\nextends = "default-deny"\nallow_write = ["./*", "/dev", "/dev/shm/*"]',
    )
    run.refused("test_null", "unlink /dev/null")
    run.clean("test_fine")


def test_pipe_that_the_run_was_started_with(fenced: Fenced, tmp_path: Path) -> None:
    """Standard output of the run belongs to whoever reads it; a pipe of the tests is their own."""
    run = fenced.run(
        """
        import os
        import pytest

        def test_given():
            with pytest.raises(PermissionError):
                os.fchmod(9, 0o400)
            with pytest.raises(PermissionError):
                os.chmod("/proc/self/fd/9", 0o400)

        def test_own():
            r, w = os.pipe()
            os.fchmod(w, 0o400)
            assert os.fstat(r).st_mode & 0o777 == 0o400
        """,
        prefix=("sh", "-c", '(exec 9>&1; exec "$@") | cat', "sh"),
    )
    (attempt,) = run.attempts("test_given")
    assert attempt.what.startswith("chmod pipe:["), run
    run.clean("test_own")


# ---------------------------------------------------------------- terminals


@pytest.fixture
def other() -> Iterator[str]:
    """The name of a terminal of this user, outside of the fence."""
    master, slave = pty.openpty()
    yield os.ttyname(slave)
    os.close(slave)
    os.close(master)


OTHER_ACTS = {
    "write": "os.open(OTHER, os.O_WRONLY | os.O_NOCTTY)",
    "both ways": "os.open(OTHER, os.O_RDWR | os.O_NOCTTY)",
    "not followed": "os.open(OTHER, os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY)",
    "found again": "os.open(f'/dev/fd/{os.open(OTHER, os.O_RDONLY | os.O_NOCTTY)}', os.O_WRONLY | os.O_NOCTTY)",
    "mode": "os.chmod(OTHER, 0o666)",
    "mode by descriptor": "os.fchmod(os.open(OTHER, os.O_RDONLY | os.O_NOCTTY), 0o666)",
    "times": "os.utime(OTHER)",
}


@pytest.mark.parametrize("reads", [False, True], ids=["", "reads watched"])
def test_terminals_of_others(fenced: Fenced, other: str, reads: bool) -> None:
    before = os.stat(other)
    run = fenced.run(
        f"""
        import os
        import pytest

        OTHER, ACTS = {other!r}, {OTHER_ACTS!r}

        @pytest.mark.parametrize("name", ACTS)
        def test_it(name):
            with pytest.raises(PermissionError):
                eval(ACTS[name])

        def test_as_controlling_terminal():
            '''Not by way of /dev/tty, either: a session without a terminal gets this one by reading it.'''
            pid = os.fork()
            if pid == 0:
                os.setsid()
                os.open(OTHER, os.O_RDONLY)
                try:
                    os.open("/dev/tty", os.O_WRONLY)
                except PermissionError:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0

        @pytest.mark.fence(allow_write=[OTHER])
        def test_named():
            os.close(os.open(OTHER, os.O_WRONLY | os.O_NOCTTY))
        """,
        policy=f"[tool.fence]\nextends = 'strict'\nallow_write = ['./*']\nwatch_reads = {str(reads).lower()}",
    )
    for name in OTHER_ACTS:
        found = run.attempts(f"test_it[{name}]")
        assert len(found) == 1, f"{name}: {run!r}"
        (attempt,) = found
        assert attempt.what.endswith(f" {other}"), run
        assert not attempt.marker, run
    assert [each.what for each in run.attempts("test_as_controlling_terminal")] == [f"write {other}"], run
    run.clean("test_named")
    assert os.stat(other).st_mode == before.st_mode


INSIDE = """
    import fcntl, os, pty, subprocess, sys, termios, time
    import pytest

    def read_all(fd):
        seen = b""
        try:
            while chunk := os.read(fd, 999):
                seen += chunk
        except OSError:
            pass
        return seen

    def test_openpty():
        '''As login and sshd: owner, mode, times, and an open that makes it the session's terminal.'''
        master, slave = os.openpty()
        name = os.ttyname(slave)
        os.chmod(name, 0o620)
        os.fchmod(slave, 0o600)
        os.utime(name)
        os.chown(name, os.getuid(), os.getgid())
        assert os.stat(name).st_mode & 0o777 == 0o600
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.open(name, os.O_RDWR)
            tty = os.open("/dev/tty", os.O_RDWR)
            os.write(tty, b"by tty" if os.isatty(tty) else b"?")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.read(master, 99) == b"by tty"

    def test_ptmx():
        '''As C programs: by name.'''
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        number = int.from_bytes(fcntl.ioctl(master, 0x80045430, bytes(4)), sys.byteorder)
        fcntl.ioctl(master, 0x40045431, bytes(4))
        for flags in (os.O_RDWR, os.O_WRONLY | os.O_NOFOLLOW, os.O_RDWR | os.O_CREAT):
            slave = os.open(f"/dev/pts/{number}", flags | os.O_NOCTTY)
            os.write(slave, b"x")
            assert os.read(master, 9) == b"x"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_fork():
        pid, fd = pty.fork()
        if pid == 0:
            os.execvp("sh", ["sh", "-c", "echo one > /dev/tty; echo two > $(tty); echo three > /dev/stdout"])
        assert read_all(fd).split() == [b"one", b"two", b"three"]
        os.waitpid(pid, 0)

    def test_script():
        words = ["script", "-qec", "echo one > /dev/tty; echo two > $(tty)", "/dev/null"]
        assert subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True).stdout.split() == [b"one", b"two"]

    def test_tmux(tmp_path, monkeypatch):
        monkeypatch.setenv("SHELL", "/bin/sh")  # it runs commands by the user's shell, which may be nologin
        tmux = ["tmux", "-S", str(tmp_path / "s"), "-f", "/dev/null"]
        command = f"sh -c 'echo one > /dev/tty; echo two > $(tty); {' '.join(tmux)} wait-for -S done; cat'"
        subprocess.run([*tmux, "new-session", "-d", command], check=True)
        try:
            subprocess.run([*tmux, "wait-for", "done"], check=True, timeout=20)
            shown = subprocess.run([*tmux, "capture-pane", "-p"], check=True, capture_output=True).stdout
        finally:
            subprocess.run([*tmux, "kill-server"])
        assert shown.split() == [b"one", b"two"]

    def test_peer():
        '''By the master, without a name (TIOCGPTPEER).'''
        master, slave = os.openpty()
        again = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)
        os.write(again, b"x")
        os.fchmod(again, 0o600)
        assert os.read(master, 9) == b"x"
"""


@pytest.mark.needs("program:script", "program:tmux")
@pytest.mark.parametrize("reads", [False, True], ids=["", "reads watched"])
def test_terminals_made_inside(fenced: Fenced, reads: bool) -> None:
    policy = f"[tool.fence]\nextends = 'strict'\nallow_write = ['./*']\nwatch_reads = {str(reads).lower()}"
    run = fenced.run(INSIDE, policy=policy)
    assert run.status == 0, run
    assert not run.ledger, run


@pytest.mark.needs("user:root", "program:unshare", "program:script", "program:tmux")
def test_terminals_of_another_instance(fenced: Fenced) -> None:
    """As in a container, where `ptmx` lies beside the terminals."""
    run = fenced.run(INSIDE, prefix=OWN_DEV)
    assert run.status == 0, run
    assert not run.ledger, run


def test_terminal_of_the_run(fenced: Fenced) -> None:
    """It can be written to by each of its names, and is not changed."""
    driver = """
import os, pty, subprocess, sys
master, slave = pty.openpty()
name = os.ttyname(slave)
before = os.stat(name)
done = subprocess.run(sys.argv[1:], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                      preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0), pass_fds=(slave,),
                      env={**os.environ, "OWN": name})
assert os.stat(name).st_mode == before.st_mode
os.close(slave)
os.set_blocking(master, False)
try:
    while True:
        sys.stdout.write(os.read(master, 9999).decode("utf-8", "replace"))
except OSError:
    pass
sys.exit(done.returncode)
"""
    run = fenced.run(
        """
        import os
        import pytest

        def test_write():
            for name in (os.environ["OWN"], "/dev/tty", "/dev/stdout"):
                with open(name, "w") as terminal:
                    terminal.write(f"seen by way of {name[:8]}\\n")

        def test_change():
            with pytest.raises(PermissionError):
                os.chmod(os.environ["OWN"], 0o666)
        """,
        "-s",
        prefix=(sys.executable, "-c", driver),
    )
    run.clean("test_write")
    assert run.out.count("seen by way of /dev/") == 3, run
    (attempt,) = run.attempts("test_change")
    assert attempt.what.startswith("chmod /dev/pts/"), run


def test_subprocess_has_the_terminal_of_nobody(fenced: Fenced, other: str) -> None:
    """What a program of the user's shows elsewhere cannot be written over by one that the test starts."""
    run = fenced.run(
        f"""
        import subprocess

        def test_it():
            assert subprocess.run("echo x > {other}", shell=True).returncode
        """
    )
    run.refused("test_it", f"write {other}", by=["sh"])
    assert subprocess.run(f"echo x > {other}", shell=True).returncode == 0
