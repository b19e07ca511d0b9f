"""Local communication that tests commonly make: none of it is anything the fence minds."""

from __future__ import annotations

import pytest

from tests.end_to_end.support import Runs, kernel_has

SOCKETS = '''
import asyncio, array, http.server, multiprocessing, os, selectors, socket, socketserver, struct, subprocess, sys
import threading, urllib.request, xmlrpc.client, xmlrpc.server
import pytest

SERVER = """
import http.server, sys
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()
"""

def test_socketpair():
    for family, kind in ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM),
                         (socket.AF_UNIX, socket.SOCK_SEQPACKET)):
        a, b = socket.socketpair(family, kind)
        with a, b:
            a.sendall(b"x")
            assert b.recv(9) == b"x"
            b.sendmsg([b"y", b"z"])
            assert a.recv(9) == b"yz"

def test_descriptors_are_passed(tmp_path):
    a, b = socket.socketpair()
    with a, b, open(tmp_path / "f", "w+") as file:
        socket.send_fds(a, [b"x"], [file.fileno()])
        _, fds, _, _ = socket.recv_fds(b, 9, 4)
        os.write(fds[0], b"through")
        os.close(fds[0])
        file.seek(0)
        assert file.read() == "through"

def test_peer_credentials():
    a, b = socket.socketpair()
    with a, b:
        pid, uid, gid = struct.unpack("3i", a.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert (pid, uid, gid) == (os.getpid(), os.getuid(), os.getgid())

@pytest.fixture
def short(tmp_path, monkeypatch):
    """sun_path has 108 bytes: relative names fit."""
    monkeypatch.chdir(tmp_path)

@pytest.mark.parametrize("family,host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"),
                                         (socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "localhost"),
                                         (socket.AF_INET, "127.1.2.3")])
def test_tcp(family, host):
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), timeout=10) as client:
            conn, peer = server.accept()
            with conn:
                assert peer[:2] == client.getsockname()[:2]
                conn.sendall(b"hello")
                assert client.recv(9) == b"hello"

def test_dual_stack():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=10):
                server.accept()[0].close()

def test_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
        a.bind(("127.0.0.1", 0))
        b.sendto(b"one", a.getsockname())
        data, peer = a.recvfrom(99)
        a.sendmsg([b"two"], [], 0, peer)
        assert (data, b.recv(99)) == (b"one", b"two")
        b.connect(a.getsockname())
        b.send(b"three")
        assert a.recv(99) == b"three"

def test_server_in_a_thread():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
        class Echo(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline().upper())
        server.RequestHandlerClass = Echo
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(20):
            with socket.create_connection(server.server_address) as client:
                client.sendall(b"abc\\n")
                assert client.makefile("rb").readline() == b"ABC\\n"
        server.shutdown()

def test_server_in_a_subprocess():
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as server:
        port = int(server.stdout.readline())
        with urllib.request.urlopen(f"http://localhost:{port}/") as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.status == 200
        server.terminate()

def test_xmlrpc():
    with xmlrpc.server.SimpleXMLRPCServer(("localhost", 0), logRequests=False) as server:
        server.register_function(pow, "pow")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with xmlrpc.client.ServerProxy(f"http://localhost:{server.server_address[1]}") as proxy:
            assert proxy.pow(2, 9) == 512
        server.shutdown()

def test_accept_in_process():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(server.getsockname()) in (0, 115)
        conn, _ = server.accept()
        with conn, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_WRITE)
            assert selector.select(10)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            client.sendall(b"x")
            conn.setblocking(True)
            assert conn.recv(1) == b"x"

def test_listen_binds():
    with socket.socket() as server, socket.socket() as client:
        server.listen()
        client.connect(("127.0.0.1", server.getsockname()[1]))
        server.accept()[0].close()

def test_unix_sockets(short):
    for address in (f"/tmp/fence-test-{os.getpid()}", "relative.sock", b"\\0fence-test-%d" % os.getpid(), ""):
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(address)
            server.listen()
            client.connect(server.getsockname())
            conn, _ = server.accept()
            with conn:
                client.sendall(b"x")
                assert conn.recv(9) == b"x"
    os.unlink(f"/tmp/fence-test-{os.getpid()}")

def test_unix_datagrams(short):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as a, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as b:
        a.bind("d")
        b.sendto(b"x", "d")
        assert a.recv(9) == b"x"
        b.connect("d")
        b.send(b"y")
        assert a.recv(9) == b"y"

def test_errors_are_the_kernels():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) == 111
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.socket() as again, pytest.raises(OSError) as caught:
            again.bind(("127.0.0.1", port))
        assert caught.value.errno == 98
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        client.connect("/nowhere/at/all")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        with pytest.raises(OSError) as caught:
            client.connect(server.getsockname())
        assert caught.value.errno == 106
    with socket.socket() as client:
        os.dup2(os.open("/dev/null", 0), client.fileno())
        with pytest.raises(OSError) as caught:
            client.connect(("127.0.0.1", port))
        assert caught.value.errno == 88

async def talk():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        async def ask():
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"abc\\n")
            line = await reader.readline()
            writer.close()
            return line
        assert await asyncio.gather(*[ask() for _ in range(20)]) == [b"ABC\\n"] * 20

def test_asyncio():
    asyncio.run(talk())

def test_asyncio_unix(short):
    async def main():
        async def answer(reader, writer):
            writer.write(b"hi\\n")
            writer.close()
        async with await asyncio.start_unix_server(answer, "a"):
            reader, writer = await asyncio.open_unix_connection("a")
            assert await reader.readline() == b"hi\\n"
            writer.close()
            await writer.wait_closed()
    asyncio.run(main())

def test_asyncio_subprocess_and_signals():
    import signal
    async def main():
        loop = asyncio.get_running_loop()
        got = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, got.set)
        child = await asyncio.create_subprocess_exec("sh", "-c", f"kill -USR1 {os.getpid()}; echo done",
                                                     stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        await asyncio.wait_for(got.wait(), 10)
        assert (child.returncode, out) == (0, b"done\\n")
        loop.remove_signal_handler(signal.SIGUSR1)
    asyncio.run(main())

def test_asyncio_names():
    async def main():
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        assert {item[4][0] for item in found} <= {"127.0.0.1", "::1"}
    asyncio.run(main())

def test_uvloop():
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(talk())

def double(n):
    return 2 * n

@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_multiprocessing(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(double, range(9)) == [2 * n for n in range(9)]
    with context.Manager() as manager:
        shared = manager.dict(a=1)
        process = context.Process(target=shared.update, kwargs={"b": 2})
        process.start()
        process.join()
        assert process.exitcode == 0
        assert shared.copy() == {"a": 1, "b": 2}

def test_shared_memory_and_semaphores():
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=64)
    block.buf[:2] = b"ab"
    other = shared_memory.SharedMemory(block.name)
    assert bytes(other.buf[:2]) == b"ab"
    other.close()
    block.close()
    block.unlink()
    with multiprocessing.Lock():
        pass
'''


