"""May this be done? A request and a policy in, a decision that names its rule out.

This is the one referee: the broker and the filter both ask here. It never raises on what a test can make up, however
odd; what cannot be understood is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from fence_core.policy import domains, paths, protected
from fence_core.policy.compiler import Compiler, Links
from fence_core.policy.domains import Address, DomainError, DomainRules
from fence_core.policy.model import FilesystemRules, Policy
from fence_core.policy.record import Record
from fence_core.policy.requests import (
    SOCK_TYPE_MASK,
    Bind,
    Connect,
    Move,
    OpenSocket,
    Read,
    Resolve,
    Run,
    UnixConnect,
    Write,
    printable,
)  # fmt: skip

if TYPE_CHECKING:
    import os

    from fence_core.policy.model import Entry
    from fence_core.policy.requests import Request
    from fence_core.policy.tree import Tree

__all__ = ["Decision", "Judge", "Why"]

Why = Literal["allowed", "denied", "protected", "unlisted", "impossible"]
"""Of a refusal: `denied` by a deny rule, `protected` whatever the policy says, `unlisted` since no rule allows it
(the only one that has a remedy), `impossible` since no rule could."""


ID_MAPS = ("/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups")
"""Where user_namespaces(7) are told whose they are; whoever writes one of them writes all."""


class Decision(Record):
    """The answer to a request."""

    allowed: bool
    rule: str
    """For the user: the rule that decided and where it was written, or which list it is missing from."""
    why: Why = "allowed"
    quiet: bool = False
    """Refuse it, but it is no violation: programs ask such things in passing."""


class Judge:
    """A policy, compiled. Build it once for each policy; it remembers directories, nothing else changes.

    `links` is how symbolic links in the rules' own paths are followed. Raises `DomainError` or `PathError` for a rule
    that `validate.py` would not have let through.
    """

    __slots__ = (
        "_above", "_absent", "_allowed", "_compiler", "_denied", "_filesystem", "_hosts", "_named", "_network",
        "_outbound", "_own", "_reads", "_secrets", "_sockets", "_sources", "_spoken_of", "_writable", "_writes",
        "loopback_is_free",
        "loopback_is_open",
        "places",
    )  # fmt: skip

    def __init__(self, policy: Policy, *, links: Links | None = None) -> None:
        self._network = policy.network
        self._sources = policy.sources
        self._filesystem = policy.filesystem
        self._allowed = DomainRules(policy.network.allowed_domains)
        self._denied = DomainRules(policy.network.denied_domains)
        network = policy.network
        self._hosts = {
            str(domains.canonical_host(name)): domains.parse_endpoint(at) for name, at in network.hosts if at
        }
        self._absent = frozenset(str(domains.canonical_host(name)) for name, at in network.hosts if not at)
        # As in the Go tool: who may open ports may also reach those of others, unless it is said otherwise.
        self._outbound = network.allow_local_binding if network.allow_local_outbound is None else (
            network.allow_local_outbound
        )  # fmt: skip
        self.loopback_is_free = self._outbound and not network.allow_local_outbound_ports
        """Whether it makes no difference which ports were opened inside, but for what `denied_domains` says."""
        self.loopback_is_open = self.loopback_is_free and not self._denied.may_match_loopback()
        """Whether `decide` surely allows to connect to any port of loopback."""
        compiler = Compiler(policy.filesystem, links or Links())
        self._compiler = compiler
        self._own: Tree | None = None
        self._writes = compiler.writes()
        self._writable = self._writes.writable
        self._above = compiler.above()
        self._named = compiler.named()
        self._reads = compiler.reads()
        self._secrets = compiler.secrets()
        self._spoken_of = compiler.spoken_of
        self.places = tuple((place, self._writes.node(place).devices) for place in compiler.places())
        """Paths that `allow_write` names without a glob, or with one that means all that lies in them; links followed.
        With each, whether what is there may be opened for writing only, as devices may. What the kernel's own rules can
        be told of (see `broker/ceiling.py`): deny rules do not count here."""
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
        if self._writable(path):
            return True
        # Only then a closer look: at devices, at what lies above an allowed path, and at what is going to be refused.
        if op == "open":
            return path[:1] == "/" and self._writes.node(path).openable and not _of_a_process_outside(path)
        return op == "mkdir" and path in self._above and self._write(Write(op, path)).allowed

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
        after = self._writes.inherited(new) or self._writes.node(new)
        return before.exempt != after.exempt or (after.taken is not None and self._writes.node(new).taken is not None)

    def may_rename(self, old: str, new: str) -> bool:
        """Whether both names may be changed, no rule speaks of either, and none minds the move: what most renames are.

        Where it is no, `may_write` and `minds_move` tell. It takes half as long as those two.
        """
        before, after = self._writes.inherited(old), self._writes.inherited(new)
        if before is None or after is None or not (before.writable and after.writable):
            return False
        if self._reads is not None or before.exempt != after.exempt:
            return False
        return not (self._spoken_of.inside(old) or self._spoken_of.inside(new))

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
        if isinstance(request, Read | Run):
            return self._read(request)
        return self._open_socket(request)

    # --- files ---

    def _write(self, request: Write) -> Decision:
        path = request.path
        if not path.startswith("/"):
            return _impossible(f"no rule can allow it: {printable(path)} is not an absolute path")
        if request.op == "mknod device":
            return _impossible("no rule can allow it: a device node is a way to everything behind it")
        node = (self._of_own_repositories() if request.known == "own" else self._writes).node(path)
        if node.locked is not None:
            return Decision(False, node.locked.says, "protected", quiet=re.search(_BYTE_CODE, path) is not None)
        if node.protect is not None:
            return Decision(False, _with_key(node.protect.says, request), "protected")
        if request.op in protected.CONTAINER_OPS:
            holder = self._writes.anchor(path) or (None if node.exempt else self._writes.container(path))
            if request.op == "create" and self._filesystem.allow_git_config and path.endswith("/.git"):
                holder = None  # what it leads to may say as much as a `.git/config`
            if holder is None and request.op != "rename":  # what is in a directory that is moved is looked at
                holder = node.taken
            if holder is not None:
                return Decision(False, holder.says, "protected")
        if node.deny is not None:
            return Decision(False, node.deny.says, "denied")
        if request.op == "terminal":
            return self._terminal(path)
        if node.devices and request.op != "open":
            return _impossible("no rule can allow it: devices, and files in /proc, may be opened for writing at most")
        if request.known in ("config", "hooks") and not node.exempt:
            lifts = request.known == "config"
            if not (lifts and self._filesystem.allow_git_config):
                tail = "; filesystem.allow_git_config would allow it" if lifts else ""
                says = "protected: git takes its directory for a repository, and obeys what this makes it hold"
                return Decision(False, _with_key(f"{says} (built in{tail})", request), "protected")
        if _of_a_process_outside(path):
            return _impossible("no rule can allow it: it belongs to a process outside of the fence")
        if request.known == "environment" and not self._names_environment(request.around, path):
            says = "no rule in filesystem.allow_write names it, and rules for directories around it end at"
            what = f"{printable(request.around)}: a Python environment, which is run without a fence (built in)"
            return Decision(False, f"{says} {what}", "unlisted", quiet=re.search(_BYTE_CODE, path) is not None)
        if request.known == "socket" and not self._names_file(path):
            says = "the socket of a process outside, or its directory: who changes it may be talked to in its place"
            return Decision(False, f"no rule in filesystem.allow_write names it: {says}", "unlisted")
        if node.allow is not None:
            return Decision(True, node.allow.says)
        if request.op == "mkdir" and path in self._above:
            return Decision(True, self._above[path])
        if re.search(_BYTE_CODE, path):
            return Decision(False, "Python may keep byte code where tests may write", "unlisted", quiet=True)
        if node.stopped is not None:
            quiet = node.stopped.quiet or re.search(_BESIDE_CODE, path) is not None
            return Decision(False, node.stopped.says, "unlisted", quiet=quiet)
        answer = self._of_what_is_meant(path) or self._unlisted("filesystem.allow_write")
        if path in ID_MAPS:
            word = "who makes a user namespace needs it (or start Chromium with --no-sandbox)"
            answer = answer._replace(rule=f"{answer.rule}: {word}")
        return answer

    def _names_file(self, path: str) -> bool:
        """Whether a rule allows this very path, and not only what lies around it."""
        return any(paths.literal_of(each.pattern or each.text) == path for each in self._filesystem.allow_write)

    def _names_environment(self, place: str, path: str) -> bool:
        """Whether this session does not mind environments, or a rule speaks of what is in this one."""
        if not self._filesystem.guards_environments:
            return True
        inside = []
        for entry in self._filesystem.allow_write:
            fixed = paths.split_fixed(entry.pattern or entry.text)[0]
            if f"{fixed}/".startswith(f"{place}/"):
                inside.append(entry)
        return bool(inside) and Judge(Policy(filesystem=FilesystemRules(tuple(inside)))).may_write(path)

    def is_scratch(self, path: str) -> bool:
        """Whether the path lies in a directory for temporary files, where protected names are free."""
        return (self._writes.inherited(path) or self._writes.node(path)).exempt

    def _of_own_repositories(self) -> Tree:
        """The rules without those about what git obeys."""
        if self._own is None:
            self._own = self._compiler.writes(own_repositories=True)
        return self._own

    def _of_what_is_meant(self, path: str) -> Decision | None:
        """The answer for the file that this one is a lock or a copy of, if no rule could allow that."""
        from fence_core.policy.siblings import meant_by  # as below: for refused writes only

        for meant in meant_by(path):
            node = self._writes.node(meant)
            if node.locked is not None:
                return Decision(False, node.locked.says, "protected")
            if node.protect is not None:
                return Decision(False, node.protect.says, "protected")
            if node.deny is not None:
                return Decision(False, node.deny.says, "denied")
        return None

    def _terminal(self, path: str) -> Decision:
        """About a terminal of somebody else's: `/dev/pts/*` means those of this run."""
        if path in self._named:
            return Decision(True, f"allowed: filesystem.allow_write names {printable(path)}")
        return _impossible("it is neither the terminal of this run nor one that was opened inside the fence")

    def _read(self, request: Read | Run) -> Decision:
        if self._reads is None:
            return Decision(True, "reading is free: there is no filesystem.deny_read")
        if not request.path.startswith("/"):
            return _impossible(f"no rule can allow it: {printable(request.path)} is not an absolute path")
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
        if isinstance(host, str):
            if answer.allowed and request.proto != "tcp" and not domains.is_this_machine(host):
                return Decision(
                    False, "names are reached by TCP only, which programs turn to", "impossible", quiet=True
                )
        elif request.name and not answer.allowed and answer.why == "unlisted":
            from fence_core.policy.public import is_public  # only ever needed where the filter has looked up a name

            if is_public(str(host)):
                return Decision(True, "it is a public address of a name that is allowed")
            return Decision(False, f"{host} is not a public address, and {answer.rule}", "unlisted")
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
            if host in self._absent:
                return self._declared_absent(host)
            denied, allowed = self._denied.match_name(host, port), self._allowed.match_name(host, port)
            loopback = domains.is_this_machine(host)
        if denied is not None:
            return _denied("network.denied_domains", denied)
        if isinstance(host, str) and host in self._hosts:
            return self._listed_host(host)
        if loopback and port in RESOLVER_PORTS:
            return _impossible(_WHY_NO_RESOLVER)
        if allowed is not None:
            return _allowed("network.allowed_domains", allowed)
        return self._connect_loopback(port) if loopback else self._unlisted("network.allowed_domains")

    def _connect_loopback(self, port: int) -> Decision:
        network = self._network
        if network.allow_local_outbound_ports:
            if port in network.allow_local_outbound_ports:
                return Decision(True, f"allowed: network.allow_local_outbound_ports {port}")
            listed = ", ".join(map(str, network.allow_local_outbound_ports[:8]))
            more = ", ..." if len(network.allow_local_outbound_ports) > 8 else ""
            return Decision(False, f"network.allow_local_outbound_ports has no {port}, only {listed}{more}", "unlisted")
        if self._outbound:
            name = "allow_local_binding" if network.allow_local_outbound is None else "allow_local_outbound"
            return Decision(True, f"allowed: network.{name} ({network.source_of(name)})")
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
            return Decision(True, "this is an address, not a name: there is nothing to look up")
        if host in self._absent:
            return self._declared_absent(host)
        denied = self._denied.match_name(host)
        if denied is not None:
            return _denied("network.denied_domains", denied)
        if host in self._hosts:
            return self._listed_host(host)
        if domains.is_this_machine(host):
            return Decision(True, "the name means this machine")
        if host == "invalid" or host.endswith(".invalid"):
            return Decision(False, "names below .invalid do not exist (RFC 6761)", "impossible", quiet=True)
        allowed = self._allowed.match_any_port(host)
        if allowed is not None:
            return _allowed("network.allowed_domains", allowed)
        answer = self._unlisted("network.allowed_domains")
        if _WANTED_ABSENT.search(host):
            says = f'{answer.rule}; if the test wants it not to exist: hosts = {{"{printable(host)}" = false}}'
            return Decision(False, says, "unlisted")
        return answer

    def pinned(self, name: str, port: int = 0) -> tuple[str, int] | None:
        """The address and port that `network.hosts` says a canonical name is at; None if it says nothing of it."""
        found = self._hosts.get(name)
        return None if found is None else (found[0], found[1] or port)

    def _listed_host(self, name: str) -> Decision:
        return Decision(True, f"allowed: network.hosts {name} ({self._network.source_of('hosts', name)})")

    def _declared_absent(self, name: str) -> Decision:
        says = f"network.hosts says that {name} does not exist ({self._network.source_of('hosts', name)})"
        return Decision(False, says, "denied", quiet=True)

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
            return _impossible(f"no rule can allow it: {printable(path)} is not an absolute path")
        node = self._sockets.node(path)
        if node.allow is not None:
            return Decision(True, node.allow.says)
        answer = self._unlisted("network.allow_unix_sockets")
        return answer._replace(quiet=True) if path in NAME_SERVICES else answer

    def _open_socket(self, request: OpenSocket) -> Decision:
        kind = request.type & SOCK_TYPE_MASK
        if request.family == 1 or request.family == 16:
            return Decision(True, "UNIX and netlink sockets are free; what they reach is judged later")
        if request.family in (2, 10) and request.proto in _KINDS_CARRIED.get(kind, ()):
            return Decision(True, "Internet sockets are free; what they reach is judged later")
        return _impossible("no rule can allow it: sockets of this kind are outside what the fence can judge")

    def _unlisted(self, key: str) -> Decision:
        """With where such a rule could stand (preset, file, markers), and whatever else has one of this key."""
        section, _, name = key.partition(".")
        rules = getattr(self._network if section == "network" else self._filesystem, name, ())
        others = [each.source.name for each in rules if hasattr(each, "source")] if isinstance(rules, tuple) else []
        sources = ", ".join(dict.fromkeys([*(each.name for each in self._sources), *others]))
        tried = printable(sources) if sources else "the policy is empty"
        return Decision(False, f"no rule in {key} allows it ({tried})", "unlisted")


