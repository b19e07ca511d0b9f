"""UNIX sockets that were made inside are reached from inside, however they are called by now and wherever they were
bound; those of others are not, whatever they have taken over. On kernels with and without a list of sockets."""

from __future__ import annotations

import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.loopback import unix_server

WITHOUT_LIST = """\
import sys, pytest
from fence_core.errors import FenceUnavailable
from fence_core.kernel import sockdiag

def nothing(*ignored):
    raise FenceUnavailable("unix_diag", "this kernel does not list UNIX sockets", "")

sockdiag._dump = nothing
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Stands for a kernel without CONFIG_UNIX_DIAG, to the supervisor too: it is a fork of this process."""


class _Binder(socketserver.StreamRequestHandler):
    """Outside of the fence: binds the name that it is told, and answers; the end of the connection ends that."""

    def handle(self) -> None:
        name = self.rfile.readline().strip().decode().replace("@", "\0")
        with unix_server(name):
            self.wfile.write(b"bound\n")
            self.rfile.read()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def binder() -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _Binder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


TESTS = """
import contextlib, ctypes, os, shutil, socket, subprocess, sys, tempfile, uuid
import pytest

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]
LIBC = ctypes.CDLL(None, use_errno=True)

def server(name, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(name)
    if kind != socket.SOCK_DGRAM:
        s.listen()
    return s

def reach(name, s, kind=socket.SOCK_STREAM):
    "A word from a client to this server."
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(name)
        client.send(b"word")
        if kind == socket.SOCK_DGRAM:
            assert s.recv(9) == b"word"
            client.sendto(b"more", name)
            assert s.recv(9) == b"more"
        else:
            peer, _ = s.accept()
            with peer:
                assert peer.recv(9) == b"word"

@pytest.fixture
def here():
    with tempfile.TemporaryDirectory() as directory:
        yield directory

@contextlib.contextmanager
def outside(name):
    "A server outside of the fence, at this name (@ for NUL)."
    with socket.create_connection(("127.0.0.1", BINDER)) as line:
        line.sendall(name.encode() + b"\\n")
        assert line.recv(9) == b"bound\\n"
        yield
        line.shutdown(socket.SHUT_WR)
        assert line.recv(9) == b""  # closed: a file of what somebody outside still has is not to be removed

@pytest.mark.parametrize("kind", KINDS)
def test_path(here, kind):
    with server(f"{here}/s", kind) as s:
        reach(f"{here}/s", s, kind)

@pytest.mark.parametrize("kind", KINDS)
def test_abstract(kind):
    name = "\\0" + uuid.uuid4().hex
    with server(name, kind) as s:
        reach(name, s, kind)

def test_moved_and_linked(here):
    os.mkdir(f"{here}/d")
    with server(f"{here}/s") as s:
        os.rename(f"{here}/s", f"{here}/d/t")
        reach(f"{here}/d/t", s)
        os.link(f"{here}/d/t", f"{here}/u")
        os.symlink("u", f"{here}/v")
        os.unlink(f"{here}/d/t")
        reach(f"{here}/u", s)
        reach(f"{here}/v", s)
        os.rename(f"{here}/d", f"{here}/e")

def test_relative(here, monkeypatch):
    monkeypatch.chdir(here)
    with server("s") as s:
        reach(f"{here}/s", s)
        reach("./s", s)

def test_renamed_before_anybody_looked(here):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(f"{here}/s")
        os.rename(f"{here}/s", f"{here}/t")
        reach(f"{here}/t", s, socket.SOCK_DGRAM)

def test_of_another_process(here):
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({here + '/s'!r}); s.listen(); " \\
           "print(flush=True); c, _ = s.accept(); print(c.recv(9))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1) as other:
        other.stdout.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{here}/s")
            client.send(b"word")
        assert other.stdout.read() == b"b'word'\\n"

def test_handed_over(here):
    ours, theirs = socket.socketpair()
    code = "import socket; line = socket.socket(fileno=0); s = socket.socket(socket.AF_UNIX); " \\
           f"s.bind({here + '/s'!r}); s.listen(); socket.send_fds(line, [b'x'], [s.fileno()])"
    subprocess.run([sys.executable, "-c", code], stdin=theirs, check=True)
    _, (fd,), _, _ = socket.recv_fds(ours, 9, 1)
    with socket.socket(fileno=fd) as s:
        reach(f"{here}/s", s)

def test_answer_to_a_name_of_the_kernels_choice(here):
    with server(f"{here}/s", socket.SOCK_DGRAM) as s, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        client.sendto(b"word", f"{here}/s")
        _, sender = s.recvfrom(9)
        assert sender
        s.sendto(b"back", sender)
        assert client.recv(9) == b"back"

ELSEWHERE = '''
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
flags = int(sys.argv[1]) | (0x10000000 if os.getuid() else 0)
early = socket.socket(socket.AF_UNIX)
if libc.unshare(flags):
    sys.exit(77)
for name, kind in [(sys.argv[2], socket.SOCK_STREAM), (sys.argv[2] + "d", socket.SOCK_DGRAM),
                   ("\\\\0" + sys.argv[3], socket.SOCK_STREAM), ("\\\\0" + sys.argv[3], socket.SOCK_DGRAM)]:
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(name)
    if kind == socket.SOCK_STREAM:
        s.listen()
    client = socket.socket(socket.AF_UNIX, kind)
    client.connect(name)
    client.send(b"word")
    s = s.accept()[0] if kind == socket.SOCK_STREAM else s
    assert s.recv(9) == b"word"
if len(sys.argv) > 4:
    try:
        early.connect("\\\\0" + sys.argv[3])
    except PermissionError:
        sys.exit(66)
'''

@pytest.mark.parametrize("flags", [0x40000000, 0x00020000], ids=["network", "mounts"])
def test_in_a_namespace(here, flags):
    name = uuid.uuid4().hex
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(flags), f"{here}/s", name])
    if done.returncode == 77:
        pytest.skip("kernel: no namespaces for this user")
    assert done.returncode == 0

def test_socket_of_this_network_in_another(here):
    name = uuid.uuid4().hex
    with outside("@" + name):
        done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(0x40000000), f"{here}/s", name, "early"])
    if done.returncode == 77:
        pytest.skip("kernel: no namespaces for this user")
    assert done.returncode == 66

def test_path_of_others(here):
    with outside(f"{here}/s"), socket.socket(socket.AF_UNIX) as client, pytest.raises(PermissionError):
        client.connect(f"{here}/s")

def test_abstract_of_others():
    name = uuid.uuid4().hex
    with outside("@" + name), socket.socket(socket.AF_UNIX) as client, pytest.raises(PermissionError):
        client.connect("\\0" + name)

def test_path_taken_over(here):
    "The file system may give the new file the number of the old one."
    server(f"{here}/s").close()
    os.unlink(f"{here}/s")
    with outside(f"{here}/s"), socket.socket(socket.AF_UNIX) as client, pytest.raises(PermissionError):
        client.connect(f"{here}/s")

def test_abstract_taken_over():
    name = uuid.uuid4().hex
    server("\\0" + name).close()
    with outside("@" + name), socket.socket(socket.AF_UNIX) as client, pytest.raises(PermissionError):
        client.connect("\\0" + name)

def test_bind_that_fails(here):
    with outside(f"{here}/s"), socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(OSError):
            s.bind(f"{here}/s")
        with pytest.raises(PermissionError):
            client.connect(f"{here}/s")

def test_closed(here):
    name = "\\0" + uuid.uuid4().hex
    for each in f"{here}/s", name:
        server(each).close()
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(each)
"""
OTHERS = (
    "test_path_of_others",
    "test_abstract_of_others",
    "test_path_taken_over",
    "test_abstract_taken_over",
    "test_bind_that_fails",
    "test_socket_of_this_network_in_another",
)


