"""One line for each thing that was refused: for a terminal, or as JSON for programs. Pure.

`[fence:KIND] HH:MM:SS MARK WHAT RESULT (PROGRAMS, pid=N)`. What comes from a program is escaped, so that no name of a
file looks like a line of ours.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any

from fence_core.report import words
from fence_core.report.rule import camel
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.events.ledger import Record
    from fence_core.events.model import Violation
    from fence_core.policy.model import Remedy

__all__ = ["Counts", "as_data", "as_text", "remedy_data"]

REFUSED, FAULT, PASSED, TIMES = "✗", "!", "→", "\N{MULTIPLICATION SIGN}"
VERSION = 1
"""Of the JSON objects."""
_KINDS = {
    "connect": "net",
    "bind": "net",
    "socket": "net",
    "resolve": "dns",
    "write": "file",
    "read": "file",
    "run": "exec",
    "system": "sys",
}
_CUT = 3500
"""Characters of a line: what a pipe takes in one piece has 4,096 bytes."""


class Counts:
    """Which attempts get a line: each that is new, and what has happened 10 times, 100 times, ..."""

    MANY = 10
    """Two or three attempts are what many programs make by themselves."""

    def __init__(self) -> None:
        self.shown: dict[int, int] = {}
        """Of each record that was shown, by its number: with which count."""

    def is_due(self, record: Record) -> bool:
        number, count = record.made.number, record.count
        if number not in self.shown:
            if count > 1 or not record.made.program.chain:
                return False  # one of those that could not be kept
        elif count == self.shown[number] or str(count).strip("0") != "1":
            return False
        self.shown[number] = count
        return True

    def is_behind(self, record: Record) -> bool:
        """Whether the count that was shown last says too little, now that all is over."""
        return record.count > max(self.shown.get(record.made.number, record.count), self.MANY)


def as_text(violation: Violation, moment: float, how: str = "") -> str:
    """`moment`: seconds since 1970. `how`: of a request to the filter as a proxy: ``GET http://a.test/``."""
    mark = FAULT if violation.verdict == "error" else REFUSED if violation.errno else PASSED
    clock = time.strftime("%H:%M:%S", time.localtime(moment))
    if how and violation.errno:
        kind, text = "fence:http", f"{clock} {mark} {_by_proxy(violation, how)}"
    else:
        kind = "fence:" + _KINDS[violation.kind] if violation.kind in _KINDS else "fence"
        text = f"{clock} {mark} {words.tried(violation)} {_result(violation)}{_by(violation)}".replace("  ", " ")
    times = f" {TIMES}{violation.count}" if violation.count > 1 else ""
    return f"[{kind}] {text[:_CUT]}{times}"


def _by_proxy(violation: Violation, how: str) -> str:
    method, _, url = how.partition(" ")
    host = violation.target.host
    return escape(f"{method} 403 {host} {url or f'https://{host}:{violation.target.port}'} (0s)")


def _result(violation: Violation) -> str:
    if not violation.errno:
        return "let through"
    if violation.kind == "resolve" and violation.errno == errno.ENOENT:
        return "NXDOMAIN"
    return errno.errorcode.get(violation.errno, str(violation.errno))


def _by(violation: Violation) -> str:
    program = violation.program
    chain = " → ".join(escape(name) for name in program.chain or (program.name,))
    return f" ({chain}, pid={program.pid})"


def as_data(violation: Violation, moment: float, number: int, how: str = "") -> dict[str, Any]:
    """The same for programs: docs/reference/command.md lists the fields."""
    target, program, rule = violation.target, violation.program, violation.rule
    source = rule.source
    whole, fraction = divmod(moment, 1)
    return {
        "v": VERSION,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(fraction * 1000):03d}Z",
        "seq": number,
        "kind": "http" if how else _KINDS.get(violation.kind, "fence"),
        "verdict": "fault" if violation.verdict == "error" else "refused" if violation.errno else "let through",
        "what": violation.operation,
        "path": target.path,
        "host": target.host,
        "port": target.port,
        "protocol": target.protocol,
        "detail": target.detail,
        "request": how,
        "errno": errno.errorcode.get(violation.errno, ""),
        "rule": words.rule(rule, violation.verdict),
        "rule_key": rule.key,
        "source": None if source is None else {"file": source.file or source.name, "line": source.line},
        "pid": program.pid,
        "exe": program.path,
        "argv": list(program.argv),
        "chain": list(program.chain),
        "test": violation.nodeid or None,
        "count": violation.count,
        "remedy": remedy_data(violation.remedy),
    }


def remedy_data(remedy: Remedy | None) -> dict[str, Any] | None:
    """As a piece of `fence.json`."""
    if remedy is None:
        return None
    section, _, name = remedy.key.partition(".")
    value = remedy.value
    return {section: {camel(name): value if isinstance(value, bool) else list(value)}}
