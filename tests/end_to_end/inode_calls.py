"""Every call that changes a file itself, as raw system calls, in all its forms; and what became of the files.

Imported both by the outer pytest, to see what the kernel does, and by fenced tests, which must see the same.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fence_core.kernel import arch

CALLS = arch.current().calls
AT_FDCWD = -100
NOFOLLOW, EMPTY = 0x100, 0x1000
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
BAD = 1
"""An address that nothing is mapped at."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: object) -> tuple[int, int]:
    """Result and errno. Bytes are passed as pointers to them."""
    given = [item if isinstance(item, (bytes, type(None))) else ctypes.c_long(int(str(item))) for item in arguments]
    ctypes.set_errno(0)
    result: int = _libc.syscall(ctypes.c_long(CALLS[name]), *given)
    return result, ctypes.get_errno() if result < 0 else 0


def times(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}q", *numbers)


def xattr_args(value: bytes | None, size: int, flags: int) -> tuple[bytes, object]:
    """struct xattr_args, and what has to stay alive while it is used."""
    buffer = ctypes.create_string_buffer(value) if value is not None else None
    return struct.pack("=QII", ctypes.addressof(buffer) if buffer is not None else 0, size, flags), buffer


def prepare(place: Path) -> None:
    """The files that a row may change."""
    place.mkdir()
    (place / "file").write_bytes(b"0123456789")
    (place / "dir").mkdir()
    (place / "dir" / "inner").write_bytes(b"inner")
    os.symlink("file", place / "link")
    os.symlink("nowhere", place / "dangling")
    os.symlink("round", place / "round")
    os.mkfifo(place / "fifo")
    (place / "sealed").write_bytes(b"sealed")
    for name in "file", "dir", "fifo", "sealed":
        (place / name).chmod(0o740)
    try:
        os.setxattr(place / "file", "user.old", b"old")
    except OSError:
        pass
    for path in sorted(place.rglob("*")):
        os.utime(path, (1000, 2000), follow_symlinks=False)


def state(place: Path) -> dict[str, Any]:
    """What is there now; times of this hour are "now"."""
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        try:
            status = path.lstat()
        except PermissionError:
            continue  # in a directory that a row has closed
        found[str(path.relative_to(place))] = [
            oct(status.st_mode), status.st_uid, status.st_gid, status.st_size if path.is_file() else 0,
            *("now" if abs(ns / 1e9 - time.time()) < 3600 else ns for ns in (status.st_atime_ns, status.st_mtime_ns)),
            _attributes(path), _flags(path),
        ]  # fmt: skip
    return found


def _attributes(path: Path) -> list[list[str]]:
    if stat.S_ISLNK(path.lstat().st_mode):
        return []
    try:
        return sorted([name, os.getxattr(path, name).hex()] for name in os.listxattr(path))
    except OSError:
        return []


def _flags(path: Path) -> str:
    mode = path.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return ""
    fd = os.open(path, os.O_RDONLY)
    try:
        return fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)).hex()
    except OSError:
        return ""
    finally:
        os.close(fd)


Row = Callable[[bytes], object]


def rows() -> dict[str, Row]:
    """By name: calls on the files of a directory made by `prepare`, which return what the caller gets to know."""
    found: dict[str, Row] = {}
    for way in (_modes, _owners, _times, _attribute_calls, _flag_calls, _lengths, _descriptors):
        found.update(way())
    return found


PATHS = (b"file", b"dir", b"link", b"dangling", b"round", b"fifo", b"missing", b"file/", b"dir/", b"dir/.", b"link/",
         b"dir/../file", b"missing/", b"file/x", b"n" * 256)  # fmt: skip


def _at_all_paths(name: str, act: Callable[[bytes], object], paths: Iterable[bytes] = PATHS) -> dict[str, Row]:
    def row(path: bytes) -> Row:
        return lambda place: act(place + b"/" + path)

    return {f"{name} {path[:12].decode()}": row(path) for path in paths}


