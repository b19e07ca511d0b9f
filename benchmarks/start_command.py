"""What `fence true` costs over the start of Python itself: CPU of all its processes, and wall time.

    python benchmarks/start_command.py [ROUNDS] [-- COMMAND...]

Interleaved, so that a busy machine is as busy for each; further commands (a peer's, in one word each) are measured
beside. Byte code is compiled first: a checkout may have none.
"""

from __future__ import annotations

import compileall
import os
import resource
import shlex
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROUNDS = 20
ROOT = Path(__file__).resolve().parents[1]


def run(argv: list[str]) -> tuple[float, float]:
    """Seconds of CPU, and of wall time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "HOME": "/"})
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def main(arguments: list[str]) -> None:
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else ROUNDS
    compileall.compile_dir(ROOT / "fence_core", quiet=2)
    fence = str(Path(sysconfig.get_path("scripts")) / "fence")
    others = [shlex.split(word) for word in arguments if word != "--"]
    commands = [[sys.executable, "-I", "-c", "pass"], [fence, "true"], *others]
    found: list[list[tuple[float, float]]] = [[] for _ in commands]
    for _ in range(rounds):
        for command, times in zip(commands, found, strict=True):
            times.append(run(command))
    base = statistics.median(cpu for cpu, _ in found[0])
    print(f"{'CPU ms':>8} {'least':>8} {'of Python':>10} {'wall ms':>8}")
    for command, times in zip(commands, found, strict=True):
        cpus, walls = zip(*times, strict=True)
        cpu = statistics.median(cpus)
        print(
            f"{cpu * 1e3:8.1f} {min(cpus) * 1e3:8.1f} {cpu / base:9.1f}x {statistics.median(walls) * 1e3:8.1f}  "
            + shlex.join([os.path.basename(command[0]), *command[1:]])
        )


if __name__ == "__main__":
    main(sys.argv[1:])
