"""May this be done? A request and a policy in, a decision that names its rule out.

This is the one referee: the broker and the filter both ask here. It never raises on what a test can make up, however
odd; what cannot be understood is refused.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Literal

from fence_core.policy import domains, paths, protected
from fence_core.policy.domains import Address, DomainError, DomainRules
from fence_core.policy.record import Record
from fence_core.policy.requests import (
    SOCK_TYPE_MASK,
    Bind,
    Connect,
    Move,
    OpenSocket,
    Read,
    Resolve,
    UnixConnect,
    Write,
    printable,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fence_core.policy.model import Entry, FilesystemRules, Policy
    from fence_core.policy.requests import Request

__all__ = ["Decision", "Judge", "Why"]

Why = Literal["allowed", "denied", "protected", "unlisted", "impossible"]
"""Of a refusal: `denied` by a deny rule, `protected` whatever the policy says, `unlisted` since no rule allows it
(the only one that has a remedy), `impossible` since no rule could."""


class Decision(Record):
    """The answer to a request."""

    allowed: bool
    rule: str
    """For the user: the rule that decided and where it was written, or which list it is missing from."""
    why: Why = "allowed"
    quiet: bool = False
    """Refuse it, but it is no violation: programs ask such things in passing."""


class _Rule:
    """What one pattern of the file rules says about the paths it covers."""

    __slots__ = ("entry", "kind", "modules", "place", "says")

    def __init__(
        self,
        kind: str,
        says: str,
        entry: Entry | None = None,
        *,
        place: str = "",
        modules: frozenset[str] = frozenset(),
    ) -> None:
        self.kind = kind  # allow, stop, deny, protect, lock, taken, anchor, container, scratch, guard
        self.says = says
        self.entry = entry
        self.place = place
        self.modules = modules

    def takes(self, name: str) -> bool:
        """Of a `taken`: whether Python could find one of the modules in an entry of this name, or plugins by it."""
        return name.partition(".")[0] in self.modules or name.endswith(_METADATA)

    def keeps_byte_code(self, path: str) -> bool:
        """Of a `stop`: whether this, below its place, belongs to none of the modules that are loaded too early."""
        first, _, rest = path[len(self.place) + 1 :].partition("/")
        return (rest if first == "__pycache__" else first).partition(".")[0] not in self.modules


_PACKAGE = frozenset({"__init__"})
_METADATA = (".dist-info", ".egg-info", ".egg-link")
"""What installed packages are known by: pytest imports the plugins that it names."""


class _Node:
    """What a directory hands down to everything in it."""

    __slots__ = ("allow", "deny", "exempt", "locked", "protect", "stopped", "taken", "writable")

    def __init__(
        self,
        allow: _Rule | None = None,
        deny: _Rule | None = None,
        protect: _Rule | None = None,
        locked: _Rule | None = None,
        stopped: _Rule | None = None,
        taken: _Rule | None = None,
        *,
        exempt: bool = False,
    ) -> None:
        self.allow = allow
        self.deny = deny
        self.protect = protect
        self.locked = locked
        self.stopped = stopped
        """Why what is allowed around this directory is not in it."""
        self.taken = taken
        """For the names in this directory only."""
        self.exempt = exempt
        self.writable = allow is not None and deny is None and protect is None and locked is None

    def without_taken(self) -> _Node:
        return _Node(self.allow, self.deny, self.protect, self.locked, self.stopped, exempt=self.exempt)


_NODES_MAX = 16_384  # about 5 MB of directory names; when full it starts anew, which costs 1 µs per directory


class _Tree:
    """Rules on paths, with what is known about each directory remembered.

    Verdicts are inherited: a node is what its parent hands down, changed by the patterns that match it. So a file in
    a known directory costs one look-up and, unless its name is one that some rule speaks of, nothing else.
    """

    __slots__ = ("_glob", "_heads", "_names", "_nodes", "_patterns", "_root", "_tails")

    def __init__(self) -> None:
        self._patterns: paths.PatternSet[_Rule] = paths.PatternSet()
        self._nodes: dict[str, _Node] = {}
        self._root = _Node()

    def add(self, pattern: str, rule: _Rule) -> None:
        self._patterns.add(pattern, rule)

    def add_path(self, path: str, rule: _Rule) -> None:
        self._patterns.add_path(path, rule)

    def seal(self) -> None:
        """No rule is added after this."""
        self._names = self._patterns.names
        self._heads = self._patterns.heads
        self._tails = self._patterns.tails
        self._glob = self._patterns.glob
        self._root = self._apply(self._root, self._patterns.at("", ""))
        self._root = self._apply(self._root, self._patterns.below(""))

    def writable(self, path: str) -> bool:
        """`node(path).writable`, without making a node for a name that no rule speaks of."""
        directory, _, name = path.rpartition("/")
        # Flat, and no call but built-in ones: this runs for every trapped open.
        node = self._nodes.get(directory)
        if node is None:
            if path[:1] != "/":
                return False
            node = self._enter(directory)
        if (
            node.taken is not None
            or name in self._names
            or name.startswith(self._heads)
            or (self._tails and name.endswith(self._tails))
            or (self._glob is not None and self._glob(name))
        ):
            return self._child(node, path, name).writable
        return node.writable

    def inherited(self, path: str) -> _Node | None:
        """`node(path)` where no rule speaks of this name, so that all of it comes from the directory; else None."""
        directory, _, name = path.rpartition("/")
        if (
            name in self._names
            or name.startswith(self._heads)
            or name.endswith(self._tails)
            or (self._glob is not None and self._glob(name))
        ):
            return None
        node = self._nodes.get(directory) or self._enter(directory)
        return node if node.taken is None else None if node.taken.takes(name) else node.without_taken()

    def node(self, path: str) -> _Node:
        """What holds for this very path."""
        directory, _, name = path.rpartition("/")
        if not name:
            return self._root
        return self._child(self._enter(directory), path, name)

    def _child(self, node: _Node, path: str, name: str) -> _Node:
        """What holds for a name in the directory whose node is given."""
        taken = node.taken
        rules = self._patterns.at(path, name)
        if taken is not None:
            node = node.without_taken()
            if name in taken.modules:
                # A directory of this name is found only if it has an `__init__`.
                rules.append(_Rule("taken", taken.says, modules=_PACKAGE))
            elif taken.takes(name):
                rules.append(_Rule("lock", taken.says))
        return self._apply(node, rules)

    def container(self, path: str) -> _Rule | None:
        """The rule that says protected names lie in this path."""
        return self._first(path, "container")

    def anchor(self, path: str) -> _Rule | None:
        """The rule that says a locked file lies somewhere below this path."""
        return self._first(path, "anchor")

    def _first(self, path: str, kind: str) -> _Rule | None:
        found = self._patterns.at(path, path.rpartition("/")[2])
        return next((rule for rule in found if rule.kind == kind), None)

    def _enter(self, directory: str) -> _Node:
        node = self._nodes.get(directory)
        if node is not None:
            return node
        if not directory:
            return self._root
        # Not by recursion: a path may have 2,000 components, and recursion as many frames.
        missing = []
        while directory and node is None:
            missing.append(directory)
            directory = directory.rpartition("/")[0]
            node = self._nodes.get(directory)
        if node is None:
            node = self._root
        if len(self._nodes) + len(missing) > _NODES_MAX:
            self._nodes.clear()
        patterns = self._patterns
        for directory in reversed(missing):
            name = directory.rpartition("/")[2]
            if (
                node.taken is not None
                or name in self._names
                or name.startswith(self._heads)
                or name.endswith(self._tails)
                or (self._glob is not None and self._glob(name))
            ):
                node = self._child(node, directory, name)
            below = patterns.below(directory)
            if below:
                node = self._apply(node, below)
            if len(self._nodes) < _NODES_MAX:
                self._nodes[directory] = node
        return node

    @staticmethod
    def _apply(node: _Node, rules: list[_Rule]) -> _Node:
        """The node with these rules in force as well; the node itself if they change nothing."""
        if not rules:
            return node
        allow, deny, protect, locked, exempt = node.allow, node.deny, node.protect, node.locked, node.exempt
        stopped, taken = node.stopped, node.taken
        # Zones first: they say what of that around them counts, and whether the protected names of this same node do.
        for rule in rules:
            if rule.kind == "stop":
                if allow is not None:
                    allow, stopped = None, rule
            elif rule.kind == "scratch" or rule.kind == "guard":
                # What lies above is not the tests' doing: a project below some .vscode is a project like any other.
                exempt = rule.kind == "scratch"
                protect = None
        for rule in rules:
            kind = rule.kind
            if kind == "allow":
                allow = allow or rule
            elif kind == "deny":
                deny = deny or rule
            elif kind == "protect":
                if not exempt:
                    protect = protect or rule
            elif kind == "protect-always":
                protect = protect or rule
            elif kind == "lock":
                locked = locked or rule
            elif kind == "taken":
                taken = rule
        return _Node(allow, deny, protect, locked, stopped, taken, exempt=exempt)


def _read_link(path: str) -> str | None:
    """Where a symbolic link leads; None for everything else."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return None


