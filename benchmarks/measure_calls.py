"""What one call costs; copied into a scratch suite by run.py and run there as a test, by every contestant.

Writes {operation: nanoseconds} as JSON to the file named by FENCE_BENCH_RESULT. Each figure is the best of several
rounds, as what else the machine does can only add; per operation as the loop makes it (an open is paired with a
close).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("FENCE_BENCH_ROUNDS", "15"))
LOOPS = 1000
THREADS = 8


def nanoseconds(operation: Callable[[], object], loops: int = LOOPS) -> float:
    """One operation, in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(loops):
            operation()
        rounds.append((time.perf_counter_ns() - start) / loops)
    return min(rounds)


def racing(make: Callable[[int], Callable[[], object]]) -> float:
    """One operation while THREADS threads do the same at once: wall time over all that were done."""
    rounds = []
    for _ in range(max(3, ROUNDS // 3)):
        operations = [make(number) for number in range(THREADS)]
        gate = threading.Barrier(THREADS + 1)

        def work(operation: Callable[[], object], gate: threading.Barrier = gate) -> None:
            gate.wait()
            for _ in range(LOOPS // 4):
                operation()

        threads = [threading.Thread(target=work, args=(operation,)) for operation in operations]
        for thread in threads:
            thread.start()
        gate.wait()
        start = time.perf_counter_ns()
        for thread in threads:
            thread.join()
        rounds.append((time.perf_counter_ns() - start) / (THREADS * (LOOPS // 4)))
    return min(rounds)


ELSEWHERE = Path(os.environ.get("FENCE_BENCH_ELSEWHERE", "."))
"""Where the fence's rules allow nothing; the test's marker does. So there the broker makes the calls itself."""


def changes(directory: Path) -> dict[str, float]:
    """Calls that change files, one by one: what undoes each is not timed."""
    path, moved, folder = (str(directory / name) for name in ("changed", "moved", "made"))
    Path(path).write_bytes(b"x")

    def made(make: Callable[[], object], undo: Callable[[], object]) -> float:
        rounds = []
        for _ in range(ROUNDS):
            spent = 0
            for _ in range(LOOPS // 10):
                start = time.perf_counter_ns()
                make()
                spent += time.perf_counter_ns() - start
                undo()
            rounds.append(spent / (LOOPS // 10))
        return min(rounds)

    found = {
        "open + close": nanoseconds(lambda: os.close(os.open(path, os.O_WRONLY))),
        "create + close": made(
            lambda: os.close(os.open(moved, os.O_WRONLY | os.O_CREAT | os.O_EXCL)), lambda: os.unlink(moved)
        ),
        "mkdir": made(lambda: os.mkdir(folder), lambda: os.rmdir(folder)),
        "chmod": nanoseconds(lambda: os.chmod(path, 0o600)),
        "rename": made(lambda: os.rename(path, moved), lambda: os.rename(moved, path)),
    }
    links = made(lambda: os.link(path, moved), lambda: os.unlink(moved))
    os.link(path, moved)
    found["unlink"] = made(lambda: os.unlink(moved), lambda: os.link(path, moved))
    os.unlink(moved)
    os.unlink(path)
    return {**found, "link": links}


@pytest.mark.fence(allow_write=[str(ELSEWHERE)])
def test_measure(tmp_path: Path) -> None:
    plain = str(tmp_path / "file")
    folder = str(tmp_path / "folder")
    Path(plain).write_bytes(b"x" * 4096)

    def open_to_write(path: str = plain) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

    def open_to_read() -> None:
        os.close(os.open(plain, os.O_RDONLY))

    def folders() -> None:
        os.mkdir(folder)
        os.rmdir(folder)

    found: dict[str, float] = {}
    found["open for writing + close"] = nanoseconds(open_to_write)
    found["mkdir + rmdir"] = nanoseconds(folders)
    found |= {f"{name}, within the rules": each for name, each in changes(tmp_path).items()}
    found |= {f"{name}, by a marker": each for name, each in changes(ELSEWHERE).items()}
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
        found["connect (UDP, loopback)"] = nanoseconds(lambda: client.connect(address))
    found["open for writing + close, 8 threads"] = racing(lambda n: lambda: open_to_write(f"{plain}-{n}"))
    found["subprocess.run(['true'])"] = nanoseconds(lambda: subprocess.run(["true"], check=True), loops=4)

    found["open for reading + close"] = nanoseconds(open_to_read)
    found["stat"] = nanoseconds(lambda: os.stat(plain))
    found["getppid"] = nanoseconds(os.getppid)
    here, there = socket.socketpair()
    with here, there:

        def ping() -> None:
            here.send(b"x")
            there.recv(1)

        found["send + recv"] = nanoseconds(ping)
    descriptor = os.open(plain, os.O_RDWR)
    try:
        found["pread"] = nanoseconds(lambda: os.pread(descriptor, 512, 0))
        found["pwrite"] = nanoseconds(lambda: os.pwrite(descriptor, b"x" * 512, 0))
    finally:
        os.close(descriptor)
    Path(os.environ["FENCE_BENCH_RESULT"]).write_text(json.dumps(found), encoding="utf-8")