# Text, and compiled when it is first needed: most runs refuse nothing.
RESOLVER_PORTS = (53, 853)
_WHY_NO_RESOLVER = (
    "a name server of this machine would carry any name, and what is hidden in it, to anywhere; the fence answers "
    "look-ups of allowed names itself"
)
NAME_SERVICES = frozenset(
    {
        "/run/nscd/socket",
        "/var/run/nscd/socket",
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    }
)
"""Sockets that libc asks unbidden; without them it asks the resolver, whose socket leads to us."""
_KINDS_CARRIED = {1: (0, 6, 262), 2: (0, 17, 1, 58)}
"""Protocols of SOCK_STREAM (TCP, MPTCP) and of SOCK_DGRAM (UDP, ping)."""
_BYTE_CODE = r"""(?x)
    /__pycache__
    (/ (
        [^/]+ \.py[co] ([._-][A-Za-z0-9_]+)?               # written under a name of the moment, and moved into place
      | [^/]+ \.nb[ci] (\.tmp\.[0-9a-f]+)?                # what numba compiles; it has other places
      | tmp[a-z0-9_]{8} [^/]* | \(unnamed\ temporary\ file\)  # is this directory writable? numba asks so
    ))? \Z
    """
"""What importing a module tries to write, and does without. Byte code of installed packages runs in other processes
too, unfenced ones, so nobody may; but the test that happens to import a module first is not to blame."""
_BESIDE_CODE = r"/(?:(?:parsetab|lextab|yacctab)\.py|parser\.out|(?:Pattern)?Grammar[^/]*\.pickle)\Z"
"""The same, that parser generators (ply, lib2to3) keep beside the installed module and do without."""


