"""Where a path of a fenced process leads: resolved by the kernel, in that process's own view, never by string alone.

The broker opens the path with O_PATH and asks the kernel what it opened. Facts and consequences:

* Relative paths start at an O_PATH descriptor of the target's own directory (``/proc/<tid>/cwd``, ``.../fd/<n>``),
  so that deleted and renamed directories are meant as the target means them.
* Links that mean "whoever asks" (``/proc/self``, ``/dev/fd``) would lead to the broker. A path that begins with one is
  rewritten to the caller's; to find those hidden behind a symlink, the kernel is told to follow no magic link
  (openat2(2), RESOLVE_NO_MAGICLINKS), and what it then refuses is walked component by component.
* By the time the kernel carries a call out the path may name another file. So what was judged is kept: an O_PATH
  descriptor of the object itself, or of its directory, on which the broker can carry the call out instead.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import stat as stat_modes
import struct
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

from fence_core.kernel import arch, libc, links, namespaces

if TYPE_CHECKING:
    from fence_core.broker.paths.identity import Identities
    from fence_core.broker.processes import Process

AT_FDCWD = -100
_LINKS_MAX = 40
"""As many symlinks as the kernel follows (path_resolution(7))."""
_NAME_MAX = 255

# include/uapi/linux/openat2.h
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_IN_ROOT = 0x10

_O_PATH = os.O_PATH | os.O_CLOEXEC
_O_PARENT = os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY


def _how(flags: int, resolve: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=QQQ", flags, 0, resolve), 24)


DIRECTORY_ENDS = (b"/", b"/.", b"/..")
"""A path that ends so is followed to the directory it names, whatever the flags say (path_resolution(7))."""


def follows(raw: bytes, asked: bool) -> bool:
    """Whether a symbolic link in the last component is followed; `asked`: whether the flags say so."""
    return asked or raw.endswith(DIRECTORY_ENDS) or raw in (b".", b"..")


class Caller(Protocol):
    """Of a trapped call what is needed to see a path as its thread does."""

    tid: int
    process: Process

    def keep(self, fd: int) -> None:
        """Close this descriptor once the call is answered."""


class Located:
    """A path as the kernel sees it: the final file itself, or its directory and a name in that.

    The descriptors are O_PATH ones of ours. The call keeps them open until it is answered.
    """

    __slots__ = ("directory", "errno", "handle", "is_file", "name", "outside", "parent", "path")

    def __init__(
        self,
        path: str,
        *,
        errno: int = 0,
        parent: str = "",
        is_file: bool = True,
        handle: int = -1,
        directory: int = -1,
        name: bytes = b"",
    ) -> None:
        self.path = path
        """Absolute; for showing and judging."""
        self.errno = errno
        """What the kernel answers before any policy matters; 0 where it would carry on, `ASK_KERNEL` where the
        answer depends on the call but no call can succeed."""
        self.parent = parent
        """The directory, where the last component was not followed."""
        self.is_file = is_file
        """False for what has no place on a disk: pipes, sockets, memfds, deleted files."""
        self.handle = handle
        """Of the file; -1 where the last component was not followed, or is missing."""
        self.directory = directory
        """Of the parent, where `handle` is -1."""
        self.name = name
        """The last component in `directory`, with the slash that the path ended with: what `*at` calls take."""
        self.outside = ""
        """The path as it was walked, where it leads through a process outside (`/proc/PID/root`): nobody inside may
        follow it (`errno`), and what else is known of it says what would happen without a fence."""

    def refusal(self, otherwise: int) -> int:
        """The error number that the kernel answers, 0 if it carries on; `otherwise` where that depends on the call."""
        return otherwise if self.errno == ASK_KERNEL else self.errno

    def pin(self, call: Caller, flags: int = 0) -> int:
        """Have a descriptor of the file itself, which is not followed. The error number where there is none."""
        if self.handle < 0:
            try:
                self.handle = os.open(self.name, _O_PATH | os.O_NOFOLLOW | flags, dir_fd=self.directory)
            except OSError as error:
                return error.errno or errno.ENOENT
            call.keep(self.handle)
        return 0


ASK_KERNEL = -1


class Resolver:
    """Resolution in the view of any fenced thread; one per broker."""

    def __init__(self, is_ours: Callable[[int], bool], identities: Identities) -> None:
        """`is_ours` tells whether a process is in the fence."""
        self._is_ours = is_ours
        self._identities = identities
        self.foreign_roots = False
        """Set once any fenced process has made a chroot or setns: from then on every root is compared with ours."""
        root = os.stat("/")
        self._root = (root.st_dev, root.st_ino)
        self._own = f"/proc/{os.getpid()}"
        self._procfs = os.stat("/proc").st_dev
        self._fds = os.open("/proc/self/fd", _O_PARENT)
        self._nr = arch.current().calls["openat2"]
        self._any = _how(_O_PATH, 0)
        self._file = _how(_O_PATH, _RESOLVE_NO_MAGICLINKS)
        self._parent = _how(_O_PARENT, _RESOLVE_NO_MAGICLINKS)
        self._plain = _how(_O_PATH | os.O_NOFOLLOW, _RESOLVE_NO_SYMLINKS)
        self._straight = _how(_O_PATH, _RESOLVE_NO_SYMLINKS)
        self._straight_parent = _how(_O_PARENT, _RESOLVE_NO_SYMLINKS)
        self._file_in_root = _how(_O_PATH, _RESOLVE_NO_MAGICLINKS | _RESOLVE_IN_ROOT)
        self._parent_in_root = _how(_O_PARENT, _RESOLVE_NO_MAGICLINKS | _RESOLVE_IN_ROOT)
        self._syscall = libc.function(
            "syscall", ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long
        )

    def locate(self, call: Caller, dirfd: int, raw: bytes, *, follow: bool) -> Located:
        """What `raw` names for the caller.

        `follow`: whether the call follows a symlink in the last component. Where the kernel itself would refuse to
        walk the path, with the rights of the thread, `Located.errno` says with what.
        """
        if not raw:
            return Located("", errno=errno.ENOENT)
        differ = self._identities.differ
        if not (differ or self.foreign_roots):
            # Most paths: absolute and without links, which one call tells. Then the text is the path.
            text = plain_text(raw)
            found = None if text is None else self._as_written(call, raw, text, follow=follow)
            if found is not None:
                return found
        tid = call.tid
        base = AT_FDCWD
        in_root = outside = False
        try:
            if raw[0] == 0x2F and raw.startswith((b"/proc/", b"/dev/")) and (follow or raw not in _LINKS_THEMSELVES):
                raw = own_links(raw, call)
            if self.foreign_roots and not self._same_root(tid):
                base, raw, in_root = _below_root(tid, dirfd, raw)
                outside = not in_root
            elif raw[0] != 0x2F:
                base = os.open(_start(tid, dirfd), _O_PATH)
            elif differ and (own := _OWN_DESCRIPTOR.match(raw)) and int(own[2]) == call.process.pid:
                # A process may always follow the links to its own descriptors. That of one that has given rights up
                # is closed to everybody but root (PR_SET_DUMPABLE(2const)), to us with its rights as well.
                if own.end() == len(raw):
                    differ = not follow
                elif own[3]:
                    base, raw = os.open(own[1], _O_PATH), raw[own.end() :].lstrip(b"/") or b"."
        except OSError as error:
            known = errno.EBADF if error.errno == errno.ENOENT else error.errno
            return Located(os.fsdecode(raw), errno=known or errno.EACCES)
        find = self._followed if follow else self._in_parent
        try:
            with self._identities.acting_as(tid) if differ else nullcontext():
                if outside and not self._has_no_links(base, raw, follow=follow):
                    # Its links lead through its own root, from a place that this root does not hold: nobody can say
                    # where to.
                    return Located(os.fsdecode(raw), errno=errno.EACCES)
                return find(call, base, raw, in_root)
        finally:
            if base >= 0:
                os.close(base)

    def is_straight(self, raw: bytes) -> bool:
        """Whether `plain_text` of a path is what the kernel calls the file, which is there or is missing: no symbolic
        link is on its way, nor is the file itself one.

        For calls that the kernel is to carry out: nothing stays open, on which the broker could do it.
        """
        if self._identities.differ or self.foreign_roots:
            return False
        handle = self._open(AT_FDCWD, raw, self._straight)
        if handle >= 0:
            os.close(handle)
            return True
        return handle == -errno.ENOENT

    def _as_written(self, call: Caller, raw: bytes, text: str, *, follow: bool) -> Located | None:
        """None where a symbolic link is on the way, or anything else that wants a closer look."""
        if follow:
            handle = self._open(AT_FDCWD, raw, self._straight)
            if handle >= 0:
                call.keep(handle)
                return Located(text, handle=handle)
            if handle != -errno.ENOENT:
                return None
        head, _, name = raw.rpartition(b"/")
        handle = self._open(AT_FDCWD, head or b"/", self._straight_parent)
        if handle < 0:
            return None
        call.keep(handle)
        if len(name) > _NAME_MAX:
            return Located(text, errno=errno.ENAMETOOLONG)
        return Located(text, parent=os.fsdecode(head) or "/", directory=handle, name=name)

    def _has_no_links(self, base: int, raw: bytes, *, follow: bool) -> bool:
        """Whether the kernel follows no symbolic link on this path."""
        head, slash, name = raw.rstrip(b"/").rpartition(b"/")
        walked = raw if follow or name in (b".", b"..") or raw.endswith(b"/") else (head if slash else b".")
        handle = self._open(base, walked, self._straight)
        if handle >= 0:
            os.close(handle)
        return handle != -errno.ELOOP

    def descriptor(self, call: Caller, fd: int) -> Located:
        """What a descriptor of that thread's process is open on."""
        try:
            handle = os.open(_start(call.tid, fd), _O_PATH)
        except OSError as error:
            return Located("", errno=errno.EBADF if error.errno == errno.ENOENT else error.errno or errno.EBADF)
        return self.opened(call, handle)

    def _open(self, base: int, raw: bytes, how: ctypes.Array[ctypes.c_char]) -> int:
        """An O_PATH descriptor, or minus the error number."""
        handle = self._syscall(self._nr, base, raw, how, 24)
        return handle if handle >= 0 else -ctypes.get_errno()

    def _followed(self, call: Caller, base: int, raw: bytes, in_root: bool) -> Located:
        for _ in range(_LINKS_MAX):
            handle = self._open(base, raw, self._file_in_root if in_root else self._file)
            if handle >= 0:
                located = self.opened(call, handle)
                if not self._leads_to_us(located.path):
                    return located
            if handle >= 0 or handle == -errno.ELOOP:
                if in_root:
                    return Located(os.fsdecode(raw), errno=errno.EACCES)  # magic links lead out of a root
                return self._walk(call, base, raw)
            if handle != -errno.ENOENT:
                return Located(os.fsdecode(raw), errno=-handle)
            located = self._in_parent(call, base, raw, in_root)
            if located.errno:
                return located
            # The last component is missing, or a symlink to something missing, which O_CREAT would create.
            try:
                target = os.readlink(located.name, dir_fd=located.directory)
            except OSError:
                return located
            if target[:1] != b"/" and in_root:
                root = os.readlink(os.fsencode(f"/proc/self/fd/{base}")).rstrip(b"/")
                target = os.fsencode(located.parent)[len(root) :] + b"/" + target
            elif target[:1] != b"/":
                base = located.directory
            raw = target
            if raw.startswith((b"/proc/", b"/dev/")):
                raw = own_links(raw, call)
        return Located(os.fsdecode(raw), errno=errno.ELOOP)

    def _in_parent(self, call: Caller, base: int, raw: bytes, in_root: bool) -> Located:
        stripped = raw.rstrip(b"/")
        head, slash, name = stripped.rpartition(b"/")
        if not name or name in (b".", b".."):
            # mkdir("/"), rmdir("."), unlink(".."): refused by the kernel whatever the policy says, each call with
            # an error of its own.
            return Located(os.fsdecode(raw), errno=ASK_KERNEL)
        how = self._parent_in_root if in_root else self._parent
        handle = self._open(base, (head or b"/") if slash else b".", how)
        if handle < 0 and handle != -errno.ELOOP:
            return Located(os.fsdecode(stripped), errno=-handle)
        parent, outside = "", False
        if handle >= 0:
            call.keep(handle)
            parent = os.readlink(str(handle), dir_fd=self._fds)
        if not parent or self._leads_to_us(parent):
            if in_root:
                return Located(os.fsdecode(raw), errno=errno.EACCES)
            found = self._walk(call, base, head)
            if (found.errno and not found.outside) or not found.is_file:
                return found
            outside = bool(found.outside)
            if found.handle < 0:
                return Located(os.fsdecode(raw), errno=errno.ENOENT)
            parent, handle = found.path, found.handle
        text = os.fsdecode(name)
        located = Located(
            f"/{text}" if parent == "/" else f"{parent}/{text}",
            errno=errno.ENAMETOOLONG if len(name) > _NAME_MAX else 0,
            parent=parent,
            directory=handle,
            name=name + b"/" if len(stripped) < len(raw) else name,
        )
        return self._beyond(located, raw) if outside else located

    def opened(self, call: Caller, handle: int) -> Located:
        """What a descriptor of ours stands for; the call keeps it."""
        call.keep(handle)
        path = os.readlink(str(handle), dir_fd=self._fds)
        if path[:1] != "/":
            return Located(path, is_file=False, handle=handle)  # pipe:[1], socket:[2], anon_inode:[eventfd]
        if path.endswith(" (deleted)") and os.fstat(handle).st_nlink == 0:
            return Located(path, is_file=False, handle=handle)
        return Located(path, handle=handle)

    def _walk(self, call: Caller, base: int, raw: bytes) -> Located:
        """Component by component, with the caller's meaning of magic links. Slow, and rarely needed."""
        located, outside = self._walked(call, base, raw)
        return self._beyond(located, raw) if outside else located

    @staticmethod
    def _beyond(located: Located, raw: bytes) -> Located:
        """The kernel lets nobody inside go through a process outside, which only we may look into."""
        if not located.errno:
            located.errno, located.outside = errno.EACCES, os.fsdecode(raw)
        return located

    def _walked(self, call: Caller, base: int, raw: bytes) -> tuple[Located, bool]:
        """With whether a process outside was on the way."""
        outside = False
        once_more = self._open(base, raw or b"/", self._any)
        if once_more == -errno.ELOOP:
            return Located(os.fsdecode(raw), errno=errno.ELOOP), outside  # no magic link: links that lead to each other
        if once_more >= 0:
            os.close(once_more)
        start = b"/" if raw[:1] == b"/" else os.readlink(os.fsencode(f"/proc/self/fd/{base}"))
        todo = [part for part in reversed(raw.split(b"/")) if part and part != b"."]
        here = start
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                here = os.path.dirname(here)
                continue
            step = own_links(here.rstrip(b"/") + b"/" + part, call)
            try:
                mode = os.lstat(step).st_mode
                if not stat_modes.S_ISLNK(mode):
                    here = step
                    continue
                links += 1
                if links > _LINKS_MAX:
                    return Located(os.fsdecode(raw), errno=errno.ELOOP), outside
                if step.startswith(b"/proc/"):
                    # Magic: the kernel jumps to the object, whatever the text of the link says.
                    owner = step[6:].partition(b"/")[0]
                    outside = outside or (owner.isdigit() and not self._is_ours(int(owner)))
                    located = self._leave_removed(call, self.opened(call, os.open(step, _O_PATH)), todo)
                    if located.errno or not todo:
                        return located, outside
                    if not located.is_file:
                        # No name goes on from a pipe, nor from a directory that was removed.
                        return Located(os.fsdecode(raw), errno=errno.ENOENT), outside
                    here = os.fsencode(located.path)
                    continue
                target = os.readlink(step)
            except OSError as error:
                if error.errno == errno.ENOENT and not todo:
                    return self._missing(call, here, part), outside
                return Located(os.fsdecode(raw), errno=error.errno or errno.EACCES), outside
            todo.extend(part for part in reversed(target.split(b"/")) if part and part != b".")
            if target[:1] == b"/":
                here = b"/"
        # Every link has been followed: one that is there now was put there meanwhile.
        handle = self._open(AT_FDCWD, here, self._plain)
        if handle < 0:
            return Located(os.fsdecode(raw), errno=-handle), outside
        return self.opened(call, handle), outside

    def _leave_removed(self, call: Caller, located: Located, todo: list[bytes]) -> Located:
        """From a directory that was removed ".." leads on, to where the kernel knows and no text tells."""
        while not located.is_file and not located.errno and todo and todo[-1] == b"..":
            above = self._open(located.handle, todo.pop(), self._plain)
            located = self.opened(call, above) if above >= 0 else Located(located.path, errno=-above)
        return located

    def _missing(self, call: Caller, directory: bytes, name: bytes) -> Located:
        """The last component is not there."""
        handle = self._open(AT_FDCWD, directory, self._plain)
        if handle < 0:
            return Located(os.fsdecode(directory + b"/" + name), errno=-handle)
        call.keep(handle)
        parent = os.readlink(str(handle), dir_fd=self._fds)
        path = f"{parent.rstrip('/')}/{os.fsdecode(name)}"
        return Located(path, parent=parent, directory=handle, name=name)

    def is_other_procfs(self, fd: int) -> bool:
        """Whether a descriptor of ours is open on another mount of procfs than ``/proc``: a way to processes by another
        name."""
        return links.is_procfs(fd) and os.fstat(fd).st_dev != self._procfs

    def _leads_to_us(self, path: str) -> bool:
        """Whether the kernel took "whoever asks" (``/proc/self``, a symbolic link like any other) for the broker."""
        return path.startswith(self._own) and path[len(self._own) : len(self._own) + 1] in ("", "/")

    def _same_root(self, tid: int) -> bool:
        try:
            root = os.stat(f"/proc/{tid}/root/")
            same = (root.st_dev, root.st_ino) == self._root
            return same and namespaces.is_ours(tid, "mnt")
        except OSError:
            return False


