"""What is done on a machine of the table: the quickstart, and tests; run there, by the Python that is tried.

Standard library only. Prints what it does, and then one line for `report`: ``=== result`` and the fields of `Result`
as JSON. Exit status 0: as expected.

    job.py --tree DIR [--user UID] [--yama N] [--refused WORDS] [--layers WORD]... [--lacks LAYER]...
           [--perhaps LAYER]... [--least N] [--at-once N] [--patience N] [TEST...]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

RESULT = "=== result "
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
UNUSABLE = 4  # pytest's exit status for a run that cannot be
SECONDS = 120  # for one test, where it is not emulated (pyproject.toml)


@dataclass
class Result:
    """What came of one job."""

    kernel: str = field(default_factory=platform.release)
    machine: str = field(default_factory=platform.machine)
    python: str = field(default_factory=platform.python_version)
    user: str = field(default_factory=lambda: "root" if os.geteuid() == 0 else "a user")
    yama: str = ""  # the number, or "" where the kernel has no Yama
    layers: str = ""  # as the header of a run shows them: "seccomp, landlock 7"
    lacks: list[str] = field(default_factory=list)  # layers that this machine does not have
    quickstart: str = ""  # "works", "refused", or what is wrong
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)  # by reason
    wrong: list[str] = field(default_factory=list)  # why this is not as expected; empty where it is


def say(command: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """Show what a command prints, as it comes; its exit status and output."""
    print("$", *command, flush=True)
    said = []
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    return process.returncode, "".join(said)


def quickstart(result: Result, scratch: Path, given: argparse.Namespace, env: dict[str, str]) -> None:
    example = scratch / "quickstart"
    shutil.copytree(given.tree / "examples" / "quickstart", example)
    if given.refused:
        status, said = say([sys.executable, "-m", "pytest", "--fence"], example, env)
        result.quickstart = "refused"
        if status != UNUSABLE or given.refused not in said:
            result.quickstart = f"exit status {status}"
            result.wrong.append(f"the quickstart should be refused with {given.refused!r}")
        return
    status, said = say([sys.executable, "check.py"], example, env)
    header = re.search(r"^fence: enforce; (?:layers? )?([^;\n]*)", said, re.MULTILINE)
    result.layers = header[1].strip() if header else ""
    result.quickstart = "works" if status == 0 else f"exit status {status}"
    if status:
        result.wrong.append("the quickstart caught something else than it should")


def layers(result: Result, given: argparse.Namespace, env: dict[str, str]) -> None:
    ask = "from fence_core.kernel import features; print(*(one.name for one in features.detect() if not one.available))"
    status, said = say([sys.executable, "-c", ask], given.tree, env)
    result.lacks = said.split() if status == 0 else []
    unexpected = sorted(set(given.lacks).symmetric_difference(result.lacks) - set(given.perhaps))
    if status or unexpected:
        result.wrong.append(f"should lack {' '.join(given.lacks) or 'no layer'}, and lacks {said.strip()!r}")
    missing = [layer for layer in given.layers if layer not in result.layers]
    if missing:
        result.wrong.append(f"the header should name {', '.join(missing)}, and says {result.layers!r}")


def tests(result: Result, scratch: Path, given: argparse.Namespace, env: dict[str, str]) -> None:
    report = scratch / "report.xml"
    short = scratch / "b"  # sockets are made below it: their paths have at most 107 bytes
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={short}", f"--junitxml={report}"]
    if given.at_once > 1:
        options += ["-n", str(given.at_once)]
    options += ["-o", f"timeout={SECONDS * given.patience}"]
    env = {**env, "FENCE_PATIENCE": str(given.patience)}
    status, _ = say([sys.executable, "-m", "pytest", *options, *given.tests], given.tree, env)
    if not report.exists():
        result.wrong.append(f"the tests did not run (exit status {status})")
        return
    skipped: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed.append(name)
        elif skip is not None:
            skipped[skip.get("message", "")] += 1
        else:
            result.passed += 1
    result.skipped = dict(sorted(skipped.items()))
    if result.failed or status:
        result.wrong.append(f"{len(result.failed)} tests failed (exit status {status}): {' '.join(result.failed[:9])}")
    if result.passed < given.least:
        result.wrong.append(f"only {result.passed} tests passed; at least {given.least} should")


def as_user(given: argparse.Namespace, words: list[str]) -> int:
    """This once more, by an ordinary user."""
    return subprocess.run(
        [sys.executable, __file__, *words, "--user=0"],  # the last one counts
        user=given.user,
        group=given.user,
        extra_groups=[],
    ).returncode


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--user", type=int, default=0)
    parser.add_argument("--yama", default="")
    parser.add_argument("--refused", default="")
    for name in ("--layers", "--lacks", "--perhaps"):
        parser.add_argument(name, action="append", default=[])
    parser.add_argument("--least", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--patience", type=int, default=1, help="tests may take so many times as long")
    parser.add_argument("tests", nargs="*")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    given = parse(words)
    if given.yama and os.geteuid() == 0:
        YAMA.write_text(given.yama)  # any but 3 can be changed again
    if given.user:
        return as_user(given, words)
    result = Result(yama=YAMA.read_text().strip() if YAMA.exists() else "")
    with tempfile.TemporaryDirectory(prefix="m", ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        home = scratch / "home"
        home.mkdir()
        env = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        quickstart(result, scratch, given, env)
        if not given.refused:
            layers(result, given, env)
        if given.tests and not result.wrong:
            tests(result, scratch, given, env)
    if result.yama != given.yama and given.yama:
        result.wrong.append(f"Yama says {result.yama!r}, not {given.yama}")
    print(RESULT + json.dumps(dataclasses.asdict(result)), flush=True)
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
