"""Every system call that changes something on a disk, as rows of a table: what is called, and what it is to be
reported as.

A row says which names it works on, not where those are: `cells` puts them in different places. What the kernel itself
says to a row is not written here; it is asked, by an unfenced run of the same row.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import NamedTuple


class At(NamedTuple):
    """Two arguments: a directory's descriptor, and a path."""

    name: str
    mine: bool = False
    """In the caller's own directory, wherever the rest is."""


class Path(NamedTuple):
    """One argument: a path."""

    name: str
    mine: bool = False


class Socket(NamedTuple):
    """One argument: the address of a UNIX socket."""

    name: str


class Held(NamedTuple):
    """A descriptor that was opened before, by default for reading."""

    name: str
    flags: int = os.O_RDONLY


class Before(NamedTuple):
    """What a call of `Row.before` returned."""

    number: int = 0


class Through(NamedTuple):
    """The name that /proc has for what a call of `Row.before` returned."""

    number: int = 0


class Attribute(NamedTuple):
    """A struct xattr_args, linux/xattr.h."""

    value: bytes


MADE = "made"
"""What the call itself returned, for calls of `Row.after`."""

Argument = At | Path | Socket | Held | Before | Through | Attribute | int | bytes | str | None
Call = tuple[str, tuple[Argument, ...]]


class Row(NamedTuple):
    call: str
    arguments: tuple[Argument, ...]
    told: str = ""
    """What the report says without the directory: "mkdir new". Empty where nothing is changed."""
    follows: bool = False
    """Whether a symbolic link at the end of the path is followed."""
    before: tuple[Call, ...] = ()
    after: tuple[Call, ...] = ()


AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x100, 0x200, 0x400, 0x1000
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
XATTR_CREATE, XATTR_REPLACE = 1, 2
FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820  # include/uapi/linux/fs.h
FS_NODUMP_FL, FS_EXTENT_FL, FS_XFLAG_NODUMP = 0x40, 0x80000, 0x80
ACCMODE3 = 3
"""An access mode that asks for both rights and grants neither, open(2)."""

OWNER = (1234, 2345) if os.geteuid() == 0 else (os.getuid(), os.getgid())
WRITTEN: tuple[Call, ...] = (("write", (MADE, b"xyz", 3)),)
FIFO, REGULAR = stat.S_IFIFO | 0o644, stat.S_IFREG | 0o666
TIMES = struct.pack("@4l", 5, 6, 7, 8)
"""Two struct timespec, and two struct timeval."""
FLAGS = struct.pack("@i", FS_EXTENT_FL | FS_NODUMP_FL)
EXTENDED_FLAGS = struct.pack("=5I8x", FS_XFLAG_NODUMP, 0, 0, 0, 0)
FILE_ATTRIBUTES = struct.pack("=Q4I", FS_XFLAG_NODUMP, 0, 0, 0, 0)
O_TMPFILE = os.O_TMPFILE | os.O_RDWR
NEW_FILE = os.O_CREAT | os.O_WRONLY
UNNAMED = "write (unnamed temporary file)"


def how(flags: int, mode: int = 0) -> bytes:
    """A struct open_how, openat2(2)."""
    return struct.pack("=3Q", flags, mode, 0)


