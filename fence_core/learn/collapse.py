"""From the paths that a run has changed to the few that rules should name.

In this order, for each path: what lies in a directory for temporary files stands for that; what lies in a directory
that the run made, for the topmost such one; a name of the moment, which no second run has, for what it lies in. Then
four in one directory stand for it. Nothing ever stands for a directory that is too broad (`broad.py`): the path is kept
then, or a glob for the part that changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fence_core.policy import siblings
from fence_core.policy.remedy import fitting, pattern, scratch_around, shorten
from fence_core.policy.requests import UNNAMED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fence_core.learn.broad import Broad
    from fence_core.learn.model import Place
    from fence_core.policy.model import FilesystemRules

__all__ = ["SIBLINGS", "Changes", "Standing", "collapse"]

SIBLINGS = 4
"""So many names in one directory stand for it."""
_MAKING = frozenset({"open", "create", "mkdir", "mknod", "symlink", "link"})
_PASSING = frozenset({"rename", "unlink", "rmdir"})
_KEPT_MIN = 3
"""Letters and digits that a glob has to name, for it not to cover everything."""

MADE, MOMENT, MANY, TEMPORARY = "made by the run", "names of the moment", "many names", "temporary files"
GIT = "git's own files, without what it obeys"
"""Hooks and configuration are protected whatever rules say; the rest has names of the moment all over."""


class Standing(NamedTuple):
    """What a path is covered by."""

    text: str
    """As it is written in a config; empty where there is to be no rule."""
    why: str
    """Why it is wider than the path; empty where it is not."""


class Changes:
    """What was done to which path, in all runs together."""

    def __init__(self, runs: Iterable[Iterable[tuple[str, str]]]) -> None:
        """For each run, pairs of operation and path."""
        self.ops: dict[str, set[str]] = {}
        counted: dict[str, int] = {}
        given = list(runs)
        for run in given:
            here = set()
            for op, path in run:
                unnamed = path.endswith(f"/{UNNAMED}")
                path = path.removesuffix(f"/{UNNAMED}") if unnamed else path
                self.ops.setdefault(path, set()).add("unnamed" if unnamed else op)
                here.add(path)
            for path in here:
                counted[path] = counted.get(path, 0) + 1
        self._changing = frozenset(path for path, times in counted.items() if times < len(given))

    def touched(self) -> frozenset[str]:
        """The paths, and all directories above them."""
        found = set()
        for path in self.ops:
            while path and path not in found:
                found.add(path)
                path = path.rpartition("/")[0]
        return frozenset(found)

    def made_above(self, path: str) -> list[str]:
        """Directories that the run has made, of those above the path and itself; the topmost first."""
        parts = path.split("/")
        above = ("/".join(parts[:end]) for end in range(2, len(parts) + 1))
        return [each for each in above if "mkdir" in self.ops.get(each, ())]

    def is_passing(self, path: str, place: Place) -> bool:
        """Whether it was made and is gone, or was there in some of several runs only."""
        if path in self._changing:
            return True
        ops = self.ops.get(path, set())
        if ops.isdisjoint(_MAKING) or ops.isdisjoint(_PASSING):
            return False
        directory, _, name = path.rpartition("/")
        return name not in (place.names_in(directory) or ())


def collapse(changes: Changes, rules: FilesystemRules, broad: Broad, place: Place) -> Mapping[str, Standing]:
    """For each path what it is covered by."""
    found: dict[str, Standing] = {}
    kept: dict[str, tuple[str, str]] = {}
    for path in changes.ops:
        here, why = _stands_for(path, changes, rules, broad, place)
        if here is None:
            found[path] = Standing(why, MOMENT)  # a glob
        else:
            kept[path] = (here, why)
    _gather(kept, broad)
    for path, (here, why) in kept.items():
        # Whoever may make what lies below may make the directories above it. (Of `.git` all is given.)
        is_around = here == path and "mkdir" in changes.ops[path] and broad.covers(path)
        if is_around:
            found[path] = Standing("", "")
            continue
        found[path] = (
            Standing("", "") if broad.is_shared(here) and why != TEMPORARY else Standing(shorten(here, rules), why)
        )
    _by_suffix(found, kept, rules, broad)
    return found


def _stands_for(
    path: str, changes: Changes, rules: FilesystemRules, broad: Broad, place: Place
) -> tuple[str | None, str]:
    """The path that is to be named, and why it is a wider one; or None and a glob."""
    scratch = scratch_around(path, rules)
    if scratch and not any(given.startswith(f"{scratch}/") for given in (rules.root, rules.home)):
        return scratch, TEMPORARY
    git = path.find("/.git/") + len("/.git")
    if git >= len("/.git") and broad.is_in_project(path) and not broad.is_denied_in(path[:git]):
        return path[:git], GIT
    for made in changes.made_above(path):
        if not broad.covers(made) and _moving(made, made, rules) is None:
            return made, MADE if made != path else ""
    if "unnamed" in changes.ops[path]:
        return path, MOMENT
    found = _first_moving(path, changes, rules, place)
    if found is None:
        wider = _below_home(path, rules)
        return (wider, "") if wider != path and not broad.covers(wider) else (path, "")
    above, name, span = found
    if not broad.covers(above):
        return above, MOMENT
    is_last = f"{above}/{name}" == path
    glob = "" if span is None else _glob(above, name, span, rules)
    return (None, glob) if glob and is_last else (path, "")


def _first_moving(
    path: str, changes: Changes, rules: FilesystemRules, place: Place
) -> tuple[str, str, tuple[int, int] | None] | None:
    """The directory above the first name of the moment, that name, and which part of it changes, if that is known."""
    parts = path[1:].split("/")
    for number, part in enumerate(parts):
        here = "/" + "/".join(parts[: number + 1])
        span = _moving(here, path, rules)
        if span is not None:
            return here.rpartition("/")[0] or "/", part, span
        if here not in (rules.root, rules.home) and changes.is_passing(here, place):
            return here.rpartition("/")[0] or "/", part, None
    return None


def _moving(here: str, path: str, rules: FilesystemRules) -> tuple[int, int] | None:
    """Which part of the last name of `here` looks like one of the moment; None for what is given, such as the home."""
    for given in (rules.root, rules.home):
        if given and f"{given}/".startswith(f"{here}/") and f"{path}/".startswith(f"{given}/"):
            return None
    if here.startswith(("/proc/", "/dev/", "/run/user/")):
        return None
    return siblings.moving_part(here.rpartition("/")[2])


def _below_home(path: str, rules: FilesystemRules) -> str:
    """Below `~/.cache` and the like at most two levels: what lies deeper depends on versions and machines."""
    text = fitting(path, rules)
    if text == shorten(path, rules) or not text.startswith("~/"):
        return path
    depth = text.count("/")
    home = rules.home.rstrip("/")
    return "/".join([home, *path[len(home) + 1 :].split("/")[:depth]])


def _glob(above: str, name: str, span: tuple[int, int], rules: FilesystemRules) -> str:
    """A pattern for a name of which a part changes; empty if that would cover nearly everything."""
    head, tail = name[: span[0]], name[span[1] :]
    if sum(map(str.isalnum, head + tail)) < _KEPT_MIN:
        return ""
    return f"{shorten(f'{above}/x', rules)[:-1]}{pattern(head)}*{pattern(tail)}"


def _gather(kept: dict[str, tuple[str, str]], broad: Broad) -> None:
    """Four in one directory stand for it, from the bottom up."""
    while True:
        children: dict[str, set[str]] = {}
        for here, _ in kept.values():
            children.setdefault(here.rpartition("/")[0] or "/", set()).add(here)
        crowded = {
            above
            for above, names in children.items()
            if len(names) >= SIBLINGS and not above.startswith(("/dev", "/proc")) and not broad.covers(above)
        }
        crowded -= {
            each for each in crowded if any(each != other and each.startswith(f"{other}/") for other in crowded)
        }
        if not crowded:
            return
        for path, (here, _) in kept.items():
            for above in crowded:
                if here.startswith(f"{above}/"):
                    kept[path] = (above, MANY)
                    break


def _by_suffix(
    found: dict[str, Standing], kept: Mapping[str, tuple[str, str]], rules: FilesystemRules, broad: Broad
) -> None:
    """In a directory of the project that cannot be given as a whole, four files of a kind become a glob: `./*.o`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path, (here, _) in kept.items():
        above, _, name = here.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        if here == path and stem and dot and suffix and broad.is_in_project(here):
            groups.setdefault((above, suffix), []).append(path)
    for (above, suffix), paths in groups.items():
        if len(paths) >= SIBLINGS and len(suffix) < SIBLINGS * 2:
            text = f"{shorten(f'{above}/x', rules)[:-1] or './'}*.{pattern(suffix)}"
            for path in paths:
                found[path] = Standing(text, MANY)