def _modes() -> dict[str, Row]:
    found: dict[str, Row] = {}
    if "chmod" in CALLS:
        found.update(_at_all_paths("chmod", lambda path: call("chmod", path, 0o7751)))
        found["chmod empty"] = lambda place: call("chmod", b"", 0o600)
        found["chmod efault"] = lambda place: call("chmod", BAD, 0o600)
        found["chmod null"] = lambda place: call("chmod", None, 0o600)
        found["chmod type bits"] = lambda place: call("chmod", place + b"/file", 0o177600)
    found.update(_at_all_paths("fchmodat", lambda path: call("fchmodat", AT_FDCWD, path, 0o600)))
    found["fchmodat dirfd"] = lambda place: _in(place, lambda fd: call("fchmodat", fd, b"dir/inner", 0o600))
    found["fchmodat bad dirfd"] = lambda place: call("fchmodat", 777, b"file", 0o600)
    found["fchmodat file as dirfd"] = lambda place: _on(place + b"/file", lambda fd: call("fchmodat", fd, b"x", 0o600))
    for flags in (0, NOFOLLOW, EMPTY, NOFOLLOW | EMPTY, 0x400, 0x80000000):
        found.update(
            _at_all_paths(
                f"fchmodat2 {flags:#x}",
                lambda path, flags=flags: call("fchmodat2", AT_FDCWD, path, 0o604, flags),
            )
        )
    for mode in ("read", "path"):
        found[f"fchmodat2 empty path, {mode}"] = lambda place, mode=mode: _on(
            place + b"/file", lambda fd: call("fchmodat2", fd, b"", 0o604, EMPTY), mode
        )
    found["fchmodat2 empty path, closed"] = lambda place: call("fchmodat2", 777, b"", 0o604, EMPTY)
    found["fchmodat2 empty path, no flag"] = lambda place: call("fchmodat2", 777, b"", 0o604, 0)
    found["fchmodat2 null path"] = lambda place: _on(
        place + b"/file", lambda fd: call("fchmodat2", fd, None, 0o604, EMPTY)
    )
    return found


def _owners() -> dict[str, Row]:
    found: dict[str, Row] = {}
    uid, gid = os.getuid(), os.getgid()
    for name in "chown", "lchown":
        if name in CALLS:
            found.update(_at_all_paths(name, lambda path, name=name: call(name, path, uid, gid)))
            found[f"{name} other"] = lambda place, name=name: call(name, place + b"/link", 12345, 54321)
            found[f"{name} only uid"] = lambda place, name=name: call(name, place + b"/file", 12345, -1)
            found[f"{name} none"] = lambda place, name=name: call(name, place + b"/file", -1, -1)
    for flags in (0, NOFOLLOW, 0x400):
        found.update(
            _at_all_paths(
                f"fchownat {flags:#x}",
                lambda path, flags=flags: call("fchownat", AT_FDCWD, path, -1, 54321, flags),
            )
        )
    for mode in ("read", "path"):
        found[f"fchownat empty path, {mode}"] = lambda place, mode=mode: _on(
            place + b"/file", lambda fd: call("fchownat", fd, b"", -1, 54321, EMPTY), mode
        )
    found["fchownat empty path of a link"] = lambda place: _on(
        place + b"/link", lambda fd: call("fchownat", fd, b"", -1, 54321, EMPTY), "link"
    )
    return found


