"""Opens: the flags say what is wanted, the kernel where the path leads; then writing is judged, then reading.

Opens that only read arrive here where a session has `deny_read`. Facts and consequences:

* What may be written the kernel opens itself, as long as Landlock's rules hold whatever the path leads to by then. It
  cannot take a file out of what may be read: what reading was judged of the broker opens, and hands over.
* What a process outside shows of itself in procfs the kernel tells nobody inside (Landlock is asked as ptrace is), but
  it would tell the broker: of those only what everybody may read is opened.
* Opening a pipe waits for its other end, and a leased file for the lease: left to a process of its own (`opener.py`).
* A terminal becomes that of a program that leads a session and has none, if it opens it itself. Such an open is
  continued; it is the one that could be led elsewhere.
* ``/dev/tty`` means the caller's terminal, which proc_pid_stat(5) names.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.calls import drafting
from fence_core.broker.calls.acting import hand_over, is_free, is_of_a_stranger, refusal, through_a_stranger
from fence_core.broker.calls.arguments import AT_FDCWD, signed
from fence_core.broker.calls.registers import OPEN_CHANGES, TMPFILE
from fence_core.broker.calls.secrets import secret_name
from fence_core.broker.paths import opener, repositories, surroundings
from fence_core.broker.paths.native_errno import native_errno
from fence_core.broker.paths.resolve import Located, follows
from fence_core.broker.paths.terminals import PTMX, TERMINAL_MAJORS, TTY, controlling, is_slave, name_of
from fence_core.broker.reply import CONTINUE, HandOver, Reply
from fence_core.link.doors import DOORS
from fence_core.policy.requests import UNNAMED, Read, Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_ATTEMPTS = 8
_SHOWN_TO_ALL = frozenset(
    {
        "attr", "autogroup", "cgroup", "children", "cmdline", "comm", "coredump_filter", "cpuset", "gid_map", "limits",
        "loginuid",
        "mountinfo", "mounts", "mountstats", "net", "oom_adj", "oom_score", "oom_score_adj", "sched", "schedstat",
        "sessionid", "setgroups", "stat", "statm", "status", "task", "uid_map",
    }
)  # fmt: skip
"""Of ``/proc/PID``: what proc(5) does not make dependent on ptrace(2) access when it is opened."""


def openat(call: Call) -> Reply:
    dirfd, address, flags, mode, _, _ = call.args
    return _open(call, signed(dirfd), address, signed(flags), mode)


def open_(call: Call) -> Reply:
    return _open(call, AT_FDCWD, call.args[0], signed(call.args[1]), call.args[2])


def creat(call: Call) -> Reply:
    return _open(call, AT_FDCWD, call.args[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, call.args[1])


def _open(call: Call, dirfd: int, address: int, flags: int, mode: int) -> Reply:
    raw = call.read_string(address)
    if raw.startswith(DOORS):
        return call.services.doors(call.process, raw)
    if flags & os.O_PATH:
        return CONTINUE
    if not flags & OPEN_CHANGES:
        return _open_to_read(call, dirfd, raw, flags) if call.services.watches_reads else CONTINUE
    if _is_to_write(raw, flags) and not call.services.watches_reads and is_free(call, "open", raw):
        return CONTINUE
    if _is_nonsense(flags):
        return errno.EINVAL
    for _ in range(_ATTEMPTS):
        reply = _open_to_change(call, dirfd, raw, flags, mode)
        if reply is not None:
            return reply
    return errno.EAGAIN  # somebody makes and removes the file in turns


# ---------------------------------------------------------------- what the flags say


def _is_to_write(raw: bytes, flags: int) -> bool:
    """Whether it is no more than that: Landlock's rules about writing are asked, for a file of this very name."""
    return flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR) and not (flags & TMPFILE or raw.endswith(b"/.git"))


def _is_nonsense(flags: int) -> bool:
    """What the kernel refuses before it looks at the path (build_open_flags, fs/open.c)."""
    if flags & TMPFILE:
        return bool(flags & os.O_CREAT or not flags & os.O_DIRECTORY or flags & os.O_ACCMODE == os.O_RDONLY)
    return flags & (os.O_CREAT | os.O_DIRECTORY) == os.O_CREAT | os.O_DIRECTORY and _makes_no_directory()


