"""Calls with two paths: rename and link, and their variants."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker.calls import trees
from fence_core.broker.calls.acting import perform, unlearnt, unresolved
from fence_core.broker.calls.arguments import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, signed
from fence_core.broker.paths import repositories, surroundings
from fence_core.broker.paths.native_errno import NO_CHANGE, native_errno
from fence_core.broker.paths.resolve import follows, plain_text
from fence_core.broker.reply import CONTINUE, Reply, Value
from fence_core.broker.services import drafts
from fence_core.kernel import links
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located

_Path = tuple[int, int]
"""Among the arguments: the descriptor that a path begins at, and where its text lies."""
_RENAME_FLAGS = links.RENAME_NOREPLACE | links.RENAME_EXCHANGE | links.RENAME_WHITEOUT


def rename(call: Call) -> Reply:
    return _rename(call, (AT_FDCWD, call.args[0]), (AT_FDCWD, call.args[1]), 0)


def renameat(call: Call) -> Reply:
    return _rename(call, *_paths(call), 0)


def renameat2(call: Call) -> Reply:
    return _rename(call, *_paths(call), call.args[4] & 0xFFFF_FFFF)


def _paths(call: Call) -> tuple[_Path, _Path]:
    """Of the calls with descriptors."""
    return (signed(call.args[0]), call.args[1]), (signed(call.args[2]), call.args[3])


def _rename(call: Call, from_: _Path, to: _Path, flags: int) -> Reply:
    exchange = bool(flags & links.RENAME_EXCHANGE)
    if flags & ~_RENAME_FLAGS or (exchange and flags != links.RENAME_EXCHANGE):
        return errno.EINVAL
    before, after = call.read_string(from_[1]), call.read_string(to[1])
    if not flags and _is_free(call, before, after):
        return CONTINUE
    found = _both(call, (from_[0], before), (to[0], after))
    if not isinstance(found, tuple):
        return found
    old, new = found
    config = None if flags else repositories.new_config(call, old, new)
    if isinstance(config, repositories.NewConfig):
        return _rename_config(call, config, old, new)
    refused = _judge(call, "rename", found, flags, config)
    if refused is not None:
        return refused
    if call.services.ceiling.covers(old.path) and call.services.ceiling.covers(new.path):
        return CONTINUE

    def act() -> None:
        links.rename(old.directory, old.name, new.directory, new.name, flags)
        call.services.ceiling.forget(old.path)
        call.services.ceiling.forget(new.path)

    return perform(call, act)


def _rename_config(call: Call, config: repositories.NewConfig, old: Located, new: Located) -> Reply:
    native = native_errno("rename", old, call.tid, other=new)
    if native:
        return Value(0) if native == NO_CHANGE else native

    def act() -> None:
        os.close(drafts.put(b"config", new.directory, config.text, config.like))
        os.unlink(old.name, dir_fd=old.directory)
        if config.repository is not None:
            call.services.drafts.own_repositories.add(config.repository)

    return perform(call, act)


def _is_free(call: Call, old: bytes, new: bytes) -> bool:
    """As `acting.is_free`, for a rename."""
    before, after = plain_text(old), plain_text(new)
    if before is None or after is None or surroundings.is_telling_move(before, after):
        return False
    covers = call.services.ceiling.covers
    if not (covers(before) and covers(after) and call.process.may_rename(before, after)):
        return False
    is_straight = call.services.resolver.is_straight
    # The new name may be a symbolic link's: it is not followed.
    return is_straight(old) and (old.rpartition(b"/")[0] == new.rpartition(b"/")[0] or is_straight(new))


def _both(call: Call, old: tuple[int, bytes], new: tuple[int, bytes]) -> tuple[Located, Located] | Reply:
    """Where both names are, of which neither is followed; or the answer where there is nothing to judge."""
    found = []
    for dirfd, raw in (old, new):
        located = call.locate(dirfd, raw, follow=False)
        answer = unresolved(located)
        if answer is not None:
            return answer
        if located.directory < 0:
            return errno.ENOENT  # in a directory that was removed
        found.append(located)
    return found[0], found[1]


def _judge(
    call: Call, op: str, pair: tuple[Located, Located], flags: int = 0, why: Write | None = None
) -> Reply | None:
    """The refusal, if there is one; None where the call is to be carried out.

    `why`: what is known against the new name, should that be refused.
    """
    old, new = pair
    for located in pair:
        # A second name in a writable place would make the file behind it writable: the source of a link must be, too.
        # What has no place on a disk (a file of O_TMPFILE) was opened by somebody who might. To a source that is not
        # opened only, as a device may be, but changed: it gets a link more.
        means = "chmod" if located is old and op == "link" else op
        may = not located.is_file or call.process.may_write(call.judged(located.path), means)
        if may or repositories.lets(call, op, located):
            gets = located is new or bool(flags & links.RENAME_EXCHANGE)
            asked = surroundings.objection(call, op, located, gets=gets)
            if asked is None:
                continue
        else:
            asked = Write(op, located.path)
        if located is new and why is not None:
            asked = why
        native = native_errno(op, old, call.tid, flags=flags, other=new)
        if native:
            return Value(0) if native == NO_CHANGE else native
        if call.learns() and not asked.known:
            gets = located is new or bool(flags & links.RENAME_EXCHANGE)
            asked = unlearnt(call, op, located, gets=gets) or asked
        refused = call.refuse(asked, errno.EACCES)
        if refused != CONTINUE:
            return refused
    pairs = ((old, new), (new, old)) if flags & links.RENAME_EXCHANGE else ((old, new),)
    for source, target in pairs:
        for move in trees.objections(call, op, source, target):
            native = native_errno(op, old, call.tid, flags=flags, other=new)
            if native:
                return Value(0) if native == NO_CHANGE else native
            refused = call.refuse(move, errno.EACCES)
            if refused != CONTINUE:
                return refused
    return None


def link(call: Call) -> Reply:
    return _link(call, (AT_FDCWD, call.args[0]), (AT_FDCWD, call.args[1]), 0)


def linkat(call: Call) -> Reply:
    return _link(call, *_paths(call), call.args[4] & 0xFFFF_FFFF)


def _link(call: Call, from_: _Path, to: _Path, flags: int) -> Reply:
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        return errno.EINVAL
    raw = call.read_string(from_[1])
    by_descriptor = not raw and bool(flags & AT_EMPTY_PATH)
    if by_descriptor:
        old = call.services.resolver.descriptor(call, from_[0])
    else:
        follow = follows(raw, bool(flags & AT_SYMLINK_FOLLOW))
        old = call.locate(from_[0], raw, follow=follow)
    answer = unresolved(old)
    if answer is not None:
        return answer
    failed = old.pin(call)
    if failed:
        return failed
    raw = call.read_string(to[1])
    new = call.locate(to[0], raw, follow=False)
    answer = unresolved(new)
    if answer is not None:
        return answer
    if new.directory < 0:
        return errno.ENOENT
    refused = _judge(call, "link", (old, new))
    if refused is not None:
        return refused
    if call.services.ceiling.covers(old.path) and call.services.ceiling.covers(new.path):
        return CONTINUE

    def act() -> None:
        handle = os.open(f"/proc/self/fd/{old.handle}", os.O_PATH | os.O_CLOEXEC) if by_descriptor else old.handle
        try:
            links.link(handle, new.directory, new.name, as_opened=by_descriptor)
        finally:
            if by_descriptor:
                os.close(handle)

    return perform(call, act)
