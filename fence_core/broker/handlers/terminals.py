"""Opens of terminals for writing: of the run's own, and of those that were opened inside. See `broker/terminals.py`."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.handlers.reads import open_found, open_terminal
from fence_core.broker.native_errno import native_errno
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.broker.terminals import PTMX, TERMINAL_MAJORS, TTY, controlling, is_slave, name_of
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.resolve import Located


def open_to_write(call: Call, located: Located, handle: int, flags: int) -> Reply | None:
    """The answer to an open of a device that the rules allow; None where it is not a terminal that is looked after.

    Consoles and serial lines are not: they are there for whoever is allowed them by name.
    """
    status = os.fstat(handle)
    device = status.st_rdev
    if not stat.S_ISCHR(status.st_mode) or os.major(device) not in TERMINAL_MAJORS:
        return None
    if device == PTMX:
        opened = open_found(call, handle, flags)
        if isinstance(opened, HandOver):
            call.services.terminals.note_made(opened.fd, located.path)
        return opened
    if device == TTY:
        terminal = controlling(call.tid)[2]
        meant, ours = name_of(terminal), not terminal or call.services.terminals.has_number(terminal)
        if ours and call.services.ceiling.covers_file(located.path, handle):
            return None  # the kernel opens it under the name that was asked for, which ttyname(3) shows
    elif is_slave(device):
        meant, ours = located.path, call.services.terminals.is_ours(handle)
    else:
        return None
    asked = Write("terminal", meant)
    if not ours and not call.allowed(asked):
        refused = native_errno("open", located, call.tid, flags=flags) or call.refuse(asked, errno.EACCES)
        if refused != CONTINUE:
            return refused
    return open_terminal(call, handle, flags, device)
