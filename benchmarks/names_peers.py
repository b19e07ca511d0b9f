"""What measure_names.py talks to: servers in a process of their own, and proxies that the fence is compared with.

`python names_peers.py CERTIFICATE KEY` prints one line of JSON and serves until its standard input ends.

The proxies: `tinyproxy` on the PATH, a package of most distributions; sandbox-runtime as `npm install` puts it into
the global directory or one that NODE_PATH names, of which nothing but its proxy is started.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

SANDBOX_RUNTIME = "@anthropic-ai/sandbox-runtime"
_PROXY_OF_IT = "dist/sandbox/http-proxy.js"

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# As sandbox-runtime starts it for what it has put into a sandbox.
_RUN_IT = """
import { createHttpProxyServer } from '%s';
const server = createHttpProxyServer({ filter: (port, host) => host === '127.0.0.1' });
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
"""

_TINYPROXY = """
Port {port}
Listen 127.0.0.1
MaxClients 400
LogLevel Critical
DisableViaHeader Yes
Filter "{filter}"
FilterDefaultDeny Yes
"""


class Small(asyncio.Protocol):
    """Answers each request, which comes in one piece, with two bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(_ANSWER)


def bulk(listener: socket.socket) -> None:
    """Uploads and downloads, one at a time, as fast as the kernel takes them."""
    room = bytearray(1 << 20)
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                head, _, body = head.partition(b"\r\n\r\n")
                if head.startswith(b"PUT"):
                    left = int(head.rpartition(b" ")[2]) - len(body)
                    while left:
                        left -= connection.recv_into(room)
                    connection.sendall(_ANSWER)
                else:
                    size = int(head.split(b" ")[1][1:])
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                    for _ in range(size // len(room)):
                        connection.sendall(room)
            except OSError:
                pass


async def serve(certificate: str, key: str) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    http = await loop.create_server(Small, "127.0.0.1", 0, backlog=1024)
    https = await loop.create_server(Small, "127.0.0.1", 0, backlog=1024, ssl=context)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=bulk, args=(listener,), daemon=True).start()
    closed = socket.socket()  # bound and not listening: nobody else gets the port
    closed.bind(("127.0.0.1", 0))
    ports = {"bulk": listener, "closed": closed, "http": http.sockets[0], "https": https.sockets[0]}
    print(json.dumps({name: sock.getsockname()[1] for name, sock in ports.items()}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """A process that says one line when it is ready and ends with its standard input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{command[0]} did not start")
            yield line
        finally:
            process.kill()


@contextmanager
def servers(folder: Path) -> Iterator[tuple[Mapping[str, int], Path]]:
    """Their ports, and the certificate that they show."""
    certificate, key = folder / "server.pem", folder / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=https.bench.example", "-addext", "subjectAltName=DNS:https.bench.example",
         "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True,
    )  # fmt: skip
    with started([sys.executable, __file__, str(certificate), str(key)]) as line:
        yield json.loads(line), certificate


def policy(ports: Mapping[str, int]) -> str:
    """A pyproject.toml by which names lead to the servers."""
    listed = ", ".join(f'"{name}.bench.example" = "127.0.0.1:{port}"' for name, port in ports.items())
    return f"[tool.fence.network]\nhosts = {{{listed}}}\n"


def way(ports: Mapping[str, int], certificate: Path, named: bool, proxy: int = 0) -> str:
    """What measure_names.py reads."""
    return json.dumps({"ports": ports, "ca": str(certificate), "named": named, "proxy": proxy})


@contextmanager
def tinyproxy(folder: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "allowed").write_text("^127\\.0\\.0\\.1$\n", encoding="ascii")
    config = folder / "tinyproxy.conf"
    config.write_text(_TINYPROXY.format(port=port, filter=folder / "allowed"), encoding="ascii")
    with subprocess.Popen(["tinyproxy", "-d", "-c", str(config)], stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > until or process.poll() is not None:
                        raise
                    time.sleep(0.05)
            yield port
        finally:
            process.kill()


def sandbox_runtime_module() -> Path | None:
    """The file that has its proxy, where npm has installed it: globally, or below a directory of NODE_PATH."""
    folders = [Path(part) for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part]
    if shutil.which("npm"):
        root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip()
        folders.append(Path(root))
    found = [folder / SANDBOX_RUNTIME / _PROXY_OF_IT for folder in folders]
    return next((path for path in found if path.exists()), None)


@contextmanager
def sandbox_runtime(folder: Path) -> Iterator[int]:
    script = folder / "proxy.mjs"
    script.write_text(_RUN_IT % sandbox_runtime_module(), encoding="utf-8")
    with started(["node", str(script)]) as line:
        yield int(line)


def rivals(folder: Path, stack: ExitStack) -> dict[str, int]:
    """Name -> port of the proxies that can be had here; says which cannot."""
    ports = {}
    if shutil.which("tinyproxy"):
        print(subprocess.run(["tinyproxy", "-v"], capture_output=True, text=True).stdout.strip())
        ports["tinyproxy"] = stack.enter_context(tinyproxy(folder))
    else:
        print("tinyproxy: not measured, it is not installed")
    module = sandbox_runtime_module() if shutil.which("node") else None
    if module:
        package = module.parents[2] / "package.json"
        print(f"sandbox-runtime {json.loads(package.read_text(encoding='utf-8'))['version']}")
        ports["sandbox-runtime"] = stack.enter_context(sandbox_runtime(folder))
    else:
        print(f"sandbox-runtime: not measured, node or {SANDBOX_RUNTIME} (npm) is not installed")
    return ports


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
