"""Calls with two paths: rename and link, and their variants."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, Arguments, signed
from fence_core.broker.native_errno import native_errno
from fence_core.broker.reply import CONTINUE, Reply
from fence_core.broker.resolve import ASK_KERNEL
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.loop import Broker


def rename(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, AT_FDCWD, args[0], AT_FDCWD, args[1], 0)


def renameat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, args[0], args[1], args[2], args[3], 0)


def renameat2(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, args[0], args[1], args[2], args[3], args[4])


def _rename(broker: Broker, tid: int, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int) -> Reply:
    process = broker.processes.find(tid)
    old = broker.resolver.locate(tid, process.pid, signed(old_fd), process.read_string(tid, old_at), follow=False)
    new = broker.resolver.locate(tid, process.pid, signed(new_fd), process.read_string(tid, new_at), follow=False)
    for located in (old, new):
        if located.errno:
            return CONTINUE if located.errno == ASK_KERNEL else located.errno
    old_allowed, new_allowed = process.may_write(old.path, "rename"), process.may_write(new.path, "rename")
    if old_allowed and new_allowed:
        return CONTINUE
    try:
        first, second = os.lstat(old.path), os.lstat(new.path)
        if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
            return broker.succeed()  # rename(2): two links to one file, "does nothing, and returns success"
    except OSError:
        pass
    native = native_errno("rename", old, tid, flags=flags, other=new)
    if native:
        return native
    return broker.refuse(process, tid, Write("rename", new.path if old_allowed else old.path), errno.EACCES)


def link(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _link(broker, tid, AT_FDCWD, args[0], AT_FDCWD, args[1], 0)


def linkat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _link(broker, tid, args[0], args[1], args[2], args[3], args[4])


def _link(broker: Broker, tid: int, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int) -> Reply:
    process = broker.processes.find(tid)
    raw = process.read_string(tid, old_at)
    resolver = broker.resolver
    if not raw and flags & AT_EMPTY_PATH:
        old = resolver.descriptor(tid, signed(old_fd))
    else:
        follow = bool(flags & AT_SYMLINK_FOLLOW)
        old = resolver.locate(tid, process.pid, signed(old_fd), raw, follow=follow)
    new = resolver.locate(tid, process.pid, signed(new_fd), process.read_string(tid, new_at), follow=False)
    for located in (old, new):
        if located.errno:
            return CONTINUE if located.errno == ASK_KERNEL else located.errno
    # A second name in a writable place would make the file behind it writable: the source must be, too.
    source_allowed = not old.is_file or process.may_write(old.path)
    if source_allowed and process.may_write(new.path, "link"):
        return CONTINUE
    native = native_errno("link", new, tid, other=old if old.is_file else None)
    if native:
        return native
    return broker.refuse(process, tid, Write("link", new.path if source_allowed else old.path), errno.EACCES)
