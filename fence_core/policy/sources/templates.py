"""The named policies that configs build on: presets to users of pytest, templates to those of the command.

They are data, in `templates/*.json`, in the syntax of any other policy. What differs from machine to machine stands
there as `{root}`, `{temp}`, `{cache}` and `{report}`, filled in from a `TemplateContext`; an item whose placeholder has
several values becomes several items. One may extend another, and say as well how to run (`env_deny`).
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from fence_core.errors import PolicyError, Problem
from fence_core.policy import paths
from fence_core.policy.keys import EXTENDS, PRESETS, of_section
from fence_core.policy.kinds import PATHS
from fence_core.policy.model import FilesystemRules, Policy, Settings, Source
from fence_core.policy.protected import config_names
from fence_core.policy.record import Record
from fence_core.policy.sources.merge import merge, merge_settings
from fence_core.policy.sources.validate import parse_overlay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Preset", "TemplateContext", "below", "preset", "read"]

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


class TemplateContext(Record):
    """What a template has to know of the run. All paths are absolute."""

    root: str
    """The project's root directory, pytest's rootdir."""
    temp_dirs: tuple[str, ...]
    """Directories for temporary files. Protected names are free below them, so a `--basetemp` belongs here."""
    home: str
    cache_dir: str
    """pytest's `cache_dir`."""
    extra_write: tuple[str, ...] = ()
    """Files and directories that this run was asked to write: reports named on the command line."""
    word: str = "preset"
    """What the user of this program calls a named policy."""

    @classmethod
    def of_run(cls, root: str | os.PathLike[str], *, cache_dir: str = "", extra_write: Iterable[str] = (),
               extra_temp_dirs: Iterable[str] = ()) -> TemplateContext:  # fmt: skip
        """What holds for this process and this root directory."""
        here = os.path.abspath(root)
        temp = [os.path.abspath(path) for path in ("/tmp", "/var/tmp", *_chosen_temp_dirs(), *extra_temp_dirs)]
        if here not in ("/tmp", "/var/tmp"):
            # Where nothing else is writable, Python takes the working directory: that is still the project.
            temp = [path for path in temp if path != here]
        temp += [os.path.realpath(path) for path in temp]
        return cls(
            root=here,
            temp_dirs=tuple(dict.fromkeys(temp)),
            home=os.path.expanduser("~"),
            cache_dir=os.path.join(here, cache_dir or ".pytest_cache"),
            extra_write=tuple(place for path in extra_write for place in _to_make(os.path.join(here, path))),
        )


def _to_make(path: str) -> Iterator[str]:
    """The path, and of the directories that have to be made to get there the outermost one."""
    yield path
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        while not os.path.isdir(os.path.dirname(directory)):
            directory = os.path.dirname(directory)
        yield directory


def _chosen_temp_dirs() -> list[str]:
    """What `tempfile` will take, without asking it: it would keep the answer, and a conftest may yet set TMPDIR."""
    chosen = getattr(sys.modules.get("tempfile"), "tempdir", None)
    if chosen:
        return [os.fsdecode(chosen)]
    named = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    return [path for path in named if path and os.path.isdir(path)]


class Preset(Record):
    """What one template says: the policy, and how to run."""

    policy: Policy
    settings: Settings


def preset(name: str, context: TemplateContext) -> Preset:
    """The policy of this name and its settings, for this run. Raises PolicyError for an unknown name."""
    raw = read(name)
    filesystem = raw.get("filesystem", {})
    for key in of_section("filesystem"):
        if key.kind is PATHS and key.camel in filesystem:
            filesystem[key.camel] = [item for text in filesystem[key.camel] for item in _fill(text, context)]
    called = Source(f"{context.word} {name}")
    overlay = parse_overlay(
        raw,
        source=called,
        base_dir=context.root,
        flat=False,
        settings=True,
        home=context.home,
    )
    if EXTENDS.path in overlay.values:
        below = preset(overlay.values[EXTENDS.path], context)
        return Preset(merge(below.policy, overlay), merge_settings(below.settings, overlay))
    # The files of tomorrow's policy are locked whether they are there or not: making one is as good as changing one.
    base = FilesystemRules(
        root=context.root,
        home=context.home,
        scratch=(*context.temp_dirs, "/dev/shm"),
        locked=tuple(os.path.join(context.root, each) for each in config_names()),
    )
    return Preset(merge(Policy(filesystem=base), overlay), merge_settings(Settings(), overlay))


def read(name: str) -> dict[str, Any]:
    """What the template of this name says. Raises PolicyError for an unknown name."""
    if name not in PRESETS:
        known = ", ".join(f'"{each}"' for each in PRESETS)
        raise PolicyError((Problem("the fence", EXTENDS.path, f'"{name}" is not a template', known),))
    with open(os.path.join(_DIRECTORY, f"{name}.json"), encoding="utf-8") as file:
        raw: dict[str, Any] = json.load(file)
    return raw


def below(name: str) -> tuple[str, ...]:
    """The names of this template and of those that it builds on, itself first."""
    names = []
    while name:
        names.append(name)
        name = str(read(name).get(EXTENDS.path, ""))
    return tuple(names)


def _fill(text: str, context: TemplateContext) -> list[str]:
    """The items that one line of a template stands for."""
    values = {
        "{root}": (context.root,),
        "{temp}": context.temp_dirs,
        "{cache}": (context.cache_dir,),
        "{report}": context.extra_write,
    }
    for placeholder, places in values.items():
        if text.startswith(placeholder):
            rest = text[len(placeholder) :]
            return [paths.escape(place.rstrip("/") or "/") + rest for place in places]
    return [text]
