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
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.services.recorder import Attempt
from fence_core.policy import git_config
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.processes import Process
    from fence_core.broker.services.recorder import Recorder
    from fence_core.events.model import Frame

__all__ = ["CONFIG", "Draft", "Drafts", "put"]

CONFIG = b"config"
_OPEN_MAX = 64
_TICK_S = 0.005


class Drafts:
    """All that somebody may be writing."""

    def __init__(self, recorder: Recorder, after: Callable[[float, Callable[[], None]], None]) -> None:
        """`after` calls back once, so many seconds later."""
        self._recorder = recorder
        self._after = after
        self.open: list[Draft] = []
        """Looked at before each call, which is why it is no method."""
        self.own_repositories: set[tuple[int, int]] = set()
        """Device and inode of each `.git` whose first configuration was put there inside: see `repositories.py`."""

    @property
    def is_full(self) -> bool:
        return len(self.open) >= _OPEN_MAX

    def find(self, file: int) -> Draft | None:
        """The draft of this file, where there is one."""
        status = os.fstat(file)
        return next((each for each in self.open if os.path.samestat(os.fstat(each.file), status)), None)

    def knows(self, draft: Draft) -> bool:
        return draft in self.open

    def add(self, draft: Draft) -> None:
        """Look after it, and after those who wait for its file, while there are drafts."""
        status = os.fstat(draft.directory)
        self.own_repositories.add((status.st_dev, status.st_ino))
        self.open.append(draft)
        if len(self.open) == 1:
            self._after(_TICK_S, self._tick)

    def _tick(self) -> None:
        self.settle()
        if self.open:
            self._after(_TICK_S, self._tick)

    def have_asked(self) -> None:
        for draft in self.open:
            draft.have_asked()

    def settle(self, *, finally_: bool = False) -> None:
        """Put into place what is harmless, and report what is not. `finally_`: nobody writes any more."""
        for draft in list(self.open):
            is_waited_for = draft.is_waited_for()
            over = finally_ or not _may_be_written(draft.memory)
            text = os.pread(draft.memory, git_config.SIZE_MAX + 1, 0)
            if text != draft.text and (text or over):  # emptied, it is most often about to be written anew
                key = git_config.objection(text)
                if not key or (over and _matters(draft) and self._report(draft, key)):
                    _put(draft, text)
            if over:
                self.open.remove(draft)
                draft.close()
            elif is_waited_for:
                draft.renew()

    def _report(self, draft: Draft, key: str) -> bool:
        """Record what it would have made git obey; whether it is put into place all the same, where all only audit."""
        request = Write("open", draft.path, known="config", around=key)
        found = judging.objections(draft.account, request)
        for objection in found:
            number = 0 if objection.audited else errno.EACCES
            self._recorder.note(Attempt(draft.process, draft.tid, objection, number, place=draft))
        return all(objection.audited for objection in found)


class Draft:
    """What somebody may be writing, and the file that it is for."""

    __slots__ = ("account", "directory", "file", "is_leased", "memory", "path", "process", "stack", "text", "tid")

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
        self.account = process.account()
        self.path = path
        self.stack: tuple[Frame, ...] = ()
        """Of the open; as `stacks.StackTarget` has it."""
        if process.stacks is not None:
            process.stacks.ask(process.pid, tid, self)

    def have_asked(self) -> None:
        """Have the test's process ask whether there is something to know, before it goes on to its next phase."""
        for binding, _ in self.account.judges:
            binding.worker.page.add_violation()

    def lease(self) -> None:
        """Have those wait who open the file. Raises OSError."""
        lease(self.file)
        self.is_leased = True

    def renew(self) -> None:
        """Let go on who waits for the file, and put another one in its place, which has a lease."""
        try:
            if self.is_in_place():
                text, like = os.pread(self.file, git_config.SIZE_MAX, 0), os.fstat(self.file)
                old, self.file = self.file, put(CONFIG, self.directory, text, like, before=lease)
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
        return os.path.samestat(os.fstat(self.file), os.lstat(CONFIG, dir_fd=self.directory))

    def is_waited_for(self) -> bool:
        return self.is_leased and fcntl.fcntl(self.file, fcntl.F_GETLEASE) != fcntl.F_WRLCK

    def close(self) -> None:
        for fd in (self.file, self.memory, self.directory):
            os.close(fd)


def lease(file: int) -> None:
    # Nothing is made of the signal that somebody waits: this one is ignored by default.
    fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


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


def put(
    name: bytes, directory: int, text: bytes, like: os.stat_result, *, before: Callable[[int], object] = bool
) -> int:
    """A new file of this name, in the place of the one that there may be; open for us. Raises OSError.

    `before`: done to it before it has the name.

    Until it has the name it has one that nobody can guess: nobody gets hold of it who could change it afterwards.
    """
    made = os.urandom(16).hex().encode()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    base = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        file = os.open(made, flags, 0o600, dir_fd=base)
        try:
            if os.write(file, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            before(file)
            if os.geteuid() == 0:
                os.fchown(file, like.st_uid, like.st_gid)
            os.fchmod(file, like.st_mode & 0o777)
            os.rename(made, name, src_dir_fd=base, dst_dir_fd=base)
        except OSError:
            os.close(file)
            os.unlink(made, dir_fd=base)
            raise
    finally:
        os.close(base)
    return file
