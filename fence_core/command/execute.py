"""Which program a command line means, and starting it. Run before the fork, and in the fenced child."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

from fence_core.command.options import UsageError
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NotRunError", "execute", "find_program", "shell"]

NOT_FOUND, NOT_RUN = 127, 126
"""As POSIX has them for shells, env and nohup."""
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_SHELLS = "/etc/shells"


class NotRunError(Exception):
    """The command cannot be started."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def find_program(name: str, path: str | None) -> str:
    """The file that is started by this name; `path`: as `$PATH`, None where that is not set. Raises NotRunError."""
    if "/" in name:
        return name
    blocked = ""
    for directory in (_DEFAULT_PATH if path is None else path).split(":") if name else ():
        found = f"{directory or '.'}/{name}"
        try:
            if not stat.S_ISREG(os.stat(found).st_mode):
                continue
        except (OSError, ValueError):
            continue
        if os.access(found, os.X_OK):
            return found
        blocked = blocked or found
    if blocked:
        raise NotRunError(f"{escape(blocked)}: Permission denied", NOT_RUN)
    raise NotRunError(f"{escape(name) or chr(39) * 2}: command not found", NOT_FOUND)


def execute(program: str, argv: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Become this program; of a script without a `#!` line, the shell, as execvp(3) has it. Raises NotRunError."""
    try:
        os.execve(program, argv, environment)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            _by_the_shell(program, argv, environment)
        raise _not_run(program, error) from None
    except ValueError as error:  # a NUL in a word
        raise NotRunError(f"{escape(program)}: {error}", NOT_RUN) from None


def _by_the_shell(program: str, argv: list[str], environment: Mapping[str, str]) -> None:
    try:
        os.execve("/bin/sh", ["sh", program, *argv[1:]], environment)
    except OSError as error:
        raise _not_run(program, error) from None


def _not_run(program: str, error: OSError) -> NotRunError:
    why, status = error.strerror, NOT_FOUND if error.errno == errno.ENOENT else NOT_RUN
    if os.path.isdir(program):
        why = os.strerror(errno.EISDIR)
    elif error.errno == errno.ENOENT and os.path.lexists(program):
        why = "what it is to be run by (its #! line, or its loader) does not exist"
    return NotRunError(f"{escape(program)}: {why}", status)


def shell(which: str, named: str | None, *, login: bool) -> list[str]:
    """The words before the string of `-c`. `which`: default or user; `named`: as `$SHELL`. Raises UsageError."""
    found = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
    if which == "user":
        found = named or ""
        if found not in _listed() or not os.access(found, os.X_OK):
            raise UsageError(f"$SHELL is {escape(found) or 'not set'}, which is not a shell that {_SHELLS} lists")
    elif which != "default":
        raise UsageError(f'"{escape(which)}" is not a shell; there are: default, user')
    return [found, *(["-l"] if login else []), "-c"]


def _listed() -> list[str]:
    try:
        with open(_SHELLS, encoding="utf-8", errors="surrogateescape") as file:
            return [line.strip() for line in file if line.startswith("/")]
    except OSError:
        return []
