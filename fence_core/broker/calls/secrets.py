"""Which file a rule keeps from being read, whoever asks: an open, or the start of a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located


def secret_name(call: Call, located: Located, status: os.stat_result) -> str:
    """By which name a rule keeps a file from being read; empty where none does.

    It is the path that it was found at, or another one: a hard link may have been made long ago. A file that was
    removed had one: whoever has it open by O_PATH could remove it first, and read it then. For what never had a place
    on a disk it is no path at all, which no rule covers.
    """
    if not located.is_file and located.path.startswith("/"):
        path = located.path.removesuffix(" (deleted)")
    else:
        path = call.judged(located.path)
    for _, judge in call.process.account().judges:
        name = path if not judge.may_read(path) else judge.secret_name(status) if status.st_nlink > 1 else ""
        if name:
            return name
    return ""
