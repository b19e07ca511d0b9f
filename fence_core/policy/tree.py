"""Rules on paths as a tree: a directory hands down what holds, and what speaks of a name changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy import paths
from fence_core.policy.model import Rule

if TYPE_CHECKING:
    from fence_core.policy.model import Entry

__all__ = ["NODES_MAX", "Node", "PathRule", "Tree"]

_NOTHING = Rule()


class PathRule:
    """What one pattern of the file rules says about the paths it covers.

    =========  =======================================================================================================
    kind       meaning
    =========  =======================================================================================================
    allow      may be written
    stop       what is allowed around it is not in it: only rules whose place lies in it count
    deny       may not, whatever allows it
    protect    may not, but below a directory for temporary files it is a name like any other
    lock       may not: it decides what the next run allows, or loads before its fence
    taken      in this very directory names by which Python would find certain modules are locked
    anchor     may not be moved or replaced: something locked lies below
    container  the same for what a protected name lies in
    scratch    a directory for temporary files begins here
    guard      it ends here: the project, or the home directory
    devices    what is allowed from here on may be opened for writing, and nothing else: devices, files of procfs
    files      that ends here: ordinary files, wherever they lie
    =========  =======================================================================================================

    `protect-always` is `protect` without the exception.
    """

    __slots__ = ("entry", "kind", "modules", "place", "quiet", "says")

    def __init__(
        self,
        kind: str,
        says: Rule = _NOTHING,
        entry: Entry | None = None,
        *,
        place: str = "",
        modules: frozenset[str] = frozenset(),
        quiet: bool = False,
    ) -> None:
        self.kind = kind
        self.says = says
        self.entry = entry
        self.place = place
        """Of a `stop` the directory, of an `allow` its pattern as far as that has no glob."""
        self.modules = modules
        self.quiet = quiet
        """Of a `stop`: what it refuses is no violation."""

    def takes(self, name: str) -> bool:
        """Of a `taken`: whether Python could find one of the modules in a file of this name, or plugins by it."""
        return (
            (name.endswith(_MODULE_FILES) and name.partition(".")[0] in self.modules)
            or name.lower().endswith(_METADATA)
            or f"{name}/" in self.modules
        )


_MODULE_FILES = (".py", ".pyc", ".so")
"""How the names of modules end (importlib.machinery.all_suffixes), also for another version of Python."""
_PACKAGE = frozenset({"__init__"})
_METADATA = (".dist-info", ".egg-info", ".egg-link")
"""What installed packages are known by, in any case of letters (importlib.metadata): pytest imports the plugins that
they name."""


class Node:
    """What a directory hands down to everything in it."""

    __slots__ = ("allow", "deny", "devices", "exempt", "locked", "openable", "protect", "stopped", "taken", "writable")

    def __init__(
        self,
        allow: PathRule | None = None,
        deny: PathRule | None = None,
        protect: PathRule | None = None,
        locked: PathRule | None = None,
        stopped: PathRule | None = None,
        taken: PathRule | None = None,
        *,
        exempt: bool = False,
        devices: bool = False,
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
        self.devices = devices
        self.openable = allow is not None and deny is None and protect is None and locked is None
        """Whether what is there may be opened for writing."""
        self.writable = self.openable and not devices
        """Whether it may be changed in every way: made, removed, renamed, given another mode."""

    def without_taken(self) -> Node:
        """What the directory hands down to the directories in it."""
        return Node(
            self.allow,
            self.deny,
            self.protect,
            self.locked,
            self.stopped,
            exempt=self.exempt,
            devices=self.devices,
        )


NODES_MAX = 16_384  # about 5 MB of directory names; when full it starts anew, which costs 1 µs per directory


class Tree:
    """Rules on paths, with what is known about each directory remembered.

    Verdicts are inherited: a node is what its parent hands down, changed by the patterns that match it. So a file in
    a known directory costs one look-up and, unless its name is one that some rule speaks of, nothing else.
    """

    __slots__ = ("_glob", "_heads", "_names", "_nodes", "_patterns", "_root", "_tails")

    def __init__(self) -> None:
        self._patterns: paths.PatternSet[PathRule] = paths.PatternSet()
        self._nodes: dict[str, Node] = {}
        self._root = Node()

    def add(self, pattern: str, rule: PathRule) -> None:
        self._patterns.add(pattern, rule)

    def add_name(self, name: str, rule: PathRule) -> None:
        self._patterns.add_name(name, rule)

    def add_path(self, path: str, rule: PathRule) -> None:
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
            (node.taken is not None and (name in node.taken.modules or node.taken.takes(name)))
            or name in self._names
            or name.startswith(self._heads)
            or (self._tails and name.endswith(self._tails))
            or (self._glob is not None and self._glob(name))
        ):
            return self._child(node, path, name).writable
        return node.writable

    def inherited(self, path: str) -> Node | None:
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
        taken = node.taken
        return None if taken is not None and (name in taken.modules or taken.takes(name)) else node

    def node(self, path: str) -> Node:
        """What holds for this very path."""
        directory, _, name = path.rpartition("/")
        if not name:
            return self._root
        return self._child(self._enter(directory), path, name)

    def _child(self, node: Node, path: str, name: str) -> Node:
        """What holds for a name in the directory whose node is given."""
        taken = node.taken
        rules = self._patterns.at(path, name)
        if taken is not None:
            node = node.without_taken()
            if taken.takes(name):
                rules.append(PathRule("lock", taken.says))
            elif name in taken.modules:
                # A directory of this name is found only if it has an `__init__`.
                rules.append(PathRule("taken", taken.says, modules=_PACKAGE))
        return self._apply(node, rules)

    def container(self, path: str) -> PathRule | None:
        """The rule that says protected names lie in this path."""
        return self._first(path, "container")

    def anchor(self, path: str) -> PathRule | None:
        """The rule that says a locked file lies somewhere below this path."""
        return self._first(path, "anchor")

    def _first(self, path: str, kind: str) -> PathRule | None:
        found = self._patterns.at(path, path.rpartition("/")[2])
        return next((rule for rule in found if rule.kind == kind), None)

    def _enter(self, directory: str) -> Node:
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
        if len(self._nodes) + len(missing) > NODES_MAX:
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
            if len(self._nodes) < NODES_MAX:
                self._nodes[directory] = node
        return node

    @staticmethod
    def _apply(node: Node, rules: list[PathRule]) -> Node:
        """The node with these rules in force as well; the node itself if they change nothing."""
        if not rules:
            return node
        allow, deny, protect, locked, exempt = node.allow, node.deny, node.protect, node.locked, node.exempt
        stopped, taken, devices = node.stopped, node.taken, node.devices
        # Zones first: they say what of that around them counts, and whether the protected names of this same node do.
        for rule in rules:
            if rule.kind == "stop":
                allow, stopped = None, rule
            elif rule.kind == "scratch" or rule.kind == "guard":
                # What lies above is not the tests' doing: a project below some .vscode is a project like any other.
                exempt = rule.kind == "scratch"
                protect = None
            elif rule.kind == "devices" or rule.kind == "files":
                devices = rule.kind == "devices"
        for rule in rules:
            kind = rule.kind
            if kind == "allow":
                if stopped is None or f"{rule.place}/".startswith(f"{stopped.place}/"):
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
        return Node(allow, deny, protect, locked, stopped, taken, exempt=exempt, devices=devices)