@pytest.mark.parametrize("workers", [0, 2])
def test_local_communication(pytester: pytest.Pytester, runs: Runs, workers: int) -> None:
    """Every kind of socket, server and loop that stays on this machine, in one process and in two."""
    pytester.makepyfile(test_sockets=SOCKETS)
    if workers:
        runs.load("xdist")
        plain, fenced = runs.both("-rA", "-q", "-n", str(workers))
        assert plain.status == 0, plain
        assert (fenced.status, fenced.outcomes()) == (0, plain.outcomes()), fenced
    else:
        runs.same("-rA")


CONNECTS = '''
import errno, signal, socket, struct, threading, time
import pytest

class Alarm(Exception):
    pass

@pytest.fixture
def full():
    """A listener whose backlog is full: a further connect waits."""
    def ring(*_):
        raise Alarm
    before = signal.signal(signal.SIGALRM, ring)
    waiting = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield server
        for client in waiting:
            client.close()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)

def test_an_alarm_interrupts(full):
    with socket.socket() as client:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            client.connect(full.getsockname())

def test_an_alarm_that_returns_does_not(full):
    """A handler that does not raise: connect goes on (PEP 475), until the listener takes somebody."""
    rings = []
    signal.signal(signal.SIGALRM, lambda *_: (rings.append(1), len(rings) == 3 and full.close()))
    with socket.socket() as client:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        client.settimeout(None)
        with pytest.raises(OSError) as caught:
            client.connect(full.getsockname())
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(rings) >= 3
    assert caught.value.errno == errno.ECONNRESET or caught.value.errno == errno.ECONNREFUSED

def test_settimeout(full):
    with socket.socket() as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect(full.getsockname())

def test_send_timeout(full):
    """The kernel's alarm clock says that it has waited as long as that: it has rung, unheard."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@qq", 0, 200_000))
            signal.setitimer(signal.ITIMER_REAL, 0.19)
            with pytest.raises(BlockingIOError) as caught:
                client.connect(full.getsockname())
            assert signal.SIGALRM in signal.sigpending()
        assert caught.value.errno == errno.EINPROGRESS
        signal.sigwait({signal.SIGALRM})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

def test_non_blocking(full):
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(full.getsockname()) == errno.EINPROGRESS
        assert client.connect_ex(full.getsockname()) == errno.EALREADY
    with socket.create_server(("127.0.0.1", 0)) as ready, socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(ready.getsockname()) in (0, errno.EINPROGRESS)

def test_others_go_on_meanwhile(full, tmp_path):
    """A call that waits holds up nobody else."""
    with socket.socket() as client:
        thread = threading.Thread(target=client.connect_ex, args=(full.getsockname(),), daemon=True)
        thread.start()
        for n in range(200):
            (tmp_path / str(n)).touch()
        assert thread.is_alive()
        full.close()
        thread.join(30)
        assert not thread.is_alive()

def test_unix_backlog(tmp_path, monkeypatch):
    """A full backlog of a UNIX socket: EAGAIN at once, or a wait that an alarm ends."""
    def ring(*_):
        raise Alarm
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, ring)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as one, \\
         socket.socket(socket.AF_UNIX) as two, socket.socket(socket.AF_UNIX) as three:
        server.bind("s")
        server.listen(0)
        one.connect("s")
        two.setblocking(False)
        assert two.connect_ex("s") == errno.EAGAIN
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            three.connect("s")
        thread = threading.Thread(target=three.connect, args=("s",))
        thread.start()
        server.accept()[0].close()
        thread.join(10)
        assert not thread.is_alive()
        server.accept()[0].close()
    signal.signal(signal.SIGALRM, before)

def test_a_blocking_socket_stays_blocking(full):
    with socket.socket() as client:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            client.connect(full.getsockname())
        assert client.getblocking()
        import fcntl, os
        assert not fcntl.fcntl(client, fcntl.F_GETFL) & os.O_NONBLOCK
'''