def opens() -> dict[str, Row]:
    rows = {
        "wronly": Row("open", (Path("file"), os.O_WRONLY, 0), "write file", True, after=WRITTEN),
        "rdwr": Row("open", (Path("file"), os.O_RDWR, 0), "write file", True, after=WRITTEN),
        "append": Row("open", (Path("file"), os.O_WRONLY | os.O_APPEND, 0), "write file", True, after=WRITTEN),
        "creat": Row("open", (Path("new"), NEW_FILE, 0o666), "write new", True, after=WRITTEN),
        "creat-mode": Row("open", (Path("new"), NEW_FILE, 0o4751), "write new", True, after=WRITTEN),
        "creat-closed": Row("open", (Path("new"), NEW_FILE, 0), "write new", True, after=WRITTEN),
        "creat-to-read": Row("open", (Path("new"), os.O_CREAT, 0o600), "write new", True),
        "creat-there": Row("open", (Path("file"), NEW_FILE, 0o666), "write file", True, after=WRITTEN),
        "creat-there-to-read": Row("open", (Path("file"), os.O_CREAT, 0o600), follows=True),
        "excl": Row("open", (Path("new"), NEW_FILE | os.O_EXCL, 0o666), "write new", after=WRITTEN),
        "excl-there": Row("open", (Path("file"), NEW_FILE | os.O_EXCL, 0o666)),
        "trunc": Row("open", (Path("file"), os.O_WRONLY | os.O_TRUNC, 0), "write file", True),
        "trunc-to-read": Row("open", (Path("file"), os.O_TRUNC, 0), "write file", True),
        "trunc-accmode-3": Row("open", (Path("file"), ACCMODE3 | os.O_TRUNC, 0), "write file", True),
        "nofollow": Row("open", (Path("link"), os.O_WRONLY | os.O_NOFOLLOW, 0)),
        "directory": Row("open", (Path("directory"), os.O_WRONLY, 0)),
        "creat-directory": Row("open", (Path("directory"), NEW_FILE, 0o666)),
        "creat-as-directory": Row("open", (Path("new"), NEW_FILE | os.O_DIRECTORY, 0o666)),
        "creat-slash": Row("open", (Path("new/"), NEW_FILE, 0o666)),
        "file-as-directory": Row("open", (Path("file/x"), NEW_FILE, 0o666)),
        "missing": Row("open", (Path("missing/new"), NEW_FILE, 0o666)),
        "missing-file": Row("open", (Path("new"), os.O_WRONLY, 0)),
        "long-name": Row("open", (Path("n" * 256), NEW_FILE, 0o666)),
        "no-path": Row("open", (None, NEW_FILE, 0o666)),
        "fifo-to-read-and-write": Row("open", (Path("pipe"), os.O_RDWR, 0), "write pipe", True),
        "fifo-nobody-reads": Row("open", (Path("pipe"), os.O_WRONLY | os.O_NONBLOCK, 0), follows=True),
        "tmpfile": Row("open", (Path("."), O_TMPFILE, 0o640), UNNAMED, True, after=WRITTEN),
        "tmpfile-linked": Row(
            "linkat",
            (-100, Through(), At("new"), AT_SYMLINK_FOLLOW),
            "link new",
            before=(("open", (Path(".", mine=True), O_TMPFILE, 0o640)),),
        ),
    }
    return {
        **{f"open-{name}": row for name, row in rows.items()},
        **{f"openat-{name}": _relative(row, "openat") for name, row in rows.items() if row.call == "open"},
        **{f"openat2-{name}": _by_struct(row) for name, row in rows.items() if row.call == "open"},
        "openat-tmpfile-then-linked": Row(
            "openat",
            (At("."), O_TMPFILE, 0o640),
            UNNAMED,
            True,
            after=(*WRITTEN, ("linkat", (-100, f"/proc/self/fd/%{MADE}%", At("new"), AT_SYMLINK_FOLLOW))),
        ),
        "creat": Row("creat", (Path("new"), 0o666), "write new", True, after=WRITTEN),
        "creat-there": Row("creat", (Path("file"), 0o666), "write file", True, after=WRITTEN),
    }


def _relative(row: Row, call: str) -> Row:
    """The same by the call that takes a directory's descriptor."""
    arguments = (At(each.name, each.mine) if isinstance(each, Path) else each for each in row.arguments)
    return row._replace(call=call, arguments=tuple(arguments))


def _by_struct(row: Row) -> Row:
    path, flags, mode = row.arguments
    assert isinstance(flags, int)
    assert isinstance(mode, int)
    there = At(path.name, path.mine) if isinstance(path, Path) else None
    made = flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
    arguments = (how(flags, mode if made else 0), 24)
    return row._replace(call="openat2", arguments=(*((there,) if there else (-100, None)), *arguments))


