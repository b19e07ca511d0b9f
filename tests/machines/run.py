"""Run rows of the table of machines, and print what came of them: `python3 dev.py machines`.

    dev.py machines [--list] [--logs DIR] [ROW...]

A ROW is the name of one, or the first words of some: `docker`, `linux`. Without one, all are run. Exit status 0: each
row is as it should be. 2: this machine cannot run one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from tests.machines import emulator, roots
from tests.machines.containers import Docker
from tests.machines.environments import environment
from tests.machines.job import RESULT, Result
from tests.machines.roots import UnavailableError
from tests.machines.rows import ROWS, Job, Row

ROOT = Path(__file__).resolve().parents[2]
JOB = Path(__file__).with_name("job.py")
REFUSING = Path(__file__).resolve().parents[1] / "refusing.py"
SHOWN = 80  # lines of what a machine said, where something is wrong


def chosen(words: Sequence[str]) -> list[Row]:
    if not words:
        return list(ROWS)
    unknown = [word for word in words if not any(named(row, word) for row in ROWS)]
    if unknown:
        sys.exit(f"dev.py machines: {', '.join(unknown)}: rows are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if any(named(row, word) for word in words)]


def named(row: Row, word: str) -> bool:
    return f"{row.name}-".startswith(f"{word}-")


def orders(row: Row, job: Job, tree: Path | str, *more: str) -> list[str]:
    """The arguments of `job.py` for a job."""
    words = ["--tree", str(tree), f"--refused={job.refused}", f"--yama={job.yama}", f"--least={job.least}", *more]
    words += [f"--layers={layer}" for layer in row.layers]
    words += [f"--lacks={layer}" for layer in row.lacks] + [f"--perhaps={layer}" for layer in row.perhaps]
    return [*words, *dict.fromkeys(job.tests)]


def results(said: str) -> list[Result]:
    """What the jobs have reported, in order."""
    lines = [line for line in said.splitlines() if line.startswith(RESULT)]
    return [Result(**json.loads(line.removeprefix(RESULT))) for line in lines]


class Machines:
    """Runs rows; what several of them need is started once."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._docker: Docker | None = None

    def run(self, row: Row, log: IO[str]) -> None:
        kinds = {
            "refused": self._refused,
            "container": self._container,
            "emulated": self._emulated,
            "python": self._python,
        }
        kinds.get(row.kind, _packages)(row, log)

    def _refused(self, row: Row, log: IO[str]) -> None:
        env = {**os.environ, "FENCE_MUST_WORK": "0"}  # tests may need what is refused
        for job in row.jobs:
            words = [sys.executable, REFUSING, row.what, sys.executable, JOB, *orders(row, job, ROOT)]
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

    def _container(self, row: Row, log: IO[str]) -> None:
        if self._docker is None:
            self._docker = self._stack.enter_context(Docker())
        for job in row.jobs:
            command = [sys.executable, str(JOB), *orders(row, job, ROOT)]
            self._docker.run(row.what, command, user=job.user, see=[ROOT], log=log)

    def _emulated(self, row: Row, log: IO[str]) -> None:
        slow = ("--at-once=1", f"--patience={emulator.PATIENCE}")
        bare, whole = (
            [orders(row, job, roots.TREE, f"--user={job.user}", *slow) for job in row.jobs if job.modules == modules]
            for modules in (False, True)
        )
        emulator.start(row.arch, row.what, bare, whole, log)

    def _python(self, row: Row, log: IO[str]) -> None:
        packages = "bsdutils,gcc,libc6-dev,musl-tools,nodejs,openssh-client,openssh-server,postgresql-client"
        packages += ",redis-server,redis-tools,tmux,wget"
        root = roots.make(roots.native(), "sid", row.what, packages=packages, sets=("run", "test"), pip=True)
        for job in row.jobs:
            given = orders(row, job, roots.TREE, f"--user={job.user}")
            words = [roots.PYTHON, f"{roots.TREE}/tests/machines/job.py", *given]
            subprocess.run(roots.apart(root, words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _packages(row: Row, log: IO[str]) -> None:
    may_lack_modules = {name: value for name, value in os.environ.items() if name != "FENCE_MUST_WORK"}
    with environment(row.what, log) as python:
        for job in row.jobs:
            words = [str(python), str(JOB), *orders(row, job, ROOT)]
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=may_lack_modules)


def outcome(run: Callable[[Row, IO[str]], None], row: Row, keep: Path | None) -> list[Result]:
    """Run a row: a result for each of its jobs. Where one is not as it should be, what was said there is shown."""
    with ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = stack.enter_context(open(directory / f"{row.name}.log", "w+", encoding="utf-8", errors="replace"))
        run(row, log)
        log.seek(0)
        said = log.read().replace("\r", "").replace("\0", "")
    found = results(said)
    found += [Result(user="", wrong=["the job did not report"])] * (len(row.jobs) - len(found))
    if any(result.wrong for result in found):
        print(*said.splitlines()[-SHOWN:], sep="\n")
    return found


def cells(row: Row, job: Job, result: Result) -> list[str]:
    tests = f"{result.passed} passed" if result.passed else "none"
    tests += f", {len(result.failed)} failed" if result.failed else ""
    tests += f", {sum(result.skipped.values())} skipped" if result.skipped else ""
    verdict = "; ".join(result.wrong) or ("refused, as it should be" if job.refused else "works")
    place = f"{result.kernel.split('-')[0]} {result.machine}, Python {result.python}"
    user = result.user + (f", Yama {result.yama}" if result.yama else "")
    return [row.name, place, user, result.layers or "none", tests, verdict]


def table(rows: Iterable[Sequence[str]]) -> str:
    whole = [("row", "Linux, Python", "as", "layers", "tests", "outcome"), *rows]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in whole)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py machines", description=__doc__, add_help=True)
    parser.add_argument("--list", action="store_true", help="only name the rows")
    parser.add_argument("--logs", type=Path, help="a directory for what was said on each machine")
    parser.add_argument("rows", nargs="*", metavar="ROW")
    given = parser.parse_args(words)
    rows = chosen(given.rows)
    if given.list:
        print(*(row.name for row in rows), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended
    done: list[tuple[Row, Job, Result]] = []
    with ExitStack() as stack:
        machines = Machines(stack)
        for row in rows:
            print(f"=== {row.name}", flush=True)
            try:
                found = outcome(machines.run, row, given.logs)
            except UnavailableError as error:
                print(f"dev.py machines: {row.name}: {error}", file=sys.stderr)
                return 2
            for job, result in zip(row.jobs, found, strict=True):
                done.append((row, job, result))
                for reason, number in result.skipped.items():
                    print(f"    skipped {number}: {reason}")
    print(table(cells(*one) for one in done))
    return 1 if any(result.wrong for _, _, result in done) else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
