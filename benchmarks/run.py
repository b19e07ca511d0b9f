#!/usr/bin/env python3
"""What the fence costs, as ratios against plain pytest measured in the same run.

    python benchmarks/run.py                          start-up, per test, per call
    python benchmarks/run.py --only calls --json out.json
    python benchmarks/run.py --only files             a suite that changes 10,000 small files
    python benchmarks/run.py --only processes         a process for each test, beside pytest-forked
    python benchmarks/run.py --only names             connections by name, beside proxies
    python benchmarks/run.py --only ways              sockets and start-up, where pidfd_getfd works and where not
    python benchmarks/run.py --corpus RUNNER NAME...  real suites; see benchmarks/corpus/README.md

Contestants: plain pytest; the plugin installed but not used; `--fence`; pytest-socket and sandlock where they are
installed (`pip install pytest-socket sandlock`, or `python3 dev.py bench`). Plugins are loaded by name, autoload is
off, so that what else is installed plays no part. For connections by name: the same without a fence, `--fence`, and
as explicit proxies tinyproxy and that of sandbox-runtime, where they are installed (names_peers.py says how).

Every round runs each contestant once, in an order that changes from round to round; a ratio compares two runs of the
same round. Printed are the median, the least and the greatest ratio, the median of the differences, and the difference
of the best runs, which a busy machine disturbs least. Needs only the standard library itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import names_peers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
UNTRAPPED = ("open for reading + close", "stat", "getppid", "send + recv", "pread", "pwrite")
PARTS = ("startup", "tests", "processes", "calls", "files", "names", "ways")
PAIRS = ("mkdir + rmdir",)  # two trapped calls in one operation


@dataclass(frozen=True)
class Contestant:
    name: str
    options: tuple[str, ...] = ()
    needs: str | None = None  # module that must be importable
    sandboxed: bool = False  # started inside sandlock
    refused: str = ""  # system calls, separated by commas, that the kernel refuses to the whole run

    @property
    def here(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


PLAIN = Contestant("plain")
INSTALLED = Contestant("installed, not used", ("-p", "pytest_fence.plugin"), "pytest_fence")
FENCE = Contestant("--fence", ("-p", "pytest_fence.plugin", "--fence"), "pytest_fence")
SOCKET = Contestant(
    "pytest-socket",
    ("-p", "pytest_socket", "--disable-socket", "--allow-unix-socket", "--allow-hosts=127.0.0.1"),
    "pytest_socket",
)
SANDLOCK = Contestant("sandlock", needs="sandlock", sandboxed=True)
ALL = (PLAIN, INSTALLED, FENCE, SOCKET, SANDLOCK)
# All four start by way of tests/refusing.py, and have one filter more than they would have.
WAYS = (
    replace(PLAIN, refused="kexec_load"),
    replace(FENCE, refused="kexec_load"),
    replace(FENCE, name="--fence, without pidfd_getfd", refused="pidfd_getfd"),
    replace(
        FENCE,
        name="--fence, without pidfd_getfd and process_vm_readv",
        refused="pidfd_getfd,process_vm_readv,process_vm_writev",
    ),
)
BARE_FORK = Contestant("bare fork and wait", ("-p", "bare_fork"))
SCOPE_TEST = Contestant("--fence-scope=test", (*FENCE.options, "--fence-scope=test"), "pytest_fence")
PYTEST_FORKED = Contestant("pytest-forked", ("-p", "pytest_forked", "--forked"), "pytest_forked")
BARE_FORK_PLUGIN = """
import os
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return (yield)
"""

# The presets would let tests write wherever the scratch suite is.
ONLY_HERE = """
[tool.fence]
extends = "default-deny"
allow_local_binding = true
allow_write = ["./*", "/dev/null"]
"""

# Times sandlock's own run(), so that starting Python and importing sandlock are not held against it.
SANDLOCK_LAUNCHER = """
import json, sys, time
from sandlock import Sandbox
command, writable = json.loads(sys.argv[1])
box = Sandbox(fs_readable=["/"], fs_writable=[*writable, "/dev"], net_allow=["127.0.0.1:*"], net_allow_bind=["*"])
start = time.perf_counter()
done = box.run(command)
print(json.dumps([time.perf_counter() - start, done.exit_code, str(done.error or "")]))
"""


class Suite:
    """A scratch project that contestants run, and the environment they run it in."""

    def __init__(self, base: Path, name: str, files: dict[str, str], elsewhere: Path | None = None) -> None:
        self.path = base / name
        self.path.mkdir()
        self.result = self.path / "result.json"
        # Contestants without the plugin do not know its marker.
        settings = "[pytest]\naddopts = -p no:cacheprovider\nmarkers = fence\n"
        (self.path / "pytest.ini").write_text(settings, encoding="utf-8")
        for file, text in files.items():
            (self.path / file).write_text(text, encoding="utf-8")
        (self.path / "tmp").mkdir()
        (self.path / "home").mkdir()
        self.elsewhere = elsewhere
        """A directory that only a marker lets tests write to."""

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.path / "home"),
            "TMPDIR": str(self.path / "tmp"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONHASHSEED": "0",
            "FENCE_BENCH_RESULT": str(self.result),
            **({"FENCE_BENCH_ELSEWHERE": str(self.elsewhere)} if self.elsewhere else {}),
            **{name: os.environ[name] for name in ("FENCE_BENCH_ROUNDS", "FENCE_BENCH_FILES") if name in os.environ},
        }

    def run(self, contestant: Contestant, *, refused: bool = False) -> float:
        """Seconds of wall time. A run that fails ends the benchmark: it would measure something else.

        `refused`: what is measured includes refusals, for which the fence fails the test.
        """
        command = [sys.executable, "-m", "pytest", "-q", *contestant.options]
        if contestant.refused:
            command = [sys.executable, str(ROOT / "tests" / "refusing.py"), contestant.refused, *command]
        self.result.unlink(missing_ok=True)
        if contestant.sandboxed:
            writable = [str(path) for path in (self.path, self.elsewhere) if path]
            whole = [sys.executable, "-c", SANDLOCK_LAUNCHER, json.dumps([command, writable])]
        else:
            whole = command
        start = time.perf_counter()
        done = subprocess.run(
            whole, cwd=self.path, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        status, said = done.returncode, done.stdout + done.stderr
        if contestant.sandboxed and status == 0:
            seconds, status, error = json.loads(done.stdout.splitlines()[-1])
            said += error
        if refused and status == 1 and self.result.exists():
            status = 0
        if status:
            raise RuntimeError(f"{contestant.name}: exit status {status} of {shlex.join(whole)}\n{said[-4000:]}")
        return seconds


@dataclass
class Series:
    """One quantity of one contestant over the rounds, beside plain pytest's in the same rounds."""

    values: list[float]
    plain: list[float]

    @property
    def ratios(self) -> list[float]:
        return [value / base for value, base in zip(self.values, self.plain, strict=True)]

    @property
    def extras(self) -> list[float]:
        return [value - base for value, base in zip(self.values, self.plain, strict=True)]

    @property
    def extra_best(self) -> float:
        return min(self.values) - min(self.plain)

    def record(self) -> dict[str, object]:
        return {
            "values": self.values,
            "ratio": statistics.median(self.ratios),
            "ratio_min": min(self.ratios),
            "ratio_max": max(self.ratios),
            "extra": statistics.median(self.extras),
            "extra_best": self.extra_best,
        }


