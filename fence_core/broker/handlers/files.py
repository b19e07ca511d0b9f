"""Opens, and calls that make or remove one name: judged where the kernel resolves them, in the caller's own view.

Every handler takes the call, and returns a reply.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker import opener, repositories, surroundings
from fence_core.broker.handlers import drafting, privileged, reads, terminals
from fence_core.broker.handlers.acting import (
    entry,
    hand_over,
    is_free,
    is_of_a_stranger,
    refusal,
    through_a_stranger,
)
from fence_core.broker.handlers.arguments import AT_FDCWD, AT_REMOVEDIR, signed
from fence_core.broker.native_errno import native_errno
from fence_core.broker.reply import CONTINUE, Reply
from fence_core.broker.resolve import Located, follows
from fence_core.kernel.credentials import CAP_MKNOD
from fence_core.link.doors import DOORS
from fence_core.policy.requests import UNNAMED, Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | _TMPFILE
"""Of the flags of open(2), those that can make it change something."""
_ATTEMPTS = 8
_MADE_BY_MKNOD = frozenset({0, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK})


# ---------------------------------------------------------------- opens


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
    if not flags & CHANGES:
        return reads.open_to_read(call, dirfd, raw, flags) if call.services.watches_reads else CONTINUE
    if _is_to_write(raw, flags) and not call.services.watches_reads and is_free(call, "open", raw):
        return CONTINUE
    if _is_nonsense(flags):
        return errno.EINVAL
    for _ in range(_ATTEMPTS):
        reply = _open_located(call, dirfd, raw, flags, mode)
        if reply is not None:
            return reply
    return errno.EAGAIN  # somebody makes and removes the file in turns


def _is_to_write(raw: bytes, flags: int) -> bool:
    """Whether it is no more than that: Landlock's rules about writing are asked, for a file of this very name."""
    return flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR) and not (flags & _TMPFILE or raw.endswith(b"/.git"))


def _is_nonsense(flags: int) -> bool:
    """What the kernel refuses before it looks at the path (build_open_flags, fs/open.c)."""
    if flags & _TMPFILE:
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


def _open_located(call: Call, dirfd: int, raw: bytes, flags: int, mode: int) -> Reply | None:
    """None where the file was made between looking and opening: to be looked at once more."""
    slash = bool(flags & os.O_CREAT) and raw.endswith(b"/")  # EISDIR, whatever is there (open_last_lookups, fs/namei.c)
    exclusive = flags & os.O_NOFOLLOW or (flags & os.O_CREAT and flags & os.O_EXCL)
    follow = not slash and follows(raw, not exclusive)
    located = call.locate(dirfd, raw, follow=follow)
    if located.outside:
        return through_a_stranger(call, "open", located, flags=flags)
    if located.errno:
        return located.refusal(errno.EISDIR)
    if slash:
        return errno.EISDIR
    if flags & _TMPFILE:
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
        if flags & os.O_CREAT and not flags & (CHANGES & ~os.O_CREAT | os.O_EXCL) and _exists(located):
            # It changes nothing where the file exists; were it gone by then, Landlock would make none.
            if call.services.watches_reads:
                return reads.open_to_read(call, dirfd, raw, flags & ~os.O_CREAT)
            return CONTINUE
        # A rule for an unnamed file can only be one for its directory.
        asked = asked or Write("create" if flags & _TMPFILE else op, located.path)
        refused = refusal(call, "open", located, flags=flags, asked=asked)
        if refused != CONTINUE:
            return refused
    return _open_allowed(call, located, flags, mode)


def _open_allowed(call: Call, located: Located, flags: int, mode: int) -> Reply | None:
    """What the rules about writing allow: terminals and reading have more, and then it is opened."""
    judged = call.judged(located.path)
    if judged.startswith("/dev/"):
        handle = located.handle if located.handle >= 0 or flags & os.O_EXCL else _special(call, located)
        reply = terminals.open_to_write(call, located, handle, flags) if handle >= 0 else None
        if reply is not None:
            return reply
    if call.services.watches_reads and flags & os.O_ACCMODE != os.O_WRONLY and not flags & _TMPFILE:
        reply = reads.refuse_open(call, located, flags)
        if reply is not None:
            return reply
    elif _kernel_may(call, located, flags):
        return CONTINUE
    known = located.handle if located.handle >= 0 else located.directory
    if located.is_file and (is_of_a_stranger(judged) or call.services.resolver.is_other_procfs(known)):
        return errno.EACCES
    return _perform_open(call, located, flags, mode)


def _kernel_may(call: Call, located: Located, flags: int) -> bool:
    """Whether Landlock's rules cover this open, whatever file it leads to by then."""
    if flags & os.O_TRUNC and flags & os.O_ACCMODE not in (os.O_WRONLY, os.O_RDWR):
        return False  # it truncates without asking for write access, which is all that the rules are about
    if located.is_file or stat.S_ISREG(os.fstat(located.handle).st_mode):
        return call.services.ceiling.covers_file(located.path, located.handle)
    return True  # pipes, sockets and devices of the kernel's own: no rule is needed


def _exists(located: Located) -> bool:
    """Whether something is there that O_CREAT would open, and not fail on."""
    try:
        if located.handle >= 0:
            status = os.fstat(located.handle)
        else:
            status = os.lstat(located.name, dir_fd=located.directory)
    except OSError:
        return False
    return stat.S_IFMT(status.st_mode) not in (stat.S_IFDIR, stat.S_IFLNK)