@functools.cache
def _makes_no_directory() -> bool:
    """Whether O_CREAT with O_DIRECTORY is an error as such: since Linux 6.4. This one makes nothing on any kernel."""
    try:
        os.close(os.open("/", os.O_CREAT | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EINVAL
    return False


# ---------------------------------------------------------------- where the path leads, and what the rules say of that


def _open_to_read(call: Call, dirfd: int, raw: bytes, flags: int) -> Reply:
    """An open that changes nothing."""
    follow = follows(raw, not flags & os.O_NOFOLLOW)
    located = call.locate(dirfd, raw, follow=follow)
    if located.errno:
        return located.refusal(errno.ENOENT)
    failed = errno.ENOENT if follow and located.handle < 0 else located.pin(call)
    if failed:
        return failed
    handle = located.handle
    status = os.fstat(handle)
    if _is_terminal(status):
        return _open_terminal(call, handle, flags, status.st_rdev)
    may_wait = not flags & os.O_NONBLOCK
    secret = secret_name(call, located, status)
    if stat.S_ISFIFO(status.st_mode) and may_wait and not secret:
        return opener.open_elsewhere(call, handle, flags)
    if _is_closed(call, located, flags):
        return errno.EACCES
    opened = _open_found(call, handle, flags)
    leased = opened == errno.EAGAIN and may_wait
    if secret and (leased or isinstance(opened, HandOver)):  # the kernel's own refusal comes first, and is no violation
        refused = call.refuse(Read(secret), errno.EACCES)
        if refused != CONTINUE:
            if isinstance(opened, HandOver):
                os.close(opened.fd)
            return refused
    return opener.open_elsewhere(call, handle, flags) if leased else opened


def _open_to_change(call: Call, dirfd: int, raw: bytes, flags: int, mode: int) -> Reply | None:
    """None where the file was made between looking and opening: to be looked at once more."""
    slash = bool(flags & os.O_CREAT) and raw.endswith(b"/")  # EISDIR, whatever is there (open_last_lookups, fs/namei.c)
    exclusive = flags & os.O_NOFOLLOW or (flags & os.O_CREAT and flags & os.O_EXCL)
    located = call.locate(dirfd, raw, follow=not slash and follows(raw, not exclusive))
    if located.outside:
        return through_a_stranger(call, "open", located, flags=flags)
    if located.errno or slash:
        return located.refusal(errno.EISDIR) or errno.EISDIR
    if flags & TMPFILE:
        failed = located.pin(call, os.O_DIRECTORY)
        if failed:
            return failed
        located.parent, located.path = located.path, f"{located.path}/{UNNAMED}"
    judged = call.judged(located.path)
    # git takes a file of this name for a link to a directory with hooks.
    op = "create" if located.path.endswith("/.git") else "open"
    if op == "open" and flags & os.O_CREAT and not call.process.may_write(judged, "mknod") and not _exists(located):
        op = "create"  # in the place of a device, which may be opened only
    may = not located.is_file or call.process.may_write(judged, op) or repositories.lets(call, op, located)
    asked = surroundings.objection(call, op, located) if may and located.is_file else None
    if not may or asked is not None:
        if located.path.endswith("/.git/config") and drafting.may_open(call, located, flags):
            opened = drafting.open_draft(call, located, flags, mode)
            if opened != CONTINUE:
                return opened
        if flags & os.O_CREAT and not flags & (OPEN_CHANGES & ~os.O_CREAT | os.O_EXCL) and _exists(located):
            # It changes nothing where the file exists; were it gone by then, Landlock would make none.
            return _open_to_read(call, dirfd, raw, flags & ~os.O_CREAT) if call.services.watches_reads else CONTINUE
        # A rule for an unnamed file can only be one for its directory.
        asked = asked or Write("create" if flags & TMPFILE else op, located.path)
        refused = refusal(call, "open", located, flags=flags, asked=asked)
        if refused != CONTINUE:
            return refused
    return _open_allowed(call, located, flags, mode)


def _open_allowed(call: Call, located: Located, flags: int, mode: int) -> Reply | None:
    """What the rules about writing allow: terminals and reading have more, and then it is opened."""
    if call.judged(located.path).startswith("/dev/"):
        handle = located.handle if located.handle >= 0 or flags & os.O_EXCL else _special(call, located)
        reply = _open_device(call, located, handle, flags) if handle >= 0 else None
        if reply is not None:
            return reply
    if call.services.watches_reads and flags & os.O_ACCMODE != os.O_WRONLY and not flags & TMPFILE:
        reply = _refuse_reading(call, located, flags)
        if reply is not None:
            return reply
    elif _kernel_may(call, located, flags):
        return CONTINUE
    return errno.EACCES if _is_closed(call, located, flags) else _perform(call, located, flags, mode)


def _refuse_reading(call: Call, located: Located, flags: int) -> Reply | None:
    """For an open that may change something and reads as well: the refusal, or what a terminal answers; None where it
    is for the broker to open the file."""
    status = _status(located)
    if status is None:
        return None  # a new file: there is nothing to read
    if _is_terminal(status) and located.handle >= 0:
        return _open_terminal(call, located.handle, flags, status.st_rdev)
    secret = secret_name(call, located, status)
    if not secret:
        return None
    return native_errno("open", located, call.tid, flags=flags) or call.refuse(Read(secret), errno.EACCES) or None


def _is_closed(call: Call, located: Located, flags: int) -> bool:
    """Whether the kernel tells nobody inside what is there, but would tell us."""
    if call.services.resolver.is_other_procfs(located.handle if located.handle >= 0 else located.directory):
        return True
    if not (located.is_file and is_of_a_stranger(call.judged(located.path))):
        return False
    parts = located.path.split("/")[3:]
    if parts[:1] == ["task"] and len(parts) > 1:
        parts = parts[2:]
    return bool(flags & OPEN_CHANGES or (parts and parts[0] not in _SHOWN_TO_ALL))


def _kernel_may(call: Call, located: Located, flags: int) -> bool:
    """Whether Landlock's rules cover this open, whatever file it leads to by then."""
    if flags & os.O_TRUNC and flags & os.O_ACCMODE not in (os.O_WRONLY, os.O_RDWR):
        return False  # it truncates without asking for write access, which is all that the rules are about
    if located.is_file or stat.S_ISREG(os.fstat(located.handle).st_mode):
        return call.services.ceiling.covers_file(located.path, located.handle)
    return True  # pipes, sockets and devices of the kernel's own: no rule is needed


def _status(located: Located) -> os.stat_result | None:
    """Of what is there; None where nothing is."""
    try:
        return os.fstat(located.handle) if located.handle >= 0 else os.lstat(located.name, dir_fd=located.directory)
    except OSError:
        return None


def _exists(located: Located) -> bool:
    """Whether something is there that O_CREAT would open, and not fail on."""
    status = _status(located)
    return status is not None and stat.S_IFMT(status.st_mode) not in (stat.S_IFDIR, stat.S_IFLNK)


# ---------------------------------------------------------------- the open itself


def _perform(call: Call, located: Located, flags: int, mode: int) -> Reply | None:
    """Open the file that was judged; None where somebody has made that file by now."""
    handle = located.handle
    if handle < 0 and not flags & (os.O_CREAT | os.O_NOFOLLOW):
        return errno.ENOENT
    if handle < 0:
        handle = _special(call, located)
    if handle < 0:
        return _open_by_name(call, located, flags, mode)
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return errno.EEXIST
    may_wait = not flags & os.O_NONBLOCK
    if may_wait and _keeps_waiting(handle):
        return opener.open_elsewhere(call, handle, flags)
    opened = _open_found(call, handle, flags, mode)
    return opener.open_elsewhere(call, handle, flags) if may_wait and opened == errno.EAGAIN else opened


def _open_by_name(call: Call, located: Located, flags: int, mode: int) -> Reply | None:
    # Either of the two: no symlink is followed, and the flags are what fcntl(2) says of them afterwards.
    exclusive = os.O_EXCL if flags & os.O_CREAT and not flags & os.O_NOFOLLOW else 0
    opened = hand_over(
        call,
        flags,
        lambda ours: os.open(located.name, flags | ours | exclusive, mode & 0o7777, dir_fd=located.directory),
        creates=bool(flags & os.O_CREAT),
    )
    return None if opened == errno.EEXIST and exclusive and not flags & os.O_EXCL else opened


def _open_found(call: Call, handle: int, flags: int, mode: int = 0) -> HandOver | int:
    """Open what an O_PATH descriptor stands for. EAGAIN, where the caller did not ask for it: somebody has a lease."""
    kept = flags & ~os.O_NOFOLLOW if flags & TMPFILE else flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)

    def opens(ours: int) -> int:
        if flags & os.O_CREAT and stat.S_ISDIR(os.fstat(handle).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return os.open(f"/proc/self/fd/{handle}", kept | ours, mode & 0o7777)

    opened = hand_over(call, flags, opens, creates=bool(flags & TMPFILE))
    if isinstance(opened, int) and flags & os.O_NOFOLLOW and stat.S_ISLNK(os.fstat(handle).st_mode):
        return errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP
    return opened


def _keeps_waiting(handle: int) -> bool:
    """Whether opening it may keep the opener waiting: pipes until somebody reads them, devices as they like."""
    return stat.S_IFMT(os.fstat(handle).st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def _special(call: Call, located: Located) -> int:
    """An O_PATH descriptor of a pipe or device with this name; -1 for everything else, or nothing."""
    try:
        found = os.open(located.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=located.directory)
    except OSError:
        return -1
    if _keeps_waiting(found):
        call.keep(found)
        return found
    os.close(found)
    return -1


# ---------------------------------------------------------------- terminals: see `broker/paths/terminals.py`


def _is_terminal(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in TERMINAL_MAJORS


def _open_device(call: Call, located: Located, handle: int, flags: int) -> Reply | None:
    """The answer to an open for writing that the rules allow; None where it is not a terminal that is looked after.

    Consoles and serial lines are not: they are there for whoever is allowed them by name.
    """
    status = os.fstat(handle)
    device = status.st_rdev
    if not _is_terminal(status):
        return None
    if device == PTMX:
        opened = _open_found(call, handle, flags)
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
    return _open_terminal(call, handle, flags, device)


def _open_terminal(call: Call, handle: int, flags: int, device: int) -> Reply:
    """Open a terminal for the caller, if only it can become that of its session by itself."""
    session, process, terminal = controlling(call.tid)
    if device == TTY:
        if not terminal:
            return errno.ENXIO
        try:
            handle = os.open(name_of(terminal), os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            return error.errno or errno.ENXIO
        call.keep(handle)
        if os.fstat(handle).st_rdev != terminal:
            return errno.ENXIO
    elif not terminal and not flags & os.O_NOCTTY and session == process:
        return CONTINUE
    return _open_found(call, handle, flags)