def _replaceable(path: str) -> bool:
    """Whether the permissions of its directory would let this user put something else in this path's place."""
    return os.access(os.path.dirname(path) or "/", os.W_OK)


class Links(Record):
    """How a `Judge` looks at symbolic links while it compiles rules; the one thing it asks of the disk."""

    readlink: Callable[[str], str | None] = _read_link
    replaceable: Callable[[str], bool] = _replaceable


class Judge:
    """A policy, compiled. Build it once for each policy; it remembers directories, nothing else changes.

    `links` is how symbolic links in the rules' own paths are followed. Raises `DomainError` or `PathError` for a rule
    that `validate.py` would not have let through.
    """

    __slots__ = (
        "_allowed", "_denied", "_hosts", "_network", "_outbound", "_reads", "_secrets", "_sockets", "_spoken_of",
        "_tried", "_writable", "_writes", "places",
    )  # fmt: skip

    def __init__(self, policy: Policy, *, links: Links | None = None) -> None:
        self._network = policy.network
        self._tried = f" ({printable(', '.join(policy.sources))})" if policy.sources else " (the policy is empty)"
        self._allowed = DomainRules(policy.network.allowed_domains)
        self._denied = DomainRules(policy.network.denied_domains)
        network = policy.network
        self._hosts = {str(domains.canonical_host(name)): domains.parse_endpoint(at) for name, at in network.hosts}
        # As in the Go tool: who may open ports may also reach those of others, unless it is said otherwise.
        self._outbound = network.allow_local_binding if network.allow_local_outbound is None else (
            network.allow_local_outbound
        )  # fmt: skip
        compiler = _Compiler(policy.filesystem, links or Links())
        self._writes = compiler.writes()
        self._writable = self._writes.writable
        self._reads = compiler.reads()
        self._secrets = compiler.secrets()
        self._spoken_of = compiler.spoken_of
        self.places = compiler.places()
        """Paths that `allow_write` names without a glob, or with one that means all that lies in them; links followed.
        What the kernel's own rules can be told of (see `broker/ceiling.py`): deny rules do not count here."""
        self._sockets = compiler.sockets(network.allow_unix_sockets)

    def may_write(self, path: str, op: str = "open") -> bool:
        """Whether this path, absolute and resolved by the kernel, may be changed.

        The broker's hot path: about 0.5 µs in a directory seen before, 3 µs in a new one. It gives the same answer as
        `decide(Write(op, path))`.

        Of procfs only `/proc/self/...` is spoken of in rules. Whoever asks about `/proc/<pid>/...` of a process of
        this fence passes it as `/proc/self/...`; about any other process, as it is.
        """
        if op != "open" and op in protected.CONTAINER_OPS:
            node = self._writes.inherited(path) if path[:1] == "/" else None
            # None: some rule speaks of this name, maybe as of a directory that holds others.
            if node is None or not node.writable:
                return self._write(Write(op, path)).allowed
            return True
        # Byte code in the environment of the run is asked for by name; any other refusal is one.
        return self._writable(path) or (
            path[:1] == "/" and bool(_BYTE_CODE.search(path)) and self._write(Write(op, path)).allowed
        )

    def shuts(self, path: str) -> bool:
        """Whether a deny rule covers this path, and with it all that lies below: nothing there can be written."""
        return self._writes.node(path).deny is not None

    def may_read(self, path: str) -> bool:
        """The same answer as `decide(Read(path))`, for every open of a session that watches reads."""
        return self._reads is None or self._reads.node(path).deny is None

    def secret_name(self, status: os.stat_result) -> str:
        """The path that `deny_read` names of this file, whatever other name it has; empty if it names none."""
        return self._secrets.get((status.st_dev, status.st_ino), "") if self._secrets else ""

    def minds_move(self, old: str, new: str) -> bool:
        """Whether `decide(Move(...))` could be no, for this file or for anything in this directory.

        To be asked before anybody looks what lies in it: under a policy without deny rules it is not, as long as both
        names are in places of the same kind (the directories for temporary files, or elsewhere).
        """
        if self._spoken_of.inside(old) or self._spoken_of.inside(new):
            return True
        if self._reads is not None and (self._reads.node(old).deny or self._reads.node(new).deny):
            return True
        before = self._writes.inherited(old) or self._writes.node(old)
        return before.exempt != (self._writes.inherited(new) or self._writes.node(new)).exempt

    def frees(self, old: str, new: str) -> bool:
        """Whether no rule speaks of either name, so that `decide(Move(...))` is surely yes; what most names are."""
        for path in old, new:
            node = self._writes.inherited(path)
            if node is None or not node.writable:
                return False
            if self._reads is not None:
                node = self._reads.inherited(path)
                if node is None or node.deny is not None:
                    return False
        return True

    def decide(self, request: Request) -> Decision:
        """Whether the request is allowed, and by or for want of which rule. Never raises."""
        if isinstance(request, Write):
            return self._write(request)
        if isinstance(request, Connect):
            return self._connect(request)
        if isinstance(request, Resolve):
            return self._resolve(request)
        if isinstance(request, UnixConnect):
            return self._unix_connect(request)
        if isinstance(request, Bind):
            return self._bind(request)
        if isinstance(request, Move):
            return self._move(request)
        if isinstance(request, Read):
            return self._read(request)
        return self._open_socket(request)

    # --- files ---

    def _write(self, request: Write) -> Decision:
        path = request.path
        if not path.startswith("/"):
            return _impossible(f"no rule can allow it: {printable(path)} is no absolute path")
        node = self._writes.node(path)
        if node.locked is not None:
            return Decision(False, node.locked.says, "protected", quiet=_BYTE_CODE.search(path) is not None)
        if node.protect is not None:
            return Decision(False, node.protect.says, "protected")
        if request.op in protected.CONTAINER_OPS:
            holder = self._writes.anchor(path) or node.taken or (None if node.exempt else self._writes.container(path))
            if holder is not None:
                return Decision(False, holder.says, "protected")
        if node.deny is not None:
            return Decision(False, node.deny.says, "denied")
        if node.allow is not None:
            return Decision(True, node.allow.says)
        stopped = node.stopped
        if _BYTE_CODE.search(path):
            whole = request.op in protected.CONTAINER_OPS and path.endswith("/__pycache__")
            if stopped is not None and not whole and stopped.keeps_byte_code(path):
                return Decision(True, "Python keeps byte code of what no run loads before its fence")
            return Decision(False, "Python may keep byte code where tests may write", "unlisted", quiet=True)
        if stopped is not None:
            return Decision(False, stopped.says, "unlisted")
        return self._unlisted("filesystem.allow_write")

    def _read(self, request: Read) -> Decision:
        if self._reads is None:
            return Decision(True, "reading is free: there is no filesystem.deny_read")
        if not request.path.startswith("/"):
            return _impossible(f"no rule can allow it: {printable(request.path)} is no absolute path")
        node = self._reads.node(request.path)
        if node.deny is not None:
            return Decision(False, node.deny.says, "denied")
        return Decision(True, "reading is free: no rule in filesystem.deny_read matches")

    def _move(self, request: Move) -> Decision:
        """Rules go by name, so a move may take a file away from the one that holds for it, or bring one to it.

        Deny rules count under both names. A protected name does where it is protected under one of them only:
        elsewhere nothing changes, and a directory with some `.vscode` in it may be renamed.
        """
        old, new = request.names()
        if request.unseen:
            if self.minds_move(request.old, request.new):
                return Decision(False, f"what lies in it has to be looked through, and {request.unseen}", "impossible")
            return Decision(True, "no rule speaks of what lies in it")
        before, after = self._writes.node(old), self._writes.node(new)
        for node in before, after:
            if node.locked is not None:
                return Decision(False, node.locked.says, "protected")
        if before.protect is not after.protect and (before.protect is None or after.protect is None):
            rule = before.protect or after.protect
            assert rule is not None
            return Decision(False, rule.says, "protected")
        if request.inside and not request.directory and before.exempt != after.exempt:
            # A link to a directory of one's own, or a file that git takes for one.
            holder = self._writes.container(new if before.exempt else old)
            if holder is not None:
                return Decision(False, holder.says, "protected")
        for node in before, after:
            if node.deny is not None:
                return Decision(False, node.deny.says, "denied")
        if self._reads is not None:
            for node in self._reads.node(old), self._reads.node(new):
                if node.deny is not None:
                    return Decision(False, node.deny.says, "denied")
        return Decision(True, "no rule speaks of one of its names only")

    # --- network ---

    def _connect(self, request: Connect) -> Decision:
        if request.inside:
            return Decision(True, "the port was opened inside the fence")
        try:
            host = domains.canonical_host(request.host)
        except DomainError as error:
            return _impossible(f'no rule can allow it: "{printable(request.host)}" {error}')
        answer = self._reach(host, request.port)
        if not answer.allowed and request.port == 0 and request.proto == "udp":
            return Decision(False, "nothing is sent: libc sorts addresses this way", answer.why, quiet=True)
        return answer

    def _reach(self, host: str | Address, port: int) -> Decision:
        if isinstance(host, Address):
            if host.value == 0:  # 0.0.0.0 and :: lead to loopback
                host = Address(4, 127 << 24 | 1) if host.version == 4 else Address(6, 1)
            denied, allowed = self._denied.match_address(host, port), self._allowed.match_address(host, port)
            loopback = domains.is_loopback(host)
        else:
            denied, allowed = self._denied.match_name(host, port), self._allowed.match_name(host, port)
            loopback = domains.is_loopback_name(host)
        if denied is not None:
            return _denied("network.denied_domains", denied)
        if isinstance(host, str) and host in self._hosts:
            return self._listed_host(host)
        if allowed is not None:
            return _allowed("network.allowed_domains", allowed)
        return self._connect_loopback(port) if loopback else self._unlisted("network.allowed_domains")

    def _connect_loopback(self, port: int) -> Decision:
        network = self._network
        if self._outbound:
            name = "allow_local_binding" if network.allow_local_outbound is None else "allow_local_outbound"
            return Decision(True, f"allowed: network.{name} ({network.source_of(name)})")
        if port in network.allow_local_outbound_ports:
            return Decision(True, f"allowed: network.allow_local_outbound_ports {port}")
        wanted = "network.allow_local_outbound or network.allow_local_outbound_ports"
        if network.allow_local_outbound is not None:
            source = network.source_of("allow_local_outbound")
            return Decision(False, f"network.allow_local_outbound is false ({source})", "unlisted")
        return self._unlisted(wanted)

    def _resolve(self, request: Resolve) -> Decision:
        try:
            host = domains.canonical_host(request.name)
        except DomainError as error:
            return _impossible(f'no rule can allow it: "{printable(request.name)}" {error}')
        if isinstance(host, Address):
            return Decision(True, "an address is no name: looking it up asks nobody")
        denied = self._denied.match_name(host)
        if denied is not None:
            return _denied("network.denied_domains", denied)
        if host in self._hosts:
            return self._listed_host(host)
        if domains.is_loopback_name(host):
            return Decision(True, "the name means this machine")
        if host == "invalid" or host.endswith(".invalid"):
            return Decision(False, "names below .invalid do not exist (RFC 6761)", "impossible", quiet=True)
        allowed = self._allowed.match_any_port(host)
        if allowed is not None:
            return _allowed("network.allowed_domains", allowed)
        return self._unlisted("network.allowed_domains")

    def pinned(self, name: str, port: int = 0) -> tuple[str, int] | None:
        """The address and port that `network.hosts` says a canonical name is at; None if it says nothing of it."""
        found = self._hosts.get(name)
        return None if found is None else (found[0], found[1] or port)

    def _listed_host(self, name: str) -> Decision:
        return Decision(True, f"allowed: network.hosts {name} ({self._network.source_of('hosts')})")

    def _bind(self, request: Bind) -> Decision:
        try:
            host = domains.canonical_host(request.host)
        except DomainError as error:
            return _impossible(f'no rule can allow it: "{printable(request.host)}" {error}')
        network = self._network
        if isinstance(host, Address):
            if domains.is_loopback(host):  # the wildcard address included
                if network.allow_local_binding:
                    return Decision(
                        True, f"allowed: network.allow_local_binding ({network.source_of('allow_local_binding')})"
                    )
                return Decision(
                    False,
                    f"network.allow_local_binding is false ({network.source_of('allow_local_binding')})",
                    "unlisted",
                )
            denied = self._denied.match_address(host, request.port)
            if denied is not None:
                return _denied("network.denied_domains", denied)
            allowed = self._allowed.match_address(host, request.port)
            if allowed is not None:
                return _allowed("network.allowed_domains", allowed)
        return self._unlisted("network.allowed_domains")

    def _unix_connect(self, request: UnixConnect) -> Decision:
        if request.inside:
            return Decision(True, "the socket was made inside the fence")
        path = request.path
        network = self._network
        if network.allow_all_unix_sockets:
            source = network.source_of("allow_all_unix_sockets")
            return Decision(True, f"allowed: network.allow_all_unix_sockets ({source})")
        if path.startswith("\0"):
            return self._unlisted("network.allow_all_unix_sockets")  # abstract: no path that a pattern could name
        if not path.startswith("/"):
            return _impossible(f"no rule can allow it: {printable(path)} is no absolute path")
        node = self._sockets.node(path)
        if node.allow is not None:
            return Decision(True, node.allow.says)
        return self._unlisted("network.allow_unix_sockets")

    def _open_socket(self, request: OpenSocket) -> Decision:
        kind = request.type & SOCK_TYPE_MASK
        if request.family == 1 or request.family == 16:
            return Decision(True, "UNIX and netlink sockets are free; what they reach is judged later")
        if request.family in (2, 10) and kind in (1, 2, 5):
            return Decision(True, "Internet sockets are free; what they reach is judged later")
        return _impossible("no rule can allow it: sockets of this kind are outside what the fence can judge")

    def _unlisted(self, key: str) -> Decision:
        return Decision(False, f"no rule in {key} allows it{self._tried}", "unlisted")


