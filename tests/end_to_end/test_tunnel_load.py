"""Tunnels under load: much through one of them, a thousand at once, ends that vanish, ends that hang.

The servers are in the outer process and make up what they send; nothing is written to a disk. What the filter holds is
asked of a server, too, through a tunnel like any other: it looks at the filter from outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import socket
import struct
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.caught import Caught, Fenced
from tests.end_to_end.support import Runs, until
from tests.proxy.peers import Server

MEGABYTES = 500
TUNNELS = 1000

# Within the fence.
COMMON = """
import asyncio, errno, hashlib, http.client, json, resource, socket, struct, subprocess, sys, textwrap, time
import pytest

MEGABYTES, TUNNELS = {megabytes}, {tunnels}

def connect(name, timeout=30):
    return socket.create_connection((name + ".example", 80), timeout)

def ask():
    "What the filter holds now: descriptors (None: not for this user to see), bytes of memory, connections to servers."
    with connect("ask") as sock:
        sock.sendall(b"?\\n")
        return json.loads(sock.makefile("rb").read())

def settles(before, patience=10):
    "Everything that was opened since then is closed again."
    until = time.monotonic() + patience
    while True:
        now = ask()
        if (now["fds"] is None or now["fds"] <= before["fds"]) and now["connections"] <= before["connections"]:
            return
        assert time.monotonic() < until, (before, now)
        time.sleep(0.05)

def echo(word=b"hello\\n"):
    with connect("echo") as sock:
        sock.sendall(word)
        assert sock.recv(99) == word
"""


def block(number: int, _base: bytes = os.urandom((1 << 20) - 8)) -> bytes:
    """The megabyte of that number: none can be lost, doubled or change places unnoticed."""
    return struct.pack("!Q", number) + _base


def send_blocks(write: Callable[[bytes], object], count: int = MEGABYTES) -> str:
    digest = hashlib.sha256()
    for number in range(count):
        data = block(number)
        digest.update(data)
        write(data)
    return digest.hexdigest()


class World:
    """Servers, each with a name of its own below ``.example``."""

    def __init__(self, fenced: Fenced, runs: Runs) -> None:
        self._fenced = fenced
        self._runs = runs
        self._servers: dict[str, Server] = {}
        self._ports: dict[str, int] = {}
        self.filters: set[int] = set()
        self.sent = ""

    def serve(self, name: str, handle: Callable[[socket.socket], None]) -> None:
        self._servers[name] = Server(handle)
        self._ports[name] = self._servers[name].port

    def at(self, name: str, port: int) -> None:
        """A server that somebody else runs."""
        self._ports[name] = port

    def run(self, test: str, **options: Any) -> Caught:
        listed = ", ".join(f'"{name}.example" = "127.0.0.1:{port}"' for name, port in self._ports.items())
        common = COMMON.format(megabytes=MEGABYTES, tunnels=TUNNELS)
        files = {"common.py": common, "conftest.py": ""}
        policy = f"[tool.fence.network]\nhosts = {{{listed}}}\n"
        return self._fenced.run("from common import *\n" + textwrap.dedent(test), files=files, policy=policy, **options)

    def look(self, connection: socket.socket) -> None:
        """Server: says what the filter holds."""
        connection.recv(64)
        pid = self._filter()
        self.filters.add(pid)
        try:
            fds: int | None = len(os.listdir(f"/proc/{pid}/fd"))
        except PermissionError:
            fds = None  # it hides itself from other processes of its user
        memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        connection.sendall(json.dumps({"fds": fds, "memory": memory, "connections": self._connections()}).encode())

    def _filter(self) -> int:
        parents = {str(process.pid) for process in self._runs._started}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "comm").read_text() == "fence-filter\n":
                    parent = (entry / "stat").read_text().rpartition(") ")[2].split()[1]
                    if parent in parents:
                        return int(entry.name)
            except OSError:
                continue  # it has just ended
        raise AssertionError("there is no filter")

    def _connections(self) -> int:
        """What leads to a server of ours and is not over: nobody but the filter connects to those."""
        wanted = {f"{port:04X}" for port in self._ports.values()}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2][-4:] in wanted and row[3] not in ("06", "0A") for row in rows)  # TIME_WAIT, LISTEN

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        until(lambda: not [pid for pid in self.filters if Path(f"/proc/{pid}").exists()], "the end of the filter")


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.fixture
def world(fenced: Fenced, runs: Runs) -> Iterator[World]:
    made = World(fenced, runs)
    made.serve("ask", made.look)
    made.serve("echo", echo)
    yield made
    made.close()


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise ConnectionAbortedError
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


@pytest.mark.needs("program:curl")
def test_much(world: World) -> None:
    """What is downloaded and uploaded arrives as it was sent, and the filter keeps next to nothing of it."""

    def down(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MEGABYTES << 20))
        world.sent = send_blocks(connection.sendall)

    def up(connection: socket.socket) -> None:
        _, data = read_head(connection)
        digest = hashlib.sha256(data)
        left = (MEGABYTES << 20) - len(data)
        room = bytearray(1 << 20)
        while left:
            count = connection.recv_into(room)
            assert count, left
            digest.update(memoryview(room)[:count])
            left -= count
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())

    world.serve("down", down)
    world.serve("up", up)
    run = world.run(
        """
        def test_download():
            echo()
            before = ask()
            digest = hashlib.sha256()
            with subprocess.Popen(["curl", "-sS", "http://down.example/"], stdout=subprocess.PIPE) as curl:
                while data := curl.stdout.read(1 << 20):
                    digest.update(data)
            assert curl.returncode == 0
            settles(before)
            assert ask()["memory"] < before["memory"] + (32 << 20)
            print("sha256 of download:", digest.hexdigest())

        def test_upload():
            before = ask()
            digest = hashlib.sha256()
            base = bytes(range(256)) * 4096

            def blocks():
                for number in range(MEGABYTES):
                    data = struct.pack("!Q", number) + base[8:]
                    digest.update(data)
                    yield data

            client = http.client.HTTPConnection("up.example")
            client.request("PUT", "/", blocks(), {"Content-Length": str(MEGABYTES << 20)})
            assert client.getresponse().read().decode() == digest.hexdigest()
            client.close()
            settles(before)
            assert ask()["memory"] < before["memory"] + (32 << 20)
        """
    )
    run.clean("test_download", "test_upload")
    printed = dict(run.report("test_download")["sections"])["Captured stdout call"]
    assert printed.split()[-1] == world.sent


class Holder(asyncio.Protocol):
    """One of very many connections: sends back what it gets."""

    live = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        Holder.live += 1

    def connection_lost(self, error: Exception | None) -> None:
        Holder.live -= 1

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def nobody_left() -> None:
    while Holder.live:
        await asyncio.sleep(0.005)


@contextmanager
def holding() -> Iterator[int]:
    """The port of a server that minds any number of connections, in one thread."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Holder, "127.0.0.1", 0, backlog=4096))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(nobody_left())
        loop.close()


