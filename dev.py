#!/usr/bin/env python3
"""Set up a checkout and run something in it; needs nothing but Python.

    python3 dev.py demo            run `pytest --fence` on examples/quickstart and compare what was caught
    python3 dev.py test [ARG...]   run the tests (arguments go to pytest)
    python3 dev.py lint            ruff, ruff format, mypy
    python3 dev.py bench [ARG...]  run the benchmarks (arguments go to benchmarks/run.py)
    python3 dev.py setup EXTRA...  only set up

The virtual environment is .venv, or what FENCE_VENV names. It is made anew when the interpreter or
pyproject.toml has changed. Packages come from the index that pip is configured for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("FENCE_VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / "bin" / "python"
OLDEST = (3, 10)


def run(*command: str | Path, env: dict[str, str] | None = None) -> int:
    sys.stdout.flush()
    return subprocess.run([str(word) for word in command], cwd=ROOT, env=env).returncode


def need(*command: str | Path, what: str) -> None:
    status = run(*command)
    if status:
        sys.exit(f"dev.py: {what} failed (exit status {status})")


def installed(stamp: Path, recipe: str) -> set[str]:
    """The extras that the virtual environment holds already; none if it was made for something else."""
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(record["extras"]) if record["recipe"] == recipe and PYTHON.exists() else set()


def setup(*extras: str) -> None:
    if sys.version_info[:2] < OLDEST:
        sys.exit(f"dev.py: Python {'.'.join(map(str, OLDEST))} or newer is needed; this is {sys.version.split()[0]}")
    stamp = VENV / "dev.json"
    project = (ROOT / "pyproject.toml").read_bytes()
    recipe = hashlib.sha256(project + f"{sys.version}{ROOT}".encode()).hexdigest()
    have = installed(stamp, recipe)
    wanted = have | {"", *extras}
    if have == wanted:
        return
    if not have:
        shutil.rmtree(VENV, ignore_errors=True)
        make_venv()
    names = ",".join(sorted(wanted - {""}))
    need(*pip(), "install", "--quiet", "--editable", f".[{names}]" if names else ".", what="installing packages")
    stamp.write_text(json.dumps({"recipe": recipe, "extras": sorted(wanted)}), encoding="utf-8")


def make_venv() -> None:
    """Some systems ship Python without ensurepip; there the pip of this interpreter serves the new environment."""
    if importlib.util.find_spec("ensurepip"):
        need(sys.executable, "-m", "venv", VENV, what="making a virtual environment")
    elif importlib.util.find_spec("pip"):
        need(sys.executable, "-m", "venv", "--without-pip", VENV, what="making a virtual environment")
    else:
        sys.exit("dev.py: this Python has neither ensurepip nor pip; install one (Debian, Ubuntu: python3-venv)")


def pip() -> Sequence[str | Path]:
    quiet = ("--disable-pip-version-check", "--no-input")
    if (VENV / "bin" / "pip").exists():
        return (PYTHON, "-m", "pip", *quiet)
    return (sys.executable, "-m", "pip", *quiet, "--python", PYTHON)


def demo(arguments: Sequence[str]) -> int:
    setup()
    return run(PYTHON, "examples/quickstart/check.py", *arguments)


def test(arguments: Sequence[str]) -> int:
    """Run the tests, two at a time; a kernel feature or package that is missing is a failure, not a skip.

    What fails is run once more, alone: many tests drive terminals, signals and processes against deadlines, which a
    busy machine can miss. It says so, and what fails again has failed.
    """
    setup("test")
    env = {"FENCE_MUST_WORK": "1", **os.environ}
    status = run(PYTHON, "-m", "pytest", "-n", "2", *arguments, env=env)
    tests_failed = 1
    if status == tests_failed:
        print("dev.py: what failed is run once more, one test at a time", flush=True)
        status = run(PYTHON, "-m", "pytest", "--last-failed", *arguments, env=env)
    return status


def lint(arguments: Sequence[str]) -> int:
    setup("test", "lint")
    checks = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",))
    return max(run(PYTHON, "-m", *check) for check in checks)


def bench(arguments: Sequence[str]) -> int:
    setup("bench")
    return run(PYTHON, "benchmarks/run.py", *arguments)


def main(words: Sequence[str]) -> int:
    tasks = {"demo": demo, "test": test, "lint": lint, "bench": bench}
    if words and words[0] == "setup":
        setup(*words[1:])
        return 0
    if not words or words[0] not in tasks:
        print(__doc__)
        return 2
    return tasks[words[0]](words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
