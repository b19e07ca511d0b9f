"""`fence doctor`: whether commands and tests can be fenced on this machine, proved by trying."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.command.choose import CHOOSING, complaint, find
from fence_core.command.options import Option, UsageError, parse
from fence_core.errors import PolicyError
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fence_core.policy.model import Config

__all__ = ["DOCTOR_OPTIONS", "HEAD", "TAIL", "doctor"]

DOCTOR_OPTIONS = (*CHOOSING, Option("help", "h", "", "show this text and exit"))
HEAD = """\
usage: fence doctor [flags]

Says whether commands and tests can be fenced on this machine: which layers of the fence there are,
why others are missing and how to get them. It puts up a fence and tries it, with servers of its own;
nothing leaves the machine.
"""
TAIL = "\nIt ends with 0 where all is ready, 1 where it is not, 2 where it was called in a wrong way."
_WRONG = 2


def doctor(arguments: Sequence[str]) -> int:
    """An exit status."""
    try:
        asked = parse(arguments, DOCTOR_OPTIONS)
        if asked.words:
            raise UsageError(f"doctor takes flags only, and {escape(asked.words[0])} is none of them")
    except UsageError as error:
        os.write(2, f"fence: {error}\n".encode("utf-8", "backslashreplace"))
        return _WRONG
    if asked.has("help"):
        from fence_core.command.help import page

        print(page(HEAD, DOCTOR_OPTIONS, TAIL))
        return 0
    from importlib.metadata import version

    from fence_core.doctor.examine import examine, named

    config: Config | None = None
    try:
        found = find(asked, os.getcwd())
        config, policy = found.config, named(found.chain, found.config.policy)
    except PolicyError as error:
        policy = complaint(error)
    status = 0
    for line, so_far in examine(f"fence {version('pytest-fence')}", config, policy):
        print(line, flush=True)
        status = so_far
    return status