def names() -> dict[str, Row]:
    """Calls that make, move and remove names."""
    by_path = {
        "mkdir": Row("mkdir", (Path("new"), 0o777), "mkdir new"),
        "mkdir-mode": Row("mkdir", (Path("new"), 0o1750), "mkdir new"),
        "mkdir-slash": Row("mkdir", (Path("new/"), 0o777), "mkdir new"),
        "mkdir-there": Row("mkdir", (Path("directory"), 0o777)),
        "mkdir-missing": Row("mkdir", (Path("missing/new"), 0o777)),
        "mkdir-below-file": Row("mkdir", (Path("file/new"), 0o777)),
        "mkdir-dot": Row("mkdir", (Path("directory/."), 0o777)),
        "mknod-fifo": Row("mknod", (Path("new"), FIFO, 0), "mknod new"),
        "mknod-regular": Row("mknod", (Path("new"), REGULAR, 0), "mknod new"),
        "mknod-untyped": Row("mknod", (Path("new"), 0o640, 0), "mknod new"),
        "mknod-socket": Row("mknod", (Path("new"), stat.S_IFSOCK | 0o600, 0), "mknod new"),
        "mknod-there": Row("mknod", (Path("file"), FIFO, 0)),
        "mknod-directory": Row("mknod", (Path("new"), stat.S_IFDIR | 0o755, 0)),
    }
    found = {**by_path, **{f"{name}-at": _relative(row, f"{row.call}at") for name, row in by_path.items()}}
    for name, row in {
        "there": Row("unlink", (Path("file"),), "unlink file"),
        "link": Row("unlink", (Path("link"),), "unlink link"),
        "fifo": Row("unlink", (Path("pipe"),), "unlink pipe"),
        "directory": Row("unlink", (Path("directory"),)),
        "missing": Row("unlink", (Path("new"),)),
        "slash": Row("unlink", (Path("file/"),)),
    }.items():
        found[f"unlink-{name}"] = row
        found[f"unlinkat-{name}"] = Row("unlinkat", (*_relative(row, "").arguments, 0), row.told)
    for name, row in {
        "there": Row("rmdir", (Path("directory"),), "rmdir directory"),
        "slash": Row("rmdir", (Path("directory/"),), "rmdir directory"),
        "file": Row("rmdir", (Path("file"),)),
        "full": Row("rmdir", (Path("full"),)),
        "missing": Row("rmdir", (Path("new"),)),
        "dot": Row("rmdir", (Path("directory/."),)),
        "dots": Row("rmdir", (Path("full/.."),)),
    }.items():
        found[f"rmdir-{name}"] = row
        found[f"unlinkat-removedir-{name}"] = Row("unlinkat", (*_relative(row, "").arguments, AT_REMOVEDIR), row.told)
    found["unlinkat-unknown-flag"] = Row("unlinkat", (At("file"), 0x1))
    for name, row in {
        "within": Row("rename", (Path("file"), Path("new")), "rename file"),
        "onto": Row("rename", (Path("file"), Path("link")), "rename file"),
        "directory": Row("rename", (Path("full"), Path("directory")), "rename full"),
        "link": Row("rename", (Path("link"), Path("new")), "rename link"),
        "in": Row("rename", (Path("mine", mine=True), Path("new")), "rename new"),
        "in-onto": Row("rename", (Path("mine", mine=True), Path("file")), "rename file"),
        "in-directory": Row("rename", (Path("tree", mine=True), Path("new")), "rename new"),
        "out": Row("rename", (Path("file"), Path("new", mine=True)), "rename file"),
        "out-onto": Row("rename", (Path("file"), Path("mine", mine=True)), "rename file"),
        "out-directory": Row("rename", (Path("full"), Path("new", mine=True)), "rename full"),
        "same": Row("rename", (Path("file"), Path("file"))),
        "missing": Row("rename", (Path("new"), Path("file"))),
        "onto-full": Row("rename", (Path("directory"), Path("full"))),
        "onto-directory": Row("rename", (Path("file"), Path("directory"))),
        "directory-onto-file": Row("rename", (Path("directory"), Path("file"))),
        "into-itself": Row("rename", (Path("directory"), Path("directory/new"))),
        "slash": Row("rename", (Path("file"), Path("new/"))),
        "dot": Row("rename", (Path("directory/."), Path("new"))),
    }.items():
        found[f"rename-{name}"] = row
        found[f"renameat-{name}"] = _relative(row, "renameat")
        plain = _relative(row, "renameat2")
        found[f"renameat2-{name}"] = plain._replace(arguments=(*plain.arguments, 0))
    for name, flags, old, new, told in (
        ("noreplace", RENAME_NOREPLACE, At("file"), At("new"), "rename file"),
        ("noreplace-in", RENAME_NOREPLACE, At("mine", True), At("new"), "rename new"),
        ("noreplace-there", RENAME_NOREPLACE, At("file"), At("link"), ""),
        ("exchange", RENAME_EXCHANGE, At("file"), At("directory"), "rename file"),
        ("exchange-mine", RENAME_EXCHANGE, At("mine", True), At("file"), "rename file"),
        ("exchange-with-mine", RENAME_EXCHANGE, At("full"), At("tree", True), "rename full"),
        ("exchange-missing", RENAME_EXCHANGE, At("file"), At("new"), ""),
        ("both", RENAME_EXCHANGE | RENAME_NOREPLACE, At("file"), At("directory"), ""),
        ("unknown-flag", 0x100, At("file"), At("new"), ""),
    ):
        found[f"renameat2-{name}"] = Row("renameat2", (old, new, flags), told)
    for name, row in {
        "within": Row("link", (Path("file"), Path("new")), "link file"),
        "in": Row("link", (Path("mine", mine=True), Path("new")), "link new"),
        "out": Row("link", (Path("file"), Path("new", mine=True)), "link file"),
        "of-link": Row("link", (Path("link"), Path("new", mine=True)), "link link"),
        "there": Row("link", (Path("file"), Path("directory"))),
        "directory": Row("link", (Path("directory"), Path("new"))),
        "missing": Row("link", (Path("missing"), Path("new"))),
    }.items():
        found[f"link-{name}"] = row
        plain = _relative(row, "linkat")
        found[f"linkat-{name}"] = plain._replace(arguments=(*plain.arguments, 0))
    found["linkat-followed"] = Row("linkat", (At("link"), At("new", True), AT_SYMLINK_FOLLOW), "link file", True)
    found["linkat-held"] = Row("linkat", (Held("file"), "", At("new", True), AT_EMPTY_PATH), "link file", True)
    found["linkat-held-path"] = Row(
        "linkat", (Held("file", os.O_PATH), "", At("new", True), AT_EMPTY_PATH), "link file", True
    )
    found["symlink"] = Row("symlink", ("anything", Path("new")), "symlink new")
    found["symlinkat"] = Row("symlinkat", ("anything", At("new")), "symlink new")
    found["symlink-there"] = Row("symlink", ("anything", Path("file")))
    found["symlink-empty"] = Row("symlink", ("", Path("new")))
    here: tuple[Call, ...] = (("socket", (socket.AF_UNIX, socket.SOCK_STREAM, 0)),)
    found["bind"] = Row("bind", (Before(), Socket("new"), 110), "bind new", before=here)
    found["bind-there"] = Row("bind", (Before(), Socket("file"), 110), before=here)
    found["bind-missing"] = Row("bind", (Before(), Socket("missing/new"), 110), before=here)
    return found


