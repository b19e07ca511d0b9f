"""Servers on this machine, outside of every fence: where the positive controls connect to.

Run by the outer pytest, in threads.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

HELLO = b"hello from loopback\n"
"""What each of the servers says, in the words of its protocol."""
REPOSITORY_HEAD = "0123456789abcdef0123456789abcdef01234567"


class Loopback(NamedTuple):
    """Ports on 127.0.0.1, and (`hello6`) on ::1."""

    hello: int
    hello6: int
    """0 where this machine has no ::1."""
    http: int
    udp: int
    postgres: int


class _Hello(socketserver.BaseRequestHandler):
    """Says hello and hangs up."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # whoever does not wait for an answer
            self.request.sendall(HELLO)


class _Echo(socketserver.BaseRequestHandler):
    """Sends every datagram back."""

    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class _Http(http.server.BaseHTTPRequestHandler):
    """Says hello, and pretends to hold one git repository."""

    def do_GET(self) -> None:
        body = HELLO
        if "/info/refs" in self.path:
            body = f"{REPOSITORY_HEAD}\trefs/heads/main\n".encode()
        elif self.path.endswith("/HEAD"):
            body = b"ref: refs/heads/main\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *ignored: object) -> None: ...


class _Postgres(socketserver.BaseRequestHandler):
    """Answers a client's first message with an error that quotes the greeting."""

    def handle(self) -> None:
        (size,) = struct.unpack("!I", self.request.recv(4, socket.MSG_WAITALL))
        self.request.recv(size - 4, socket.MSG_WAITALL)
        fields = b"SFATAL\0C28000\0M" + HELLO.strip() + b"\0\0"
        self.request.sendall(b"E" + struct.pack("!I", 4 + len(fields)) + fields)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *ignored: object) -> None: ...  # clients that were ended in the middle


class _Tcp6(_Tcp):
    address_family = socket.AF_INET6


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True


class _HttpServer(http.server.ThreadingHTTPServer):
    def handle_error(self, *ignored: object) -> None: ...


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


@contextlib.contextmanager
def serve() -> Iterator[Loopback]:
    """All of them, until the end of the block."""
    with contextlib.ExitStack() as stack:

        def start(server: socketserver.BaseServer) -> int:
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return int(server.server_address[1])

        here = ("127.0.0.1", 0)
        yield Loopback(
            hello=start(_Tcp(here, _Hello)),
            hello6=start(_Tcp6(("::1", 0), _Hello)) if has_ipv6() else 0,
            http=start(_HttpServer(here, _Http)),
            udp=start(_Udp(here, _Echo)),
            postgres=start(_Tcp(here, _Postgres)),
        )


@contextlib.contextmanager
def unix_server(path: str) -> Iterator[None]:
    """A server on a UNIX socket that says hello; `path` may be an abstract name (begins with NUL)."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.sendall(HELLO)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            if not path.startswith("\0"):
                os.unlink(path)
