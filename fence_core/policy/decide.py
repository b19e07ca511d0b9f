"""May this be done? A request and a policy in, a decision that names its rule out.

This is the one referee: the broker and the filter both ask here. It never raises on what a test can make up, however
odd; what cannot be understood is refused. What no list opens stands in `floor.py`, whom the tests may talk to in
`reach.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fence_core.policy import floor, paths, protected
from fence_core.policy.compiler import Compiler, Links
from fence_core.policy.decision import Decision, denied, free, impossible, unlisted
from fence_core.policy.model import BUILT_IN, FilesystemRules, Policy, Rule
from fence_core.policy.reach import Reach
from fence_core.policy.requests import (
    Bind,
    Connect,
    Execute,
    Move,
    OpenSocket,
    Read,
    Resolve,
    Run,
    SocketOption,
    UnixConnect,
    Write,
)  # fmt: skip

if TYPE_CHECKING:
    import os

    from fence_core.policy.commands import CommandJudge
    from fence_core.policy.ignored import Ignored
    from fence_core.policy.requests import Request
    from fence_core.policy.tree import Tree

__all__ = ["Decision", "Judge"]

ID_MAPS = ("/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups")
"""Where user_namespaces(7) are told whose they are; whoever writes one of them writes all."""


class Judge:
    """A policy, compiled. Build it once for each policy; it remembers directories, nothing else changes.

    `links` is how symbolic links in the rules' own paths are followed. Raises `DomainError` or `PathError` for a rule
    that `validate.py` would not have let through.
    """

    __slots__ = (
        "_above", "_commands", "_compiler", "_filesystem", "_ignored", "_named", "_own", "_policy", "_reach", "_reads",
        "_secrets", "_spoken_of", "_writable", "_writes",
        "lists_addresses",
        "loopback_is_free",
        "loopback_is_open",
        "pinned",
        "places",
        "programs",
    )  # fmt: skip

    def __init__(self, policy: Policy, *, links: Links | None = None) -> None:
        self._policy = policy
        self._filesystem = policy.filesystem
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
        be told of (see `broker/paths/ceiling.py`): deny rules do not count here."""
        self._reach = Reach(policy, compiler)
        self.pinned = self._reach.pinned
        self.loopback_is_free = self._reach.loopback_is_free
        """Whether it makes no difference which ports were opened inside, but for what `denied_domains` says."""
        self.loopback_is_open = self._reach.loopback_is_open
        """Whether `decide` surely allows to connect to any port of loopback."""
        self._ignored = _ignored(policy, compiler)
        self._commands = _command_judge(policy)
        self.programs: frozenset[str] = self._commands.programs if self._commands is not None else frozenset()
        """The names that rules for commands begin with; none: whatever is run, they do not speak of it."""
        self.lists_addresses = self._reach.switches.lists_addresses
        """Whether the policy lists addresses outside that a socket could reach directly."""

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
            return path[:1] == "/" and self._writes.node(path).openable and not floor.of_a_process_outside(path)
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
        row = floor.find(request, self._reach.switches)
        if row is not None and not row.after_lists:
            return _by_floor(row, request)
        answer = self._by_lists(request)
        if answer.why == "unlisted" and not answer.quiet and self._ignored is not None:
            answer = self._ignored.instead(request) or answer
        return answer if row is None or not answer.allowed else _by_floor(row, request)

    def _by_lists(self, request: Request) -> Decision:
        if isinstance(request, Write):
            return self._write(request)
        if isinstance(request, Connect):
            return self._reach.connect(request)
        if isinstance(request, Resolve):
            return self._reach.resolve(request)
        if isinstance(request, UnixConnect):
            return self._reach.unix_connect(request)
        if isinstance(request, Bind):
            return self._reach.bind(request)
        if isinstance(request, Move):
            return self._move(request)
        if isinstance(request, Read | Run):
            return self._read(request)
        if isinstance(request, Execute):
            return self._execute(request)
        if isinstance(request, OpenSocket | SocketOption):
            return _OF_SOCKETS
        return impossible("no rule speaks of it")

    # --- files ---

    def _write(self, request: Write) -> Decision:
        path = request.path
        if not path.startswith("/"):
            return impossible(f"{path} is not an absolute path")
        node = (self._of_own_repositories() if request.known == "own" else self._writes).node(path)
        if node.locked is not None:
            return Decision(False, node.locked.says, "protected", quiet=re.search(_BYTE_CODE, path) is not None)
        if node.protect is not None:
            return _protected(node.protect.says, request)
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
            return impossible("devices, and files in /proc, may be opened for writing at most")
        if request.known in ("config", "hooks") and not node.exempt:
            lifts = request.known == "config"
            if not (lifts and self._filesystem.allow_git_config):
                reason = "git takes its directory for a repository, and obeys what this makes it hold"
                return _protected(Rule("filesystem.allow_git_config" if lifts else "", path, BUILT_IN, reason), request)
        if request.known == "environment" and not self._names_environment(request.around, path):
            reason = (
                f"rules for directories around it end at {request.around}, a Python environment, which is run without "
                "a fence"
            )
            quiet = re.search(_BYTE_CODE, path) is not None
            return self._unlisted(reason, quiet=quiet)._replace(guarded=True)
        if request.known == "socket" and not self._names_file(path):
            return self._unlisted(
                "it has to be named, as the socket of a process outside, or its directory: who changes it may be "
                "talked to in its place"
            )._replace(guarded=True)
        if node.allow is not None:
            return Decision(True, node.allow.says)
        if request.op == "mkdir" and path in self._above:
            return Decision(True, self._above[path])
        if re.search(_BYTE_CODE, path):
            return self._unlisted("Python may keep byte code where tests may write", quiet=True)
        if node.stopped is not None:
            quiet = node.stopped.quiet or re.search(_BESIDE_CODE, path) is not None
            return self._unlisted(node.stopped.says.reason, quiet=quiet)._replace(guarded=True)
        needed = "who makes a user namespace needs it (or start Chromium with --no-sandbox)" if path in ID_MAPS else ""
        tree = self._of_own_repositories() if request.known == "own" else self._writes
        return self._of_what_is_meant(path, tree) or self._unlisted(needed)

    def _unlisted(self, reason: str = "", *, quiet: bool = False) -> Decision:
        return unlisted(self._policy, "filesystem.allow_write", reason)._replace(quiet=quiet)

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

    def _of_what_is_meant(self, path: str, tree: Tree) -> Decision | None:
        """The answer for the file that this one is a lock or a copy of, if no rule could allow that."""
        from fence_core.policy.siblings import meant_by  # as below: for refused writes only

        for meant in meant_by(path):
            node = tree.node(meant)
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
            return free("filesystem.allow_write names this terminal")
        return impossible(
            "it is neither the terminal of this run nor one that was opened inside the fence",
            switch="filesystem.allow_write",
            item=path,
        )

    def _read(self, request: Read | Run) -> Decision:
        if self._reads is None:
            return free("reading is free: there is no filesystem.deny_read")
        if not request.path.startswith("/"):
            return impossible(f"{request.path} is not an absolute path")
        node = self._reads.node(request.path)
        if node.deny is not None:
            return Decision(False, node.deny.says, "denied")
        return free("reading is free: no rule in filesystem.deny_read matches")

    def _execute(self, request: Execute) -> Decision:
        entry = self._commands.denies(request.readings) if self._commands is not None else None
        if entry is None:
            return free("no rule in command.deny speaks of it")
        decision = denied("command.deny", entry)
        if request.late:
            reason = "it changed its words while it was being judged, and was ended before it did anything"
            decision = decision._replace(rule=decision.rule._replace(reason=reason))
        return decision

    def _move(self, request: Move) -> Decision:
        """Rules go by name, so a move may take a file away from the one that holds for it, or bring one to it.

        Deny rules count under both names. A protected name does where it is protected under one of them only:
        elsewhere nothing changes, and a directory with some `.vscode` in it may be renamed.
        """
        old, new = request.names()
        if request.unseen:
            if self.minds_move(request.old, request.new):
                return impossible(f"what lies in it has to be looked through, and {request.unseen}")
            return free("no rule speaks of what lies in it")
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
        return free("no rule speaks of one of its names only")


# Text, and compiled when it is first needed: most runs refuse nothing.
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


_OF_SOCKETS = free("sockets of this kind are free; what they reach is judged later")


def _ignored(policy: Policy, compiler: Compiler) -> Ignored | None:
    if not (policy.network.ignored_domains or policy.network.ignored_unix_sockets or policy.filesystem.ignore_write):
        return None
    from fence_core.policy.ignored import Ignored  # as below

    return Ignored(policy, compiler)


def _command_judge(policy: Policy) -> CommandJudge | None:
    if not policy.command.deny:
        return None
    from fence_core.policy.commands import CommandJudge  # most policies have no such rules

    return CommandJudge(policy.command)


def _protected(rule: Rule, request: Write) -> Decision:
    """With what it was that would have been set in git's configuration."""
    if request.known == "config" and request.around:
        rule = rule._replace(reason=f"{rule.reason}; here {request.around}")
    return Decision(False, rule, "protected")


def _by_floor(row: floor.Row, request: Request) -> Decision:
    return impossible(row.reason, switch=row.switch, item=row.item(request), quiet=row.quiet, always=row.always)
