"""Secrets taken out of a report: what reaches a file is read by more people than the terminal it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["HIDDEN", "Redactor", "secrets_of"]

HIDDEN = "***"
_SHORTEST = 6
"""Characters that a value has at least: what is shorter stands everywhere by chance."""
_SECRET = (
    r"(?:[\w-]*(?:password|passwd|passphrase|passcode|token|secret|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|credentials?)|auth|pat)"
)
_OPTION = re.compile(rf"--?{_SECRET}", re.IGNORECASE)
_SPELLED = re.compile(rf"(?<![\w-])(--?{_SECRET})([\"']?\s*[=,\s]\s*[\"']?)([^\s\"',)\]]+)", re.IGNORECASE)
"""In one text with the words around it: a command line, or a line of Python that has it as a list."""
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]+@")
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization\s*:\s*(?:(?:basic|bearer|digest|token|negotiate)\s+)?)[^\s'\"]+", re.I
)
_BY_P = re.compile(r"(?:mysql|mariadb)\w*(?:-\w+)*|sshpass|htpasswd")
"""Programs whose ``-p`` is a password, in the same word or the next; of others it is a port, a path, a plug-in."""
_BY_U = re.compile(r"curl|wget|http|https")
_FIXED = frozenset(
    {"schema", "id", "fingerprint", "state", "phase", "operation", "kind", "verdict", "key", "outcome", "mode", "scope",
     "error", "violations", "sha256", "provider", "started", "version"}
)  # fmt: skip
"""What a report has under these is never a stranger's text."""


def secrets_of(environ: Mapping[str, str], is_secret: Callable[[str], bool]) -> list[str]:
    """Values that must not be shown, the longest first: one may be part of another."""
    values = {value for name, value in environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    return sorted(values, key=lambda value: (-len(value), value))


class Redactor:
    """Knows the values that must not be shown."""

    def __init__(self, secrets: list[str]) -> None:
        self._values = re.compile("|".join(map(re.escape, secrets))) if secrets else None

    def report(self, value: Any, name: str = "") -> Any:
        """The same data without secrets."""
        if isinstance(value, dict):
            return {key: self.report(each, key) for key, each in value.items()}
        if isinstance(value, list):
            if name in ("argv", "command") and all(isinstance(each, str) for each in value):
                return self.words(value)
            return [self.report(each, name) for each in value]
        return self.text(value) if isinstance(value, str) and name not in _FIXED else value

    def words(self, argv: list[str]) -> list[str]:
        """Of a command line."""
        found: list[str] = []
        program = argv[0].rpartition("/")[2] if argv else ""
        hides = False
        for word in argv:
            if hides:
                found.append(HIDDEN)
                hides = False
                continue
            by_p = word.startswith("-p") and _BY_P.fullmatch(program) is not None
            hides = word == "-p" if by_p else _OPTION.fullmatch(word) is not None
            if by_p and word != "-p":
                word = f"-p{HIDDEN}"
            elif found and found[-1] in ("-u", "--user", "-U", "--proxy-user") and _BY_U.fullmatch(program):
                word = word.partition(":")[0] + (f":{HIDDEN}" if ":" in word else "")
            found.append(self.text(word))
        return found

    def text(self, text: str) -> str:
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        if "://" in text:
            text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
        if "-" in text:
            text = _SPELLED.sub(rf"\1\2{HIDDEN}", text)
        return _HEADER.sub(rf"\1{HIDDEN}", text) if ":" in text else text
