#!/usr/bin/env python3
"""Set up a checkout and run something in it; needs nothing but Python.

    python3 dev.py demo            run `pytest --fence` on examples/quickstart and compare what was caught
    python3 dev.py test [ARG...]   run the tests (arguments go to pytest)
    python3 dev.py lint            ruff, ruff format, mypy
    python3 dev.py bench [ARG...]  run the benchmarks (arguments go to benchmarks/run.py)
    python3 dev.py machines [ROW...]   as root: quickstart and tests in containers and other machines (--list: which)
    python3 dev.py corpus RUNNER --work DIR NAME...   as root: real suites in a Docker container, plain and fenced
    python3 dev.py setup EXTRA...  only set up
    python3 dev.py lock            renew dev-packages.txt: the newest of everything, from now on

The virtual environment is .venv, or what FENCE_VENV names. It holds what dev-packages.txt lists, and is made anew when
that, the interpreter or pyproject.toml has changed. `test --newest` and `lint --newest` take the newest of everything
instead, in an environment beside it. Packages come from the index that pip is configured for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("FENCE_VENV") or ROOT / ".venv").absolute()
LOCK = ROOT / "dev-packages.txt"
LOCK_HEAD = """\
# What dev.py installs, and what these files hash to, for Python 3.10 and newer. Each package stands below the sets that
# need it: `run` is pytest-fence itself and what builds it, the others are extras of pyproject.toml.
# Made by `python3 dev.py lock`; do not edit.
"""
NEEDED_BY = "# needed by: "
EXTRAS = ("test", "lint", "bench", "changelog")
BUILD = ("hatchling>=1.21", "editables>=0.5")  # hatchling asks for the latter to install a checkout
OLDEST = (3, 10)


def run(*command: str | Path, env: dict[str, str] | None = None) -> int:
    sys.stdout.flush()
    return subprocess.run([str(word) for word in command], cwd=ROOT, env=env).returncode


def need(*command: str | Path, what: str, env: dict[str, str] | None = None) -> None:
    status = run(*command, env=env)
    if status:
        sys.exit(f"dev.py: {what} failed (exit status {status})")


class Environment:
    """A virtual environment for this checkout."""

    def __init__(self, place: Path, *, newest: bool) -> None:
        self._place = place
        self._newest = newest
        self._stamp = place / "dev.json"
        self.python = place / "bin" / "python"

    def setup(self, extras: Sequence[str]) -> None:
        unknown = sorted(set(extras) - set(EXTRAS))
        if unknown:
            sys.exit(f"dev.py: {', '.join(unknown)}: extras are {', '.join(EXTRAS)}")
        recipe = self._recipe()
        have = self._installed(recipe)
        wanted = have | {"run", *extras}
        if have == wanted and not self._newest:
            return
        if not have:
            shutil.rmtree(self._place, ignore_errors=True)
            self._make()
        if self._newest:
            names = ",".join(sorted(wanted - {"run"}))
            how = ("--upgrade", "--upgrade-strategy", "eager", "--editable", f".[{names}]" if names else ".")
            need(*self._pip(), "install", "--quiet", *how, what="installing packages")
        else:
            self._install_locked(wanted)
        self._stamp.write_text(json.dumps({"recipe": recipe, "sets": sorted(wanted)}), encoding="utf-8")

    def _recipe(self) -> str:
        parts = [(ROOT / "pyproject.toml").read_bytes(), f"{sys.version}{ROOT}".encode()]
        if not self._newest:
            parts.append(LOCK.read_bytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def _installed(self, recipe: str) -> set[str]:
        """The sets that the environment holds already; none if it was made for something else."""
        try:
            record = json.loads(self._stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        if record.get("recipe") != recipe or not self.python.exists():
            return set()
        return set(record.get("sets", ()))

    def _install_locked(self, sets: set[str]) -> None:
        chosen = self._place / "packages.txt"
        chosen.write_text(locked(LOCK.read_text(encoding="utf-8"), sets), encoding="utf-8")
        exactly = ("--require-hashes", "--no-deps", "--requirement", chosen)
        need(*self._pip(), "install", "--quiet", *exactly, what="installing packages")
        itself = ("--no-deps", "--no-build-isolation", "--editable", ".")
        need(*self._pip(), "install", "--quiet", *itself, what="installing pytest-fence")

    def _make(self) -> None:
        """Some systems ship Python without ensurepip; there the pip of this interpreter serves the new environment."""
        if importlib.util.find_spec("ensurepip"):
            need(sys.executable, "-m", "venv", self._place, what="making a virtual environment")
        elif importlib.util.find_spec("pip"):
            need(sys.executable, "-m", "venv", "--without-pip", self._place, what="making a virtual environment")
        else:
            sys.exit("dev.py: this Python has neither ensurepip nor pip; install one (Debian, Ubuntu: python3-venv)")

    def _pip(self) -> Sequence[str | Path]:
        quiet = ("--disable-pip-version-check", "--no-input")
        if (self._place / "bin" / "pip").exists():
            return (self.python, "-m", "pip", *quiet)
        return (sys.executable, "-m", "pip", *quiet, "--python", self.python)


def setup(*extras: str, newest: bool = False) -> Path:
    """The interpreter of an environment that holds these extras."""
    if sys.version_info[:2] < OLDEST:
        sys.exit(f"dev.py: Python {'.'.join(map(str, OLDEST))} or newer is needed; this is {sys.version.split()[0]}")
    place = VENV.with_name(f"{VENV.name}-newest") if newest else VENV
    environment = Environment(place, newest=newest)
    environment.setup(extras)
    return environment.python


def locked(text: str, sets: set[str]) -> str:
    """The part of the lock that these sets need, as pip reads it."""
    chosen = []
    take = False
    for line in text.splitlines(keepends=True):
        if line.startswith(NEEDED_BY):
            take = not sets.isdisjoint(line.removeprefix(NEEDED_BY).split())
        elif take:
            chosen.append(line)
    return "".join(chosen)


def lock(arguments: Sequence[str]) -> int:
    """Ask uv for the newest of everything that fits together on every Python, and write that down."""
    if arguments:
        sys.exit("dev.py: lock takes no arguments")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        need(sys.executable, "-m", "venv", scratch / "venv", what="making a virtual environment")
        pip = (scratch / "venv" / "bin" / "python", "-m", "pip")
        need(*pip, "install", "--quiet", "uv", what="installing uv")
        build = scratch / "build.in"
        build.write_text("\n".join(BUILD), encoding="utf-8")
        env = {**os.environ, **index_of_pip(pip)}
        everything = compile_(scratch, env, "everything", [build, *(f"--extra={extra}" for extra in EXTRAS)])
        within = f"--constraint={scratch / 'everything'}"
        needed = {"run": set(entries(compile_(scratch, env, "run", [build, within])))}
        for extra in EXTRAS:
            needed[extra] = set(entries(compile_(scratch, env, extra, [f"--extra={extra}", within]))) - needed["run"]
    text = LOCK_HEAD
    for entry, lines in entries(everything, by_name=False).items():
        sets = [name for name, names in needed.items() if name_of(entry) in names]
        text += f"\n{NEEDED_BY}{' '.join(sets)}\n{lines}"
    LOCK.write_text(text, encoding="utf-8")
    print(f"dev.py: {LOCK.name} lists {text.count(NEEDED_BY)} packages now; run the tests before you commit it")
    return 0


def compile_(scratch: Path, env: dict[str, str], name: str, inputs: Sequence[str | Path]) -> str:
    uv = (scratch / "venv" / "bin" / "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes")
    plain = ("--no-header", "--no-annotate", f"--python-version={'.'.join(map(str, OLDEST))}")
    need(*uv, *plain, "--output-file", scratch / name, "pyproject.toml", *inputs, env=env, what="asking uv")
    return (scratch / name).read_text(encoding="utf-8")


def index_of_pip(pip: Sequence[str | Path]) -> dict[str, str]:
    """uv has a configuration of its own."""
    said = subprocess.run([*map(str, pip), "config", "list"], stdout=subprocess.PIPE, text=True).stdout
    found = re.findall(r"^[^=]*[.:]\.?index-url='(.*)'$", said, re.MULTILINE)
    return {"UV_DEFAULT_INDEX": found[-1]} if found else {}


def entries(text: str, *, by_name: bool = True) -> dict[str, str]:
    """What uv has written for each package, by its name, or by its first line: a name can have two versions."""
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            key = name_of(line) if by_name else line
        found[key] = found.get(key, "") + line
    return found


def name_of(line: str) -> str:
    return re.split(r"[=<>!~ ;\[]", line.strip(), maxsplit=1)[0]


def demo(arguments: Sequence[str]) -> int:
    python = setup()
    return run(python, "examples/quickstart/check.py", *arguments)


def test(arguments: Sequence[str]) -> int:
    """Run the tests, two at a time; a kernel feature or package that is missing is a failure, not a skip."""
    newest, words = without_flag(arguments)
    python = setup("test", newest=newest)
    # The tests start it some thousand times: where Python is told to keep no byte code, each would compile it all.
    run(python, "-m", "compileall", "-qq", "fence_core", "pytest_fence")
    return run(python, "-m", "pytest", "-n", "2", *words, env={"FENCE_MUST_WORK": "1", **os.environ})


def without_flag(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether ``--newest`` is among them, and the others."""
    return "--newest" in arguments, [word for word in arguments if word != "--newest"]


def lint(arguments: Sequence[str]) -> int:
    newest, _ = without_flag(arguments)
    python = setup("test", "lint", newest=newest)
    checks = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",))
    return max(run(python, "-m", *check) for check in checks)


def bench(arguments: Sequence[str]) -> int:
    python = setup("bench")
    return run(python, "benchmarks/run.py", *arguments)


def machines(arguments: Sequence[str]) -> int:
    python = setup("test")
    run(python, "-m", "compileall", "-qq", "fence_core", "pytest_fence")  # a container sees the checkout read-only
    return run(python, "-m", "tests.machines.run", *arguments)


def corpus(arguments: Sequence[str]) -> int:
    return run(setup("test"), "-m", "tests.machines.corpus", *arguments)


def main(words: Sequence[str]) -> int:
    tasks = {
        "demo": demo,
        "test": test,
        "lint": lint,
        "bench": bench,
        "machines": machines,
        "corpus": corpus,
        "lock": lock,
    }
    if words and words[0] == "setup":
        setup(*words[1:])
        return 0
    if not words or words[0] not in tasks:
        print(__doc__)
        return 2
    return tasks[words[0]](words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