def test_connects_that_wait(pytester: pytest.Pytester, runs: Runs) -> None:
    """A connect that blocks is interrupted, timed out and finished as the kernel does it; others go on meanwhile."""
    pytester.makepyfile(test_connects=CONNECTS)
    runs.same("-rA")


CREDENTIALS = """
import os, socket, struct
import pytest

@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_credentials(kind):
    # Below /tmp itself: a client with other ids cannot look into the directories of pytest.
    path = f"/tmp/fence-test-{os.getpid()}"
    name = path if kind == "path" else chr(0) + path
    uid, gid = (os.geteuid(), os.getegid()) if os.geteuid() else (65534, 65533)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        if kind == "path":
            os.chmod(path, 0o777)
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(gid, gid, gid)
                    os.setresuid(uid, uid, uid)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(name)
                    client.recv(1)
            finally:
                os._exit(0)
        conn, _ = server.accept()
        with conn:
            peer = struct.unpack("3i", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.waitpid(child, 0)
    if kind == "path":
        os.unlink(path)
    assert peer[1:] == (uid, gid)
    if kind in os.environ.get("PIDS", ""):
        assert peer[0] == child
"""


def test_unix_clients_are_known_by_their_ids(pytester: pytest.Pytester, runs: Runs) -> None:
    """SO_PEERCRED: user and group are the client's, also of one that has dropped its rights.

    The process id is the supervisor's, which makes the connection, unless all UNIX sockets are allowed. Then too it is
    so at an abstract name where no descriptor can be borrowed.
    """
    pytester.makepyfile(test_credentials=CREDENTIALS)
    assert runs.pytest().status == 0
    pytester.makepyprojecttoml("[tool.fence]\nallow_all_unix_sockets = true\n")
    runs.same(env={"PIDS": "path, abstract" if kernel_has("pidfd_getfd") else "path"})