def interleave(
    contestants: Sequence[Contestant], rounds: int, measure: Callable[[Contestant], Mapping[str, float]]
) -> dict[str, dict[str, Series]]:
    """Quantity -> contestant -> series. One warm-up round is thrown away."""
    got: dict[str, dict[str, list[float]]] = {}
    for number in range(-1, rounds):
        shift = number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            for quantity, value in measure(contestant).items():
                if number >= 0:
                    got.setdefault(quantity, {}).setdefault(contestant.name, []).append(value)
    return {
        quantity: {name: Series(values, by_name[PLAIN.name]) for name, values in by_name.items()}
        for quantity, by_name in got.items()
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def ratio(series: Series) -> str:
    return f"{statistics.median(series.ratios):.3f}  ({min(series.ratios):.3f} to {max(series.ratios):.3f})"


def extra(series: Series, scale: float, unit: str) -> list[str]:
    return [f"{value * scale:+.3g} {unit}" for value in (statistics.median(series.extras), series.extra_best)]


def startup(base: Path, contestants: Sequence[Contestant], rounds: int) -> dict[str, dict[str, Series]]:
    suite = Suite(base, "startup", {"test_nothing.py": "def test_nothing():\n    pass\n"})
    found = interleave(contestants, rounds, lambda contestant: {"start-up": suite.run(contestant)})
    print("\nStart-up: a suite of one empty test (aim: --fence +10 ms, installed +5 ms)\n")
    rows = [[name, ratio(series), *extra(series, 1e3, "ms")] for name, series in found["start-up"].items()]
    print(table(["contestant", "ratio (least to greatest)", "extra", "of the best"], rows), flush=True)
    return found


def per_test(base: Path, contestants: Sequence[Contestant], rounds: int, tests: int) -> dict[str, dict[str, Series]]:
    code = f"import pytest\n\n@pytest.mark.parametrize('n', range({tests}))\ndef test_nothing(n):\n    pass\n"
    suite = Suite(base, "tests", {"test_many.py": code})
    found = interleave(contestants, rounds, lambda contestant: {"tests": suite.run(contestant)})
    print(f"\nPer test: {tests:,} empty tests (aim: --fence +60 us a test)\n")
    rows = [[name, ratio(series), *extra(series, 1e6 / tests, "us a test")] for name, series in found["tests"].items()]
    print(table(["contestant", "ratio (least to greatest)", "extra", "of the best"], rows), flush=True)
    return found


def processes(base: Path, rounds: int, tests: int) -> dict[str, dict[str, Series]]:
    """A process for each test: the fence's, pytest-forked's, and as little as one can be."""
    code = "".join(f"def test_{n}():\n    pass\n\n\n" for n in range(tests))
    suite = Suite(base, "processes", {"test_many.py": code, "bare_fork.py": BARE_FORK_PLUGIN})
    contestants = [PLAIN, BARE_FORK, FENCE, SCOPE_TEST]
    if not PYTEST_FORKED.here:
        print("pytest-forked: not measured, it is not installed")
    else:
        try:
            suite.run(PYTEST_FORKED)
        except RuntimeError:
            print("pytest-forked: not measured, it does not work with this version of pytest")
        else:
            contestants.append(PYTEST_FORKED)
    found = interleave(contestants, rounds, lambda contestant: {"processes": suite.run(contestant)})
    print(f"\nA process for each test: {tests:,} empty tests (aim: +4 ms where a bare fork is 1.6, pytest-forked's)\n")
    scale = 1e3 / tests
    rows = [[name, ratio(series), *extra(series, scale, "ms a test")] for name, series in found["processes"].items()]
    print(table(["contestant", "ratio (least to greatest)", "extra", "of the best"], rows), flush=True)
    return found


def per_call(base: Path, contestants: Sequence[Contestant], rounds: int) -> dict[str, dict[str, Series]]:
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    code = (HERE / "measure_calls.py").read_text(encoding="utf-8")
    suite = Suite(base, "calls", {"test_calls.py": code, "pyproject.toml": ONLY_HERE}, elsewhere)

    def measure(contestant: Contestant) -> dict[str, float]:
        suite.run(contestant)
        return {name: float(ns) for name, ns in json.loads(suite.result.read_text(encoding="utf-8")).items()}

    found = interleave(contestants, rounds, measure)
    print("\nPer call (aim: trapped +12 us a call, untrapped 1.02). By a marker: the broker makes the call itself")
    for title, wanted in (("trapped", False), ("untrapped", True)):
        rows = []
        for operation, by_name in found.items():
            if (operation in UNTRAPPED) == wanted:
                calls = 2 if operation in PAIRS else 1
                for name, series in by_name.items():
                    own = f"{min(series.values) / 1e3:.2f} us"
                    compared = [ratio(series), *extra(series, 1e-3 / calls, "us a call")]
                    rows.append([operation, name, own, *(["", "", ""] if name == PLAIN.name else compared)])
        print(f"\n{title}\n")
        print(
            table(["operation", "contestant", "takes", "ratio (least to greatest)", "extra", "of the best"], rows),
            flush=True,
        )
    return found


def ways(base: Path, rounds: int) -> dict[str, dict[str, Series]]:
    """The second way to a program's sockets and memory beside the first."""
    nothing = Suite(base, "nothing", {"test_nothing.py": "def test_nothing():\n    pass\n"})
    suite = Suite(base, "sockets", {"test_sockets.py": (HERE / "measure_sockets.py").read_text(encoding="utf-8")})

    def measure(contestant: Contestant) -> dict[str, float]:
        found = {"start-up, by way of refusing.py": nothing.run(contestant) * 1e9}
        suite.run(contestant)
        return found | json.loads(suite.result.read_text(encoding="utf-8"))

    found = interleave(WAYS, rounds, measure)
    print("\nSockets: borrowed by pidfd_getfd, or made by the broker (aim: where the first works, it is as before)\n")
    rows = []
    for operation, by_name in found.items():
        scale, unit = (1e-6, "ms") if operation.startswith("start-up") else (1e-3, "us")
        for name, series in by_name.items():
            compared = [ratio(series), *extra(series, scale, unit)] if name != PLAIN.name else ["", "", ""]
            rows.append([operation, name, f"{min(series.values) * scale:.1f} {unit}", *compared])
    head = ["operation", "contestant", "takes", "ratio (least to greatest)", "extra", "of the best"]
    print(table(head, rows), flush=True)
    return found


def many_files(base: Path, rounds: int) -> dict[str, dict[str, Series]]:
    """A suite that does little but change small files."""
    suite = Suite(base, "files", {"test_files.py": (HERE / "measure_files.py").read_text(encoding="utf-8")})
    found = interleave([PLAIN, FENCE], rounds, lambda contestant: {"files": suite.run(contestant)})
    count = int(os.environ.get("FENCE_BENCH_FILES", "10000"))
    print(f"\nFiles: {count:,} written, read, renamed, chmod'ed and deleted by 200 tests (aim: 1.25)\n")
    rows = []
    for name, series in found["files"].items():
        compared = [ratio(series), *extra(series, 1e6 / count, "us a file")] if name != PLAIN.name else ["", "", ""]
        rows.append([name, f"{statistics.median(series.values):.2f} s", *compared])
    print(table(["contestant", "takes", "ratio (least to greatest)", "extra", "of the best"], rows), flush=True)
    return found


def names(base: Path, rounds: int) -> dict[str, dict[str, Series]]:
    """Connections by name: directly, through the fence, and by explicit proxies."""
    code = (HERE / "measure_names.py").read_text(encoding="utf-8")
    with ExitStack() as stack:
        ports, certificate = stack.enter_context(names_peers.servers(base))
        proxies = names_peers.rivals(base, stack)
        policy = names_peers.policy(ports)
        suite = Suite(base, "names", {"test_names.py": code, "pyproject.toml": policy})

        def measure(contestant: Contestant) -> Mapping[str, float]:
            way = names_peers.way(ports, certificate, contestant is FENCE, proxies.get(contestant.name, 0))
            (suite.path / "way.json").write_text(way, encoding="utf-8")
            suite.run(contestant, refused=contestant is FENCE)
            return json.loads(suite.result.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

        found = interleave([PLAIN, FENCE, *map(Contestant, proxies)], rounds, measure)
    print("\nConnections by name (aim: new connection +2 ms, refused +1 ms, throughput that of sandbox-runtime)\n")
    rows = []
    for operation, by_name in found.items():
        for name, series in by_name.items():
            own = statistics.median(series.values)
            takes = f"{own / 1e3:.0f} us" if "MiB" not in operation else f"{1e9 / own:.0f} MiB/s"
            if "at once" in operation:
                takes += f", {1e9 / own:,.0f}/s"
            compared = [ratio(series), f"{statistics.median(series.extras) / 1e3:+.0f} us"]
            rows.append([operation, name, takes, *(["", ""] if name == PLAIN.name else compared)])
    print(table(["operation", "by", "takes", "ratio (least to greatest)", "extra"], rows), flush=True)
    return found


def corpus(runner: Path, names: Sequence[str], rounds: int, scratch: Path, options: str) -> dict[str, object]:
    """Each project by itself, since each may have a policy of its own in benchmarks/corpus."""
    listed = subprocess.run([sys.executable, str(runner), "list"], capture_output=True, text=True, check=True).stdout
    known = [line.split()[0] for line in listed.splitlines()[2:] if line.strip()]
    results: dict[str, object] = {}
    rows = []
    for name in names or known:
        policy = HERE / "corpus" / f"{name}.json"
        arguments = f"--fence {options}".strip()
        if policy.exists():
            arguments += f" --fence-config={shlex.quote(str(policy))}"
        out = scratch / f"corpus-{name}.json"
        command = [sys.executable, str(runner), "run", name, "--plugin", str(ROOT), "--repeats", str(rounds)]
        subprocess.run([*command, "--args", arguments, "--json", str(out)], stdin=subprocess.DEVNULL)
        if not out.exists():
            raise RuntimeError(f"{runner} wrote no result for {name}")
        entry = json.loads(out.read_text(encoding="utf-8"))["projects"][0]
        results[name] = entry
        pairs = entry.get("pair_ratios")
        rows.append(
            [
                name,
                f"{entry['ratio']:.3f}  ({min(pairs):.3f} to {max(pairs):.3f})" if pairs else "-",
                "-" if entry.get("cpu_ratio") is None else f"{entry['cpu_ratio']:.3f}",
                str(len(entry.get("changed", ()))),
                "yes" if policy.exists() else "no",
                "; ".join(entry.get("problems", [entry.get("problem", "")])),
            ]
        )
    print("\nCorpus (aim: geometric mean 1.05, filelock 1.5)\n")
    print(table(["project", "ratio (least to greatest)", "cpu", "changed", "own policy", "problems"], rows))
    ratios = [entry["ratio"] for entry in results.values() if isinstance(entry, dict) and "ratio" in entry]
    if ratios:
        print(f"\ngeometric mean of {len(ratios)}: {statistics.geometric_mean(ratios):.3f}", flush=True)
    return results


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, object]:
    packages = ("pytest-fence", "pytest", "pytest-socket", "sandlock")
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "root": os.geteuid() == 0,
        "packages": {package: version(package) for package in packages},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="projects of the corpus (default: all)")
    parser.add_argument("--only", action="append", choices=(*PARTS, "corpus"))
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--tests", type=int, default=10_000, help="empty tests in one suite (default: %(default)s)")
    parser.add_argument("--forks", type=int, default=500, help="tests with a process each (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, metavar="RUNNER", help="the corpus' run.py")
    parser.add_argument("--corpus-options", default="", metavar="OPTIONS", help="further pytest options, e.g. '-n 2'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    options = parser.parse_args(argv)
    wanted = options.only or [*PARTS, *(["corpus"] if options.corpus else [])]
    if "corpus" in wanted and options.corpus is None:
        parser.error("--only corpus needs --corpus RUNNER")
    if options.names and "corpus" not in wanted:
        parser.error("names of projects make sense with --corpus only")

    report: dict[str, object] = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items() if key != "packages"))  # type: ignore[attr-defined]
    for contestant in ALL:
        if not contestant.here:
            print(f"{contestant.name}: not measured, {contestant.needs} is not installed")
    here = [contestant for contestant in ALL if contestant.here]
    scratch = Path(tempfile.mkdtemp(prefix="fence-bench-"))
    try:
        series: dict[str, dict[str, Series]] = {}
        if "startup" in wanted:
            series |= startup(scratch, here, max(options.repeats, 15))
        if "tests" in wanted:
            series |= per_test(
                scratch, [c for c in here if not c.sandboxed], max(3, options.repeats // 2), options.tests
            )
        if "processes" in wanted:
            series |= processes(scratch, max(3, options.repeats // 2), options.forks)
        if "calls" in wanted:
            series |= per_call(scratch, [c for c in here if c is not INSTALLED], max(3, options.repeats // 2))
        if "files" in wanted:
            series |= many_files(scratch, max(5, options.repeats))
        if "ways" in wanted:
            series |= ways(scratch, max(3, options.repeats // 2))
        if "names" in wanted and not shutil.which("openssl"):
            print("connections by name: not measured, openssl is not installed")
        elif "names" in wanted:
            series |= names(scratch, max(3, options.repeats // 2))
        report["measured"] = {
            quantity: {name: one.record() for name, one in by_name.items()} for quantity, by_name in series.items()
        }
        if "corpus" in wanted:
            rounds = max(3, options.repeats // 3)
            report["corpus"] = corpus(options.corpus, options.names, rounds, scratch, options.corpus_options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
