"""What one call costs in CPU, the supervisor's included; copied into a scratch suite by against.py and run there as a
test, inside a fence.

Writes {operation: [seconds of CPU, seconds of wall time]} as JSON to the file named by FENCE_BENCH_RESULT, each the
median of several rounds.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 9
LOOPS = 500
SUPERVISOR = os.getppid()


def cpu() -> float:
    """Of this process, the children that it has waited for, and the supervisor, which is its parent."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    # clock_getcpuclockid(3): the CPU clock of another process, MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of
    # include/linux/posix-timers_types.h.
    supervisor = time.clock_gettime((~SUPERVISOR << 3) | 2)
    return time.process_time() + children.ru_utime + children.ru_stime + supervisor


def cost(operation: Callable[[], object], loops: int = LOOPS) -> list[float]:
    operation()
    spent: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        before, start = cpu(), time.perf_counter()
        for _ in range(loops):
            operation()
        spent.append(((cpu() - before) / loops, (time.perf_counter() - start) / loops))
    return [statistics.median(each) for each in zip(*spent, strict=True)]


def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def test_measure(tmp_path: Path) -> None:
    path, folder, name = str(tmp_path / "file"), str(tmp_path / "folder"), str(tmp_path / "socket")
    found: dict[str, list[float]] = {}
    found["open for writing + close"] = cost(lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)))
    found["mkdir + rmdir"] = cost(lambda: (os.mkdir(folder), os.rmdir(folder)))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
        found["UDP connect"] = cost(lambda: client.connect(address))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            found["UDP sendto + recv"] = cost(lambda: (other.sendto(b"x", address), server.recv(9)))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()

        def reach() -> None:
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(name)
                listener.accept()[0].close()

        found["UNIX connect + accept"] = cost(reach, LOOPS // 5)
    found["subprocess.run(['true'])"] = cost(lambda: subprocess.run(["true"], check=True), LOOPS // 50)
    found["os.fork + wait"] = cost(fork, LOOPS // 50)
    found["open for reading + close"] = cost(lambda: os.close(os.open(path, os.O_RDONLY)))
    Path(os.environ["FENCE_BENCH_RESULT"]).write_text(json.dumps(found), encoding="utf-8")
