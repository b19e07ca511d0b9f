"""What a fenced Python reads and writes before it has run anything of the user's: no rule may take it away.

Run by the process that starts a session, before the fork: what it has loaded itself, a worker or any other Python that
starts inside has to load again.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from fence_core.errors import PolicyError
from fence_core.launcher.withhold import taken
from fence_core.policy.needed import Needed, over_needs
from fence_core.policy.variables import matcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.policy.model import Config, Settings

__all__ = ["Kept", "check_needed"]

_NULL = "the null device"
_PROBE = "a"
"""Some name in the directory for temporary files."""


class Kept(NamedTuple):
    """Variables that this run must not do without."""

    names: frozenset[str]
    why: str


def check_needed(
    config: Config, places: Iterable[tuple[str, str]], *, captures: bool, kept: Kept | None = None
) -> None:
    """Raises PolicyError for every rule that covers what this run needs.

    `places`: pairs of what it is and a path, which are read as well. `captures`: what the tests print is kept in a file
    for temporary use. `kept`: variables that must stay. An audit refuses nothing, so nothing is checked.
    """
    if config.settings.mode in ("audit", "learn"):
        return
    needed = _written(config.settings, captures=captures)
    if config.denies_reading():
        needed = chain(needed, _read(places))
    found = list(needed)
    problems = over_needs(config.policy, found, config.source)
    for package in config.packages:
        problems += over_needs(package.policy, found, package.policy.sources[-1].name)
    problems = list(dict.fromkeys(problems))  # the root's rules are every package's
    if kept is not None:
        problems += taken(config.settings, kept.names.__contains__, kept.why)
    if problems:
        raise PolicyError(tuple(problems))


def _written(settings: Settings, *, captures: bool) -> Iterator[Needed]:
    yield Needed(_NULL, os.devnull, write=True)
    directory = _temporary(settings) if captures else ""
    if directory:
        instead = "TMPDIR=DIR with a directory that may be written"
        yield Needed("the directory for temporary files", f"{directory}/{_PROBE}", directory, True, instead)


def _temporary(settings: Settings) -> str:
    """The directory that `tempfile` will try first, with the variables that are left; empty if there is none."""
    withheld: Callable[[str], bool] = matcher(settings.env_deny)
    chosen = [getattr(sys.modules.get("tempfile"), "tempdir", None)]
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP") if not withheld(name)]
    for path in (*chosen, *named, "/tmp", "/var/tmp", "/usr/tmp"):
        if path and os.access(path, os.W_OK | os.X_OK):
            return os.path.realpath(os.fsdecode(path))
    return ""


def _read(places: Iterable[tuple[str, str]]) -> Iterator[Needed]:
    for what, path in ((_NULL, os.devnull), ("Python itself", sys.executable), *places):
        yield Needed(what, os.path.realpath(path))
    library = os.path.realpath(os.path.dirname(os.__file__)) + os.sep
    for path in _Resolved(_loaded()):
        own = path.startswith(library) and "-packages/" not in path
        yield Needed("Python's own modules" if own else "modules of this run", path)
    for path in _mapped(library):
        yield Needed("shared libraries of Python", path)


def _loaded() -> Iterator[str]:
    """Source and byte code of all modules of this process, as far as there are such files."""
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and getattr(spec, "has_location", False):
            for path in (spec.origin, spec.cached):
                if isinstance(path, str) and path.startswith("/"):
                    yield path


class _Resolved:
    """Paths of files that exist, without their symbolic links. Each directory is looked at once: with `realpath` this
    took most of the time of the whole check."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = paths
        self._directories: dict[str, str] = {"": ""}

    def __iter__(self) -> Iterator[str]:
        for path in dict.fromkeys(self._paths):
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue  # byte code need not be there
            if stat.S_ISLNK(mode):
                yield os.path.realpath(path)
            else:
                directory, _, name = path.rpartition("/")
                yield f"{self._resolve(directory)}/{name}"

    def _resolve(self, directory: str) -> str:
        known = self._directories.get(directory)
        if known is None:
            above, _, name = directory.rpartition("/")
            plain = name not in ("", ".", "..") and not os.path.islink(directory)
            known = f"{self._resolve(above)}/{name}" if plain else os.path.realpath(directory)
            self._directories[directory] = known
        return known


def _mapped(library: str) -> Iterator[str]:
    """Files whose code this process runs, but for its modules: proc_pid_maps(5), whose last field is the path."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        lines = [line.rstrip("\n").split(None, 5) for line in maps]
    files = dict.fromkeys(line[5] for line in lines if len(line) == 6 and "x" in line[1] and line[5].startswith("/"))
    return (path for path in files if not path.startswith(library) and not path.endswith(" (deleted)"))