_BYTE_CODE = re.compile(r"/__pycache__(/[^/]+\.pyc(\.\d+)?)?\Z")
"""What importing a module tries to write, and does without. Byte code of installed packages runs in other processes
too, unfenced ones, so nobody may; but the test that happens to import a module first is not to blame."""


def _impossible(rule: str) -> Decision:
    return Decision(False, rule, "impossible")


def _above(path: str) -> list[str]:
    """All directories that this path lies in but the root."""
    found = []
    while path := path.rpartition("/")[0]:
        found.append(path)
    return found


def _denied(key: str, entry: Entry) -> Decision:
    return Decision(False, f"denied: {key} {entry}", "denied")


def _allowed(key: str, entry: Entry) -> Decision:
    return Decision(True, f"allowed: {key} {entry}")


class _SpokenOf:
    """Places whose verdict may differ from that of the directory around them: what to look for before one is moved."""

    __slots__ = ("_around", "_below")

    def __init__(self) -> None:
        self._around: set[str] = set()
        self._below: tuple[str, ...] = ()

    def add(self, *places: str) -> None:
        """Paths that a rule names, each with everything in it."""
        for place in places:
            self._around.update(_above(place.rstrip("/")))

    def add_below(self, *places: str) -> None:
        """Directories in which a rule may speak of any name."""
        self.add(*places)
        self._below += tuple(place.rstrip("/") + "/" for place in places)

    def inside(self, directory: str) -> bool:
        """Whether such a place may lie in this directory."""
        return directory in self._around or f"{directory}/".startswith(self._below)