@functools.lru_cache(maxsize=512)
def plain_text(raw: bytes) -> str | None:
    """An absolute path as text, if it is what the kernel itself calls the file as long as no symbolic link is on its
    way; else None. Remembered, since a name is mostly used by several calls in a row.

    By `find`, since `in` takes what is looked for as a number first: that makes an exception, and 0.2 us.
    """
    if (
        raw[:1] != b"/"
        or raw[-1:] == b"/"
        or raw.find(b"//") >= 0
        or raw.find(b"/./") >= 0
        or raw.find(b"/../") >= 0
        or raw.endswith((b"/.", b"/.."))
        or (raw.startswith((b"/proc/", b"/dev/")) and not raw.startswith(b"/dev/shm/"))
    ):
        return None
    return os.fsdecode(raw)


def _start(tid: int, dirfd: int) -> str:
    """Where a relative path of that thread begins."""
    return f"/proc/{tid}/cwd" if dirfd == AT_FDCWD else f"/proc/{tid}/fd/{dirfd}"


def _below_root(tid: int, dirfd: int, raw: bytes) -> tuple[int, bytes, bool]:
    """For a thread whose root is not ours: a descriptor to begin at, the path from there, and whether that is a root.

    Raises OSError.
    """
    if raw[0] == 0x2F:
        return os.open(f"/proc/{tid}/root", _O_PATH), raw, True
    root = os.readlink(os.fsencode(f"/proc/{tid}/root")).rstrip(b"/")
    here = os.readlink(os.fsencode(_start(tid, dirfd)))
    if here != root and not here.startswith(root + b"/"):
        return os.open(_start(tid, dirfd), _O_PATH), raw, False  # it has stayed outside of its root
    return os.open(f"/proc/{tid}/root", _O_PATH), here[len(root) :] + b"/" + raw, True


