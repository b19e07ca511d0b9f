"""Opens of a repository's `config` for writing, answered with a draft: see `broker/services/drafts.py`."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.calls.acting import hand_over
from fence_core.broker.paths import repositories
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.broker.services.drafts import CONFIG, Draft
from fence_core.policy import git_config
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located

__all__ = ["may_open", "open_draft"]

_LOOKING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_AGAIN = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def may_open(call: Call, located: Located, flags: int) -> bool:
    """Whether an open that is refused otherwise may get a draft: a rename of `config.lock` would be allowed, too."""
    if flags & os.O_ACCMODE not in (os.O_WRONLY, os.O_RDWR) or flags & os.O_DIRECTORY:
        return False
    parent, _, name = located.path.rpartition("/")
    if name != "config" or not parent.endswith("/.git") or not (located.handle >= 0 or flags & os.O_CREAT):
        return False
    if not repositories.may_replace_config(call, parent, located):
        return False
    return call.passes(Write("open", located.path, known="own"))


def open_draft(call: Call, located: Located, flags: int, mode: int) -> Reply | None:
    """Open it; where there is no file yet, an empty one is made.

    None where that was made by somebody else by now. `CONTINUE` where there can be no draft: it is to be refused.
    """
    drafts = call.services.drafts
    if located.handle >= 0 and flags & os.O_CREAT and flags & os.O_EXCL:
        return errno.EEXIST
    if drafts.is_full:
        return errno.ENFILE
    again = impossible = False
    draft: Draft | None = None

    def opens(ours: int) -> int:
        nonlocal again, impossible, draft
        draft = drafts.find(located.handle) if located.handle >= 0 else None
        if draft is None:
            try:
                file = _open_file(located, mode)
            except FileExistsError:
                again = not flags & os.O_EXCL
                raise
            try:
                draft = _begin(located, file)
            except OSError:
                impossible = True
                if located.handle < 0:
                    os.unlink(CONFIG, dir_fd=located.directory)
                raise
        return os.open(f"/proc/self/fd/{draft.memory}", flags & ~_NOT_AGAIN | ours)

    answer = hand_over(call, flags, opens, creates=True)
    if impossible:
        return CONTINUE
    if draft is None:
        return None if again else answer
    is_new = not drafts.knows(draft)
    if not isinstance(answer, HandOver):
        if is_new:
            draft.close()
        return answer
    draft.opened_by(call.process, call.tid, located.path)
    draft.have_asked()
    if is_new:
        drafts.add(draft)
    return answer


def _open_file(located: Located, mode: int) -> int:
    """The file itself, for us. Raises OSError."""
    if located.handle >= 0:
        return os.open(f"/proc/self/fd/{located.handle}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(CONFIG, flags, mode & 0o7777, dir_fd=located.directory)


def _begin(located: Located, file: int) -> Draft:
    """Raises OSError; then none of our descriptors is left open."""
    ours = [file]
    try:
        text, status = os.pread(file, git_config.SIZE_MAX + 1, 0), os.fstat(file)
        where = "." if located.directory >= 0 else located.path.rpartition("/")[0]
        ours.append(os.open(where, _LOOKING, dir_fd=located.directory if located.directory >= 0 else None))
        memory = os.memfd_create("config", os.MFD_CLOEXEC)
        try:
            os.write(memory, text)
            os.fchmod(memory, status.st_mode & 0o777)
            ours.append(os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            os.close(memory)
        draft = Draft(ours[1], file, ours[2], text)
        is_whole = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and len(text) <= git_config.SIZE_MAX
        if not (is_whole and draft.is_in_place()):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        try:
            draft.lease()
        except BlockingIOError:
            draft.renew()  # somebody reads it just now
            if not draft.is_leased:
                raise
            ours = []
    except OSError:
        for fd in ours:
            os.close(fd)
        raise
    return draft
