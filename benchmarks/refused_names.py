"""How long programs take to be told no: a name that is not allowed, over their own start.

    python benchmarks/refused_names.py

Runs itself as a test within a fence. Each program asks in turns for a port of this machine that is closed, and for a
name that is refused; the difference of the medians is what the refusal costs. The aim is less than 100 ms.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = int(os.environ.get("FENCE_BENCH_ROUNDS", "15"))
CLOSED = "127.0.0.1:9"
REFUSED = "refused.example:9"
AIM = 100.0  # milliseconds
NODE = "fetch('http://{0}/').catch(() => process.exit(1))"
PROGRAMS = {
    "curl": ["curl", "-s", "http://{0}/"],
    "wget": ["wget", "-q", "-O-", "--tries=1", "http://{0}/"],
    "git": ["git", "ls-remote", "http://{0}/repo.git"],
    "node": ["node", "-e", NODE],
    "python": [sys.executable, "-c", "import urllib.request as r; r.urlopen('http://{0}/')"],
    "openssl": ["openssl", "s_client", "-connect", "{0}"],
}


def milliseconds(command: list[str], place: str) -> float:
    start = time.perf_counter()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    status = subprocess.run([word.replace("{0}", place) for word in command], **quiet).returncode
    assert status, f"{command} reached {place}"
    return (time.perf_counter() - start) * 1000


def test_measure() -> None:
    found = {}
    for name, command in PROGRAMS.items():
        if not shutil.which(command[0]):
            continue
        times: dict[str, list[float]] = {CLOSED: [], REFUSED: []}
        for _ in range(ROUNDS):
            for place, took in times.items():
                took.append(milliseconds(command, place))
        found[name] = [statistics.median(took) for took in times.values()]
    Path("found.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(__file__, Path(directory, "test_refused.py"))
        Path(directory, "pyproject.toml").write_text("[tool.fence]\nallow_local_outbound = true\n", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_fence.plugin", "--fence"]
        environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(command, cwd=directory, env=environ, stdout=subprocess.PIPE, text=True)
        results = Path(directory, "found.json")
        if not results.exists():
            print(done.stdout, file=sys.stderr)
            return 2
        found = json.loads(results.read_text(encoding="utf-8"))
    print(f"{'':10}{'closed port':>14}{'refused name':>14}{'difference':>14}")
    for name, (closed, refused) in found.items():
        print(f"{name:10}{closed:11.1f} ms{refused:11.1f} ms{refused - closed:+11.1f} ms")
    return int(any(refused - closed > AIM for closed, refused in found.values()))


if __name__ == "__main__":
    sys.exit(main())