def contents() -> dict[str, Row]:
    return {
        "truncate": Row("truncate", (Path("file"), 3), "truncate file", True),
        "truncate-longer": Row("truncate", (Path("file"), 4096), "truncate file", True),
        "truncate-negative": Row("truncate", (Path("file"), -1), follows=True),
        "truncate-directory": Row("truncate", (Path("directory"), 0), follows=True),
        "truncate-fifo": Row("truncate", (Path("pipe"), 0), follows=True),
        "ftruncate": Row("ftruncate", (Before(), 3), before=(("open", (Path("mine", True), os.O_RDWR, 0)),)),
        "fallocate": Row("fallocate", (Before(), 0, 0, 512), before=(("open", (Path("mine", True), os.O_RDWR, 0)),)),
        "ftruncate-reading": Row("ftruncate", (Held("file"), 0)),
        "fallocate-reading": Row("fallocate", (Held("file"), 0, 0, 512)),
    }


def modes() -> dict[str, Row]:
    by_path = {
        "chmod": Row("chmod", (Path("file"), 0o600), "chmod file", True),
        "chmod-setuid": Row("chmod", (Path("file"), 0o6755), "chmod file", True),
        "chmod-directory": Row("chmod", (Path("directory"), 0o1700), "chmod directory", True),
        "chmod-same": Row("chmod", (Path("file"), 0o644), "chmod file", True),
        "chmod-missing": Row("chmod", (Path("new"), 0o600), follows=True),
    }
    found = dict(by_path)
    for name, row in by_path.items():
        found[f"f{name.replace('chmod', 'chmodat', 1)}"] = _relative(row, "fchmodat")
        plain = _relative(row, "fchmodat2")
        found[f"f{name.replace('chmod', 'chmodat2', 1)}"] = plain._replace(arguments=(*plain.arguments, 0))
    return {
        **found,
        "fchmodat2-nofollow": Row("fchmodat2", (At("file"), 0o600, AT_SYMLINK_NOFOLLOW), "chmod file"),
        "fchmodat2-nofollow-link": Row("fchmodat2", (At("link"), 0o600, AT_SYMLINK_NOFOLLOW)),
        "fchmodat2-held": Row("fchmodat2", (Held("file"), "", 0o600, AT_EMPTY_PATH), "chmod file", True),
        "fchmodat2-held-path": Row(
            "fchmodat2", (Held("file", os.O_PATH), "", 0o600, AT_EMPTY_PATH), "chmod file", True
        ),
        "fchmodat2-unknown-flag": Row("fchmodat2", (At("file"), 0o600, 0x1), follows=True),
        "fchmod": Row("fchmod", (Held("file"), 0o600), "chmod file", True),
        "fchmod-directory": Row("fchmod", (Held("directory"), 0o700), "chmod directory", True),
        "fchmod-path": Row("fchmod", (Held("file", os.O_PATH), 0o600)),
    }


