#!/usr/bin/env python3
"""CPython's own test modules, run by `python -m unittest -v test.NAME` in a test, plain and fenced; outcome by outcome.

    python benchmarks/cpython_suite.py                         all modules of MODULES
    python benchmarks/cpython_suite.py test_os test_socket     these
    python benchmarks/cpython_suite.py --user 65534 ...        root only: as that user (who must be able to run Python)
    python benchmarks/cpython_suite.py --python PATH ...       the tests of another interpreter than this one

It needs pytest and the project in its own environment, and a Python that has the `test` package, with the C modules
that go with it (those of pyenv and of python.org's sources have; most distributions have a package for it).

Each module is run in turns by a plain pytest and by `pytest --fence`, with the preset and what POLICY adds to it, in a
scratch project outside of directories for temporary files (`--work`), with a HOME and a TMPDIR of its own, and for root
in a network namespace with nothing but a loopback interface. Tests whose outcomes differ are run again, without the
others and three times each way; only what is steady, and differs still, counts. EXPECTED names those that no policy can
change, each with its reason; the exit status is 1 if there is any other. What was refused is printed as well, so that
it can be seen whether somebody innocent was blamed.

Needs only the standard library itself.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import fnmatch
import json
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODULES = (
    "test_os",
    "test_posix",
    "test_shutil",
    "test_tempfile",
    "test_pathlib",
    "test_fcntl",
    "test_pty",
    "test_mmap",
    "test_fileio",
    "test_io",
    "test_tarfile",
    "test_sqlite3",
    "test_dbm",
    "test_mailbox",
    "test_socket",
    "test_select",
    "test_poll",
    "test_epoll",
    "test_selectors",
    "test_signal",
    "test_subprocess",
    "test_eintr",
    "test_asyncio",
    "test_multiprocessing_fork",
    "test_multiprocessing_spawn",
    "test_multiprocessing_forkserver",
    "test_concurrent_futures",
    "test_ssl",
    "test_ftplib",
    "test_socketserver",
)
MAX_LEFT_OUT = 5
"""How many tests of a module may hang by themselves."""
ALONE = 3
"""How often the tests that differ are run without the others, each way."""

POLICY: dict[str, tuple[str, str]] = {}
"""Module -> TOML that is added to the preset `pytest`, and why the module needs it."""

EXPECTED: tuple[tuple[str, str, str], ...] = (
    ("test.test_socket.*UDPLITE*", "ok > ERROR", "sockets of other protocols than TCP and UDP are closed"),
    ("test.test_socket.BasicVSOCKTest.*", "ok > ERROR", "AF_VSOCK leads to the hypervisor, and is closed"),
)
"""Test (a pattern of fnmatch), "plain > fenced" outcome, and why no policy can change it."""

OUTER = """
import json, os, subprocess, sys

def test_module():
    with open(os.environ["CPYTHON_SUITE_LOG"], "wb") as log, open(os.environ["CPYTHON_SUITE_OUT"], "wb") as out:
        subprocess.run(
            json.loads(os.environ["CPYTHON_SUITE_COMMAND"]), stdin=subprocess.DEVNULL, stdout=out, stderr=log
        )