def _times() -> dict[str, Row]:
    found: dict[str, Row] = {}
    if "utime" in CALLS:
        found.update(_at_all_paths("utime", lambda path: call("utime", path, times(5, 6))))
        found["utime null"] = lambda place: call("utime", place + b"/file", None)
        found["utime efault"] = lambda place: call("utime", place + b"/file", BAD)
        found.update(_at_all_paths("utimes", lambda path: call("utimes", path, times(5, 999999, 6, 1))))
        found["utimes null"] = lambda place: call("utimes", place + b"/file", None)
        found["utimes bad"] = lambda place: call("utimes", place + b"/file", times(5, 1000000, 6, 1))
        found["futimesat dirfd"] = lambda place: _in(
            place, lambda fd: call("futimesat", fd, b"link", times(5, 7, 6, 8))
        )
        found["futimesat null path"] = lambda place: _on(
            place + b"/file", lambda fd: call("futimesat", fd, None, times(5, 7, 6, 8))
        )
        found["futimesat null path, cwd"] = lambda place: call("futimesat", AT_FDCWD, None, times(5, 7, 6, 8))
    for flags in (0, NOFOLLOW, EMPTY, 0x400):
        found.update(
            _at_all_paths(
                f"utimensat {flags:#x}",
                lambda path, flags=flags: call("utimensat", AT_FDCWD, path, times(5, 123456789, 6, 987654321), flags),
            )
        )
    for name, given in {
        "now": times(0, UTIME_NOW, 0, UTIME_NOW),
        "omit both": times(0, UTIME_OMIT, 0, UTIME_OMIT),
        "omit first": times(0, UTIME_OMIT, 7, 1),
        "omit second, now": times(0, UTIME_NOW, 7, UTIME_OMIT),
        "bad": times(5, 1000000000, 6, 0),
        "negative": times(-5, 1, -6, 999999999),
        "negative ns": times(5, -1, 6, 0),
        "null": None,
        "efault": BAD,
    }.items():
        for path in b"file", b"missing", b"link":
            found[f"utimensat {name} {path.decode()}"] = lambda place, given=given, path=path: call(
                "utimensat", AT_FDCWD, place + b"/" + path, given, 0
            )
        found[f"futimens {name}"] = lambda place, given=given: _on(
            place + b"/file", lambda fd: call("utimensat", fd, None, given, 0)
        )
    found["futimens flags"] = lambda place: _on(
        place + b"/file", lambda fd: call("utimensat", fd, None, None, NOFOLLOW)
    )
    found["futimens cwd"] = lambda place: call("utimensat", AT_FDCWD, None, None, 0)
    for mode in ("read", "path"):
        found[f"utimensat empty path, {mode}"] = lambda place, mode=mode: _on(
            place + b"/file", lambda fd: call("utimensat", fd, b"", times(5, 1, 6, 2), EMPTY), mode
        )
    return found


