"""What a config builds on: other files, the user's own, and one of the named policies at the bottom.

Imported by `load.py` where `extends` says more than the name of a preset. Relative paths in all files of a chain count
from where those of the first one do, as they do in presets: "." in a file that several projects share is the project.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.config_files import OWN_FILES
from fence_core.errors import PolicyError, Problem
from fence_core.policy.keys import EXTENDS, spellings
from fence_core.policy.kinds import BASE, leads_to_file
from fence_core.policy.model import Source
from fence_core.policy.record import Record
from fence_core.policy.sources.files import PYTEST, Manner, read_explicit, source_kind
from fence_core.policy.sources.merge import Overlay
from fence_core.policy.sources.validate import parse_overlay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fence_core.policy.sources.files import Found

__all__ = ["Chain", "read_chain", "users_file"]

_FILES_MAX = 10


class Chain(Record):
    """What the files of a chain say."""

    overlays: tuple[Overlay, ...]
    """In the order of merging: the outermost first, the config itself last."""
    files: tuple[str, ...]
    """Absolute, the config itself first."""
    template: str
    """The named policy that they build on; empty if they name none."""


def read_chain(
    found: Found,
    *,
    base: str,
    home: str,
    manner: Manner = PYTEST,
    environ: Mapping[str, str] | None = None,
    only_settings: bool = False,
) -> Chain:
    """The config and all that it extends. `base`: what relative paths in them count from.

    Raises PolicyError with all that is wrong in any of them.
    """
    link = _Links(base, home, manner, os.environ if environ is None else environ)
    overlays: list[Overlay] = []
    problems: list[Problem] = []
    names: list[str] = []
    files: list[str] = []
    at: Found | None = found
    template = ""
    while at is not None:
        path, name, raw = at
        absolute = os.path.abspath(path)
        names.append(name)
        files.append(absolute)
        if only_settings:
            raw = {key: value for key, value in raw.items() if key in spellings("")}
        source = Source(name, absolute)
        flat = source_kind(path) != "json"
        at = None
        try:
            overlay = parse_overlay(raw, source=source, base_dir=base, flat=flat, settings=True, home=home)
            overlays.insert(0, overlay)
        except PolicyError as error:
            problems += error.problems
        value = raw.get(EXTENDS.path)
        if not leads_to_file(value):
            template = str(value or "")
            break
        where = source._replace(at=(EXTENDS.path,))
        try:
            at = link.follow(str(value), absolute)
        except PolicyError as error:
            # On whose account: the file that is extended may not be there.
            problems += [_blamed(each, where) for each in error.problems]
        if at is not None:
            problems += link.objections(at, where, names, files)
            if len(files) == _FILES_MAX or any(os.path.samefile(at[0], each) for each in files):
                at = None
    if problems:
        raise PolicyError(tuple(problems))
    return Chain(tuple(overlays), tuple(files), template)


def _blamed(each: Problem, where: Source) -> Problem:
    from fence_core.policy.sources.lines import located

    line = located(where).line
    said_by = f"{where.name}{'' if line is None else f', line {line}'}"
    return each._replace(found=f"{each.found} (it is extended by {said_by})")


class _Links:
    """Follows `extends`, in one chain."""

    def __init__(self, base: str, home: str, manner: Manner, environ: Mapping[str, str]) -> None:
        self._base = base
        self._home = home
        self._manner = manner
        self._environ = environ

    def follow(self, value: str, extender: str) -> Found | None:
        """The file that this means; None where the user has no own one. Raises PolicyError."""
        if value == BASE:
            return users_file(self._environ, self._home, self._manner)
        if value.startswith("~/"):
            value = f"{self._home}/{value[2:]}"
        path = os.path.normpath(os.path.join(os.path.dirname(extender), value))
        inside = path.startswith(self._base.rstrip("/") + "/")
        from pathlib import Path  # see `files.find`

        return read_explicit(Path(path), self._manner, os.path.relpath(path, self._base) if inside else path)

    def objections(self, at: Found, where: Source, names: list[str], files: list[str]) -> list[Problem]:
        """What is wrong with going on to this file."""
        from fence_core.policy.sources.lines import problem  # most configs extend no file

        again = next((place for place, each in enumerate(files) if os.path.samefile(at[0], each)), None)
        if again is not None:
            circle = " → ".join([*names[again:], at[1]])
            return [problem(where, EXTENDS.path, f"goes round in a circle: {circle}", "files that end with a template")]
        if len(files) == _FILES_MAX:
            chain = " → ".join([names[0], "...", names[-1], at[1]])
            return [problem(where, EXTENDS.path, f"makes a chain of more than {_FILES_MAX} files: {chain}", "fewer")]
        return []


def users_file(environ: Mapping[str, str], home: str, manner: Manner) -> Found | None:
    """The user's own config: below `XDG_CONFIG_HOME`, or where the Go tool used to have it.

    Raises PolicyError, also for two in one directory.
    """
    config = environ.get("XDG_CONFIG_HOME", "")
    if not config.startswith("/"):
        config = f"{home}/.config"
    for directory, prefix in ((f"{config}/fence", ""), (home, ".")):
        found = [f"{directory}/{prefix}{name}" for name in OWN_FILES if os.path.lexists(f"{directory}/{prefix}{name}")]
        if len(found) > 1:
            accepted = f"one of them; or name the one that counts with {manner.names_with}"
            listed = " and ".join(map(os.path.basename, found))
            raise PolicyError((Problem(directory, "", f"more than one config of the fence: {listed}", accepted),))
        if found:
            from pathlib import Path

            path = found[0]
            name = f"~/{path[len(home) + 1 :]}" if path.startswith(f"{home.rstrip('/')}/") else path
            return read_explicit(Path(path), manner._replace(checks=True), name)
    return None
