"""A filter process, a broker that is scripted, and servers, all on loopback."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONNECT_REFUSED = (56, 7)
"""What curl exits with where a CONNECT was refused: 7 in newer ones (8.23)."""
RUN = """
import socket, sys
from fence_core.link import filter as link
from fence_core.proxy.server import serve
link.PATIENCE_S = float(sys.argv[1])
fds = [int(word) for word in sys.argv[2:]]
serve([socket.socket(fileno=fd) for fd in fds[1:]], socket.socket(fileno=fds[0]))
"""


class Referee:
    """The broker's end of the control socket. What it answers can be changed at any time."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.who: Any
        self.rules: dict[str, dict[str, Any]]
        self.use: Callable[[list[str]], list[str]]
        self.silent: set[str]
        """What is not answered, unless by `answer_late`."""
        self.asked: list[dict[str, Any]]
        self.reset()
        self._thread = threading.Thread(target=self._run, name="referee")
        self._thread.start()

    def reset(self) -> None:
        self.who = {"kind": "nobody"}
        self.rules = {}
        self.use = list
        self.silent = set()
        self.asked = []

    def tunnel(self, name: str, port: int, to: tuple[str, int] | None = None, **more: Any) -> None:
        self.who = {"kind": "tunnel", "name": name, "port": port, "to": to, **more}

    def proxy(self, **allowed: tuple[str, int] | None) -> None:
        """The program uses the filter as its proxy; dots are underscores here."""
        self.who = {"kind": "proxy", "upstream_proxy": None}
        self.rules = {name.replace("_", "."): {"allowed": True, "to": to} for name, to in allowed.items()}

    def ops(self, op: str) -> list[dict[str, Any]]:
        return [question for question in self.asked if question["op"] == op]

    @property
    def violations(self) -> list[str]:
        return [question["what"] for question in self.ops("violation")]

    def _run(self) -> None:
        while packet := self._control.recv(65536):
            question = json.loads(packet)
            self.asked.append(question)
            if question["op"] not in self.silent:
                try:
                    self._send(question)
                except OSError:
                    return

    def _send(self, question: dict[str, Any]) -> None:
        self._control.send(json.dumps({"id": question["id"], **self._answer(question)}).encode())

    def answer_late(self, op: str) -> None:
        """Whatever of this kind was asked: the answer, at last."""
        for question in self.ops(op):
            self._send(question)

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if question["op"] == "who":
            return self.who(question["port"]) if callable(self.who) else self.who
        if question["op"] == "ask":
            no = {"allowed": False, "rule": "network.allowed_domains", "remedy": ["allow it so"]}
            return self.rules.get(question["name"], no)
        if question["op"] == "addresses":
            return {"use": self.use(question["found"]), "rule": "network.private"}
        return {}

    def close(self) -> None:
        self._control.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._control.close()


class FilterProcess:
    """`patience`: for how many seconds it waits for an answer of the broker."""

    def __init__(self, patience: float = 5.0) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self.listener.getsockname()[1]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        fds = [theirs.fileno(), self.listener.fileno()]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(patience), *map(str, fds)],
            pass_fds=fds,
            stderr=self.stderr,
            stdout=self.stderr,
        )
        theirs.close()
        self.listener.close()
        self.referee = Referee(ours)

    def connect(self, timeout: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def resets(self) -> bool:
        """Whether a new connection ends by a reset, with nothing said before. It may be as fast as `connect`."""
        try:
            with self.connect() as sock:
                sock.recv(1)
        except ConnectionResetError:
            return True
        return False

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def cpu(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def is_idle(self) -> bool:
        """Whether it sleeps in epoll_wait(2), for a second at least, until something comes."""
        words = Path(f"/proc/{self.process.pid}/syscall").read_text().split()
        return len(words) > 4 and ctypes.c_int(int(words[4], 16)).value not in range(1000)

    def complaints(self) -> str:
        """What it has told the broker of errors of its own, a line each, and what it has written to stderr."""
        self.stderr.seek(0)
        told = [f"{fault['what']} at {fault['at']}\n" for fault in self.referee.ops("fault")]
        return "".join(told) + self.stderr.read()

    def close(self) -> None:
        self.referee.close()
        self.process.wait(10)
        self.stderr.close()


def eventually(condition: Callable[[], object], what: str, patience: float = 10) -> None:
    """For what another process or thread does and does not announce."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.005)


SIOCOUTQNSD = 0x894B
"""linux/sockios.h: how many bytes a socket has not sent yet."""


def is_stuck(connection: socket.socket) -> bool:
    """Whether it could not send all it was given: the other end has room for no more."""
    unsent = struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQNSD, bytes(4)))[0]
    return bool(unsent)


class Server:
    """Runs `handle(connection)` in a thread for each connection."""

    def __init__(self, handle: Callable[[socket.socket], None], family: int = socket.AF_INET) -> None:
        self._handle = handle
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self._listener = socket.create_server((host, 0), family=family, backlog=4096)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.accepted = 0
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._run, name="server")
        self._acceptor.start()

    @property
    def port(self) -> int:
        return self.address[1]

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            connection.settimeout(20)
            self._connections.append(connection)
            thread = threading.Thread(target=self._one, args=(connection,), name="server")
            self._threads.append(thread)
            thread.start()

    def _one(self, connection: socket.socket) -> None:
        try:
            self._handle(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listener.close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def read_into(sock: socket.socket, buffer: bytearray) -> int:
    view, place = memoryview(buffer), 0
    while count := sock.recv_into(view[place:]):
        place += count
    return place


def read_to(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        part = sock.recv(65536)
        if not part:
            break
        data += part
    return data


class WebServer:
    """Answers every request with its own name and the head as it arrived; keeps what it has seen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        stream = connection.makefile("rwb")
        with stream:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        return
                    head += line
                self.heads.append(head)
                lower = head.lower()
                if b"expect: 100-continue" in lower:
                    stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    stream.flush()
                body = b""
                if b"transfer-encoding: chunked" in lower:
                    while size := int(stream.readline().split(b";")[0], 16):
                        body += stream.read(size)
                        stream.readline()
                    while stream.readline() != b"\r\n":
                        pass
                elif b"content-length:" in lower:
                    body = stream.read(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
                self.bodies.append(body)
                if b"upgrade: websocket" in lower and b"/no-upgrade" not in head:
                    stream.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                    )
                    stream.flush()
                    while data := stream.read1():
                        stream.write(data.upper())
                        stream.flush()
                    return
                answer = b"%s saw %d bytes\n%s<end>" % (self.name.encode(), len(body), head)
                stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
                stream.flush()
                if b"connection: close" in lower:
                    return
