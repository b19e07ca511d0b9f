"""What a program that is about to be run is, in all the ways in which rules for commands may speak of it.

The kernel reads path and words again after we have let an execve(2) through, and other threads may have exchanged
them. So the look before it may be a quick one: it answers what a program has asked for, with a clean EPERM. What has
really been started is looked at once more, at the first call of it that stops here (`CommandWatch.verify`), before
that is answered. Whatever touches the world goes through such a call first.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fence_core.broker.calls.arguments import AT_FDCWD
from fence_core.broker.processes import BORN
from fence_core.broker.reply import CONTINUE
from fence_core.errors import KernelCallError
from fence_core.kernel import arch, memory
from fence_core.kernel import process as kernel_process
from fence_core.policy.commands import Reading, is_called
from fence_core.policy.requests import Execute

if TYPE_CHECKING:
    from fence_core.broker.processes import Process
    from fence_core.policy.requests import Request

__all__ = ["CommandWatch"]

_WORDS_MAX = 4096
"""What is read of a command line before it is run; of what runs, all is."""
_WORD_MAX = 4096
_SCRIPTS_MAX = 4
"""How many interpreters may stand behind one another: `BINPRM_BUF_SIZE` and the loop in fs/exec.c, exec_binprm."""
_HEAD = 256
_KNOWN_MAX = 4096
_LOADERS = (
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
)
_MULTI_CALL = ("busybox", "toybox", "coreutils")
_STARTS_OTHERS = re.compile(r"ld[-.].*|busybox.*|toybox.*|coreutils")
_ANSWER = errno.EPERM
"""With EACCES, execvp(3) would go on to the next directory of `$PATH`, and each step would be a refusal."""
_AT_EXECFN = 31  # include/uapi/linux/auxvec.h


class Caller(Protocol):
    """Of a trapped call what is needed to judge a command: see `call.Call`."""

    tid: int
    number: int
    process: Process

    def waits(self) -> bool: ...
    def read(self, address: int, length: int) -> bytes: ...
    def read_string(self, address: int) -> bytes: ...
    def allowed(self, request: Request) -> bool: ...
    def refuse(self, request: Request, number: int) -> int: ...


class _File(NamedTuple):
    """What a file is, as far as rules for commands are concerned."""

    names: tuple[str, ...]
    """Of programs that this file is, whatever it is called here."""
    interpreter: tuple[str, ...]
    """Of a script: the interpreter, and its argument if there is one."""
    starts_others: bool
    """A loader, or a program that is many: the next words are a command line."""


class _Stamp(NamedTuple):
    """A file as it was looked at."""

    device: int
    inode: int
    size: int
    changed: int


class CommandWatch:
    """Looks at what is to be run, and at what runs."""

    def __init__(self) -> None:
        calls = arch.current().calls
        self._starts = (calls["execve"], calls["execveat"])
        self._files: dict[tuple[_Stamp, frozenset[str]], _File] = {}
        self._programs: dict[str, tuple[tuple[_Stamp, str], ...]] = {}
        self._others: frozenset[tuple[int, int]] | None = None
        self._search: list[str] | None = None

    # -- before -------------------------------------------------------------------------------------------------------

    def judge(self, call: Caller, dirfd: int, address: int, words_at: int) -> int:
        """The answer to an execve(2): CONTINUE, or the number of the error."""
        programs = call.process.programs()
        if not programs:
            return CONTINUE
        call.process.executing.add(call.tid)
        raw = call.read_string(address)
        path = os.fsdecode(raw)
        place = _place(call.tid, dirfd, raw)
        first = self._words(call, words_at, 1)
        names = _called(path, *first)
        file = self._look(place, programs)
        if file is None:
            return CONTINUE  # there is none, or it is not to be read: the kernel says so, or `verify`
        if not (
            file.starts_others
            or file.names
            or file.interpreter
            or any(is_called(name, program) for name in names for program in programs)
        ):
            return CONTINUE
        words = self._words(call, words_at, _WORDS_MAX)
        readings = tuple(self._readings(call.tid, place, names, words[1:], programs))
        # By its own name: argv[0] may be anything, and programs try the directories of $PATH in turn.
        request = Execute((os.path.basename(path) or "".join(first), *words[1:]), readings)
        return CONTINUE if call.allowed(request) else call.refuse(request, _ANSWER)

    @staticmethod
    def _words(call: Caller, address: int, count: int) -> tuple[str, ...]:
        """The first words of an argv. Raises KernelCallError."""
        words: list[str] = []
        size = 8 * min(count, 64)
        while address and len(words) < count:
            try:
                block = call.read(address, size)
            except KernelCallError:
                if size == 8:
                    break
                size = 8  # the list ends before a page does
                continue
            for (pointer,) in struct.iter_unpack("=Q", block):
                if not pointer or len(words) == count:
                    return tuple(words)
                words.append(_word(call, pointer))
            address += size
        return tuple(words)

    # -- after --------------------------------------------------------------------------------------------------------

    def verify(self, call: Caller) -> int:
        """Look once at the program that makes its first call, and end it if it may not be run.

        CONTINUE where it may: the call is not answered by that. Raises ProcessLookupError where it is gone.
        """
        process = call.process
        if call.number in self._starts:
            return CONTINUE  # it does nothing but start what is looked at then
        programs = process.programs()
        if not programs:
            process.executing.discard(BORN)
            return CONTINUE
        image = process.image()
        failed = image == process.verified
        request = None if failed else self._running(process.pid, programs)
        if not call.waits():
            return _ANSWER  # threads are ended before the new program is whole: what was seen may be half of it
        # Whoever calls executes nothing now. Those that do go on with it, whatever runs meanwhile.
        process.executing -= {call.tid, BORN}
        process.executing = {tid for tid in process.executing if os.path.exists(f"/proc/{process.pid}/task/{tid}")}
        if request is None:
            return CONTINUE  # the execve has failed, or is that of another thread
        process.verified = image
        if call.allowed(request) or call.refuse(request, _ANSWER) == CONTINUE:
            return CONTINUE
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        return _ANSWER

    def _running(self, pid: int, programs: frozenset[str]) -> Execute:
        words = kernel_process.argv(pid)
        place = f"/proc/{pid}/exe"
        asked = _asked_for(pid)
        names = _called(*words[:1], asked, _real(place))
        readings = list(self._readings(pid, place, names, words[1:], programs))
        if asked in words[1:]:  # the kernel has put the interpreter of a script before it
            behind = words[words.index(asked, 1) + 1 :]
            readings += self._readings(pid, _place(pid, AT_FDCWD, os.fsencode(asked)), _called(asked), behind, programs)
        return Execute(tuple(words), tuple(readings), late=True)

    # -- readings -----------------------------------------------------------------------------------------------------

    def _readings(
        self, tid: int, place: str, names: Sequence[str], words: Sequence[str], programs: frozenset[str], depth: int = 0
    ) -> Iterator[Reading]:
        file = self._look(place, programs)
        if file is None:
            yield Reading(tuple(names), tuple(words))
            return
        yield Reading((*names, *file.names, *_called(_real(place))), tuple(words))
        if depth >= _SCRIPTS_MAX:
            return
        if file.interpreter:
            program, *argument = file.interpreter
            built = (*argument, names[0] if names else "", *words)
            inner = _place(tid, AT_FDCWD, os.fsencode(program))
            yield from self._readings(tid, inner, _called(program), built, programs, depth + 1)
        if file.starts_others:
            for start in _commands_in(words):
                inner = _place(tid, AT_FDCWD, os.fsencode(words[start]))
                named = _called(words[start])
                yield from self._readings(tid, inner, named, words[start + 1 :], programs, depth + 1)

    def _look(self, place: str, programs: frozenset[str]) -> _File | None:
        """What the file at a path of ours is; None where it cannot be looked at."""
        try:
            status = os.stat(place)
        except (OSError, ValueError):
            return None
        stamp = _stamp(status)
        known = self._files.get((stamp, programs))
        if known is None:
            if len(self._files) >= _KNOWN_MAX:
                self._files.clear()
            known = self._files[stamp, programs] = self._look_closely(place, stamp, programs)
        return known

    def _look_closely(self, place: str, stamp: _Stamp, programs: frozenset[str]) -> _File:
        names = []
        for program in programs:
            for other, path in self._files_of(program):
                same = (stamp.device, stamp.inode) == (other.device, other.inode)
                if same or (stamp.size == other.size and _same_bytes(place, path)):
                    names.append(program)
                    break
        return _File(tuple(names), _interpreter(place), self._starts_others(place, stamp))

    def _files_of(self, program: str) -> tuple[tuple[_Stamp, str], ...]:
        """The files that a rule means by a name: those of `$PATH` that really are called so.

        A file of another name is several programs (busybox, kmod), and only what it is called tells which.
        """
        found = self._programs.get(program)
        if found is None:
            places = [program] if program.startswith("/") else [
                f"{directory}/{program}" for directory in self._path() if directory.startswith("/")
            ]  # fmt: skip
            files = []
            for place in places:
                if not os.path.exists(place):
                    continue
                real = _real(place)
                if is_called(os.path.basename(real), os.path.basename(program)) and os.access(real, os.X_OK):
                    files.append((_stamp(os.stat(real)), real))
            found = self._programs[program] = tuple(dict.fromkeys(files))
        return found

    def _path(self) -> list[str]:
        """`$PATH`; asked for once, since it cannot change in this process."""
        if self._search is None:
            self._search = os.get_exec_path()
        return self._search

    def _starts_others(self, place: str, stamp: _Stamp) -> bool:
        if self._others is None:
            places = [path for path in _LOADERS if os.path.exists(path)]
            for name in _MULTI_CALL:
                found = (f"{directory}/{name}" for directory in self._path())
                places += [path for path in found if os.access(path, os.X_OK) and not os.path.isdir(path)][:1]
            self._others = frozenset((stat.device, stat.inode) for stat in (_stamp(os.stat(each)) for each in places))
        return (stamp.device, stamp.inode) in self._others or (
            _STARTS_OTHERS.fullmatch(os.path.basename(_real(place))) is not None
        )


def _place(tid: int, dirfd: int, raw: bytes) -> str:
    """A path of ours that leads to what a path of that thread means; sloppily, since it is looked at again."""
    path = os.fsdecode(raw)
    if path.startswith("/"):
        return path if not path.startswith("/proc/self/") else f"/proc/{tid}/{path[11:]}"
    base = f"/proc/{tid}/cwd" if dirfd == AT_FDCWD else f"/proc/{tid}/fd/{dirfd}"
    return f"{base}/{path}" if path else base


def _called(*paths: str) -> tuple[str, ...]:
    """Each path, and its last component."""
    return tuple(dict.fromkeys(name for path in paths if path for name in (path, os.path.basename(path))))


def _real(place: str) -> str:
    try:
        return os.path.realpath(place)
    except (OSError, ValueError):
        return place


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _interpreter(place: str) -> tuple[str, ...]:
    """What the first line of a script names: execve(2), "Interpreter scripts"."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ()
    try:
        head = os.read(fd, _HEAD)
    except OSError:
        return ()
    finally:
        os.close(fd)
    if not head.startswith(b"#!"):
        return ()
    line = os.fsdecode(head[2:].split(b"\n", 1)[0].split(b"\0", 1)[0]).strip(" \t")
    return tuple(word for word in line.split(None, 1) if word)


def _same_bytes(one: str, other: str) -> bool:
    try:
        with open(one, "rb") as first, open(other, "rb") as second:
            while True:
                block = first.read(1 << 16)
                if block != second.read(1 << 16):
                    return False
                if not block:
                    return True
    except (OSError, ValueError):
        return False


def _word(call: Caller, pointer: int) -> str:
    try:
        return os.fsdecode(call.read_string(pointer)[:_WORD_MAX])
    except KernelCallError:
        return ""


def _commands_in(words: Sequence[str]) -> Iterator[int]:
    """Where a command line may begin: at the first word, or behind what may be the value of an option."""
    for place, word in enumerate(words):
        if word.startswith("-"):
            continue
        yield place
        if place == 0 or not words[place - 1].startswith("-"):
            return


def _asked_for(pid: int) -> str:
    """The path that was given to execve(2), as the kernel has put it on the new stack: getauxval(3), AT_EXECFN."""
    try:
        entries = struct.iter_unpack("=QQ", kernel_process.read_proc(f"/proc/{pid}/auxv"))
        address = next((value for kind, value in entries if kind == _AT_EXECFN), 0)
        return os.fsdecode(memory.read_string(pid, address)) if address else ""
    except (OSError, KernelCallError, struct.error):
        return ""