def owners() -> dict[str, Row]:
    return {
        "chown": Row("chown", (Path("file"), *OWNER), "chown file", True),
        "chown-unchanged": Row("chown", (Path("file"), -1, -1), "chown file", True),
        "chown-setuid": Row("chown", (Path("program"), *OWNER), "chown program", True),
        "chown-directory": Row("chown", (Path("directory"), *OWNER), "chown directory", True),
        "lchown": Row("lchown", (Path("file"), *OWNER), "chown file"),
        "lchown-link": Row("lchown", (Path("link"), *OWNER), "chown link"),
        "fchownat": Row("fchownat", (At("file"), *OWNER, 0), "chown file", True),
        "fchownat-nofollow": Row("fchownat", (At("link"), *OWNER, AT_SYMLINK_NOFOLLOW), "chown link"),
        "fchownat-held": Row("fchownat", (Held("file"), "", *OWNER, AT_EMPTY_PATH), "chown file", True),
        "fchownat-held-path": Row("fchownat", (Held("file", os.O_PATH), "", *OWNER, AT_EMPTY_PATH), "chown file", True),
        "fchown": Row("fchown", (Held("file"), *OWNER), "chown file", True),
        "fchown-path": Row("fchown", (Held("file", os.O_PATH), *OWNER)),
        "chown-missing": Row("chown", (Path("new"), *OWNER), follows=True),
    }


def times() -> dict[str, Row]:
    seconds = struct.pack("@2l", 5, 7)
    omitted = struct.pack("@4l", 0, 0x3FFFFFFE, 0, 0x3FFFFFFE)  # UTIME_OMIT
    only_read = struct.pack("@4l", 5, 0, 0, 0x3FFFFFFE)
    return {
        "utime": Row("utime", (Path("file"), seconds), "utime file", True),
        "utime-now": Row("utime", (Path("file"), None), "utime file", True),
        "utimes": Row("utimes", (Path("file"), TIMES), "utime file", True),
        "futimesat": Row("futimesat", (At("file"), TIMES), "utime file", True),
        "futimesat-held": Row("futimesat", (Held("file"), None, TIMES), "utime file", True),
        "utimensat": Row("utimensat", (At("file"), TIMES, 0), "utime file", True),
        "utimensat-directory": Row("utimensat", (At("directory"), TIMES, 0), "utime directory", True),
        "utimensat-now": Row("utimensat", (At("file"), None, 0), "utime file", True),
        "utimensat-half": Row("utimensat", (At("file"), only_read, 0), "utime file", True),
        "utimensat-omitted": Row("utimensat", (At("file"), omitted, 0), follows=True),
        "utimensat-nofollow": Row("utimensat", (At("link"), TIMES, AT_SYMLINK_NOFOLLOW), "utime link"),
        "utimensat-wrong": Row("utimensat", (At("file"), struct.pack("@4l", 0, -5, 0, -5), 0), follows=True),
        "utimensat-missing": Row("utimensat", (At("new"), TIMES, 0), follows=True),
        "utimensat-held-path": Row(
            "utimensat", (Held("file", os.O_PATH), "", TIMES, AT_EMPTY_PATH), "utime file", True
        ),
        "futimens": Row("utimensat", (Held("file"), None, TIMES, 0), "utime file", True),
        "futimens-path": Row("utimensat", (Held("file", os.O_PATH), None, TIMES, 0)),
    }


