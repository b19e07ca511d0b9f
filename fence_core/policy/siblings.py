"""Names that stand beside another one: locks, backups, what is written first and moved into place, SQLite's journals.

Whoever makes ``~/.gitconfig.lock`` means ``~/.gitconfig``: a rule for the one without the other helps nobody, and the
report should speak of the one that is meant.
"""

from __future__ import annotations

import re

__all__ = ["companions", "meant_by", "moving_part", "surely_beside"]

_SURE = r"\.lock | ~ | \.tmp | \.temp | \.part | \.sw[a-z] | (?<=[a-z0-9])-(?:journal|wal|shm)"
"""With SQLite's, of which https://www.sqlite.org/tempfiles.html tells."""
_BESIDE = re.compile(
    rf"""
    (?:{_SURE} | \.new | \.bak | \.orig
      | [._-](?:tmp|temp)[._-]?[A-Za-z0-9_]+
      | [._-](?=\w{{0,5}}[A-Z0-9])[A-Za-z0-9]{{6}} | [._-](?=\w{{0,7}}\d)[a-z0-9_]{{8}}   # mkstemp(3); tempfile
      | \.\d{{2,7}} | [._-][0-9a-f]{{12,}}                   # a process id; a hash
    )+\Z
    """,
    re.VERBOSE,
)
_SURELY = re.compile(rf"(?:{_SURE})\Z", re.VERBOSE)
_HIDDEN = (".#", "#", ".")
"""How editors begin the name of a lock or a copy: `.#x`, `#x#`, `.x.swp`."""

_MOVING = re.compile(
    r"""
      \d{4}-\d\d-\d\d.*                                     # a day, and what follows
    | \d{6,} | [0-9a-fA-F]{12,}
    | [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]*
    | (?<=tmp)[-_.]?[A-Za-z0-9_]{6,} | (?<=temp)[-_.]?[A-Za-z0-9_]{6,}
    | (?<=^~)[A-Za-z0-9_]{6,}
    | \b(?=[a-z0-9_]{0,7}\d[a-z_])(?=[a-z0-9_]{0,7}[a-z])[a-z0-9_]{8}\b   # tempfile's own: letters and digits, mixed
    | (?<=[.-])\d{4,5}\Z                                    # a process id
    """,
    re.VERBOSE | re.DOTALL,
)
_DATABASES = (".db", ".sqlite", ".sqlite3", ".db3", ".sqlite-db")


def meant_by(path: str) -> list[str]:
    """Paths that this one may be a lock, a copy or a stage of, closest first; none for most names."""
    directory, slash, name = path.rpartition("/")
    names = []
    beside = _BESIDE.search(name)
    if beside is not None and beside.start():
        names.append(name[: beside.start()])
    if names or name.startswith((".#", "#")):
        for start in _HIDDEN:
            for each in (*names, name):
                stripped = each.removeprefix(start).removesuffix("#" if start == "#" else "")
                if stripped and stripped not in (each, *names):
                    names.append(stripped)
    # Several endings, taken one at a time: `.gitconfig.lock.4711` is what `.gitconfig.lock` stands for.
    return [f"{directory}{slash}{each}" for each in names]


def surely_beside(path: str) -> str:
    """The path that this one surely is a lock, a copy or a journal of; empty for most."""
    directory, slash, name = path.rpartition("/")
    found = _SURELY.search(name)
    return f"{directory}{slash}{name[: found.start()]}" if found is not None and found.start() else ""


def moving_part(name: str) -> tuple[int, int] | None:
    """Where a name has what no second run has (a time, a number, what mkstemp made up); None if it has nothing such."""
    found = _MOVING.search(name)
    return None if found is None or not found[0] else found.span()


def companions(name: str) -> str:
    """The end of a pattern for what a program writes beside a file of this name; empty if that is nothing we know."""
    return "-*" if name.endswith(_DATABASES) else ""