@pytest.mark.parametrize("kernel", ["with a list", "without"])
def test_made_inside(fenced: Fenced, binder: int, tmp_path: Path, kernel: str) -> None:
    (fenced.directory / "without_list.py").write_text(WITHOUT_LIST, encoding="utf-8")
    run = fenced.run(
        f"BINDER = {binder}\n{TESTS}",
        "-rA",
        program=() if kernel == "with a list" else (sys.executable, "without_list.py"),
        env={"TMPDIR": str(tmp_path)},
    )
    for report in run.reports:
        if report["phase"] != "call":
            continue
        test = report["nodeid"].partition("::")[2]
        if test.partition("[")[0] not in OTHERS:
            run.clean(test, outcome=report["outcome"] if report["outcome"] == "skipped" else "passed")
        elif report["outcome"] != "skipped":
            (attempt,) = run.attempts(test)
            assert attempt.what.startswith("connect unix:"), run
            run.blamed(test)


@pytest.mark.parametrize("kernel", ["with a list", "without"])
def test_where_only_a_marker_allows_it(fenced: Fenced, tmp_path: Path, kernel: str) -> None:
    """Beyond the ceiling the broker binds by itself, and knows the file at once."""
    (fenced.directory / "without_list.py").write_text(WITHOUT_LIST, encoding="utf-8")
    run = fenced.run(
        f"""
        import os, socket
        import pytest

        @pytest.mark.fence(allow_write=["{tmp_path}"])
        def test_it():
            with socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as client:
                s.bind("{tmp_path}/s")
                s.listen()
                os.rename("{tmp_path}/s", "{tmp_path}/t")
                client.connect("{tmp_path}/t")
                client.send(b"word")
                assert s.accept()[0].recv(9) == b"word"
        """,
        policy=ONLY_HERE,
        program=() if kernel == "with a list" else (sys.executable, "without_list.py"),
    )
    run.clean("test_it")


def test_answer_to_a_name_that_the_kernel_gave(fenced: Fenced) -> None:
    """A client that wants to know who answers gets a name without asking for one, whenever it says so."""
    run = fenced.run(
        """
        import socket
        import pytest

        PASSCRED, PASSPIDFD = 16, 76

        @pytest.mark.parametrize("option", [PASSCRED, PASSPIDFD])
        @pytest.mark.parametrize("first", [True, False])
        def test_it(option, first):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server, \\
                    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                server.bind(f"\\0answers {option} {first}")
                if not first:
                    client.connect(server.getsockname())
                try:
                    client.setsockopt(socket.SOL_SOCKET, option, 1)
                except OSError:
                    pytest.skip("kernel: no SO_PASSPIDFD")
                if first:
                    client.connect(server.getsockname())
                client.send(b"question")
                asked = server.recvfrom(99)[1]
                assert asked[:1] == b"\\0"
                server.sendto(b"answer", asked)
                assert client.recv(99) == b"answer"
        """
    )
    assert run.status == 0, run
    assert not run.ledger, run
