"""The policy of a command: which file says it, and what that file extends. For pytest's see `load.py`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from fence_core.errors import PolicyError, Problem
from fence_core.policy.keys import PRESETS
from fence_core.policy.model import Config, Source
from fence_core.policy.record import Record
from fence_core.policy.sources.chain import Chain, read_chain, users_file
from fence_core.policy.sources.files import Manner, find, read_explicit
from fence_core.policy.sources.merge import Overlay, merge, merge_settings
from fence_core.policy.sources.templates import TemplateContext, below, preset
from fence_core.policy.sources.validate import parse_overlay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from fence_core.policy.sources.files import Found

    How = Literal["settings", "template", "project", "user", "default"]

__all__ = ["DEFAULT", "DEFAULTS", "NO_PROJECT", "Discovered", "discover"]

DEFAULT = "command"
"""The template of those who have no policy, and of files that name none."""
NO_PROJECT = "FENCE_NO_PROJECT_CONFIG"
"""The variable with which no project is asked; anything but empty or 0."""

DEFAULTS = Source("the defaults")
"""Where the rules stand that nobody has written."""
_COMMANDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "default_commands.json")
_NAMED = Manner("-s FILE", otherwise=".jsonc")
_FOUND = Manner("-s FILE", checks=True)


class Discovered(Record):
    """A policy, and how it was come by."""

    config: Config
    how: How
    """By `-s`, by `-t`, as the file of a project or of the user; or there is none."""
    chain: tuple[str, ...]
    """What it is made of, the closest first: files by their absolute paths, then `template NAME`."""


def discover(
    cwd: str,
    *,
    settings: str = "",
    template: str = "",
    project: bool = True,
    environ: Mapping[str, str] | None = None,
    flags: Iterable[tuple[str, Mapping[str, object]]] = (),
    locked: Iterable[str] = (),
) -> Discovered:
    """The policy for a command that is started in `cwd`, which is absolute.

    It is that of the file `settings`; of the `template`; of the nearest config from `cwd` upward, unless not `project`;
    of the user's own file; or the template `command`. Relative paths in a project's config count from its directory;
    everything else is meant from `cwd`. `flags`: what they say, each with its name. `locked`: further files that the
    command may not change. Raises PolicyError with all that is wrong.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("HOME", "") or os.path.expanduser("~")
    how, found = _choose(cwd, settings, template, project, environ, home)
    root = os.path.dirname(os.path.abspath(found[0])) if found is not None and how == "project" else cwd
    context = TemplateContext.of_run(root)._replace(home=home, word="template")
    said = Chain((), (), template)
    if found is not None:
        manner = _FOUND if how == "project" else _NAMED
        said = read_chain(found, base=root, home=home, manner=manner, environ=environ)
    name = said.template or DEFAULT
    base = preset(name, context)
    more = [parse_overlay(raw, source=Source(flag), base_dir=cwd, settings=True, home=home) for flag, raw in flags]
    policy = merge(base.policy, *said.overlays, *more)
    if policy.command.use_defaults:
        policy = merge(policy, _default_commands())._replace(sources=policy.sources)
    files = policy.filesystem
    policy = policy._replace(
        filesystem=files._replace(
            locked=tuple(dict.fromkeys((*files.locked, *said.files, *locked))),
            # Of virtual environments only that of fence itself matters: nobody runs others unfenced without asking.
            guards_environments=False,
        )
    )
    named = found[1] if found is not None else f"template {name}"
    config = Config(
        policy, merge_settings(base.settings, *said.overlays, *more), named, None if found is None else found[0]
    )
    return Discovered(config, how, (*said.files, *(f"template {each}" for each in below(name))))


def _default_commands() -> Overlay:
    """What no command may start, unless `use_defaults` is false: programs that are about the machine as a whole."""
    with open(_COMMANDS, encoding="utf-8") as file:
        raw = json.load(file)
    return parse_overlay(raw, source=DEFAULTS, base_dir="/", flat=False, home="/")


def _choose(
    cwd: str, settings: str, template: str, project: bool, environ: Mapping[str, str], home: str
) -> tuple[How, Found | None]:
    """Which file it is, and how it was come by. Raises PolicyError."""
    if settings and template:
        accepted = f'one of them; a file names its template itself: "extends": "{template}"'
        raise PolicyError((Problem("-s and -t", "", "are both given", accepted),))
    if settings:
        from pathlib import Path  # see `files.find`

        return "settings", read_explicit(Path(os.path.join(cwd, settings)), _NAMED, settings)
    if template:
        if template not in PRESETS:
            raise PolicyError((Problem("-t", "", f'"{template}" is not a template', ", ".join(PRESETS)),))
        return "template", None
    if project and environ.get(NO_PROJECT, "") in ("", "0"):
        found = _nearest(cwd, home)
        if found is not None:
            return "project", found
    found = users_file(environ, home, _FOUND)
    return ("default", None) if found is None else ("user", found)


def _nearest(cwd: str, home: str) -> Found | None:
    """The config of `cwd`, or of the closest directory above it that has one.

    Not above the home directory, and not in another file system: what is mounted belongs to somebody else than what it
    is mounted in.
    """
    directory, device, last = cwd, os.stat(cwd).st_dev, (home, os.path.realpath(home), "/")
    while os.stat(directory).st_dev == device:
        found = find(directory, _FOUND)
        if found is not None:
            path, name, raw = found
            return path, str(path) if name == path.name else f"{path} [tool.fence]", raw
        if directory in last:
            return None
        directory = os.path.dirname(directory)
    return None
