"""Datagrams to UNIX sockets of the host that a test may reach, and to those that its user may not write to."""

from __future__ import annotations

import array
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import kernel_has

_SCM_CREDENTIALS = 2
_UCRED = struct.Struct("@iII")


@pytest.fixture
def host(fenced: Fenced) -> Iterator[socket.socket]:
    """A service of this machine, such as the one at /dev/log, that wants to know who writes to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(fenced.directory / "host.sock"))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        server.setblocking(False)
        fenced.write("host.py", f"PATH = {str(fenced.directory / 'host.sock')!r}")
        yield server


def test_what_arrives(fenced: Fenced, host: socket.socket) -> None:
    passes = kernel_has("pidfd_getfd")  # descriptors other than of sockets
    fenced.write("passes.py", f"PASSES = {passes}")
    run = fenced.run(
        """
        import array, os, socket
        import pytest
        from host import PATH
        from passes import PASSES

        @pytest.mark.fence(allow_unix_sockets=[PATH])
        def test_allowed(tmp_path, monkeypatch):
            read, write = os.pipe()
            os.write(write, b"from inside")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                monkeypatch.chdir(tmp_path)
                s.bind("sender")
                assert s.sendto(b"plain", PATH) == 5
                passed = read if PASSES else s.fileno()
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed]))
                assert s.sendmsg([b"with a ", b"descriptor"], [rights], 0, PATH) == 17
            with open("/proc/self/stat") as own:
                print("I am", own.read().split()[0])

        def test_refused():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                with pytest.raises(PermissionError):
                    s.sendto(b"secret", PATH)
                with pytest.raises(PermissionError):
                    s.sendmsg([b"secret"], [], 0, PATH)
        """,
        "-s",
    )
    pid = int(run.out.partition("I am ")[2].split()[0])
    data, control, _, sender = host.recvmsg(99, 999)
    assert (data, sender) == (b"plain", "sender")
    ((_, kind, body),) = control
    named, uid, gid = _UCRED.unpack(body)
    assert (kind, uid, gid) == (_SCM_CREDENTIALS, os.getuid(), os.getgid())
    assert (named == pid) == (os.geteuid() == 0)  # an ordinary user's broker can name itself only
    data, control, _, sender = host.recvmsg(99, 999)
    assert (data, sender) == (b"with a descriptor", "sender")
    (fd,) = array.array("i", next(body for _, kind, body in control if kind == socket.SCM_RIGHTS))
    try:
        assert os.read(fd, 99) == b"from inside" if passes else stat.S_ISSOCK(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
    with pytest.raises(BlockingIOError):
        host.recv(99)
    run.clean("test_allowed")
    run.refused("test_refused", f"connect unix:{fenced.directory / 'host.sock'}", count=2)


@pytest.mark.needs("program:cc")
def test_many_in_one_call(fenced: Fenced, probe: Callable[..., Path], host: socket.socket) -> None:
    """As the kernel does it: what was sent before a failure counts, and the error is not told."""
    program = probe("datagrams", "-pthread")
    run = fenced.run(
        f"""
        import errno, subprocess
        import pytest
        from host import PATH

        @pytest.fixture(autouse=True)
        def here(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)

        def send(*words):
            return subprocess.run([{str(program)!r}, *words], capture_output=True, text=True).stdout.splitlines()

        def test_more_than_the_queue_takes():
            assert sorted(send("own", "300", "own")) == ["read 300 wrong 0", "sent 300 lengths 3190"]

        def test_refused_first():
            assert send("own", "2", PATH, "own") == [f"errno {{errno.EACCES}}", "sent -1 lengths 0"]

        def test_refused_in_the_middle():
            assert send("own", "5", "own", PATH, "own") == ["sent 1 lengths 9"]

        def test_missing():
            assert send("-", "1", "missing") == [f"errno {{errno.ENOENT}}", "sent -1 lengths 0"]
            assert send("own", "5", "own", "missing", "own") == ["sent 1 lengths 9"]
        """
    )
    for test in "test_refused_first", "test_refused_in_the_middle":
        run.refused(test, f"connect unix:{fenced.directory / 'host.sock'}", by=["datagrams"])
    run.clean("test_more_than_the_queue_takes", "test_missing")
    with pytest.raises(BlockingIOError):
        host.recv(99)


@pytest.mark.needs("user:root")
def test_rights_given_up(fenced: Fenced) -> None:
    """What the broker may do as root, a program that is root no longer may not have done; its ids are its own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        fenced.write(
            "child.py",
            """
            import os, socket, struct, sys

            os.setgroups([])
            os.setresgid(4321, 4321, 4321)
            os.setresuid(4321, 4321, 4321)
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            roots = (socket.SOL_SOCKET, 2, struct.pack("iII", os.getpid(), 0, 0))
            for path in sys.argv[1:]:
                for control in [], [roots]:
                    try:
                        s.sendmsg([b"x"], control, 0, path)
                        print("sent")
                    except OSError as failed:
                        print(failed.strerror)
            """,
        )
        run = fenced.run(
            f"""
            import os, socket, struct, subprocess, sys

            def test_it():
                servers = []
                for name, mode in ("open", 0o666), ("closed", 0o600):
                    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    s.bind({made!r} + "/" + name)
                    os.chmod({made!r} + "/" + name, mode)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                    s.setblocking(False)
                    servers.append(s)
                words = [sys.executable, "child.py", {made!r} + "/open", {made!r} + "/closed"]
                with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
                    said = child.stdout.read().splitlines()
                denied, forbidden = map(os.strerror, (13, 1))
                assert said == ["sent", forbidden, denied, forbidden]
                data, control, _, _ = servers[0].recvmsg(9, 99)
                assert struct.unpack("iII", control[0][2]) == (child.pid, 4321, 4321)
            """
        )
    run.clean("test_it")
