#!/usr/bin/env python3
"""Where the fence's time goes: a profile, not a guess.

    python benchmarks/where_it_goes.py startup         modules that only a fenced run imports, by their own time
    python benchmarks/where_it_goes.py broker [ARG...]  functions of the supervisor, over `pytest --fence ARG...`

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
from fence_core.broker.loop import Broker
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


def main(words: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="fence-profile-") as name:
        if words[:1] == ["startup"]:
            return startup(Path(name))
        if words[:1] == ["broker"]:
            return broker(Path(name), words[1:])
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
