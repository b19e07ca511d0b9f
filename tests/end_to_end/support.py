"""Running pytest from outside, plain and fenced, and comparing what a user would see.

Run by the outer pytest, which is not fenced. Everything that a `Runs` starts carries a mark in its environment, so
that the end of a test can tell whether anything was left behind.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import pty
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fence_core.kernel import features
from fence_core.kernel import process as kernel_process

SECONDS = 60.0 * float(os.environ.get("FENCE_PATIENCE", "1"))
"""Far beyond anything here; what takes longer hangs. An emulated machine is slower (`tests/machines`)."""
_MARK = "FENCE_TEST_RUN"


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll for something that sends no event (the end of a process that is not ours): its first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


class Ended:
    """What a command did: exit status (negative: the signal that ended it), standard output and error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"status {self.status}\n--- out\n{self.out}\n--- err\n{self.err}\n---"

    def has(self, *lines: str) -> None:
        """Each of these regular expressions matches somewhere on standard output."""
        for line in lines:
            assert re.search(line, self.out, re.MULTILINE), f"{line!r} is not in\n{self!r}"

    def outcomes(self) -> list[str]:
        """``PASSED test_x.py::test_y`` and the like, sorted; needs ``-rA``."""
        return sorted(re.findall(r"^(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS|RERUN) \S+", self.out, re.MULTILINE))


_CI = frozenset({"CI", "BUILD_NUMBER"})
"""With one of these set, pytest cuts nothing short."""
_OUR_FRAMES = re.compile(
    r'^((?:INTERNALERROR>)? +)File "[^"]*/(?:pluggy|pytest_fence)/[^"]*", line \d+, in \w+\n(?:\1  .*\n)+', re.MULTILINE
)


def shown(text: str) -> str:
    """What a user sees, without what differs between any two runs, the one line that is ours, and our hooks' frames
    in tracebacks."""
    text = re.sub(r"^ *[~^]+\n", "", _OUR_FRAMES.sub("", text), flags=re.MULTILINE)
    text = re.sub(r"^fence: (?:enforce|warn|audit); .*\r?\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\d+\.\d+ ?s\b( \(\d+:\d\d:\d\d\))?", "<time>", text)
    text = re.sub(r"in \d+m \d+s", "in <time>", text)
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "<address>", text)
    text = re.sub(r"=*( [^=\n]*<time>[^=\n]* )=*", r"=\1=", text)  # its length depends on the time
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+", "<date>", text)
    text = re.sub(r"/pytest-\d+/", "/pytest-<n>/", text)
    text = re.sub(r"pytest-cache-files-\w+", "pytest-cache-files-<name>", text)
    return re.sub(r"\b(pid|process)([ =])\d+", r"\1\2<pid>", text)