def attributes() -> dict[str, Row]:
    flags = (Held("file"), FS_IOC_SETFLAGS, FLAGS)
    extended = (Held("file"), FS_IOC_FSSETXATTR, EXTENDED_FLAGS)
    return {
        "setxattr": Row("setxattr", (Path("file"), "user.new", b"new", 3, 0), "setxattr file", True),
        "setxattr-over": Row("setxattr", (Path("file"), "user.old", b"new", 3, 0), "setxattr file", True),
        "setxattr-create": Row("setxattr", (Path("file"), "user.new", b"n", 1, XATTR_CREATE), "setxattr file", True),
        "setxattr-create-there": Row("setxattr", (Path("file"), "user.old", b"n", 1, XATTR_CREATE), follows=True),
        "setxattr-replace-missing": Row("setxattr", (Path("file"), "user.new", b"n", 1, XATTR_REPLACE), follows=True),
        "setxattr-nonsense": Row("setxattr", (Path("file"), "nonsense", b"n", 1, 0), follows=True),
        "setxattr-trusted": Row("setxattr", (Path("file"), "trusted.new", b"n", 1, 0), "setxattr file", True),
        "lsetxattr": Row("lsetxattr", (Path("file"), "user.new", b"new", 3, 0), "setxattr file"),
        "lsetxattr-link": Row("lsetxattr", (Path("link"), "user.new", b"new", 3, 0)),
        "fsetxattr": Row("fsetxattr", (Held("file"), "user.new", b"new", 3, 0), "setxattr file", True),
        "fsetxattr-path": Row("fsetxattr", (Held("file", os.O_PATH), "user.new", b"new", 3, 0)),
        "removexattr": Row("removexattr", (Path("file"), "user.old"), "removexattr file", True),
        "removexattr-missing": Row("removexattr", (Path("file"), "user.new"), follows=True),
        "lremovexattr": Row("lremovexattr", (Path("file"), "user.old"), "removexattr file"),
        "fremovexattr": Row("fremovexattr", (Held("file"), "user.old"), "removexattr file", True),
        "setxattrat": Row("setxattrat", (At("file"), 0, "user.new", Attribute(b"new"), 16), "setxattr file", True),
        "setxattrat-held": Row(
            "setxattrat", (Held("file"), "", AT_EMPTY_PATH, "user.new", Attribute(b"new"), 16), "setxattr file", True
        ),
        "removexattrat": Row("removexattrat", (At("file"), 0, "user.old"), "removexattr file", True),
        "file_setattr": Row("file_setattr", (At("file"), FILE_ATTRIBUTES, 24, 0), "chattr file", True),
        "file_setattr-held": Row(
            "file_setattr", (Held("file"), "", FILE_ATTRIBUTES, 24, AT_EMPTY_PATH), "chattr file", True
        ),
        "ioctl-setflags": Row("ioctl", flags, "chattr file", True),
        "ioctl-setflags-directory": Row("ioctl", (Held("directory"), FS_IOC_SETFLAGS, FLAGS), "chattr directory", True),
        "ioctl-fssetxattr": Row("ioctl", extended, "chattr file", True),
    }


ROWS: dict[str, Row] = {**opens(), **names(), **contents(), **modes(), **owners(), **times(), **attributes()}

ANSWERED_AS_MISSING = frozenset({"openat2"})
"""Calls that the fence answers as a kernel does that has not got them: programs do the same by older ones."""

REFUSED_FIRST = frozenset(
    {
        "fchmodat2-nofollow-link",
        "lsetxattr-link",
        "open-fifo-nobody-reads",
        "openat-fifo-nobody-reads",
        "setxattr-trusted",
        "utimensat-wrong",
    }
)
"""Rows that the kernel refuses for what the fence does not look at: where the rules refuse them too, it may say so
first, and blame its caller. See `docs/known-limitations.md`."""
OF_INODES = ("chown", "lchown", "fchown", "fchownat", "utime", "utimes", "utimensat", "setxattr", "lsetxattr")
OF_INODES += ("fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat")
"""Calls of which the same holds where it is the rights of an ordinary user that the kernel refuses them for."""
