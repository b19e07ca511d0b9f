"""POSIX message queues, which are files of a file system of their own: judged as /dev/mqueue/NAME, mounted or not.

Landlock refuses every open of one for writing, since no rule can cover that file system, and hears nothing of their
removal. So the broker carries both out. Source: mq_overview(7), ipc/mqueue.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker.calls.acting import perform
from fence_core.broker.calls.arguments import signed
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.kernel import arch, libc, namespaces
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.broker.call import Call

_ATTRIBUTES = 64  # struct mq_attr: eight longs

_mq_open = libc.function(
    "syscall", ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long, ctypes.c_long, ctypes.c_char_p
)
_mq_unlink = libc.function("syscall", ctypes.c_long, ctypes.c_long, ctypes.c_char_p)


def mq_open(call: Call) -> Reply:
    """The name is without the slash that it begins with for libc."""
    if not _same_queues(call.tid):
        return CONTINUE  # a namespace made inside has queues of its own, or none can be opened: Landlock's rules hold
    attributes = call.read(call.args[3], _ATTRIBUTES) if call.args[3] else None
    name = call.read_string(call.args[0])
    flags, mode = signed(call.args[1]), call.args[2] & 0o7777
    number = arch.current().calls["mq_open"]

    def exists() -> bool:
        found: int = _mq_open(number, name, os.O_RDONLY | os.O_NONBLOCK, 0, None)
        if found >= 0:
            os.close(found)
        return found >= 0 or ctypes.get_errno() != errno.ENOENT

    def native() -> int:
        if exists():
            return errno.EEXIST if flags & os.O_CREAT and flags & os.O_EXCL else 0
        return 0 if flags & os.O_CREAT else errno.ENOENT

    refused = _judge(call, "open", name, native)
    if refused != CONTINUE:
        return refused
    opened = -1

    def act() -> int | None:
        nonlocal opened
        opened = _mq_open(number, name, flags, mode, attributes)
        return ctypes.get_errno() if opened < 0 else None

    reply = perform(call, act, creates=True)
    # Always: do_mq_open asks for no other descriptor.
    return reply if isinstance(reply, int) else HandOver(opened, cloexec=True)


def mq_unlink(call: Call) -> Reply:
    if not _same_queues(call.tid):
        return CONTINUE
    name = call.read_string(call.args[0])
    calls = arch.current().calls

    def native() -> int:
        found: int = _mq_open(calls["mq_open"], name, os.O_RDONLY | os.O_NONBLOCK, 0, None)
        if found >= 0:
            os.close(found)
            return 0
        return errno.ENOENT if ctypes.get_errno() == errno.ENOENT else 0

    refused = _judge(call, "unlink", name, native)
    if refused != CONTINUE:
        return refused

    def act() -> int | None:
        return ctypes.get_errno() if _mq_unlink(calls["mq_unlink"], name) < 0 else None

    return perform(call, act)


def _judge(call: Call, op: str, name: bytes, native: Callable[[], int]) -> int:
    """CONTINUE where it is to be carried out."""
    if b"/" in name or name in (b"", b".", b".."):
        return CONTINUE  # no name of a queue: the kernel refuses it
    path = "/dev/mqueue/" + os.fsdecode(name)
    if call.process.may_write(path, op):
        return CONTINUE
    return native() or call.refuse(Write(op, path), errno.EACCES)


def _same_queues(tid: int) -> bool:
    return namespaces.is_ours(tid, "ipc")
