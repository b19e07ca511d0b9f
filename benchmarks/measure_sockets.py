"""What sockets cost; copied into a scratch suite by run.py and run there as a test, by every contestant.

As `measure_calls.py`: {operation: nanoseconds} as JSON in the file named by FENCE_BENCH_RESULT, the best of several
rounds.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = int(os.environ.get("FENCE_BENCH_ROUNDS", "15"))
LOOPS = 300
HERE = ("127.0.0.1", 0)


def nanoseconds(operation: Callable[[], object]) -> float:
    """One operation, in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(LOOPS):
            operation()
        rounds.append((time.perf_counter_ns() - start) / LOOPS)
    return min(rounds)


def listen() -> None:
    with socket.socket() as server:
        server.bind(HERE)
        server.listen()


def test_measure() -> None:
    found = {
        "socket + close, TCP": nanoseconds(lambda: socket.socket().close()),
        "socket + close, UDP": nanoseconds(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
        "socket + close, UNIX": nanoseconds(lambda: socket.socket(socket.AF_UNIX).close()),
        "socket + bind + listen + close": nanoseconds(listen),
    }
    with socket.create_server(HERE, backlog=128) as server:
        place = server.getsockname()

        def connect() -> None:
            with socket.socket() as client:
                client.connect(place)
                server.accept()[0].close()

        found["socket + connect + accept + close"] = nanoseconds(connect)
        with socket.create_connection(place) as client, server.accept()[0] as accepted:

            def message() -> None:
                accepted.sendmsg([b"x"])
                client.recv(1)

            found["sendmsg + recv, TCP"] = nanoseconds(message)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(HERE)
        to = receiver.getsockname()

        def datagram() -> None:
            sender.sendto(b"x", to)
            receiver.recv(1)

        found["sendto + recv, UDP"] = nanoseconds(datagram)
    Path(os.environ["FENCE_BENCH_RESULT"]).write_text(json.dumps(found), encoding="utf-8")
