"""What can be asked of a policy: one frozen value for each kind of call the broker stops.

The broker decodes calls into these; `decide.py` answers them. `describe()` is the text that reports show, so
everything that came from a test passes through `printable`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bind", "Connect", "OpenSocket", "Read", "Request", "Resolve", "UnixConnect", "Write", "printable"]

# Linux's numbers, the same on every architecture we know. Spelled out since `socket` does not name all of them.
_FAMILIES = {
    0: "AF_UNSPEC", 1: "AF_UNIX", 2: "AF_INET", 3: "AF_AX25", 4: "AF_IPX", 5: "AF_APPLETALK", 8: "AF_ATMPVC",
    9: "AF_X25", 10: "AF_INET6", 15: "AF_KEY", 16: "AF_NETLINK", 17: "AF_PACKET", 21: "AF_RDS", 23: "AF_IRDA",
    24: "AF_PPPOX", 26: "AF_LLC", 29: "AF_CAN", 30: "AF_TIPC", 31: "AF_BLUETOOTH", 38: "AF_ALG", 39: "AF_NFC",
    40: "AF_VSOCK", 41: "AF_KCM", 42: "AF_QIPCRTR", 43: "AF_SMC", 44: "AF_XDP", 45: "AF_MCTP",
}  # fmt: skip
_TYPES = {
    1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET", 6: "SOCK_DCCP",
    10: "SOCK_PACKET",
}  # fmt: skip
SOCK_TYPE_MASK = 0xF
"""The rest of a socket's type are flags, SOCK_NONBLOCK and SOCK_CLOEXEC."""


def printable(text: str) -> str:
    """The text with everything escaped that a terminal or a log would act on or hide.

    Control characters, escape sequences, bidirectional overrides, odd spaces and backslashes become `\\xNN` and the
    like; a byte that was not UTF-8 (a surrogate of `os.fsdecode`) becomes the byte it was.
    """
    if "\\" not in text and text.isprintable():
        return text
    out = []
    for char in text:
        code = ord(char)
        if char == "\\":
            out.append("\\\\")
        elif char.isprintable():
            out.append(char)
        elif char in "\n\r\t":
            out.append({"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code <= 0xFF:
            out.append(f"\\x{code:02x}")
        elif code <= 0xFFFF:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    return "".join(out)


def _endpoint(host: str, port: int) -> str:
    shown = printable(host)
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


@dataclass(frozen=True, slots=True)
class Connect:
    """Reach an Internet address, or a name through the filter. A datagram sent to an address is one too."""

    host: str
    port: int
    proto: str = "tcp"
    inside: bool = False
    """The port was bound by a fenced process of this run."""

    def describe(self) -> str:
        return f"connect {_endpoint(self.host, self.port)}/{self.proto}"


@dataclass(frozen=True, slots=True)
class Bind:
    """Take a local Internet address."""

    host: str
    port: int
    proto: str = "tcp"

    def describe(self) -> str:
        return f"bind {_endpoint(self.host, self.port)}/{self.proto}"


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look up a name."""

    name: str

    def describe(self) -> str:
        return f"resolve {printable(self.name)}"


@dataclass(frozen=True, slots=True)
class UnixConnect:
    """Reach a UNIX socket. An abstract one has a name that begins with a NUL."""

    path: str
    inside: bool = False
    """It was made by a fenced process of this run."""

    def describe(self) -> str:
        shown = "@" + self.path[1:] if self.path.startswith("\0") else self.path
        return f"connect unix:{printable(shown)}"


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Make a socket of a kind that is not an ordinary Internet or UNIX one. Numbers as the kernel has them."""

    family: int
    type: int
    proto: int = 0

    def describe(self) -> str:
        kind = self.type & SOCK_TYPE_MASK
        family = _FAMILIES.get(self.family, f"family {self.family}")
        return f"open socket {family}/{_TYPES.get(kind, f'type {kind}')}"


@dataclass(frozen=True, slots=True)
class Write:
    """Change something on the disk. One request for each path a call touches: a rename is two."""

    op: str
    """The call without its variants: open, mkdir, rmdir, unlink, rename, link, symlink, mknod, truncate, chmod,
    chown, utime, xattr, bind. `open` is what reports call "write"; `create` is an open that makes the file."""
    path: str

    def describe(self) -> str:
        verb = "write" if self.op in ("open", "create") else self.op
        return f"{verb} {printable(self.path)}"


@dataclass(frozen=True, slots=True)
class Read:
    """Open for reading; asked only where `deny_read` is set."""

    path: str

    def describe(self) -> str:
        return f"read {printable(self.path)}"


Request = Connect | Bind | Resolve | UnixConnect | OpenSocket | Write | Read