class _Compiler:
    """Turns the path rules of a policy into trees."""

    def __init__(self, rules: FilesystemRules, links: Links) -> None:
        self._rules = rules
        self._links = links
        self._known: dict[str, str | None] = {}
        self.spoken_of = _SpokenOf()
        """Complete once `writes` and `reads` have been called."""
        # As written, before any link is followed: which places could a test have put a link in?
        self._reach = _Tree()
        for entry in rules.allow_write:
            self._reach.add(entry.pattern or entry.text, _Rule("allow", ""))
        self._reach.seal()

    def writes(self) -> _Tree:
        rules = self._rules
        tree = _Tree()
        self._add_all(tree, "filesystem.allow_write", "allow", rules.allow_write)
        self._add_all(tree, "filesystem.deny_write", "deny", rules.deny_write)
        self._add_protected(tree)
        anchors: dict[str, str] = {}
        self._add_early_modules(tree, anchors)
        for path in rules.locked:
            says = f"locked: {printable(path)} decides what the next run allows (built in)"
            for form in self._forms(path):
                tree.add_path(form, _Rule("lock", says))
                anchors.update(dict.fromkeys(_above(form), "files that decide what the next run allows"))
        # Moved away with the directory that it lies in, a locked file would have another name, which is not locked.
        for path, what in anchors.items():
            tree.add_path(path, _Rule("anchor", f"locked: {printable(path)} holds {what} (built in)"))
        # The scratch directories last: a project or a home that *is* one takes nothing of its exemption away.
        for kind, places in (("guard", (rules.home, rules.root)), ("scratch", rules.scratch)):
            for place in places:
                if place.startswith("/"):
                    for form in self._forms(place):
                        tree.add_path(form, _Rule(kind, ""))
                        self.spoken_of.add(form)
        tree.seal()
        return tree

    def _add_early_modules(self, tree: _Tree, anchors: dict[str, str]) -> None:
        """What Python loads before the fence of the next run stands: none of it may come from a test."""
        what = "what Python loads before the fence of the next run"
        modules = frozenset(self._rules.early_modules)
        for place in self._rules.environment:
            for form in self._forms(place):
                says = (
                    "no rule in filesystem.allow_write names it, and rules for directories around it end at "
                    f"{printable(form)}: Python loads that before the fence of the next run"
                )
                tree.add_path(form, _Rule("stop", says, place=form, modules=modules))
                anchors.update(dict.fromkeys((form, *_above(form)), what))
        for place, names in self._rules.early_names:
            says = (
                f"locked: Python looks for this name in {printable(place)} before the fence of the next run (built in)"
            )
            for form in self._forms(place):
                tree.add(paths.escape(form) + "/*", _Rule("taken", says, modules=frozenset(names)))
                anchors.update(dict.fromkeys((form, *_above(form)), what))

    def _forms(self, path: str) -> set[str]:
        """The path as it is written and, where links lie on the way, as the kernel shows it."""
        return {path, self._resolve(path, self._link)}

    def places(self) -> tuple[str, ...]:
        found = []
        for entry in self._rules.allow_write:
            pattern = entry.pattern or entry.text
            literal = paths.literal_of(pattern.removesuffix("/*") or "/")
            if literal is not None:
                found.append(self._resolve(literal, self._trusted_link))
        return tuple(dict.fromkeys(found))

    def reads(self) -> _Tree | None:
        if not self._rules.deny_read:
            return None
        tree = _Tree()
        self._add_all(tree, "filesystem.deny_read", "deny", self._rules.deny_read)
        tree.seal()
        return tree

    def secrets(self) -> dict[tuple[int, int], str]:
        """Files that `deny_read` names, by device and inode: one of several hard links is as good as the other."""
        found = {}
        for entry in self._rules.deny_read:
            literal = paths.literal_of(entry.pattern or entry.text)
            if literal is None:
                continue
            try:
                status = os.stat(literal)
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = self._resolve(literal, self._link)
        return found

    def sockets(self, entries: Iterable[Entry]) -> _Tree:
        tree = _Tree()
        self._add_all(tree, "network.allow_unix_sockets", "allow", entries)
        tree.seal()
        return tree

    def _add_all(self, tree: _Tree, key: str, kind: str, entries: Iterable[Entry]) -> None:
        verb = "allowed" if kind == "allow" else "denied"
        link = self._trusted_link if kind == "allow" else self._link
        for entry in entries:
            pattern = entry.pattern or entry.text
            rule = _Rule(kind, f"{verb}: {key} {entry}", entry)
            tree.add(pattern, rule)
            # Of `/a/*.log` the directory is resolved, of a pattern without globs all of it.
            literal = paths.literal_of(pattern)
            if literal is not None:
                resolved = self._resolve(literal, link)
                if resolved != literal:
                    tree.add_path(resolved, rule)
                if kind == "deny":
                    self.spoken_of.add(literal, resolved)
                continue
            fixed, rest = paths.split_fixed(pattern)
            resolved = self._resolve(fixed, link) if fixed else fixed
            if resolved != fixed:
                tree.add(paths.escape(resolved.rstrip("/")) + rest, rule)
            if kind == "deny":
                self.spoken_of.add_below(fixed, resolved)

    def _add_protected(self, tree: _Tree) -> None:
        for row in protected.PROTECTED:
            if row.unless == "filesystem.allow_git_config" and self._rules.allow_git_config:
                continue
            tail = f"; {row.unless} would allow it" if row.unless else ""
            kind = "protect" if row.exempt_below_scratch else "protect-always"
            for name in row.names:
                tree.add("/**/" + name, _Rule(kind, f'protected: "{name}": {row.reason} (built in{tail})'))
        for name in protected.containers():
            tree.add("/**/" + name, _Rule("container", f'protected: "{name}" holds protected names (built in)'))

    def _resolve(self, path: str, link: Callable[[str], str | None]) -> str:
        # What these lead to is different for every process that asks.
        if path.startswith(("/proc/", "/dev/std", "/dev/fd")):
            return path
        return paths.resolve_trusted(path, link)

    def _link(self, path: str) -> str | None:
        try:
            return self._known[path]
        except KeyError:
            target = self._known[path] = self._links.readlink(path)
            return target

    def _trusted_link(self, path: str) -> str | None:
        """The target of a link that no test can have made or moved.

        Otherwise a test could replace the directory of an allow rule by a link to the home directory, and the next
        run would allow writing there.
        """
        target = self._link(path)
        if target is not None and self._reach.writable(path) and self._links.replaceable(path):
            return None
        return target
