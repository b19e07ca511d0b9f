#!/usr/bin/env python3
"""Is this checkout slower than an older commit? CPU of the tests and of the supervisor together, measured in turns.

    python benchmarks/against.py 470c705
    python benchmarks/against.py 470c705 --rounds 15 --only calls --json out.json

Both get an environment of their own in a temporary directory: the packages of that commit (and those that lie in this
checkout now), byte code compiled, and beside them whatever the environment has that runs this. Nothing is downloaded.

Each round runs the older one, this one, and the older one again, in an order that changes from round to round. Printed
are medians of ratios within a round: this one over the older one, and, as the measure of what is noise, the older
one over itself. CPU is what the kernel accounts to the test's process, to its children and to the supervisor; wall
time stands beside it.
"""

from __future__ import annotations

import argparse
import compileall
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from run import HERE, ONLY_HERE, ROOT, machine, table

PACKAGES = ("fence_core", "pytest_fence")
PARTS = ("startup", "tests", "calls", "files")


@dataclass(frozen=True)
class Arm:
    name: str
    python: Path


@dataclass(frozen=True)
class Cost:
    cpu: float
    wall: float


def make_arm(base: Path, name: str, packages: Path) -> Arm:
    """An environment with these packages, and what else this interpreter's own environment has."""
    environment = base / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    for package in PACKAGES:
        shutil.copytree(packages / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(site, quiet=1)
    # The .pth files in there are not read, so a checkout that is installed for editing stays out.
    others = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "others.pth").write_text("".join(f"{path}\n" for path in others), encoding="utf-8")
    asked = [str(python), "-I", "-c", "import pytest, pytest_fence, fence_core; print(pytest_fence.__file__)"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not found.startswith(str(site)):
        raise RuntimeError(f"{name} would measure {found}")
    return Arm(name, python)


def older(base: Path, revision: str) -> Path:
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, *PACKAGES], capture_output=True, check=True
    ).stdout
    place = base / "source"
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(place, filter="data")
    return place


def run(arm: Arm, suite: Path) -> Cost:
    """One session of the suite: the supervisor and all that it has waited for."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    environment = {
        **kept,
        "HOME": str(suite / "home"),
        "TMPDIR": str(suite / "tmp"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONHASHSEED": "0",
        "FENCE_BENCH_RESULT": str(suite / "result.json"),
    }
    command = [str(arm.python), "-m", "pytest", "-q", "-p", "pytest_fence.plugin", "--fence"]
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=suite, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            said.seek(0)
            raise RuntimeError(f"{arm.name}: exit status {process.returncode}\n{said.read()[-4000:].decode()}")
    shutil.rmtree(suite / "tmp")
    (suite / "tmp").mkdir()
    return Cost(usage.ru_utime + usage.ru_stime, wall)


def make_suite(base: Path, name: str, code: str) -> Path:
    suite = base / f"suite-{name}"
    for directory in (suite, suite / "tmp", suite / "home"):
        directory.mkdir()
    (suite / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n", encoding="utf-8")
    (suite / "pyproject.toml").write_text(ONLY_HERE, encoding="utf-8")
    (suite / f"test_{name}.py").write_text(code, encoding="utf-8")
    return suite


def suites(base: Path, wanted: Sequence[str], tests: int) -> dict[str, Path]:
    many = f"import pytest\n\n@pytest.mark.parametrize('n', range({tests}))\ndef test_nothing(n):\n    pass\n"
    code = {
        "startup": "def test_nothing():\n    pass\n",
        "tests": many,
        "calls": (HERE / "measure_cpu.py").read_text(encoding="utf-8"),
        "files": (HERE / "measure_files.py").read_text(encoding="utf-8"),
    }
    return {part: make_suite(base, part, code[part]) for part in wanted}


def measure(arm: Arm, suites: Mapping[str, Path], tests: int) -> dict[str, Cost]:
    names = {"startup": "start-up, one empty test", "tests": f"{tests:,} empty tests", "files": "10,000 files"}
    found: dict[str, Cost] = {}
    for part, suite in suites.items():
        cost = run(arm, suite)
        if part == "calls":
            result = json.loads((suite / "result.json").read_text(encoding="utf-8"))
            found |= {operation: Cost(*each) for operation, each in result.items()}
        else:
            found[names[part]] = cost
    return found


def shown(seconds: float) -> str:
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def ratios(values: Sequence[Cost], base: Sequence[Cost], of: str) -> list[float]:
    return [getattr(value, of) / getattr(one, of) for value, one in zip(values, base, strict=True)]


def spread(found: Sequence[float]) -> str:
    """The median, and the middle half."""
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else [found[0]] * 3
    return f"{middle:.3f}  ({low:.3f} to {high:.3f})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV", help="the older commit")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--tests", type=int, default=3_000, help="empty tests in one suite (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    options = parser.parse_args(argv)
    wanted = options.only or PARTS
    base = Path(tempfile.mkdtemp(prefix="fence-against-"))
    try:
        old = make_arm(base, "older", older(base, options.revision))
        new = make_arm(base, "this", ROOT)
        made = suites(base, wanted, options.tests)
        arms = {"older": old, "this": new, "again": old}
        got: dict[str, dict[str, list[Cost]]] = {}
        order = list(arms)
        for number in range(-1, options.rounds):  # the first warms up
            shift = number % len(order)
            for name in [*order[shift:], *order[:shift]]:
                for quantity, cost in measure(arms[name], made, options.tests).items():
                    if number >= 0:
                        got.setdefault(quantity, {}).setdefault(name, []).append(cost)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    rows = []
    for quantity, by in got.items():
        cpu = [statistics.median(cost.cpu for cost in by[name]) for name in ("older", "this")]
        compared = [spread(ratios(by[name], by["older"], of)) for of in ("cpu", "wall") for name in ("this", "again")]
        rows.append([quantity, *map(shown, cpu), *compared])
    print(f"\nThis checkout against {options.revision}, {options.rounds} rounds; load {os.getloadavg()[0]:.1f}\n")
    head = ["", "CPU, older", "this", "this/older (middle half)", "noise", "wall: this/older", "noise"]
    print(table(head, rows), flush=True)
    if options.json:
        plain = {
            quantity: {name: [[cost.cpu, cost.wall] for cost in costs] for name, costs in by.items()}
            for quantity, by in got.items()
        }
        report = {"machine": machine(), "revision": options.revision, "cpu_and_wall": plain}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