def _attribute_calls() -> dict[str, Row]:
    found: dict[str, Row] = {}
    for name in "setxattr", "lsetxattr":
        found.update(_at_all_paths(name, lambda path, name=name: call(name, path, b"user.new", b"value", 5, 0)))
    for name in "removexattr", "lremovexattr":
        found.update(_at_all_paths(name, lambda path, name=name: call(name, path, b"user.old")))
    cases: dict[str, tuple[object, object, int, int]] = {
        "replace": (b"user.old", b"new", 3, os.XATTR_REPLACE),
        "replace missing": (b"user.new", b"new", 3, os.XATTR_REPLACE),
        "create existing": (b"user.old", b"new", 3, os.XATTR_CREATE),
        "create": (b"user.new", b"new", 3, os.XATTR_CREATE),
        "bad flags": (b"user.new", b"new", 3, 8),
        "both flags": (b"user.new", b"new", 3, 3),
        "empty name": (b"", b"new", 3, 0),
        "long name": (b"user." + b"n" * 251, b"new", 3, 0),
        "longest name": (b"user." + b"n" * 250, b"new", 3, 0),
        "very long name": (b"user." + b"n" * 5000, b"new", 3, 0),
        "no namespace": (b"nothing", b"new", 3, 0),
        "trusted": (b"trusted.x", b"new", 3, 0),
        "security": (b"security.x", b"new", 3, 0),
        "system": (b"system.x", b"new", 3, 0),
        "acl": (b"system.posix_acl_access", struct.pack("=I" + "HHI" * 3, 2, 1, 6, 0xFFFFFFFF, 4, 4, 0xFFFFFFFF,
                                                       0x20, 0, 0xFFFFFFFF), 28, 0),
        "bad acl": (b"system.posix_acl_access", b"1234", 4, 0),
        "empty value": (b"user.new", b"", 0, 0),
        "null value": (b"user.new", None, 0, 0),
        "null value with size": (b"user.new", None, 3, 0),
        "too big": (b"user.new", b"x" * 65537, 65537, 0),
        "big": (b"user.new", b"x" * 3000, 3000, 0),
        "with nul": (b"user.new", b"a\0b", 3, 0),
        "efault name": (BAD, b"new", 3, 0),
        "efault value": (b"user.new", BAD, 3, 0),
    }  # fmt: skip
    for name, (key, value, size, flags) in cases.items():
        found[f"setxattr {name}"] = lambda place, given=(key, value, size, flags): call(
            "setxattr", place + b"/file", *given
        )
        found[f"fsetxattr {name}"] = lambda place, given=(key, value, size, flags): _on(
            place + b"/file", lambda fd: call("fsetxattr", fd, *given)
        )
        if isinstance(key, bytes):
            found[f"removexattr {name}"] = lambda place, key=key: call("removexattr", place + b"/file", key)
            found[f"fremovexattr {name}"] = lambda place, key=key: _on(
                place + b"/file", lambda fd: call("fremovexattr", fd, key)
            )
        if isinstance(key, bytes) and (isinstance(value, bytes) or value is None):
            found[f"setxattrat {name}"] = lambda place, given=(key, value, size, flags): setxattrat(
                AT_FDCWD, place + b"/file", 0, *given
            )
    for flags in (0, NOFOLLOW, EMPTY, 0x400):
        found.update(
            _at_all_paths(
                f"setxattrat {flags:#x}",
                lambda path, flags=flags: setxattrat(AT_FDCWD, path, flags, b"user.new", b"new", 3, 0),
            )
        )
        found.update(
            _at_all_paths(
                f"removexattrat {flags:#x}",
                lambda path, flags=flags: call("removexattrat", AT_FDCWD, path, flags, b"user.old"),
            )
        )
    for mode in ("read", "path"):
        for path in (b"", None):
            found[f"setxattrat descriptor, {mode}, {path!r}"] = lambda place, mode=mode, path=path: _on(
                place + b"/file", lambda fd: setxattrat(fd, path, EMPTY, b"user.new", b"new", 3, 0), mode
            )
            found[f"removexattrat descriptor, {mode}, {path!r}"] = lambda place, mode=mode, path=path: _on(
                place + b"/file", lambda fd: call("removexattrat", fd, path, EMPTY, b"user.old"), mode
            )
    arguments, kept = xattr_args(b"value", 5, 0)
    for size in (0, 8, 15, 17, 4096, 4097):
        for tail in b"\0", b"x":
            given = (arguments + tail * 5000)[: max(size, 16)]
            found[f"setxattrat size {size} {tail!r}"] = lambda place, given=given, size=size, kept=kept: call(
                "setxattrat", AT_FDCWD, place + b"/file", 0, b"user.new", given, size
            )
    return found


def setxattrat(
    dirfd: int, path: bytes | None, at: int, name: bytes, value: bytes | None, size: int, flags: int
) -> tuple[int, int]:
    arguments, kept = xattr_args(value, size, flags)
    found = call("setxattrat", dirfd, path, at, name, arguments, len(arguments))
    del kept
    return found


NODUMP = 0x40  # FS_NODUMP_FL
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR = 0x80086601, 0x40086602, 0x401C5820
FS_IOC_FSGETXATTR = 0x801C581F
XFLAG_NODUMP = 0x80  # FS_XFLAG_NODUMP


def set_flags(fd: int, flags: int = NODUMP) -> tuple[int, int]:
    """Add a flag, as chattr(1) does."""
    try:
        flags |= struct.unpack("=I4x", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0]
    except OSError:
        pass
    return call("ioctl", fd, FS_IOC_SETFLAGS, struct.pack("=I", flags))


