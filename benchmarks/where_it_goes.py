#!/usr/bin/env python3
"""Where the fence's time goes: a profile, not a guess.

    python benchmarks/where_it_goes.py startup         modules that only a fenced run imports, by their own time
    python benchmarks/where_it_goes.py broker [ARG...]  functions of the supervisor, over `pytest --fence ARG...`
    python benchmarks/where_it_goes.py filter new      functions of the filter, over new connections
    python benchmarks/where_it_goes.py filter bulk     ... over a long download and a long upload

Without ARG the broker is profiled over the calls of measure_calls.py. A profile makes every call dearer: the shares
are what counts, run.py has the times.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHOWN = 30

PROFILED = """
import cProfile, pstats, sys
import pytest
from fence_core.broker.assemble import Broker
answer = Broker.run
def run(broker):
    profile = cProfile.Profile()
    try:
        return profile.runcall(answer, broker)
    finally:
        pstats.Stats(profile, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(%d)
        sys.stderr.flush()
Broker.run = run
sys.exit(pytest.main(sys.argv[1:]))
"""

PROFILED_FILTER = """
import cProfile, pstats, select, socket, sys
import pytest
from fence_core.broker.services.tunnels import Tunnels
from fence_core.proxy import server
serve, close = server.serve, Tunnels.close
def profiled(listeners, control, on_bug=None):
    from fence_core.proxy import hub
    run = hub.run
    def measured(*arguments):
        profile = cProfile.Profile()
        try:
            return profile.runcall(run, *arguments)
        finally:
            with open("profile.txt", "w") as file:
                pstats.Stats(profile, stream=file).strip_dirs().sort_stats("tottime").print_stats(%d)
    hub.run = measured
    serve(listeners, control, on_bug)
def patient(tunnels):  # who is killed writes no profile
    if tunnels._end is not None:
        tunnels._end.control.shutdown(socket.SHUT_RDWR)
        select.select([tunnels._end.pidfd], [], [], 10)
    close(tunnels)
server.serve, Tunnels.close = profiled, patient
sys.exit(pytest.main(sys.argv[1:]))
"""

TUNNELS = {
    "new": """
import measure_names as names

def test_new():
    fetch = names.request("http")
    for _ in range(2000):
        with names.connect("http") as sock:
            sock.sendall(fetch)
            names.read_head(sock)
""",
    "bulk": """
import measure_names as names

def test_bulk():
    room = bytearray(1 << 20)
    for _ in range(4):
        names.download(room)
        names.upload(room)
""",
}


def import_times(options: Sequence[str], folder: Path) -> dict[str, int]:
    """Module -> microseconds of its own, summed over both processes."""
    command = [sys.executable, "-X", "importtime", "-m", "pytest", "-q", *options]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling is no part of a second start
    said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stderr
    found: dict[str, int] = {}
    for own, module in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", said, re.MULTILINE):
        found[module] = found.get(module, 0) + int(own)
    return found


def startup(folder: Path) -> int:
    (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
    fenced = ["-p", "pytest_fence.plugin", "--fence"]
    import_times(fenced, folder)  # so that everything is compiled
    plain = import_times([], folder)
    extra = {module: own for module, own in import_times(fenced, folder).items() if module not in plain}
    print(f"{sum(extra.values()) / 1000:.1f} ms in {len(extra)} modules that plain pytest does not import")
    for module, own in sorted(extra.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"{own / 1000:8.2f} ms  {module}")
    return 0


def broker(folder: Path, arguments: Sequence[str]) -> int:
    environment = {**os.environ, "FENCE_BENCH_RESULT": str(folder / "result.json")}
    where = Path.cwd() if arguments else folder
    if not arguments:
        (folder / "test_calls.py").write_text((HERE / "measure_calls.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-c", PROFILED % SHOWN, "--fence", "-q", *arguments]
    return subprocess.run(command, cwd=where, env=environment).returncode


def filter_(folder: Path, what: str) -> int:
    import names_peers

    (folder / "measure_names.py").write_text((HERE / "measure_names.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_tunnels.py").write_text(TUNNELS[what], encoding="utf-8")
    with names_peers.servers(folder) as (ports, certificate):
        (folder / "pyproject.toml").write_text(names_peers.policy(ports), encoding="utf-8")
        (folder / "way.json").write_text(names_peers.way(ports, certificate, named=True), encoding="utf-8")
        status = subprocess.run([sys.executable, "-c", PROFILED_FILTER % SHOWN, "--fence", "-q"], cwd=folder).returncode
    print((folder / "profile.txt").read_text(encoding="utf-8"))
    return status


def main(words: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="fence-profile-") as name:
        if words[:1] == ["startup"]:
            return startup(Path(name))
        if words[:1] == ["broker"]:
            return broker(Path(name), words[1:])
        if words[:1] == ["filter"] and words[1:] in (["new"], ["bulk"]):
            return filter_(Path(name), words[1])
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
