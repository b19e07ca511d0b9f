"""What rules for commands cost: programs that are started in a fence, with rules and without, and without a fence.

    python benchmarks/spawn_commands.py [ROUNDS] [SPAWNS]

All in one run and in turns. CPU is that of the command and of the fence's supervisor, start-up taken away: a run that
starts nothing, in the same turn. The ratio at the end is that of the medians, with rules over without.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 15
SPAWNS = 500
PROGRAM = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
"""
RULES = {"plain": None, "rules off": {"useDefaults": False}, "rules on": {"useDefaults": True, "deny": ["git push"]}}


def run(argv: list[str]) -> tuple[float, float]:
    """Seconds of CPU, and of wall time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, check=True)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def main(rounds: int, spawns: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    with tempfile.TemporaryDirectory() as directory:
        commands = {}
        for number, (name, rules) in enumerate(RULES.items()):
            inner = [sys.executable, "-I", "-c", PROGRAM]
            if rules is not None:
                policy = Path(directory, f"{number}.json")
                policy.write_text(json.dumps({"command": rules}), encoding="utf-8")
                inner = [sys.executable, "-m", "fence_core", "-s", str(policy), *inner]
            commands[name] = inner
        for _ in range(rounds):
            for name, command in commands.items():
                (cpu, wall), (idle_cpu, idle_wall) = run([*command, str(spawns)]), run([*command, "0"])
                found[name].append(((cpu - idle_cpu) / spawns * 1e6, (wall - idle_wall) / spawns * 1e6))
    medians = {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in found.items()}
    load = os.getloadavg()[0]
    print(f"one of {spawns} spawns of /bin/true; medians of {rounds} rounds, least in brackets; load {load:.1f}")
    print(f"{'':10} {'CPU us':>18} {'wall us':>18}")
    for name, (cpu, wall) in medians.items():
        least_cpu, least_wall = (min(each) for each in zip(*found[name], strict=True))
        print(f"{name:10} {cpu:9.0f} ({least_cpu:6.0f}) {wall:9.0f} ({least_wall:6.0f})")
    (off_cpu, off_wall), (on_cpu, on_wall) = medians["rules off"], medians["rules on"]
    print(f"on over off: CPU {on_cpu / off_cpu:.3f}, wall {on_wall / off_wall:.3f}")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [ROUNDS, SPAWNS][len(given) :]))
