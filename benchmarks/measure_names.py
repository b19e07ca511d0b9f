"""What a connection to a name costs; copied into a scratch suite and run there as a test, by every contestant.

Reads `way.json` beside it: how to get to the servers of names_peers.py. Directly, by name through the fence, or by an
explicit proxy (CONNECT). Writes {operation: nanoseconds} as measure_calls.py does: the best of several rounds for what
is done one at a time, since what else the machine does can only add.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

WAY = json.loads((Path(__file__).parent / "way.json").read_text(encoding="utf-8"))
NAMED: bool = WAY["named"]
"""By name and through nothing that this program knows of."""
PROXY: int = WAY["proxy"]
"""The port of a proxy; 0 without one."""
PORTS: dict[str, int] = WAY["ports"]

ROUNDS = int(os.environ.get("FENCE_BENCH_ROUNDS", "5"))
LOOPS = 40
AT_ONCE = 50
REQUESTS = 2000
BULK = 256 << 20
REQUEST = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"
AWAY = "198.51.100.7"  # of documentation (RFC 5737): nothing is sent there, since it is refused


def host(service: str) -> str:
    return f"{service}.bench.example" if NAMED else "localhost"


def request(service: str) -> bytes:
    return REQUEST % host(service).encode()


def look_up(service: str) -> str:
    return str(socket.getaddrinfo(host(service), 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])


def place(service: str) -> tuple[str, int]:
    """Where to connect to: by then the name has been looked up."""
    if PROXY:
        return ("127.0.0.1", PROXY)
    return (look_up(service), 80 if NAMED else PORTS[service])


def connect_words(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def connect(service: str) -> socket.socket:
    """As programs do: look the name up, connect, and with a proxy say where to."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect(place(service))
    if PROXY:
        sock.sendall(connect_words(f"127.0.0.1:{PORTS[service]}"))
        assert read_head(sock).split(b" ")[1] == b"200"
    return sock


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        assert part, data
        data += part
    return data


def nanoseconds(operation: Callable[[], object], loops: int = LOOPS) -> float:
    """One operation: the median of a round, in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        each = []
        for _ in range(loops):
            start = time.perf_counter_ns()
            operation()
            each.append(time.perf_counter_ns() - start)
        rounds.append(sorted(each)[len(each) // 2])
    return float(min(rounds))


def one_at_a_time(found: dict[str, float], context: ssl.SSLContext) -> None:
    start = time.perf_counter_ns()
    fetch = request("http")
    with connect("http") as sock:
        sock.sendall(fetch)
        read_head(sock)
    found["the first of a run: look-up + connect + answer"] = float(time.perf_counter_ns() - start)

    def new_connection() -> None:
        with connect("http") as sock:
            sock.sendall(fetch)
            read_head(sock)

    def new_tls() -> None:
        with context.wrap_socket(connect("https"), server_hostname="https.bench.example") as sock:
            sock.sendall(fetch)
            sock.recv(1)

    found["look-up + connect + first byte"] = nanoseconds(new_connection)
    found["look-up + connect + TLS + first byte"] = nanoseconds(new_tls)
    if not PROXY:
        found["look-up"] = nanoseconds(lambda: look_up("http"))

        def only_connect(address: tuple[str, int] = place("http")) -> None:
            with socket.socket() as sock:
                sock.connect(address)

        found["socket + connect + close"] = nanoseconds(only_connect)
    with connect("http") as sock:

        def again() -> None:
            sock.sendall(fetch)
            read_head(sock)

        found["request, 1 at once"] = nanoseconds(again, 400)


async def many_requests() -> float:
    """Wall time over the number of requests, all connections being open."""
    loop = asyncio.get_running_loop()
    fetch = request("http")
    socks = [connect("http") for _ in range(AT_ONCE)]
    for sock in socks:
        sock.setblocking(False)

    async def one(sock: socket.socket) -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await loop.sock_sendall(sock, fetch)
            assert (await loop.sock_recv(sock, 65536)).endswith(b"ok")

    start = time.perf_counter_ns()
    await asyncio.gather(*map(one, socks))
    taken = time.perf_counter_ns() - start
    for sock in socks:
        sock.close()
    return taken / REQUESTS


async def many_connections() -> float:
    """Wall time over the number of connections with one request each, without look-ups."""
    loop = asyncio.get_running_loop()
    fetch = request("http")
    address = place("http")
    words = connect_words(f"127.0.0.1:{PORTS['http']}")

    async def worker() -> None:
        for _ in range(REQUESTS // 4 // AT_ONCE):
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                if PROXY:
                    await loop.sock_sendall(sock, words)
                    assert b" 200 " in await loop.sock_recv(sock, 65536)
                await loop.sock_sendall(sock, fetch)
                assert (await loop.sock_recv(sock, 65536)).endswith(b"ok")

    start = time.perf_counter_ns()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return (time.perf_counter_ns() - start) / (REQUESTS // 4)


def download(room: bytearray) -> None:
    with connect("bulk") as sock:
        sock.sendall(b"GET /%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (BULK, host("bulk").encode()))
        left = BULK - len(read_head(sock).partition(b"\r\n\r\n")[2])
        while left:
            count = sock.recv_into(room)
            assert count
            left -= count


def upload(room: bytearray) -> None:
    with connect("bulk") as sock:
        sock.sendall(b"PUT / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n" % (host("bulk").encode(), BULK))
        for _ in range(BULK // len(room)):
            sock.sendall(room)
        read_head(sock)


def refusals(found: dict[str, float]) -> None:
    """Beside a direct connect that a closed port refuses, and a look-up that a file answers."""

    def refused_connect() -> None:
        with socket.socket() as sock:
            assert sock.connect_ex((AWAY, 443) if NAMED else ("127.0.0.1", PORTS["closed"]))

    def refused_look_up() -> None:
        try:
            socket.getaddrinfo("away.example" if NAMED else "localhost", 443, socket.AF_INET)
        except socket.gaierror:
            assert NAMED

    def refused_by_proxy() -> None:
        with socket.create_connection(("127.0.0.1", PROXY)) as sock:
            sock.sendall(connect_words("away.example:443"))
            assert read_head(sock).split(b" ")[1] == b"403"

    if PROXY:
        found["refused"] = nanoseconds(refused_by_proxy)
        return
    found["refused"] = nanoseconds(refused_connect)
    found["refused look-up"] = nanoseconds(refused_look_up)


def test_measure() -> None:
    context = ssl.create_default_context(cafile=WAY["ca"])
    found: dict[str, float] = {}
    one_at_a_time(found, context)
    found[f"request, {AT_ONCE} at once"] = min(asyncio.run(many_requests()) for _ in range(ROUNDS))
    found[f"connect + request, {AT_ONCE} at once"] = min(asyncio.run(many_connections()) for _ in range(ROUNDS))
    room = bytearray(1 << 20)
    for name, move in (("download", download), ("upload", upload)):
        rounds = []
        for _ in range(max(2, ROUNDS // 2)):
            start = time.perf_counter_ns()
            move(room)
            rounds.append((time.perf_counter_ns() - start) / (BULK >> 20))
        found[f"{name}, 1 MiB of 256"] = min(rounds)
    refusals(found)
    Path(os.environ["FENCE_BENCH_RESULT"]).write_text(json.dumps(found), encoding="utf-8")