def file_attr(xflags: int = XFLAG_NODUMP) -> bytes:
    """struct file_attr"""
    return struct.pack("=QIIII", xflags, 0, 0, 0, 0)


def _flag_calls() -> dict[str, Row]:
    found: dict[str, Row] = {}
    requests: dict[str, Callable[[int], object]] = {
        "FS_IOC_SETFLAGS": set_flags,
        "FS_IOC_SETFLAGS immutable and off": lambda fd: [
            set_flags(fd, 0x10),
            call("ioctl", fd, FS_IOC_SETFLAGS, b"\0" * 8),
        ],
        "FS_IOC_SETFLAGS nonsense": lambda fd: set_flags(fd, 0xF0000000),
        "FS_IOC_SETFLAGS efault": lambda fd: call("ioctl", fd, FS_IOC_SETFLAGS, BAD),
        "FS_IOC32_SETFLAGS": lambda fd: call("ioctl", fd, 0x40046602, b"\0" * 4),
        "FS_IOC_SETVERSION": lambda fd: call("ioctl", fd, 0x40087602, b"\7\0\0\0"),
        "FAT_IOCTL_SET_ATTRIBUTES": lambda fd: call("ioctl", fd, 0x40047211, b"\0" * 4),
        "FS_IOC_FSSETXATTR": lambda fd: call(
            "ioctl", fd, FS_IOC_FSSETXATTR, struct.pack("=IIII12x", XFLAG_NODUMP, 0, 0, 0)
        ),
    }
    for name, act in requests.items():
        for mode in ("read", "path"):
            found[f"{name}, {mode}"] = lambda place, act=act, mode=mode: _on(place + b"/file", act, mode)
        found[f"{name}, directory"] = lambda place, act=act: _on(place + b"/dir", act)
        found[f"{name}, pipe with a name"] = lambda place, act=act: _on(place + b"/fifo", act)
        found[f"{name}, device"] = lambda place, act=act: _on(b"/dev/null", act)
        found[f"{name}, pipe"] = lambda place, act=act: _made(place, "pipe", act)
        found[f"{name}, memfd"] = lambda place, act=act: _made(place, "memfd", act)
        found[f"{name}, closed"] = lambda place, act=act: act(777)
    given = file_attr()
    for flags in (0, NOFOLLOW, EMPTY, 0x400):
        found.update(
            _at_all_paths(
                f"file_setattr {flags:#x}",
                lambda path, flags=flags: call("file_setattr", AT_FDCWD, path, given, len(given), flags),
            )
        )
    for mode in ("read", "path"):
        for path in (b"", None):
            found[f"file_setattr descriptor, {mode}, {path!r}"] = lambda place, mode=mode, path=path: _on(
                place + b"/file", lambda fd: call("file_setattr", fd, path, given, len(given), EMPTY), mode
            )
    for size in (0, 16, 23, 25, 4096, 4097):
        for tail in b"\0", b"x":
            more = (given + tail * 5000)[: max(size, 24)]
            found[f"file_setattr size {size} {tail!r}"] = lambda place, more=more, size=size: call(
                "file_setattr", AT_FDCWD, place + b"/file", more, size, 0
            )
    found["file_setattr efault"] = lambda place: call("file_setattr", AT_FDCWD, place + b"/file", BAD, 24, 0)
    found["file_setattr nonsense"] = lambda place: call(
        "file_setattr", AT_FDCWD, place + b"/file", file_attr(1 << 50), 24, 0
    )
    return found


def _lengths() -> dict[str, Row]:
    found = _at_all_paths("truncate", lambda path: call("truncate", path, 4))
    for length in (0, 10, 5000, -1, 1 << 62):
        found[f"truncate to {length}"] = lambda place, length=length: call("truncate", place + b"/file", length)
    found["truncate a program that runs"] = _truncate_running
    return found


