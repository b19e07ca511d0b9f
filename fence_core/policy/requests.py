"""What can be asked of a policy: one frozen value for each kind of call the broker stops.

The broker decodes calls into these; `decide.py` answers them. They hold what came from a test as it came; what reports
show of them is made of `events/attempt.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fence_core.policy.record import Record

if TYPE_CHECKING:
    from typing import ClassVar

    from typing_extensions import dataclass_transform

    from fence_core.policy.commands import Reading

__all__ = [
    "Bind",
    "Connect",
    "Execute",
    "Fault",
    "Kind",
    "Move",
    "OpenSocket",
    "Passage",
    "Read",
    "Request",
    "Resolve",
    "Run",
    "SocketOption",
    "SystemCall",
    "UnixConnect",
    "Write",
]

Kind = Literal["connect", "resolve", "bind", "socket", "write", "read", "run", "system", "error"]
"""Of a violation: what was tried, or `system`, what no rule speaks of (a mount, a process outside), or `error`, a fault
of ours. Those who evaluate reports rely on them: `docs/reference/report.md` lists them."""

UNNAMED = "(unnamed temporary file)"
"""What stands for the name of a file that O_TMPFILE makes in a directory."""
SOCK_TYPE_MASK = 0xF
"""The rest of a socket's type are flags, SOCK_NONBLOCK and SOCK_CLOEXEC."""


if TYPE_CHECKING:
    # As a type checker sees it: fields are what is annotated, and no tuple, so that `kind` may stand among them.
    @dataclass_transform(frozen_default=True)
    class _Asked:
        kind: ClassVar[Kind]
        """Of the violation that a refusal of it is."""

else:
    _Asked = Record


class Connect(_Asked):
    """Reach an Internet address, or a name through the filter. A datagram sent to an address is one too.

    `inside`: the port was bound by a fenced process of this run. `name`: an allowed one, of which this is an address.
    `way`: `filter` where the address is that of the fence's own filter; `no query` of a message to a name server that
    is not one; `late` of a datagram on a socket that was connected under other rules, and cannot be let go any more.
    """

    kind = "connect"
    host: str
    port: int
    proto: str = "tcp"
    inside: bool = False
    name: str = ""
    way: str = ""


class Bind(_Asked):
    """Take a local Internet address."""

    kind = "bind"
    host: str
    port: int
    proto: str = "tcp"


class Resolve(_Asked):
    """Look up a name. `used_up`: there is no address left to answer with."""

    kind = "resolve"
    name: str
    used_up: bool = False


class UnixConnect(_Asked):
    """Reach a UNIX socket. An abstract one has a name that begins with a NUL.

    `inside`: it was made by a fenced process of this run.
    """

    kind = "connect"
    path: str
    inside: bool = False


class OpenSocket(_Asked):
    """Make a socket of a kind that is not an ordinary Internet or UNIX one. Numbers as the kernel has them."""

    kind = "socket"
    family: int
    type: int
    proto: int = 0


class SocketOption(_Asked):
    """Have what a socket sends, or whoever may send to it, go by another way than the address tells.

    `op`: `route` (source routing), `interface` (send to this machine by another interface than loopback), `tie` (to an
    interface, by the option `name`), `serve` (listen on such a socket). `port`: of a server, or -1.
    """

    kind = "socket"
    op: str
    name: str = ""
    port: int = -1


class Passage(_Asked):
    """Send this through the filter. `why`: what the filter has found about it, one of the keys of `floor.PASSAGES`.

    `host` and `port` are what the connection is for; empty where the program talks to a proxy.
    """

    kind = "connect"
    what: str
    why: str = ""
    host: str = ""
    port: int = 0


class Write(_Asked):
    """Change something on the disk. One request for each path a call touches: a rename is two.

    `op` is the call without its variants: open, mkdir, rmdir, unlink, rename, link, symlink, mknod, truncate, chmod,
    chown, utime, setxattr, removexattr, chattr (the flags that chattr(1) sets), bind. `open` is what reports call
    "write"; `create` is an open that makes the file, `terminal` one of a terminal that is neither this run's nor was
    opened inside. `toward`: of a directory, the one below it that the program wants to make, where it has said so.
    `known`: what somebody who looked at the disk knows of it. `own`: it lies in a repository of git that tests made,
    and git obeys nothing of what is done; `config`, `hooks`: git would (`around`: the key, if that is known).
    `environment`: it belongs to a virtual environment (at `around`) that was there before the run. `socket`: it is one
    on which somebody outside listens. `outside`: the path leads through a process outside. `inherited`: it is a pipe,
    or a file without a name, that the run was started with.
    """

    kind = "write"
    op: str
    path: str
    toward: str = ""
    known: str = ""
    around: str = ""

    def at(self, path: str) -> Write:
        """The same of another path."""
        return Write(self.op, path, self.toward, self.known, self.around)


class Read(_Asked):
    """Open for reading; asked only where `deny_read` is set."""

    kind = "read"
    path: str

    def at(self, path: str) -> Read:
        return Read(path)


class Run(_Asked):
    """Start it as a program. Whoever does that has read it, so the rules of `Read` speak of it."""

    kind = "run"
    path: str

    def at(self, path: str) -> Run:
        return Run(path)


class Execute(_Asked):
    """Run a command. `words`: it as it was asked for; `readings`: in all ways in which a rule may speak of it.

    `late`: it runs already, and is not what was judged before.
    """

    kind = "run"
    words: tuple[str, ...]
    readings: tuple[Reading, ...]
    late: bool = False


class Move(_Asked):
    """Give what is called `old` the name `new`; or, with a directory of that name, what is `inside` of it.

    Asked after `Write` for both names has been allowed: about what these do not tell. `inside` is relative to the
    directory; `directory`: whether what moves is one itself. `unseen`: why nobody could look what lies in it.
    """

    kind = "write"
    op: str
    old: str
    new: str
    inside: str = ""
    directory: bool = False
    unseen: str = ""

    def names(self) -> tuple[str, str]:
        """What it is called, and what it would be called."""
        if not self.inside:
            return self.old, self.new
        return f"{self.old}/{self.inside}", f"{self.new}/{self.inside}"


class SystemCall(_Asked):
    """What changes more than files and sockets, in words: `mount`, `enter namespace PATH`.

    `of`: what it would change or reach: `machine`, `terminal` (of whoever started the run), `process` (outside),
    `neighbours` (their limits and scheduling, which is refused as signals to them are: it is no violation),
    `namespace` (of the host) or `unheld` (a descriptor that cannot be looked at).
    """

    kind = "system"
    what: str
    of: str = "machine"


class Fault(_Asked):
    """An error of the fence's own, in words: the call is refused, and the run fails."""

    kind = "error"
    what: str


Request = (
    Connect
    | Bind
    | Resolve
    | UnixConnect
    | OpenSocket
    | SocketOption
    | Passage
    | Write
    | Read
    | Run
    | Execute
    | Move
    | SystemCall
)