class Runs:
    """Starts pytest in one directory; `close` sees to it that nothing is left.

    Loading every plugin that is installed takes a second of each run: only ours is, and those asked for by `load`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plugins: tuple[str, ...] = ("-p", "pytest_fence.plugin")
        self.autoload = False
        self._mark = uuid.uuid4().hex
        self._started: list[subprocess.Popen[Any]] = []

    def load(self, *modules: str) -> None:
        """Load these plugins too; without a name, all that are installed, as users have it."""
        self.autoload = not modules
        # These make another thing of the order, or of what is printed.
        quiet = ("no:randomly", "no:hypothesispytest", "no:pretty", "no:sugar")
        names = quiet if self.autoload else ("pytest_fence.plugin", *modules)
        self.plugins = tuple(word for name in names for word in ("-p", name))

    def environ(self, more: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Ours without what an outer pytest or coverage adds; None in `more` removes a variable."""
        # Without a buffer, what a run prints comes in the order in which its processes print it.
        given: dict[str, str | None] = {**os.environ, _MARK: self._mark, "PY_COLORS": "0", "PYTHONUNBUFFERED": "1"}
        given["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = None if self.autoload else "1"
        given.update(more or {})
        ours = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST", "COV_CORE", "COLUMNS", "LINES")
        return {
            name: value
            for name, value in given.items()
            if value is not None and (not (name.startswith(ours) or name in _CI) or name in (more or {}))
        }

    def argv(self, args: Sequence[str], *, fenced: bool) -> list[str]:
        """``python -m pytest``, with a fence or without."""
        return [sys.executable, "-m", "pytest", *self.plugins, *(["--fence"] if fenced else []), *args]

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """A command in a session of its own; by default with nothing to read, and with its output in pipes."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": self.directory,
            "start_new_session": True,
            **options,
        }
        process = subprocess.Popen(list(argv), env=self.environ(env), **options)
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[Any]) -> Ended:
        out, err = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, out or "", err or "")

    def command(self, *argv: str, **options: Any) -> Ended:
        return self.finish(self.start(argv, **options))

    def pytest(self, *args: str, fenced: bool = True, **options: Any) -> Ended:
        return self.command(*self.argv(args, fenced=fenced), **options)

    def both(self, *args: str, before: Callable[[], object] | None = None, **options: Any) -> tuple[Ended, Ended]:
        """Plain and fenced: at the same time, or one after the other with `before` called before each."""
        if before is None:
            started = [self.start(self.argv(args, fenced=fenced), **options) for fenced in (False, True)]
            plain, fenced = map(self.finish, started)
            return plain, fenced
        before()
        plain = self.pytest(*args, fenced=False, **options)
        before()
        return plain, self.pytest(*args, fenced=True, **options)

    def same(self, *args: str, status: int = 0, **options: Any) -> Ended:
        """Plain and fenced end alike and print the same; the fenced run, of which `status` is expected."""
        plain, fenced = self.both(*args, **options)
        assert plain.status == status, plain
        assert_same(plain, fenced)
        return fenced

    def alive(self) -> list[int]:
        """Processes that a run of ours started, directly or not, and that have not ended."""
        mark = f"{_MARK}={self._mark}".encode()
        names = [name for name in os.listdir("/proc") if name.isdigit()]
        marked = {int(name) for name in names if mark in _environ(name)}
        return sorted(marked | _supervisors({int(name) for name in names} - marked, marked | {os.getpid()}))

    def close(self) -> None:
        """Nothing that was started is there any more."""
        hanging = [process for process in self._started if process.poll() is None]
        for process in hanging:
            process.kill()
        for process in self._started:
            process.wait(SECONDS)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        try:
            until(lambda: not self.alive(), "end of all processes of the runs", 10)
        except AssertionError:
            left = [f"{pid}: {_words(pid)}" for pid in self.alive()]
            for pid in self.alive():
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"left behind: {left}")
        assert not hanging, f"still running at the end: {[process.args for process in hanging]}"


def _supervisors(others: set[int], parents: set[int]) -> set[int]:
    """A supervisor hides its memory, its environment too: an ordinary user knows it by what started it."""
    if os.geteuid() == 0:
        return set()
    found = set()
    for pid in others:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
            os.kill(pid, 0)  # of this user
        except OSError:
            continue
        if fields[0] not in b"ZX" and int(fields[1]) in parents and not os.access(f"/proc/{pid}/environ", os.R_OK):
            found.add(pid)
    return found


def _environ(pid: str) -> list[bytes]:
    """The environment of a process that lives: one of its threads may, when the first one has ended."""
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            if Path(f"/proc/{pid}/task/{tid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX":
                return Path(f"/proc/{pid}/task/{tid}/environ").read_bytes().split(b"\0")
    except OSError:
        pass
    return []


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")[:300]
    except OSError:
        return "ended by now"


def state(pid: int) -> str:
    """The letter of proc(5): S for asleep, T for stopped; X for what is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def kernel_has(feature: str) -> bool:
    """Whether it works here: what a container's profile refuses does not."""
    return features.detect()[feature].available


def filters(*, fenced: bool) -> str:
    """The line of proc_pid_status(5) that says how many filters are in force: in a container, everybody has one."""
    return f"Seccomp_filters:\t{kernel_process.filter_count(os.getpid()) + fenced}\n"


def is_fenced(pid: int) -> bool:
    """Whether more filters are in force there than here; False for what has ended."""
    try:
        return kernel_process.filter_count(pid) > kernel_process.filter_count(os.getpid())
    except OSError:
        return False


def assert_same(plain: Ended, fenced: Ended) -> None:
    """Same exit status, same words, apart from our line in the header."""
    texts = [
        f"status {end.status}\n{shown(end.out)}\n--- err\n{shown(end.err)}".splitlines() for end in (plain, fenced)
    ]
    difference = "\n".join(difflib.unified_diff(*texts, "plain", "fenced", lineterm="", n=8))
    assert not difference, difference


REFUSING = Path(__file__).resolve().parents[1] / "refusing.py"
_WITHOUT = """\
import sys, pytest
from fence_core.kernel import features

missing = set(sys.argv.pop(1).split(","))
found = features.detect()
features._features = features.Features(
    [each._replace(available=False) if each.name in missing else each for each in found], found.landlock_abi)
sys.exit(pytest.main(sys.argv[1:]))
"""


# What a container's profile may refuse: so it is refused here, for the whole run, and not only hidden.
_REFUSED = {"pidfd_getfd": ("pidfd_getfd",), "process_vm_readv": ("process_vm_readv", "process_vm_writev")}


def without(runs: Runs, missing: str, *args: str) -> list[str]:
    """The command for a fenced run on a kernel that lacks these features (names separated by commas)."""
    (runs.directory / "without.py").write_text(_WITHOUT, encoding="utf-8")
    python, *rest = runs.argv(args, fenced=True)
    refused = [call for name in missing.split(",") for call in _REFUSED.get(name, ())]
    refusing = [python, str(REFUSING), ",".join(refused)] if refused else []
    return [*refusing, python, "without.py", missing, *rest[2:]]


@pytest.fixture
def runs(pytester: pytest.Pytester) -> Iterator[Runs]:
    """Runs in the directory of `pytester`, all of which have ended when the test is over."""
    started = Runs(pytester.path)
    yield started
    started.close()


def _foreground(group: int) -> dict[int, bytes]:
    """State and number of context switches (proc(5) status) of each process of a process group."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getpgid(int(name)) == group:
                lines = Path(f"/proc/{name}/status").read_bytes().splitlines()
                found[int(name)] = b"\n".join(line for line in lines if line.startswith(b"State") or b"_ctxt_" in line)
        except OSError:
            continue  # it has ended
    return found


class Terminal:
    """A command with a controlling terminal of its own, driven as a user drives it."""

    def __init__(self, runs: Runs, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(self._master, (40, 100)) if sys.version_info >= (3, 11) else None
        self.text = ""
        try:
            self.process = runs.start(
                argv,
                env={"TERM": "dumb", "PYTHON_COLORS": "0", **(env or {})},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        finally:
            os.close(slave)

    def expect(self, what: str) -> str:
        """Read until this regular expression matches something not yet matched; what came up to its end."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(what, self.text, re.MULTILINE)):
            assert self._read(deadline), f"no {what!r} in\n{self.text}"
        seen, self.text = self.text[: found.end()], self.text[found.end() :]
        return seen

    def _read(self, deadline: float) -> bool:
        """False at the end of output."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.text += chunk.decode("utf-8", "replace")
        return bool(chunk)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def key(self, number: int) -> None:
        """One of `termios.VINTR`, `VSUSP`, `VQUIT`, `VEOF`: the terminal sends its signal to the foreground.

        A user presses it when the program waits. Python's input() loses a signal that comes between its prompt and its
        wait: so what runs in the foreground has to be asleep first, and still to be when it is looked at again.
        """
        seen: dict[int, bytes] = {}

        def waits() -> bool:
            before = dict(seen)
            seen.clear()
            seen.update(_foreground(os.tcgetpgrp(self._master)))
            asleep = all(b"State:\tS" in status for status in seen.values())
            if not (asleep and seen == before):
                time.sleep(0.02)
                return False
            return bool(seen)

        until(waits, "the program waits for the user")
        self.type(termios.tcgetattr(self._master)[6][number].decode("latin-1"))

    def echo(self) -> bool:
        """Whether the terminal echoes what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def hang_up(self) -> None:
        """The user closes the window."""
        os.close(self._master)
        self._master = -1

    def end(self) -> Ended:
        """Read all that is still to come; the exit status and all that was not matched."""
        deadline = time.monotonic() + SECONDS
        while self._master >= 0 and self._read(deadline):
            pass
        status = self.process.wait(SECONDS)
        if self._master >= 0:
            os.close(self._master)
        return Ended(status, self.text.replace("\r\n", "\n"), "")


def port_below_those_given_out() -> int:
    """A port that nobody has, and that the kernel gives nobody who asks for any. Drawn, since other workers draw too,
    and by nothing that pytest-randomly seeds."""
    for _ in range(1000):
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as tried:
            try:
                tried.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
