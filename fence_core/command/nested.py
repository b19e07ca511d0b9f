"""Showing what a command in a command is refused. Run by a process beside it, in the same fences.

The supervisor is that of the outer command, which has its own stderr. This process ends when the command does.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from fence_core.launcher.session_report import say
from fence_core.link import doors

if TYPE_CHECKING:
    from fence_core.command.report import Log

__all__ = ["show_lines"]


def show_lines(log: Log | None, *, on_screen: bool) -> None:
    """Start a process that shows each line, on standard error or in the log; not a child of the command."""
    fd = doors.knock(doors.LINES)
    if fd is None:
        return
    child = os.fork()
    if child:
        os.close(fd)
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            _show(fd, log, on_screen=on_screen)
    finally:
        os._exit(0)


def _show(fd: int, log: Log | None, *, on_screen: bool) -> None:
    with open(fd, encoding="utf-8") as lines:
        for line in lines:
            found = json.loads(line)
            if on_screen:
                say(found["text"])
            if log is not None:
                text = json.dumps(found["data"]) if log.as_json else found["text"]
                os.write(log.fd, (text + "\n").encode("utf-8", "backslashreplace"))
