"""Way out: UNIX sockets of the host: docker.sock, D-Bus, an ssh agent. Those made inside are free."""

from __future__ import annotations

import socket
import sys
import uuid
from pathlib import Path

from tests.end_to_end.caught import Fenced
from tests.end_to_end.loopback import unix_server

TESTS = """
import errno, os, pathlib, socket, subprocess, sys, threading
import pytest
from here import HELLO
from host import PATH

def connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(path)
        return s.recv(99)
"""


def test_by_path(fenced: Fenced) -> None:
    path = fenced.directory / "host.sock"
    with unix_server(str(path)):
        fenced.write("host.py", f"PATH = {str(path)!r}")
        run = fenced.run(
            TESTS
            + """
def test_host():
    with pytest.raises(PermissionError) as caught:
        connect(PATH)  # host
    assert caught.value.errno == errno.EACCES

def test_host_by_a_link(tmp_path):
    (tmp_path / "link").symlink_to(PATH)
    with pytest.raises(PermissionError):
        connect(str(tmp_path / "link"))

def test_host_by_a_hard_link(tmp_path):
    os.link(PATH, tmp_path / "link")
    with pytest.raises(PermissionError):
        connect(str(tmp_path / "link"))

def test_host_renamed(tmp_path):
    with pytest.raises(PermissionError):
        os.rename(PATH, tmp_path / "mine")

def test_host_relative(monkeypatch):
    monkeypatch.chdir(os.path.dirname(PATH))
    with pytest.raises(PermissionError):
        connect(os.path.basename(PATH))

def test_host_by_a_program():
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({PATH!r})"
    assert "PermissionError" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr

def test_nobody(tmp_path):
    with pytest.raises(FileNotFoundError):
        connect(str(tmp_path / "missing"))
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionRefusedError):
        connect(str(tmp_path / "file"))

@pytest.mark.fence(allow_unix_sockets=[PATH])
def test_host_allowed():
    assert connect(PATH) == HELLO

def test_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a UNIX socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("own.sock")
        server.listen()
        def answer():
            client, _ = server.accept()
            with client:
                client.sendall(HELLO)
        thread = threading.Thread(target=answer)
        thread.start()
        assert connect("own.sock") == HELLO
        thread.join()

def test_inside_by_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = ("import socket; s = socket.socket(socket.AF_UNIX); s.bind('own.sock'); s.listen(); print(flush=True);"
            "s.accept()[0].sendall(b'from a program')")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        assert connect("own.sock") == b"from a program"
"""
        )
        what = f"connect unix:{path}"
        run.refused("test_host", what, line="s.connect(path)")
        run.refused("test_host_by_a_link", what)
        run.refused("test_host_relative", what)
        run.refused("test_host_by_a_program", what, by=[Path(sys.executable).name])
        (found,) = run.attempts("test_host_by_a_hard_link")
        assert found.what.startswith("connect unix:/"), run
        assert found.what.endswith("/link"), run
        run.refused("test_host_renamed", f"rename {path}")
        run.clean("test_nobody", "test_host_allowed", "test_inside", "test_inside_by_another_process")
    assert f'allow_unix_sockets=["{path.name}"]' in run.out


def test_datagrams_by_path(fenced: Fenced) -> None:
    path = fenced.directory / "log.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(path))
        host.setblocking(False)
        fenced.write("host.py", f"PATH = {str(path)!r}")
        run = fenced.run(
            TESTS
            + """
def test_sendto():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.sendto(b"secret", PATH)

def test_sendmsg():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.sendmsg([b"secret"], [], 0, PATH)

def test_connected():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.connect(PATH)

def test_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server, \\
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        server.bind("own.sock")
        s.sendto(b"one", "own.sock")
        s.sendmsg([b"two"], [], 0, "own.sock")
        assert (server.recv(9), server.recv(9)) == (b"one", b"two")
"""
        )
        for test in "test_sendto", "test_sendmsg", "test_connected":
            run.refused(test, f"connect unix:{path}")
        run.clean("test_inside")
        received = b""
        try:
            received = host.recv(99)
        except BlockingIOError:
            pass
        assert received == b""


def test_abstract(fenced: Fenced) -> None:
    """Names without a file: the host's are out of reach, those of the tests are theirs."""
    name = f"fence-test-{uuid.uuid4().hex}"
    with unix_server(f"\0{name}"):
        fenced.write("host.py", f"PATH = {chr(0) + name!r}")
        run = fenced.run(
            TESTS
            + """
def test_host():
    with pytest.raises(PermissionError):
        connect(PATH)  # host

def test_nobody():
    with pytest.raises(ConnectionRefusedError):
        connect(PATH + "-and-more")

def test_inside():
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(PATH + "-inside")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(PATH + "-inside")
            peer, _ = server.accept()
            with peer:
                peer.sendall(HELLO)
            assert client.recv(99) == HELLO
"""
        )
    run.refused("test_host", f"connect unix:@{name}", line="s.connect(path)")
    run.clean("test_nobody", "test_inside")
