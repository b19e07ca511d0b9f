"""Turns the path rules of a policy into trees that can be asked; the one part of judging that looks at the disk."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from fence_core.policy import paths, protected
from fence_core.policy.model import BUILT_IN, Rule
from fence_core.policy.record import Record
from fence_core.policy.tree import PathRule, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fence_core.policy.model import Entry, FilesystemRules

__all__ = ["Compiler", "Links"]


def _read_link(path: str) -> str | None:
    """Where a symbolic link leads; None for everything else."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return None


def _replaceable(path: str) -> bool:
    """Whether the permissions of its directory would let this user put something else in this path's place."""
    return os.access(os.path.dirname(path) or "/", os.W_OK)


DEVICES = ("/dev", "/proc")
"""Below these there are devices, terminals, and files of procfs."""
NO_DEVICES = ("/dev/shm", "/dev/mqueue", "/dev/hugepages")
"""Where file systems of ordinary files are mounted there: shm_overview(7), mq_overview(7), hugetlbfs."""


def _is_device(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


class Links(Record):
    """How a `Judge` looks at symbolic links while it compiles rules; the one thing it asks of the disk."""

    readlink: Callable[[str], str | None] = _read_link
    replaceable: Callable[[str], bool] = _replaceable


def _above(path: str) -> list[str]:
    """All directories that this path lies in but the root."""
    found = []
    while path := path.rpartition("/")[0]:
        found.append(path)
    return found


class SpokenOf:
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


class Compiler:
    """Turns the path rules of a policy into trees."""

    def __init__(self, rules: FilesystemRules, links: Links) -> None:
        self._rules = rules
        self._links = links
        self._known: dict[str, str | None] = {}
        self.spoken_of = SpokenOf()
        """Complete once `writes` and `reads` have been called."""
        # As written, before any link is followed: which places could a test have put a link in?
        self._reach = Tree()
        for entry in rules.allow_write:
            self._reach.add(entry.pattern or entry.text, PathRule("allow"))
        self._reach.seal()

    def writes(self, *, own_repositories: bool = False) -> Tree:
        """`own_repositories`: without what is protected for git's sake in a `.git`."""
        rules = self._rules
        tree = Tree()
        self._add_all(tree, "filesystem.allow_write", "allow", rules.allow_write)
        self._add_all(tree, "filesystem.deny_write", "deny", rules.deny_write)
        self._add_protected(tree, own_repositories=own_repositories)
        anchors: dict[str, str] = {}
        self._add_early_modules(tree, anchors)
        for path in rules.locked:
            says = Rule("", path, BUILT_IN, "it decides what the next run allows")
            for form in self._forms(path):
                tree.add_path(form, PathRule("lock", says))
                anchors.update(dict.fromkeys(_above(form), "files that decide what the next run allows"))
        # Moved away with the directory that it lies in, a locked file would have another name, which is not locked.
        for path, what in anchors.items():
            tree.add_path(path, PathRule("anchor", Rule("", path, BUILT_IN, f"it holds {what}")))
        # The scratch directories last: a project or a home that *is* one takes nothing of its exemption away.
        for kind, places in (("guard", (rules.home, rules.root)), ("scratch", rules.scratch)):
            for place in places:
                if place.startswith("/"):
                    for form in self._forms(place):
                        tree.add_path(form, PathRule(kind))
                        self.spoken_of.add(form)
        self._add_devices(tree)
        tree.seal()
        return tree

    def _add_devices(self, tree: Tree) -> None:
        """Where a permission is one to open for writing: name, mode, owner and times of a device are the machine's."""
        for place in DEVICES:
            tree.add_path(place, PathRule("devices"))
        for place in NO_DEVICES:
            tree.add_path(place, PathRule("files"))
        for entry in self._rules.allow_write:
            literal = paths.literal_of(entry.pattern or entry.text)
            if literal is None or literal.startswith(("/dev/", "/proc/")):
                continue
            for path in dict.fromkeys((literal, self._resolve(literal, self._trusted_link))):
                if _is_device(path):
                    tree.add_path(path, PathRule("devices"))

    def _add_early_modules(self, tree: Tree, anchors: dict[str, str]) -> None:
        """What Python loads before the fence of the next run stands: none of it may come from a test."""
        what = "what Python loads before the fence of the next run"
        byte_code = self._rules.byte_code_dir
        for place in (*self._rules.environment, *([byte_code] if byte_code else ())):
            for form in self._forms(place):
                says = Rule(
                    "filesystem.allow_write",
                    reason=f"rules for directories around it end at {form}, which Python loads before the fence of the "
                    "next run",
                )
                tree.add_path(form, PathRule("stop", says, place=form, quiet=place == byte_code))
                anchors.update(dict.fromkeys((form, *_above(form)), what))
        for place, names in self._rules.early_names:
            says = Rule("", place, BUILT_IN, "Python looks for this name there before the fence of the next run")
            for form in self._forms(place):
                tree.add(paths.escape(form) + "/*", PathRule("taken", says, modules=frozenset(names)))
                anchors.update(dict.fromkeys((form, *_above(form)), what))

    def _forms(self, path: str) -> set[str]:
        """The path as it is written and, where links lie on the way, as the kernel shows it."""
        return {path, self._resolve(path, self._link)}

    def named(self) -> frozenset[str]:
        """Devices that `allow_write` names one by one."""
        literals = (paths.literal_of(entry.pattern or entry.text) for entry in self._rules.allow_write)
        return frozenset(path for path in literals if path is not None and path.startswith("/dev/"))

    def places(self) -> tuple[str, ...]:
        found = []
        for entry in self._rules.allow_write:
            pattern = entry.pattern or entry.text
            literal = paths.literal_of(pattern.removesuffix("/*") or "/")
            if literal is not None:
                found.append(self._resolve(literal, self._trusted_link))
        return tuple(dict.fromkeys(found))

    def above(self) -> dict[str, Rule]:
        """Directories that something allowed lies in, with the rule that says so.

        Where one is missing it may be made, and nothing else may be done to it: a fresh machine has no `~/.cache`.
        """
        found: dict[str, Rule] = {}
        for entry in self._rules.allow_write:
            pattern = entry.pattern or entry.text
            literal = paths.literal_of(pattern)
            fixed = literal if literal is not None else paths.split_fixed(pattern)[0]
            if not fixed or fixed.startswith(("/dev/", "/proc/")):
                continue
            says = Rule("filesystem.allow_write", entry.text, entry.source, "what it allows lies in there")
            for form in dict.fromkeys((fixed, self._resolve(fixed, self._trusted_link))):
                for place in (*_above(form), *(() if literal is not None else (form,))):
                    found.setdefault(place, says)
        return found

    def reads(self) -> Tree | None:
        if not self._rules.deny_read:
            return None
        tree = Tree()
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

    def ignored(self, key: str, entries: Iterable[Entry]) -> Tree:
        """Paths of which the policy says that it is known who writes there, or connects."""
        tree = Tree()
        for entry in entries:
            pattern = entry.pattern or entry.text
            rule = PathRule("deny", Rule(key, entry.text, entry.source), entry)
            literal = paths.literal_of(pattern)
            if literal is None:
                tree.add(pattern, rule)
            else:
                for path in self._forms(literal):
                    tree.add_path(path, rule)
        tree.seal()
        return tree

    def sockets(self, entries: Iterable[Entry]) -> Tree:
        tree = Tree()
        self._add_all(tree, "network.allow_unix_sockets", "allow", entries)
        tree.seal()
        return tree

    def _add_all(self, tree: Tree, key: str, kind: str, entries: Iterable[Entry]) -> None:
        link = self._trusted_link if kind == "allow" else self._link
        for entry in entries:
            pattern = entry.pattern or entry.text
            says = Rule(key, entry.text, entry.source)
            # Of `/a/*.log` the directory is resolved, of a pattern without globs all of it.
            literal = paths.literal_of(pattern)
            if literal is not None:
                resolved = self._resolve(literal, link)
                for path in dict.fromkeys((literal, resolved)):
                    tree.add_path(path, PathRule(kind, says, entry, place=path))
                if kind == "deny":
                    self.spoken_of.add(literal, resolved)
                continue
            fixed, rest = paths.split_fixed(pattern)
            resolved = self._resolve(fixed, link) if fixed else fixed
            tree.add(pattern, PathRule(kind, says, entry, place=fixed))
            if resolved != fixed:
                tree.add(paths.escape(resolved.rstrip("/")) + rest, PathRule(kind, says, entry, place=resolved))
            if kind == "deny":
                self.spoken_of.add_below(fixed, resolved)

    def _add_protected(self, tree: Tree, *, own_repositories: bool) -> None:
        for row in protected.PROTECTED:
            if row.unless == "filesystem.allow_git_config" and self._rules.allow_git_config:
                continue
            kind = "protect" if row.exempt_below_scratch else "protect-always"
            for name in row.names:
                if own_repositories and name.startswith(".git/"):
                    continue
                tree.add_name(name, PathRule(kind, Rule(row.unless, name, BUILT_IN, row.reason)))
        for name in protected.containers():
            tree.add_name(name, PathRule("container", Rule("", name, BUILT_IN, "it holds protected names")))

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
