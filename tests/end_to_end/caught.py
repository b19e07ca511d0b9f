"""A fenced run whose result can be questioned: which violation, on which test, in which phase, from which line.

Run by the outer pytest, which is not fenced.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fence_core.events.model import Violation
from fence_core.events.wire import from_wire
from fence_core.report import words
from pytest_fence.categories import SECTION
from tests.end_to_end import witness
from tests.end_to_end.loopback import HELLO, Loopback
from tests.end_to_end.support import Ended, Runs

ROOT = Path(__file__).resolve().parents[2]

AWAY = "198.51.100.7"
"""An address of documentation (RFC 5737) that no rule allows. Nothing is ever sent there: the tests are about that."""
AWAY6 = "2001:db8::7"

ONLY_HERE = """
[tool.fence]
extends = "default-deny"
allow_local_binding = true
allow_write = ["./*", "/dev/null", "/dev/tty"]
"""
"""For tests of writes: the run's own directory is writable and nothing else, not even the temporary directory."""


def what_of(plain: Mapping[str, Any]) -> str:
    """The text of a violation in the attribute of a report."""
    return words.tried(from_wire(Violation, plain))


class Attempt:
    """One violation, as other plugins and the summary see it."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.plain = plain
        self.nodeid: str = plain["nodeid"]
        self.phase: str = plain["phase"]
        found = from_wire(Violation, plain)
        self.what = words.tried(found)
        self.count = found.count
        self.program = found.program.name
        self.chain = list(found.program.chain)
        self.argv = list(found.program.argv)
        self.late = found.late
        self.state = found.state
        self.rule = words.rule(found.rule, found.verdict)
        self.marker = words.marker(found.remedy) if found.remedy else ""
        self.config = words.config(found.remedy) if found.remedy else ""
        self.stack = list(found.stack)

    def __repr__(self) -> str:
        times = f" x{self.count}" if self.count > 1 else ""
        late = ", late" if self.late else ""
        where = [f"{Path(path).name}:{line}" for path, line, _ in self.stack]
        return f"<{self.nodeid or '-'} {self.phase}: {self.what}{times} by {self.program}{late} {where}>"


class Caught(Ended):
    """What a fenced run did, and what the fence has to say about it."""

    def __init__(self, ended: Ended, directory: Path, noted: Mapping[str, Any]) -> None:
        super().__init__(ended.status, ended.out, ended.err)
        self._directory = directory
        self.reports: Sequence[Mapping[str, Any]] = noted["reports"]
        self.ledger = [Attempt(plain) for plain in noted["ledger"]]

    def __repr__(self) -> str:
        return f"{self.ledger}\n{super().__repr__()}"

    def report(self, test: str, phase: str = "call") -> Mapping[str, Any]:
        """The one report of a test in a phase."""
        found = [r for r in self.reports if _is(r["nodeid"], test) and r["phase"] == phase]
        assert len(found) == 1, f"{len(found)} reports of {test} in {phase}\n{self!r}"
        return found[0]

    def attempts(self, test: str) -> list[Attempt]:
        """All violations of a test, or of none ("")."""
        return [v for v in self.ledger if (_is(v.nodeid, test) if test else not v.nodeid)]

    def refused(
        self,
        test: str,
        what: str,
        *,
        phase: str = "call",
        line: str = "",
        by: Sequence[str] = (),
        count: int | None = 1,
        fails_itself: bool = False,
    ) -> Attempt:
        """The test did exactly this, once, in that phase; its report says so and is a failure.

        `line`: text of the source line that the stack ends in. `by`: programs of the chain, without the test process.
        `count` None: any number of times. `fails_itself`: it would have failed without a verdict of the fence, too.

        What another program than Python did of another kind is left aside: each version of curl, git or node writes
        and looks up what it likes.
        """
        found = [v for v in self.attempts(test) if not _is_beside_the_point(v.plain, what, by)]
        assert [v.what for v in found] == [what], f"{test} was to be blamed for {what!r} only\n{self!r}"
        (attempt,) = found
        self._check(attempt, phase, line, by, count)
        if phase in ("setup", "call", "teardown"):
            report = self.blamed(test, phase, fails_itself=fails_itself)
            told_of = [what_of(v) for v in report["fence"] if not _is_beside_the_point(v, what, by)]
            assert told_of == [what], self
            told = report["text"] + "".join(text for _, text in report["sections"])
            assert what in told, f"the report of {test} does not say {what!r}: {told}"
        return attempt

    def blamed(self, test: str, phase: str = "call", *, fails_itself: bool = False) -> Mapping[str, Any]:
        """The report of a test that the fence made a failure, and whose own assertions held."""
        report = self.report(test, phase)
        assert report["outcome"] == "failed", f"{test} was to fail\n{self!r}"
        # The fence adds a section to a report that is a failure already; of any other it writes the failure.
        failed_itself = any(name == SECTION for name, _ in report["sections"])
        assert failed_itself == fails_itself, f"{test} did {'' if failed_itself else 'not '}fail itself\n{self!r}"
        assert self.status == 1, self
        return report

    def outside(self, what: str, *, phase: str, line: str = "", nodeid: str = "") -> Attempt:
        """A violation that belongs to no test; the run failed and the summary tells of it."""
        found = [v for v in self.ledger if v.phase == phase and v.nodeid == nodeid]
        assert [v.what for v in found] == [what], self
        self._check(found[0], phase, line, (), 1)
        assert what in self.out, self
        assert self.status == 1, self
        return found[0]

    def _check(self, attempt: Attempt, phase: str, line: str, by: Sequence[str], count: int | None) -> None:
        assert attempt.phase == phase, self
        assert count is None or attempt.count == count, self
        assert attempt.chain[1:] == list(by), self
        if line:
            assert self.line_of(attempt) == line, f"expected the line {line!r}\n{self!r}"

    def line_of(self, attempt: Attempt) -> str:
        """The innermost line of the stack that lies in a file of the run, without the white space around it."""
        for path, number, _ in reversed(attempt.stack):
            if Path(path).is_relative_to(self._directory):
                return Path(path).read_text(encoding="utf-8").splitlines()[number - 1].strip()
        return ""

    def clean(self, *tests: str, outcome: str = "passed") -> None:
        """These tests ended so, and nobody blames them for anything."""
        for test in tests:
            assert self.report(test)["outcome"] == outcome, f"{test} was to be {outcome}\n{self!r}"
            assert not self.attempts(test), f"{test} was to be blamed for nothing\n{self!r}"
            assert not [r for r in self.reports if _is(r["nodeid"], test) and r["fence"]], self

    def nothing_else(self, *expected: str) -> None:
        """These are all tests that were blamed ("" for what belongs to none)."""
        names = {v.nodeid.rpartition("::")[2] for v in self.ledger}
        assert names == set(expected), self


def _is_beside_the_point(plain: Mapping[str, Any], what: str, by: Sequence[str]) -> bool:
    """Whether a program that is not ours did something else than what the test is about: it wrote, and the test asks
    for a connection, or the other way round."""
    foreign = bool(by) and plain["program"]["name"] == by[-1] and by[-1] in FOREIGN
    return foreign and _touches_the_network(what_of(plain)) != _touches_the_network(what)


def _touches_the_network(what: str) -> bool:
    return what.partition(" ")[0] in ("connect", "resolve", "bind", "open")


FOREIGN = {"chromium", "curl", "git", "git-remote-http", "node", "openssl", "redis-cli", "ssh", "wget"}
"""Programs that are neither part of this project nor of the POSIX kind that does what it is told and nothing else."""


def _is(nodeid: str, test: str) -> bool:
    return nodeid == test or nodeid.endswith("::" + test)


class Fenced:
    """Runs `pytest --fence` on files given as text."""

    def __init__(self, runs: Runs, loopback: Loopback, outside: Path) -> None:
        self._runs = runs
        self.directory = runs.directory
        self.loopback = loopback
        self.outside = outside
        """A directory that `ONLY_HERE` does not let the tests write to."""
        self.write(
            "here.py",
            f"""
            AWAY, AWAY6 = {AWAY!r}, {AWAY6!r}
            HELLO = {HELLO!r}
            PORT, PORT6, HTTP, UDP, POSTGRES = {tuple(loopback)!r}
            OUTSIDE = {str(outside)!r}
            """,
        )

    def write(self, name: str, text: str) -> Path:
        """A file in the directory of the run."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def untouched(self, *names: str, **contents: str | None) -> bool:
        """Outside there is still what there was: these files, and these with this text (None: directories)."""
        assert sorted(path.name for path in self.outside.iterdir()) == sorted([*names, *contents])
        for name, text in contents.items():
            path = self.outside / name
            assert path.is_dir() if text is None else path.read_text(encoding="utf-8") == text
        return True

    def run(
        self,
        test: str | None = None,
        *args: str,
        files: Mapping[str, str] | None = None,
        policy: str = "",
        plugins: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        flags: Sequence[str] = ("--fence",),
        cache: bool = False,
        prefix: Sequence[str] = (),
        program: Sequence[str] = (),
    ) -> Caught:
        """One run of the text `test` as ``test_it.py``, beside `files`, with `policy` as the project's config.

        Plugins are not loaded of themselves: hypothesis alone takes longer to import than the rest of the run.
        `prefix`: a command that ends by executing the words after it. `program`: another Python than this one, or
        another way to start pytest with it.
        """
        if test is not None:
            self.write("test_it.py", test)
        for name, text in (files or {}).items():
            self.write(name, text)
        if policy:
            self.write("pyproject.toml", policy)
        (self.directory / "tmp").mkdir(exist_ok=True)
        noted = self.directory / "witness.json"
        noted.unlink(missing_ok=True)
        options = ["-p", "pytest_fence.plugin", "-p", "tests.end_to_end.witness"]
        for plugin in plugins:
            options += ["-p", plugin]
        environ = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": None,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.directory / "tmp"),  # writable even where no other place is
            "PYTHONDONTWRITEBYTECODE": "1",  # the same file is written anew within the resolution of its time
            witness.FILE: str(noted),
            **(env or {}),
        }
        options += [
            *flags,
            *(() if cache else ("-p", "no:cacheprovider")),
            f"--basetemp={self.directory / 'basetemp'}",
            *args,
        ]
        words = self._runs.argv(options, fenced=False)
        if program:
            words = [*program, *words[1 if len(program) == 1 else 3 :]]  # with or without `-m pytest`
        ended = self._runs.command(*prefix, *words, env=environ)
        if not noted.exists():
            return Caught(ended, self.directory, {"reports": [], "ledger": []})
        return Caught(ended, self.directory, json.loads(noted.read_text(encoding="utf-8")))
