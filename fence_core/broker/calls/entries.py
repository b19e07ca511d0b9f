"""Calls that make or remove one name, judged in the directory that the kernel finds for the caller."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.calls import privileged
from fence_core.broker.calls.acting import entry
from fence_core.broker.calls.arguments import AT_FDCWD, AT_REMOVEDIR, signed
from fence_core.broker.paths.native_errno import native_errno
from fence_core.broker.reply import Reply
from fence_core.kernel.credentials import CAP_MKNOD
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located

_MADE_BY_MKNOD = frozenset({0, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK})


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
