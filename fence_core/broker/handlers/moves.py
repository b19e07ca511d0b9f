"""Calls with two paths: rename and link, and their variants."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker import repositories, surroundings
from fence_core.broker.handlers import trees
from fence_core.broker.handlers.acting import DIRECTORY_ENDS, judged_path, perform, unresolved
from fence_core.broker.handlers.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, Arguments, signed
from fence_core.broker.native_errno import NO_CHANGE, native_errno
from fence_core.broker.reply import CONTINUE, Reply
from fence_core.broker.resolve import plain_text
from fence_core.kernel import names
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.attribution import Process
    from fence_core.broker.loop import Broker
    from fence_core.broker.resolve import Located

_RENAME_FLAGS = names.RENAME_NOREPLACE | names.RENAME_EXCHANGE | names.RENAME_WHITEOUT


def rename(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, AT_FDCWD, args[0], AT_FDCWD, args[1], 0)


def renameat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, signed(args[0]), args[1], signed(args[2]), args[3], 0)


def renameat2(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _rename(broker, tid, signed(args[0]), args[1], signed(args[2]), args[3], args[4] & 0xFFFF_FFFF)


def _rename(broker: Broker, tid: int, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int) -> Reply:
    exchange = bool(flags & names.RENAME_EXCHANGE)
    if flags & ~_RENAME_FLAGS or (exchange and flags != names.RENAME_EXCHANGE):
        return errno.EINVAL
    process = broker.processes.find(tid)
    before, after = process.read_string(tid, old_at), process.read_string(tid, new_at)
    if not flags and _is_free(broker, process, before, after):
        return CONTINUE
    found = _both(broker, process, tid, (old_fd, before), (new_fd, after))
    if not isinstance(found, tuple):
        return found
    old, new = found
    config = None if flags else repositories.new_config(broker, process, old, new)
    if isinstance(config, repositories.NewConfig):
        return _rename_config(broker, tid, config, old, new)
    refused = _judge(broker, process, tid, "rename", old, new, flags, why=config)
    if refused is not None:
        return refused
    if broker.ceiling.covers(old.path) and broker.ceiling.covers(new.path):
        return CONTINUE

    def act() -> None:
        names.rename(old.directory, old.name, new.directory, new.name, flags)
        broker.ceiling.forget(old.path)
        broker.ceiling.forget(new.path)

    return perform(broker, tid, act)


def _rename_config(broker: Broker, tid: int, config: repositories.NewConfig, old: Located, new: Located) -> Reply:
    native = native_errno("rename", old, tid, other=new)
    if native:
        return broker.succeed() if native == NO_CHANGE else native

    def act() -> None:
        os.close(repositories.put(b"config", new.directory, config.text, config.like))
        os.unlink(old.name, dir_fd=old.directory)
        if config.repository is not None:
            broker.own_repositories.add(config.repository)

    return perform(broker, tid, act)


def _is_free(broker: Broker, process: Process, old: bytes, new: bytes) -> bool:
    """As `acting.is_free`, for a rename."""
    before, after = plain_text(old), plain_text(new)
    if before is None or after is None or surroundings.is_telling_move(before, after):
        return False
    if not (broker.ceiling.covers(before) and broker.ceiling.covers(after) and process.may_rename(before, after)):
        return False
    is_straight = broker.resolver.is_straight
    # The new name may be a symbolic link's: it is not followed.
    return is_straight(old) and (old.rpartition(b"/")[0] == new.rpartition(b"/")[0] or is_straight(new))


def _both(
    broker: Broker, process: Process, tid: int, old: tuple[int, bytes], new: tuple[int, bytes]
) -> tuple[Located, Located] | Reply:
    """Where both names are, of which neither is followed; or the answer where there is nothing to judge."""
    found = []
    for dirfd, raw in (old, new):
        located = broker.resolver.locate(tid, process.pid, dirfd, raw, follow=False)
        answer = unresolved(located)
        if answer is not None:
            return answer
        if located.directory < 0:
            return errno.ENOENT  # in a directory that was removed
        found.append(located)
    return found[0], found[1]


def _judge(
    broker: Broker,
    process: Process,
    tid: int,
    op: str,
    old: Located,
    new: Located,
    flags: int = 0,
    *,
    why: Write | None = None,
) -> Reply | None:
    """The refusal, if there is one; None where the call is to be carried out.

    `why`: what is known against the new name, should that be refused.
    """
    for located in (old, new):
        # A second name in a writable place would make the file behind it writable: the source of a link must be, too.
        # What has no place on a disk (a file of O_TMPFILE) was opened by somebody who might. To a source that is not
        # opened only, as a device may be, but changed: it gets a link more.
        means = "chmod" if located is old and op == "link" else op
        may = not located.is_file or process.may_write(judged_path(broker, process, located.path), means)
        if may or repositories.lets(broker, process, op, located):
            gets = located is new or bool(flags & names.RENAME_EXCHANGE)
            asked = surroundings.objection(broker, process, op, located, gets=gets)
            if asked is None:
                continue
        else:
            asked = Write(op, located.path)
        if located is new and why is not None:
            asked = why
        native = native_errno(op, old, tid, flags=flags, other=new)
        if native:
            return broker.succeed() if native == NO_CHANGE else native
        refused = broker.refuse(process, tid, asked, errno.EACCES)
        if refused != CONTINUE:
            return refused
    pairs = ((old, new), (new, old)) if flags & names.RENAME_EXCHANGE else ((old, new),)
    for source, target in pairs:
        for move in trees.objections(process, op, source, target):
            native = native_errno(op, old, tid, flags=flags, other=new)
            if native:
                return broker.succeed() if native == NO_CHANGE else native
            refused = broker.refuse(process, tid, move, errno.EACCES)
            if refused != CONTINUE:
                return refused
    return None


def link(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _link(broker, tid, AT_FDCWD, args[0], AT_FDCWD, args[1], 0)


def linkat(broker: Broker, tid: int, args: Arguments) -> Reply:
    return _link(broker, tid, signed(args[0]), args[1], signed(args[2]), args[3], args[4] & 0xFFFF_FFFF)


def _link(broker: Broker, tid: int, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int) -> Reply:
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        return errno.EINVAL
    process = broker.processes.find(tid)
    raw = process.read_string(tid, old_at)
    by_descriptor = not raw and bool(flags & AT_EMPTY_PATH)
    if by_descriptor:
        old = broker.resolver.descriptor(tid, old_fd)
    else:
        follow = bool(flags & AT_SYMLINK_FOLLOW) or raw.endswith(DIRECTORY_ENDS) or raw in (b".", b"..")
        old = broker.resolver.locate(tid, process.pid, old_fd, raw, follow=follow)
    answer = unresolved(old)
    if answer is not None:
        return answer
    if old.handle < 0:
        try:
            old.handle = os.open(old.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=old.directory)
        except OSError as error:
            return error.errno or errno.ENOENT
        broker.close_after(old.handle)
    raw = process.read_string(tid, new_at)
    new = broker.resolver.locate(tid, process.pid, new_fd, raw, follow=False)
    answer = unresolved(new)
    if answer is not None:
        return answer
    if new.directory < 0:
        return errno.ENOENT
    refused = _judge(broker, process, tid, "link", old, new)
    if refused is not None:
        return refused
    if broker.ceiling.covers(old.path) and broker.ceiling.covers(new.path):
        return CONTINUE

    def act() -> None:
        handle = os.open(f"/proc/self/fd/{old.handle}", os.O_PATH | os.O_CLOEXEC) if by_descriptor else old.handle
        try:
            names.link(handle, new.directory, new.name, as_opened=by_descriptor)
        finally:
            if by_descriptor:
                os.close(handle)

    return perform(broker, tid, act)
