"""The ceiling: places where the kernel itself lets fenced processes write, whatever the broker says.

Landlock rules are laid on these before any code of a test runs (`launcher/child.py`). Facts and consequences:

* Below the ceiling's directories the kernel may carry out an allowed call itself: a path that is swapped after the
  verdict still leads nowhere outside. Elsewhere it refuses every write, so what the policy allows there (a marker, a
  glob, what did not exist at the start) is carried out by the broker.
* A rule binds an inode. A place that is missing at the start cannot have one, and a file that is replaced loses it.
* A rule on a file lets it be written, not renamed or removed: those are rights of its directory. A directory of devices
  (`/dev/pts`) has a rule for no more than that, either.
* Nobody inside can move or remove a directory that has a rule, unless a place around it has one too. The broker can,
  on behalf of a marker: then `forget` says that it is not the same any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

__all__ = ["DEVICES", "FILE", "TREE", "Ceiling", "existing"]

TREE, FILE, DEVICES = "dfo"
"""What a place is: a directory in which everything may be done; a file, or a directory of devices, to be written."""


def existing(places: Iterable[tuple[str, bool]]) -> list[tuple[str, str]]:
    """Those of the places that are there, with what each is; without what lies in a `TREE`.

    `places` as those of a `Judge`: with whether what is there may only be opened for writing. A place with a symbolic
    link in it is left out: the links that may be trusted have been followed already.
    """
    found: list[tuple[str, str]] = []
    trees: tuple[str, ...] = ()
    for place, only_open in sorted(places):
        if place.startswith(trees) or os.path.realpath(place) != place:
            continue
        try:
            mode = os.lstat(place).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) and only_open:
            found.append((place, DEVICES))
        elif stat.S_ISDIR(mode):
            trees += (place.rstrip("/") + "/",)
            found.append((place, TREE))
        elif stat.S_ISREG(mode) or stat.S_ISCHR(mode):
            found.append((place, FILE))
    return found


class Ceiling:
    """What the Landlock rules of the session cover. All of it where there are no such rules."""

    __slots__ = ("_devices", "_files", "_trees", "floor")

    def __init__(self, places: Iterable[tuple[str, str]] | None) -> None:
        """None: there is no floor below the broker, so nothing has to be carried out by it."""
        self.floor = places is not None
        """Whether there are such rules at all."""
        self._trees: tuple[str, ...] = ("",)
        self._devices: tuple[str, ...] = ()
        self._files: dict[str, tuple[int, int]] = {}
        if places is None:
            return
        given = list(places)
        self._trees = tuple(place.rstrip("/") + "/" for place, what in given if what == TREE)
        self._devices = tuple(place.rstrip("/") + "/" for place, what in given if what == DEVICES)
        for place, what in given:
            if what == FILE:
                status = os.lstat(place)
                self._files[place] = (status.st_dev, status.st_ino)

    def covers(self, path: str) -> bool:
        """Whether what lies at this path, resolved by the kernel, may be made, removed and written."""
        return path.startswith(self._trees)

    def covers_file(self, path: str, handle: int) -> bool:
        """Whether the existing file behind an O_PATH descriptor may be written."""
        if path.startswith(self._trees + self._devices):
            return True
        known = self._files.get(path)
        if known is None or handle < 0:
            return False
        status = os.fstat(handle)
        return (status.st_dev, status.st_ino) == known

    def places(self) -> list[tuple[str, str]]:
        """What has a rule that can be relied on, as `existing` gives it: the most that a narrower ceiling may cover."""
        found = [(tree.rstrip("/") or "/", TREE) for tree in self._trees]
        found += [(tree.rstrip("/") or "/", DEVICES) for tree in self._devices]
        return found + [(place, FILE) for place in self._files]

    def forget(self, path: str) -> None:
        """Something at or above a place was moved or removed by the broker: rely on its rule no longer."""
        below = path + "/"
        self._trees = tuple(tree for tree in self._trees if not tree.startswith(below))
        self._files = {place: what for place, what in self._files.items() if place != path}