"""
"""The test that pytest runs. Its own outcome is nothing: what is compared are the outcomes inside."""


# Reading what `unittest -v` says.

STARTED = re.compile(r"^ {0,2}(\w+) \((\w[\w.<>]*)\)(?: [\[(].*?[\])])*(?= \.\.\. |\n)", re.MULTILINE)
HEADING = re.compile(r"^={70}\n(ERROR|FAIL|UNEXPECTED SUCCESS): (\w+)(?: \((\w[\w.<>]*)\))?", re.MULTILINE)
OUTCOME = re.compile(r"(?:^|\s)(ok(?=$)|skipped(?= ['\"])|(?:un)?expected (?:failure|success)(?=$))", re.MULTILINE)
RANK = ("ok", "skipped", "expected failure", "unexpected success", "FAIL", "ERROR")


def identity(name: str, where: str) -> str:
    """One spelling of a test: Python 3.11 says `test_x (test.test_os.C.test_x)`, 3.10 `test_x (test.test_os.C)`."""
    return where if where.rpartition(".")[2] == name else f"{where}.{name}"


def outcomes(text: str) -> dict[str, str]:
    """Test -> outcome, of the standard error of `unittest -v`.

    What subprocesses print stands in between, so a line need not hold a test and its outcome both. Failures are told by
    the headings at the end, which nothing comes between.
    """
    found: dict[str, str] = {}
    body = text.split("\n" + "=" * 70 + "\n", 1)[0]
    body = body.rsplit("\n" + "-" * 70 + "\nRan ", 1)[0]
    starts = list(STARTED.finditer(body))
    for here, after in zip(starts, [*starts[1:], None], strict=True):
        said = body[here.end() : after.start() if after else len(body)]
        # The first, since a class that is skipped as a whole is told of without a name.
        ended = OUTCOME.search(said) or re.search(r"(ok)$", said, re.MULTILINE)
        outcome = ended[1] if ended else "no outcome"
        name = identity(here[1], here[2])
        if name not in found or RANK.index("ok") == _rank(found[name]):
            found[name] = outcome
    for heading in HEADING.finditer(text):
        name = identity(heading[2], heading[3] or heading[2])
        outcome = {"UNEXPECTED SUCCESS": "unexpected success"}.get(heading[1], heading[1])
        if _rank(outcome) > _rank(found.get(name, "ok")):
            found[name] = outcome
    return found


def refusals(said: str) -> list[str]:
    """What the fence's own section of a report lists, and what else it says."""
    section = re.search(r"^=+ fence: \d+ violations?.*\n((?:(?!=).*\n)*)", said, re.MULTILINE)
    listed = re.findall(r"^  (\S.*)$", section[1], re.MULTILINE) if section else []
    return listed + re.findall(r"^fence: (?!enforce|[\w, ]*layers).*$", said, re.MULTILINE)


def _rank(outcome: str) -> int:
    return RANK.index(outcome) if outcome in RANK else -1


# Running.


@dataclass
class Run:
    tests: dict[str, str]
    total: int | None
    """How many tests unittest says it ran; None: it did not come to the end."""
    refused: list[str] = field(default_factory=list)
    """What the fence's report lists."""
    seconds: float = 0.0
    timed_out: bool = False
    said: str = ""