_OWN_LINKS = (
    (b"/proc/self", b"/proc/%d"),
    (b"/proc/thread-self", b"/proc/%d/task/%d"),
    (b"/proc/net", b"/proc/%d/net"),
    (b"/proc/mounts", b"/proc/%d/mounts"),
    (b"/dev/fd", b"/proc/%d/fd"),
    (b"/dev/stdin", b"/proc/%d/fd/0"),
    (b"/dev/stdout", b"/proc/%d/fd/1"),
    (b"/dev/stderr", b"/proc/%d/fd/2"),
)


_LINKS_THEMSELVES = frozenset(link for link, _ in _OWN_LINKS)
"""Names that a call which follows no link means as such."""
_OWN_DESCRIPTOR = re.compile(rb"(/proc/(\d+)/fd/(?:(\d+)(?=/|\Z)|[^/]+\Z))")


def own_links(raw: bytes, call: Caller) -> bytes:
    """A path that begins with "whoever asks" (proc(5)), as the asking thread means it."""
    tgid = call.process.pid
    for prefix, meant in _OWN_LINKS:
        if raw.startswith(prefix) and (len(raw) == len(prefix) or raw[len(prefix)] == 0x2F):
            start = meant % (tgid, call.tid) if meant.count(b"%d") == 2 else meant % tgid
            return start + raw[len(prefix) :]
    return raw