def _perform_open(call: Call, located: Located, flags: int, mode: int) -> Reply | None:
    """The open itself, on the file that was judged; None where somebody has made that file by now."""
    handle = located.handle
    if handle < 0 and not flags & (os.O_CREAT | os.O_NOFOLLOW):
        return errno.ENOENT
    if handle < 0:
        handle = _special(call, located)
    if handle >= 0 and flags & os.O_CREAT and flags & os.O_EXCL:
        return errno.EEXIST
    if handle >= 0 and not flags & os.O_NONBLOCK and _may_wait(handle):
        return opener.open_elsewhere(call, handle, flags)
    again = False

    def opens(ours: int) -> int:
        nonlocal again
        if handle < 0:
            # Either of the two: no symlink is followed, and the flags are what fcntl(2) says of them afterwards.
            exclusive = os.O_EXCL if flags & os.O_CREAT and not flags & os.O_NOFOLLOW else 0
            try:
                return os.open(located.name, flags | ours | exclusive, mode & 0o7777, dir_fd=located.directory)
            except FileExistsError:
                again = bool(exclusive) and not flags & os.O_EXCL
                raise
        if flags & os.O_CREAT and not flags & _TMPFILE and stat.S_ISDIR(os.fstat(handle).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        kept = flags if flags & _TMPFILE else flags & ~(os.O_CREAT | os.O_EXCL)
        return os.open(f"/proc/self/fd/{handle}", (kept & ~os.O_NOFOLLOW) | ours, mode & 0o7777)

    opened = hand_over(call, flags, opens, creates=bool(flags & (os.O_CREAT | _TMPFILE)))
    if opened == errno.EAGAIN and handle >= 0 and not flags & os.O_NONBLOCK:
        return opener.open_elsewhere(call, handle, flags)
    return None if again else opened


def _may_wait(handle: int) -> bool:
    """Whether opening it may keep the opener waiting: pipes until somebody reads them, devices as they like."""
    return stat.S_IFMT(os.fstat(handle).st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def _special(call: Call, located: Located) -> int:
    """An O_PATH descriptor of a pipe or device with this name; -1 for everything else, or nothing."""
    try:
        found = os.open(located.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=located.directory)
    except OSError:
        return -1
    if _may_wait(found):
        call.keep(found)
        return found
    os.close(found)
    return -1


# ---------------------------------------------------------------- names made and removed


def mkdir(call: Call) -> Reply:
    return _mkdir(call, AT_FDCWD, call.args[0], call.args[1])


def mkdirat(call: Call) -> Reply:
    return _mkdir(call, signed(call.args[0]), call.args[1], call.args[2])


def _mkdir(call: Call, dirfd: int, address: int, mode: int) -> Reply:
    return entry(
        call,
        "mkdir",
        dirfd,
        address,
        lambda where: os.mkdir(where.name, mode & 0o7777, dir_fd=where.directory),
    )


def mknod(call: Call) -> Reply:
    return _mknod(call, AT_FDCWD, call.args[0], call.args[1], call.args[2])


def mknodat(call: Call) -> Reply:
    return _mknod(call, signed(call.args[0]), call.args[1], call.args[2], call.args[3])


def _mknod(call: Call, dirfd: int, address: int, mode: int, device: int) -> Reply:
    mode &= 0xFFFF
    if stat.S_IFMT(mode) not in _MADE_BY_MKNOD:
        return errno.EPERM if stat.S_ISDIR(mode) else errno.EINVAL
    device &= 0xFFFF_FFFF
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and device):  # 0: a whiteout, which anybody may make
        located = call.locate(dirfd, call.read_string(address), follow=False)
        native = max(located.errno, 0) or native_errno("mknod", located, call.tid)
        if native or not privileged.may(call.tid, CAP_MKNOD):
            return native or errno.EPERM
        return call.refuse(Write("mknod device", located.path), errno.EPERM)
    return entry(
        call,
        "mknod",
        dirfd,
        address,
        lambda where: os.mknod(where.name, mode, device, dir_fd=where.directory),
    )


def unlink(call: Call) -> Reply:
    return _remove(call, AT_FDCWD, call.args[0], directory=False)


def unlinkat(call: Call) -> Reply:
    if call.args[2] & 0xFFFF_FFFF & ~AT_REMOVEDIR:
        return errno.EINVAL
    return _remove(call, signed(call.args[0]), call.args[1], directory=bool(call.args[2] & AT_REMOVEDIR))


def rmdir(call: Call) -> Reply:
    return _remove(call, AT_FDCWD, call.args[0], directory=True)


def _remove(call: Call, dirfd: int, address: int, *, directory: bool) -> Reply:
    def remove(where: Located) -> None:
        if directory:
            os.rmdir(where.name, dir_fd=where.directory)
        else:
            os.unlink(where.name, dir_fd=where.directory)
        call.services.ceiling.forget(where.path)

    return entry(call, "rmdir" if directory else "unlink", dirfd, address, remove)


def symlink(call: Call) -> Reply:
    return _symlink(call, call.args[0], AT_FDCWD, call.args[1])


def symlinkat(call: Call) -> Reply:
    return _symlink(call, call.args[0], signed(call.args[1]), call.args[2])


def _symlink(call: Call, target_at: int, dirfd: int, address: int) -> Reply:
    target = call.read_string(target_at)
    if not target:
        return errno.ENOENT
    return entry(call, "symlink", dirfd, address, lambda where: os.symlink(target, where.name, dir_fd=where.directory))