@dataclass(frozen=True)
class Bench:
    work: Path
    python: str
    user: int | None
    isolate: bool
    limit: float
    """Seconds without a word from the module, after which it is taken for hanging."""
    options: tuple[str, ...]

    def run(self, module: str, fenced: bool, tests: Sequence[str] = ()) -> Run:
        """The module, or only the named tests of it."""
        base = Path(tempfile.mkdtemp(prefix="run-", dir=self.work))
        project, home, tmp = base / "project", base / "home", Path(tempfile.mkdtemp(prefix="cs"))
        for directory in (project, home):
            directory.mkdir()
        added = POLICY.get(module, ("", ""))[0]
        settings = f"[tool.pytest.ini_options]\naddopts = '-p no:cacheprovider'\n[tool.fence]\n{added}\n"
        (project / "pyproject.toml").write_text(settings, encoding="utf-8")
        (project / "test_suite.py").write_text(OUTER, encoding="utf-8")
        if self.user is not None:
            for directory in (base, project, home, tmp, *project.iterdir()):
                os.chown(directory, self.user, self.user)
        log, out = project / "log", project / "out"
        inner = [self.python, "-m", "unittest", "-v", *(tests or [f"test.{module}"])]
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        environment = {
            **kept,
            "HOME": str(home),
            "TMPDIR": str(tmp),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "CPYTHON_SUITE_LOG": str(log),
            "CPYTHON_SUITE_OUT": str(out),
            "CPYTHON_SUITE_COMMAND": json.dumps(inner),
        }
        command = [sys.executable, "-m", "pytest", "-p", "pytest_fence.plugin"]
        command += ["--fence", *self.options] if fenced else []
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=self._enter,
        )
        timed_out, length, heard = False, 0, start
        while True:
            try:
                said = process.communicate(timeout=1)[0]
                break
            except subprocess.TimeoutExpired:
                now, before = time.perf_counter(), length
                length = log.stat().st_size if log.exists() else 0
                heard = now if length != before else heard
                if now - heard < self.limit:
                    continue
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            end_leftovers()
            said = process.communicate()[0]
            break
        seconds = time.perf_counter() - start
        end_leftovers()
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        shown = said.decode(errors="replace")
        ran = re.findall(r"^Ran (\d+) tests? in ", text, re.MULTILINE)
        total = int(ran[-1]) if ran else None
        result = Run(outcomes(text), total, refusals(shown), seconds, timed_out, shown)
        keep = self.work / "logs" / f"{module}-{'fenced' if fenced else 'plain'}{'-alone' if tests else ''}.txt"
        keep.parent.mkdir(exist_ok=True)
        keep.write_text(f"{shown}\n{'#' * 70}\n{text}", encoding="utf-8")
        for directory in (base, tmp):
            subprocess.run(["chmod", "-R", "u+rwX", str(directory)], stderr=subprocess.DEVNULL, check=False)
            shutil.rmtree(directory, ignore_errors=True)
        return result

    def _enter(self) -> None:
        """In the child, before exec."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.isolate:
            enter_private_network()
        if self.user is not None:
            os.setgroups([])
            os.setresgid(self.user, self.user, self.user)
            os.setresuid(self.user, self.user, self.user)


def enter_private_network() -> None:
    """A network namespace with nothing but `lo`, which has second addresses: with none but 127.0.0.1 and ::1
    getaddrinfo takes the machine for one without a network (AI_ADDRCONFIG)."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")
    up, set_address = 0x8914, 0x8916  # SIOCSIFFLAGS, SIOCSIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, up, struct.pack("16sh22x", b"lo", 0x49))  # UP, LOOPBACK, RUNNING
        address = struct.pack("16sHH4s16x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("127.0.0.2"))
        fcntl.ioctl(control, set_address, address)
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            address = socket.inet_pton(socket.AF_INET6, "fd00:c::1")
            fcntl.ioctl(control, set_address, struct.pack("16sIi", address, 128, socket.if_nametoindex("lo")))
    except OSError:
        pass  # no IPv6 here


def adopt_orphans() -> None:
    """What outlives a module becomes a child of this process, which can end it (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def end_leftovers() -> None:
    own = os.getpid()
    for _ in range(50):
        parents: dict[int, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
                    parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
                except OSError:
                    continue  # it has ended
        left, grown = {own}, True
        while grown:
            more = {process for process, parent in parents.items() if parent in left} - left
            left |= more
            grown = bool(more)
        for process in left - {own}:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


# Comparing.


def differences(plain: Mapping[str, str], fenced: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    pairs = {test: (plain.get(test, "not run"), fenced.get(test, "not run")) for test in [*plain, *fenced]}
    return {test: pair for test, pair in pairs.items() if pair[0] != pair[1]}


def expected(test: str, pair: tuple[str, str]) -> str | None:
    """The reason why no policy can make the outcomes the same."""
    for pattern, change, reason in EXPECTED:
        if fnmatch.fnmatchcase(test, pattern) and change == " > ".join(pair):
            return reason
    return None


def alone(bench: Bench, module: str, tests: Iterable[str]) -> dict[str, tuple[str, str] | None]:
    """The outcomes of these tests, run without the others; None: they are the same, or differ from run to run without a
    fence too."""
    # What went wrong while a class was set up is told under the name of the method.
    names = {test: re.sub(r"\.(setUp|tearDown)(Class|Module)$", "", test) for test in tests}
    got: dict[bool, list[Run]] = {False: [], True: []}
    for turn in range(ALONE) if names else ():
        for fenced in (False, True) if turn % 2 == 0 else (True, False):
            got[fenced].append(bench.run(module, fenced, list(dict.fromkeys(names.values()))))
    found: dict[str, tuple[str, str] | None] = {}
    for test in names:
        without, within = ({run.tests.get(test, "not run") for run in got[each]} for each in (False, True))
        same = without == within or (len(without) > 1 and within <= without)
        found[test] = None if same else ("/".join(sorted(without)), "/".join(sorted(within)))
    return found


def all_but(bench: Bench, module: str, left_out: Iterable[str]) -> list[str]:
    """The module's tests by name, without some."""
    code = (
        "import sys, unittest\n"
        "def tests(suite):\n"
        "    for each in suite:\n"
        "        yield from tests(each) if isinstance(each, unittest.TestSuite) else [each.id()]\n"
        "print(*tests(unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])), sep='\\n')\n"
    )
    command = [bench.python, "-c", code, f"test.{module}"]
    listed = subprocess.run(command, cwd=bench.work, capture_output=True, text=True, check=True).stdout.split()
    return [test for test in dict.fromkeys(listed) if test not in left_out]


def compare(bench: Bench, module: str, report: dict[str, object]) -> int:
    """How many outcomes differ that EXPECTED does not explain."""
    left_out: list[str] = []
    tests: list[str] = []
    while (plain := bench.run(module, False, tests)).timed_out and plain.tests and len(left_out) < MAX_LEFT_OUT:
        left_out.append(list(plain.tests)[-1])
        print(f"  left out {left_out[-1]}: it hangs without a fence too", flush=True)
        tests = all_but(bench, module, left_out)
    fenced = bench.run(module, True, tests)
    unexplained = 0
    for name, run in (("plain", plain), ("fenced", fenced)):
        if run.total is None:
            print(f"  {name}: did not come to its end{' in time' if run.timed_out else ''}: {run.said[-600:]}")
            unexplained += 1
    found: dict[str, tuple[str, str, str | None]] = {}
    differ = differences(plain.tests, fenced.tests)
    unsure = alone(bench, module, (test for test, pair in differ.items() if expected(test, pair) is None))
    for test, pair in differ.items():
        again = unsure.get(test, pair)
        if again is None:
            print(f"  flaky  {test}: {pair[0]} > {pair[1]}, alone the same")
            continue
        reason = expected(test, again)
        found[test] = (*again, reason)
        unexplained += reason is None
        if reason is None:
            print(f"  DIFFERS  {test}: {again[0]} > {again[1]}")
    for (change, why), count in Counter((f"{x} > {y}", why) for x, y, why in found.values() if why).items():
        print(f"  known    {count} tests, {change}: {why}")
    print(
        f"{module}: {plain.total} tests, {len(found)} differ, {sum(not f[2] for f in found.values())} unexplained;"
        f" {plain.seconds:.1f} s plain, {fenced.seconds:.1f} s fenced",
        flush=True,
    )
    for line in fenced.refused[:60]:
        print(f"    {line.strip()}")
    report[module] = {
        "tests": plain.total,
        "left out": left_out,
        "differ": found,
        "refused": fenced.refused,
        "seconds": [plain.seconds, fenced.seconds],
    }
    return unexplained


def main(argv: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--python", default=os.path.realpath(sys.executable), help="whose tests (default: %(default)s)")
    parser.add_argument("--user", type=int, help="uid, and gid, of whom to run as; for root")
    parser.add_argument("--work", type=Path, help="where to make the scratch directory (default: /srv, or the home)")
    parser.add_argument(
        "--limit", type=float, default=180, help="a module hangs after so many seconds without a word (%(default)s)"
    )
    parser.add_argument("--options", default="", help="further options of pytest for the fenced run")
    parser.add_argument("--keep", action="store_true", help="keep what the runs said (WORK/logs)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all results")
    options = parser.parse_args(None if argv is None else list(argv))
    if options.user is not None and os.geteuid() != 0:
        parser.error("--user is for root")
    if subprocess.run([options.python, "-c", "import test.support"], capture_output=True, check=False).returncode:
        parser.error(f"{options.python} has no test package; name one that has by --python")
    default = Path("/srv") if os.geteuid() == 0 else Path.home()
    work = Path(tempfile.mkdtemp(prefix="cpython-suite-", dir=options.work or default))
    work.chmod(0o755)
    bench = Bench(work, options.python, options.user, os.geteuid() == 0, options.limit, tuple(options.options.split()))
    adopt_orphans()
    version = subprocess.run([options.python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    who = options.user if options.user is not None else os.geteuid()
    print(f"{version}, Linux {platform.release()}, uid {who}, private network: {bench.isolate}", flush=True)
    report: dict[str, object] = {}
    unexplained = 0
    try:
        for module in options.modules or MODULES:
            unexplained += compare(bench, module, report)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    finally:
        if options.keep:
            print(f"what the runs said: {work / 'logs'}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{unexplained} unexplained")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
