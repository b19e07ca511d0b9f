"""The servers of the matrix: real programs and protocols, on ports that every client knows how to ask for.

Run as a process of its own, outside of every fence, in a network of its own where that may be made (`conftest.py`).
Prints one line of JSON when all of them listen, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import json
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from pathlib import Path
from typing import Any

HELLO = "bytes of the real server"
"""What every server says, in the words of its protocol."""
ADDRESS = "192.31.196.1"
NAME_SERVER = "192.31.196.53"
"""In the network of our own: public (a filter lets nothing else stand behind a name), and nobody's (RFC 7535)."""
PORTS = {"http": 80, "https": 443, "ssh": 22, "postgres": 5432, "redis": 6379, "grpc": 50051, "grpcs": 50052}


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, *ignored: object) -> None: ...  # clients that were ended in the middle


class Https(Tcp):
    """TLS on each connection; its handshake is in the connection's own thread."""

    context: ssl.SSLContext

    def get_request(self) -> tuple[Any, Any]:
        sock, peer = super().get_request()
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), peer

    def shutdown_request(self, request: Any) -> None:
        """Say goodbye first: openssl takes less for an attack."""
        with contextlib.suppress(OSError):
            request.settimeout(5)
            request.unwrap()
        super().shutdown_request(request)


class Files(http.server.SimpleHTTPRequestHandler):
    """A directory with `index.html` and a repository."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *ignored: object) -> None: ...


class Postgres(socketserver.StreamRequestHandler):
    """As much of the protocol as `SELECT` takes: whoever asks is let in and gets one row."""

    def handle(self) -> None:
        self.rfile.read(struct.unpack("!I", self.rfile.read(4))[0] - 4)
        settings = message(b"S", b"client_encoding\0UTF8\0") + message(b"S", b"DateStyle\0ISO, MDY\0")
        self.wfile.write(message(b"R", struct.pack("!I", 0)) + settings + message(b"Z", b"I"))
        while self.rfile.read(1) == b"Q":
            self.rfile.read(struct.unpack("!I", self.rfile.read(4))[0] - 4)
            column = struct.pack("!H", 1) + b"hello\0" + struct.pack("!IHIHIH", 0, 0, 25, 0xFFFF, 0xFFFFFFFF, 0)
            row = struct.pack("!HI", 1, len(HELLO)) + HELLO.encode()
            answer = message(b"T", column) + message(b"D", row) + message(b"C", b"SELECT 1\0")
            self.wfile.write(answer + message(b"Z", b"I"))


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


class NameServer(socketserver.BaseRequestHandler):
    """Knows every name, and writes down which it was asked for."""

    def handle(self) -> None:
        import dns.flags
        import dns.message
        import dns.rrset

        data, sock = self.request
        query = dns.message.from_wire(data)
        question = query.question[0]
        with Path("asked").open("a", encoding="ascii") as asked:
            asked.write(question.name.to_text(omit_final_dot=True) + "\n")
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA | dns.flags.AA
        if question.rdtype == 1:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", ADDRESS))
        sock.sendto(answer.to_wire(), self.client_address)


def serve(server: socketserver.BaseServer) -> int:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def serve_grpc(at: str, secure: bool) -> int:
    import grpc

    def same(data: bytes) -> bytes:
        return data

    say = grpc.unary_unary_rpc_method_handler(lambda request, context: HELLO.encode(), same, same)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("here.Greeter", {"Hello": say}),))
    if secure:
        pair = (Path("server.key").read_bytes(), Path("server.pem").read_bytes())
        port = server.add_secure_port(at, grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(at)
    server.start()
    threading.Thread(target=server.wait_for_termination, daemon=True).start()
    return int(port)


def serve_ssh(host: str, port: int) -> int:
    import asyncssh

    async def start() -> int:
        acceptor = await asyncssh.listen(
            host,
            port,
            server_host_keys=["server.key"],
            authorized_client_keys="client.pub",
            process_factory=hello,
        )
        return int(acceptor.get_port())

    async def hello(process: Any) -> None:
        process.stdout.write(HELLO + "\n")
        process.exit(0)

    return run_in_thread(start)


def run_in_thread(start: Callable[[], Coroutine[Any, Any, int]]) -> int:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return asyncio.run_coroutine_threadsafe(start(), loop).result()


def serve_redis(host: str, port: int) -> tuple[int, subprocess.Popen[str]]:
    if not port:
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", host, "--save", "", "--daemonize", "no"]
    server = subprocess.Popen([*command, "--protected-mode", "no"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if "eady to accept connections" in line:
            break
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f'SET hello "{HELLO}"\r\n'.encode())
        assert client.recv(99) == b"+OK\r\n"
    return port, server


def main(own_network: bool) -> None:
    """In the directory of the certificates and files, which `conftest.py` has prepared."""
    host = "0.0.0.0" if own_network else "127.0.0.1"
    wanted = PORTS if own_network else dict.fromkeys(PORTS, 0)
    files = functools.partial(Files, directory="files")
    https = Https((host, wanted["https"]), files, bind_and_activate=True)
    https.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    https.context.load_cert_chain("server.pem", "server.key")
    ports = {
        "http": serve(Tcp((host, wanted["http"]), files)),
        "https": serve(https),
        "postgres": serve(Tcp((host, wanted["postgres"]), Postgres)),
        "ssh": serve_ssh(host, wanted["ssh"]),
        "grpc": serve_grpc(f"{host}:{wanted['grpc']}", secure=False),
        "grpcs": serve_grpc(f"{host}:{wanted['grpcs']}", secure=True),
    }
    redis = None
    if shutil.which("redis-server"):
        ports["redis"], redis = serve_redis(host, wanted["redis"])
    if own_network:
        serve(socketserver.ThreadingUDPServer((NAME_SERVER, 53), NameServer))
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    if redis is not None:
        redis.terminate()
        redis.wait()


if __name__ == "__main__":
    main(sys.argv[1] == "own-network")
