"""Configurations of git that programs write at once, and not by way of `config.lock`: libgit2, GitPython, `open()`.

What a program writes by a descriptor nobody sees. So whoever opens the `config` of a repository that tests made gets a
copy of it in memory, a draft, and the file itself stays what it is. What the draft holds is written into the file by
the broker, once it says nothing but harmless things (`policy/git_config.py`). So nobody ever finds there what git would
obey, and whoever has a draft open changes nothing else.

Drafts are looked at before every call that is answered, before anybody is told what a test has done, and when a process
or the run ends. Opening a file to read it is not such a call. So the broker has a lease on the file (fcntl(2)): who
opens it waits, in the kernel, until the broker has looked once more. He then gets this file; those who come after him
find another one in its place, on which there is a lease again. Where there can be no lease there is no draft.

A draft that git would obey is a violation as soon as nobody can write to it any more (the kernel grants a read lease on
it then); before, it may be half of something.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from typing import TYPE_CHECKING

from fence_core.broker import repositories
from fence_core.broker.handlers.acting import hand_over
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.policy import git_config
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.attribution import Process
    from fence_core.broker.loop import Broker
    from fence_core.broker.resolve import Located
    from fence_core.events.model import Frame

__all__ = ["Draft", "may_open", "open_draft", "settle"]

_CONFIG = b"config"
_OPEN_MAX = 64
_TICK_S = 0.005
_LOOKING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_AGAIN = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Draft:
    """What somebody may be writing, and the file that it is for."""

    __slots__ = ("directory", "file", "is_leased", "judges", "memory", "path", "process", "stack", "text", "tid")

    def __init__(self, directory: int, file: int, memory: int, text: bytes) -> None:
        self.directory = directory
        """An O_PATH descriptor of the repository, wherever that is by then."""
        self.file = file
        """The file itself; where another one has its name by now, nobody finds what is written."""
        self.memory = memory
        """The draft; open for reading only, or there would be no lease."""
        self.text = text
        """What the file says."""
        self.is_leased = False

    def opened_by(self, process: Process, tid: int, path: str) -> None:
        self.process = process
        self.tid = tid
        self.judges = process.account().judges
        self.path = path
        self.stack: tuple[Frame, ...] = ()
        """Of the open; as `stacks.StackTarget` has it."""
        if process.stacks is not None:
            process.stacks.ask(process.pid, tid, self)

    def have_asked(self) -> None:
        """Have the test's process ask whether there is something to know, before it goes on to its next phase."""
        for binding, _ in self.judges:
            binding.worker.page.add_violation()

    def lease(self) -> None:
        """Have those wait who open the file. Raises OSError."""
        _lease(self.file)
        self.is_leased = True

    def renew(self) -> None:
        """Let go on who waits for the file, and put another one in its place, which has a lease."""
        try:
            if self.is_in_place():
                text, like = os.pread(self.file, git_config.SIZE_MAX, 0), os.fstat(self.file)
                old, self.file = self.file, repositories.put(_CONFIG, self.directory, text, like, before=_lease)
                self.is_leased = True
                os.close(old)
                return
        except OSError:
            pass  # the disk is full, or the repository was removed
        if self.is_leased:
            fcntl.fcntl(self.file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            self.is_leased = False

    def is_in_place(self) -> bool:
        """Raises OSError."""
        return os.path.samestat(os.fstat(self.file), os.lstat(_CONFIG, dir_fd=self.directory))

    def is_waited_for(self) -> bool:
        return self.is_leased and fcntl.fcntl(self.file, fcntl.F_GETLEASE) != fcntl.F_WRLCK

    def close(self) -> None:
        for fd in (self.file, self.memory, self.directory):
            os.close(fd)


def _lease(file: int) -> None:
    # Nothing is made of the signal that somebody waits: this one is ignored by default.
    fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def may_open(broker: Broker, process: Process, located: Located, flags: int) -> bool:
    """Whether an open that is refused otherwise may get a draft: a rename of `config.lock` would be allowed, too."""
    if flags & os.O_ACCMODE not in (os.O_WRONLY, os.O_RDWR) or flags & os.O_DIRECTORY:
        return False
    parent, _, name = located.path.rpartition("/")
    if name != "config" or not parent.endswith("/.git") or not (located.handle >= 0 or flags & os.O_CREAT):
        return False
    if not repositories.may_replace_config(broker, parent, located):
        return False
    return broker.allowed(process, Write("open", located.path, known="own"))


def open_draft(broker: Broker, process: Process, tid: int, located: Located, flags: int, mode: int) -> Reply | None:
    """Open it; where there is no file yet, an empty one is made.

    None where that was made by somebody else by now. `CONTINUE` where there can be no draft: it is to be refused.
    """
    if located.handle >= 0 and flags & os.O_CREAT and flags & os.O_EXCL:
        return errno.EEXIST
    if len(broker.drafts) >= _OPEN_MAX:
        return errno.ENFILE
    again = impossible = False
    draft: Draft | None = None

    def opens(ours: int) -> int:
        nonlocal again, impossible, draft
        draft = _of(broker, located)
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
                    os.unlink(_CONFIG, dir_fd=located.directory)
                raise
        return os.open(f"/proc/self/fd/{draft.memory}", flags & ~_NOT_AGAIN | ours)

    answer = hand_over(broker, tid, flags, opens, creates=True)
    if impossible:
        return CONTINUE
    if draft is None:
        return None if again else answer
    is_new = draft not in broker.drafts
    if not isinstance(answer, HandOver):
        if is_new:
            draft.close()
        return answer
    draft.opened_by(process, tid, located.path)
    draft.have_asked()
    if is_new:
        status = os.fstat(draft.directory)
        broker.own_repositories.add((status.st_dev, status.st_ino))
        broker.drafts.append(draft)
        if len(broker.drafts) == 1:
            _watch(broker)
    return answer


def _open_file(located: Located, mode: int) -> int:
    """The file itself, for us. Raises OSError."""
    if located.handle >= 0:
        return os.open(f"/proc/self/fd/{located.handle}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(_CONFIG, flags, mode & 0o7777, dir_fd=located.directory)


def _of(broker: Broker, located: Located) -> Draft | None:
    """The draft of this file, where there is one."""
    if located.handle < 0:
        return None
    status = os.fstat(located.handle)
    return next((each for each in broker.drafts if os.path.samestat(os.fstat(each.file), status)), None)


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


def _watch(broker: Broker) -> None:
    """Look after those who wait while there are drafts."""

    def tick() -> None:
        settle(broker)
        if broker.drafts:
            broker.after(_TICK_S, tick)

    broker.after(_TICK_S, tick)


def settle(broker: Broker, *, finally_: bool = False) -> None:
    """Put into place what is harmless, and report what is not. `finally_`: nobody writes any more."""
    for draft in list(broker.drafts):
        is_waited_for = draft.is_waited_for()
        over = finally_ or not _may_be_written(draft.memory)
        text = os.pread(draft.memory, git_config.SIZE_MAX + 1, 0)
        if text != draft.text and (text or over):  # emptied, it is most often about to be written anew
            key = git_config.objection(text)
            if not key or (over and _matters(draft) and _report(broker, draft, key)):
                _put(draft, text)
        if over:
            broker.drafts.remove(draft)
            draft.close()
        elif is_waited_for:
            draft.renew()


def _may_be_written(file: int) -> bool:
    """Whether somebody has it open for writing, or it cannot be told."""
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def _matters(draft: Draft) -> bool:
    """Whether anybody would have found in the repository what was written."""
    try:
        return draft.is_in_place()
    except OSError:
        return False


def _put(draft: Draft, text: bytes) -> None:
    draft.text = text
    try:
        os.ftruncate(draft.file, 0)
        if os.pwrite(draft.file, text, 0) < len(text):
            os.ftruncate(draft.file, 0)
        os.fchmod(draft.file, os.fstat(draft.memory).st_mode & 0o777)
    except OSError:
        pass  # the disk is full


def _report(broker: Broker, draft: Draft, key: str) -> bool:
    """Record what it would have made git obey; whether it is put into place all the same, where all only audit."""
    request = Write("open", draft.path, known="config", around=key)
    audited = True
    for binding, judge in draft.judges:
        decision = judge.decide(request)
        if decision.allowed:
            continue
        number = 0 if binding.worker.scope.mode == "audit" else errno.EACCES
        audited = audited and not number
        broker.recorder.note(
            draft.process, draft.tid, "write", request.describe(), binding, decision.rule, number, request, place=draft
        )
    return audited