_WANTED_ABSENT = re.compile(
    r"not[-_.]?(?:exist|found|resolv|reach|valid|real|there)"
    r"|(?<![a-z])non?e?[-_.]?(?:exist|such|host|where|domain|resolv|known)"
    r"|unknown|unreach|unresolv|invalid|nx-?domain|bogus|missing|fake|wrong|\bbad\b|\.(?:test|example)\Z"
)
"""Names that are likely made up, by a test of what happens without them. RFC 6761 has no machine below the last two."""


def _of_a_process_outside(path: str) -> bool:
    """Those inside are `/proc/self`, see `Judge.may_write`."""
    return path.startswith("/proc/") and path[6:7].isdigit()


def _with_key(says: str, request: Write) -> str:
    """The reason why git's configuration is protected, with what it was that would have been set there."""
    if request.known != "config" or not request.around:
        return says
    head, built_in, tail = says.partition(" (built in")
    return f"{head}; here {printable(request.around)}{built_in}{tail}"


def _impossible(rule: str) -> Decision:
    return Decision(False, rule, "impossible")


def _denied(key: str, entry: Entry) -> Decision:
    return Decision(False, f"denied: {key} {entry}", "denied")


def _allowed(key: str, entry: Entry) -> Decision:
    return Decision(True, f"allowed: {key} {entry}")