def _truncate_running(place: bytes) -> object:
    program = place + b"/program"
    shutil.copy(os.fsencode(shutil.which("cat") or "/bin/cat"), program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        return call("truncate", program, 1), running.poll()


def _descriptors() -> dict[str, Row]:
    """Whatever can be open, changed through a descriptor."""
    uid, gid = os.getuid(), os.getgid()
    acts: dict[str, Callable[[int], object]] = {
        "fchmod": lambda fd: call("fchmod", fd, 0o602),
        "fchown": lambda fd: call("fchown", fd, uid, gid),
        "futimens": lambda fd: call("utimensat", fd, None, times(5, 1, 6, 2), 0),
        "fsetxattr": lambda fd: call("fsetxattr", fd, b"user.new", b"value", 5, 0),
        "fremovexattr": lambda fd: call("fremovexattr", fd, b"user.old"),
        "fchmod by /proc/self/fd": lambda fd: call("fchmodat", AT_FDCWD, b"/proc/self/fd/%d" % fd, 0o602),
        "chown by /dev/fd": lambda fd: call("fchownat", AT_FDCWD, b"/dev/fd/%d" % fd, uid, gid, 0),
    }
    found: dict[str, Row] = {}
    for name, act in acts.items():
        for mode in ("read", "write", "path"):
            found[f"{name}, {mode}"] = lambda place, act=act, mode=mode: _on(place + b"/file", act, mode)
        found[f"{name}, directory"] = lambda place, act=act: _on(place + b"/dir", act, "read")
        found[f"{name}, link"] = lambda place, act=act: _on(place + b"/link", act, "link")
        found[f"{name}, closed"] = lambda place, act=act: act(777)
        for kind in ("pipe", "memfd", "socket", "deleted", "eventfd"):
            found[f"{name}, {kind}"] = lambda place, act=act, kind=kind: _made(place, kind, act)
    return found


_HOW = {
    "read": os.O_RDONLY | os.O_NONBLOCK,
    "write": os.O_RDWR,
    "path": os.O_PATH,
    "link": os.O_PATH | os.O_NOFOLLOW,
}


def _on(path: bytes, act: Callable[[int], object], mode: str = "read") -> object:
    fd = os.open(path, _HOW[mode])
    try:
        return act(fd)
    finally:
        os.close(fd)


def _in(place: bytes, act: Callable[[int], object]) -> object:
    return _on(place, act, "path")


def _made(place: bytes, kind: str, act: Callable[[int], object]) -> object:
    """On something that has no name; tells what became of it, too."""
    import socket

    others: list[int] = []
    if kind == "pipe":
        fd, other = os.pipe()
        others.append(other)
    elif kind == "memfd":
        fd = os.memfd_create("made")
    elif kind == "socket":
        fd = socket.socket(socket.AF_UNIX).detach()
    elif kind == "eventfd":
        fd = os.dup(_eventfd())
    else:
        fd = os.open(place + b"/removed", os.O_RDWR | os.O_CREAT, 0o600)
        os.unlink(place + b"/removed")
    try:
        said = act(fd)
        status = os.fstat(fd)
        return [said, oct(status.st_mode), status.st_uid, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]
    finally:
        for each in (fd, *others):
            os.close(each)


def _eventfd() -> int:
    fd: int = _libc.eventfd(0, 0)
    return fd


def prepare_all(directory: Path) -> None:
    """Files for each row."""
    directory.mkdir()
    for number in range(len(rows())):
        prepare(directory / str(number))


def make_all(directory: Path) -> dict[str, Any]:
    """What the caller of each row gets to know."""
    return {name: row(os.fsencode(directory / str(number))) for number, (name, row) in enumerate(rows().items())}


def states(directory: Path) -> dict[str, Any]:
    """What became of the files of each row."""
    return {name: state(directory / str(number)) for number, name in enumerate(rows())}


def open_all(place: Path) -> None:
    """Let pytest remove what some rows have closed to their owner."""
    for directory, names, _ in os.walk(place):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