def test_very_many(world: World) -> None:
    """A thousand tunnels at once, all of which carry something, and nothing of them is left afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * TUNNELS:
        pytest.skip(f"elsewhere: no more than {hard} descriptors may be had here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * TUNNELS), hard))
    try:
        with holding() as port:
            world.at("hold", port)
            run = world.run(
                """
                def test_thousand():
                    before = ask()
                    socks = [connect("hold") for _ in range(TUNNELS)]
                    for number, sock in enumerate(socks):
                        sock.sendall(b"%06d\\n" % number)
                    for number, sock in enumerate(socks):
                        assert sock.recv(99) == b"%06d\\n" % number
                    now = ask()
                    assert now["connections"] >= before["connections"] + TUNNELS
                    assert now["memory"] < before["memory"] + (100 << 20)
                    echo()
                    for sock in socks:
                        sock.close()
                    settles(before)
                """
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    run.clean("test_thousand")


def reset(connection: socket.socket) -> None:
    """What the kernel does for a process that is killed with something unread."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.needs("program:curl")
def test_ends_that_vanish(world: World) -> None:
    """A server or a client that dies midway: the other end learns of it, and the filter keeps nothing."""

    def breaks_off(connection: socket.socket) -> None:
        head, _ = read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n" + bytes(1 << 20))
        if b"/reset" in head:
            reset(connection)

    def stops_taking(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        reset(connection)

    def endless(connection: socket.socket) -> None:
        connection.recv(64)
        while True:
            connection.sendall(bytes(1 << 16))

    def takes_all(connection: socket.socket) -> None:
        while connection.recv(1 << 20):
            pass

    world.serve("breaks", breaks_off)
    world.serve("stops", stops_taking)
    world.serve("endless", endless)
    world.serve("takes", takes_all)
    run = world.run(
        """
        CLIENT = '''
        import socket, sys
        sock = socket.create_connection((sys.argv[1] + ".example", 80))
        sock.sendall(b"one line" + bytes([10]))
        print("ready", flush=True)
        if sys.argv[1] == "endless":
            while sock.recv(1 << 16): print("more", flush=True)
        while True:
            sock.sendall(bytes(1 << 16)), print("more", flush=True)
        '''

        @pytest.mark.parametrize("path", ["close", "reset"])
        def test_server(path):
            echo()
            before = ask()
            for _ in range(20):
                done = subprocess.run(["curl", "-sS", "http://breaks.example/" + path], stdout=-1, stderr=-1)
                assert done.returncode in (18, 56), done.stderr  # partial file, reset
                assert len(done.stdout) <= 1 << 20
                assert path == "reset" or len(done.stdout) == 1 << 20
            settles(before)

        def test_server_of_upload():
            before = ask()
            for _ in range(20):
                with connect("stops") as sock, pytest.raises(ConnectionError):
                    while True:
                        sock.sendall(bytes(1 << 16))
            settles(before)

        @pytest.mark.parametrize("name", ["endless", "takes"])
        def test_client(name):
            before = ask()
            clients = [
                subprocess.Popen([sys.executable, "-c", textwrap.dedent(CLIENT), name], stdout=subprocess.PIPE)
                for _ in range(4)
            ]
            for client in clients:
                assert client.stdout.readline() == b"ready\\n"
                for _ in range(10):
                    assert client.stdout.readline() == b"more\\n"
            for client in clients:
                client.kill()
                client.wait()
                client.stdout.close()
            settles(before)

        def test_client_before_there_is_a_server():
            before = ask()
            for _ in range(50):
                connect("echo").close()
            settles(before)
        """
    )
    names = ["server[close]", "server[reset]", "server_of_upload", "client[endless]", "client[takes]"]
    run.clean(*(f"test_{name}" for name in names), "test_client_before_there_is_a_server")


def test_ends_that_hang(world: World) -> None:
    """Servers that do not read and clients that do not read hold up nobody else, nor fill the filter's memory."""
    over = threading.Event()

    def deaf(connection: socket.socket) -> None:
        over.wait(30)

    def endless(connection: socket.socket) -> None:
        connection.recv(64)
        while True:
            connection.sendall(bytes(1 << 16))

    world.serve("deaf", deaf)
    world.serve("endless", endless)
    try:
        run = world.run(
            """
            def fill(sock):
                sock.setblocking(False)
                quiet = 0
                while quiet < 3:
                    try:
                        sock.send(bytes(1 << 20))
                        quiet = 0
                    except BlockingIOError:
                        quiet += 1
                        time.sleep(0.02)

            def test_hang():
                echo()
                before = ask()
                hanging = [connect("deaf") for _ in range(10)]
                for sock in hanging:
                    fill(sock)
                for _ in range(10):
                    hanging.append(connect("endless"))
                    hanging[-1].sendall(b"x\\n")
                for number in range(50):
                    echo(b"%d\\n" % number)
                assert ask()["memory"] < before["memory"] + (40 << 20)
                for sock in hanging:
                    sock.close()
            """
        )
    finally:
        over.set()
    run.clean("test_hang")


@contextmanager
def hanging_connect() -> Iterator[int]:
    """A port where nobody accepts and the queue is full: who connects waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for sock in waiting:
                sock.close()


def test_upstream_that_hangs(world: World) -> None:
    """A connect returns at once whatever the server does, and an event loop goes on.

    Nobody accepts until the run is over: whoever waited for the server would never see what comes next here.
    """
    with hanging_connect() as port:
        world.at("hang", port)
        run = world.run(
            """
            def test_at_once():
                address = socket.gethostbyname("hang.example")
                with socket.socket() as sock:
                    sock.setblocking(False)
                    assert sock.connect_ex((address, 80)) in (0, errno.EINPROGRESS)
                    sock.settimeout(0.5)
                    with pytest.raises(TimeoutError):
                        sock.recv(1)

            def test_event_loop():
                hanging = []

                async def hang():
                    reader, writer = await asyncio.open_connection("hang.example", 80)
                    writer.write(b"hello\\r\\n")
                    hanging.append(writer)
                    try:
                        return await reader.read()
                    finally:
                        writer.transport.abort()

                async def main():
                    tasks = [asyncio.create_task(hang()) for _ in range(20)]
                    while len(hanging) < 20:
                        await asyncio.sleep(0.005)
                    reader, writer = await asyncio.open_connection("echo.example", 80)
                    writer.write(b"meanwhile\\n")
                    assert await reader.readline() == b"meanwhile\\n"
                    writer.close()
                    assert not any(task.done() for task in tasks)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

                asyncio.run(main())

            def test_others():
                with connect("hang"):
                    echo()
                settles(ask())
            """
        )
    run.clean("test_at_once", "test_event_loop", "test_others")
