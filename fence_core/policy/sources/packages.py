"""The packages of a monorepo: which directories the root's `packages` names, and what the configs there say.

What the tests of a package may do is what the root's config says with the package's on top of it, as a marker's is.
What is set for the run as a whole cannot be another thing for each of them: what narrows holds for all, and anything
else has to be what the run has. Imported where a config has `packages`.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fence_core.errors import PolicyError, Problem
from fence_core.policy.keys import EXTENDS, PACKAGES, SCOPE, of_section
from fence_core.policy.kinds import quote
from fence_core.policy.model import Package, Policy, Settings
from fence_core.policy.record import Record
from fence_core.policy.sources.files import find, is_ours, source_kind
from fence_core.policy.sources.lines import problem
from fence_core.policy.sources.merge import Overlay, merge, merge_settings
from fence_core.policy.sources.templates import preset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fence_core.policy.sources.files import Found as Config
    from fence_core.policy.sources.merge import Parsed
    from fence_core.policy.sources.templates import TemplateContext

__all__ = ["Found", "directories", "narrowed", "packages_of", "read_packages"]


class Found(Record):
    """A package, and what its config says."""

    directory: str
    path: Path
    overlays: tuple[Overlay, ...]
    """What it extends, and what it says itself, in the order of merging."""
    files: tuple[str, ...]
    """Absolute."""
    template: str
    """The preset that it names; empty if it names none."""


def read_packages(settings: Settings, base: Path, root: Path, parse: Callable[[Config], Parsed]) -> list[Found]:
    """The directories below `base` that `packages` names, as far as they hold a config; that of `root` is none.

    `parse` is what the root's config has been read with. Raises PolicyError with what is wrong in any of them.
    """
    found: list[Found] = []
    problems: list[Problem] = []
    for directory in _directories(settings, base, problems):
        try:
            config = find(Path(directory))
            if config is None or directory == os.path.abspath(root) or not is_ours(config):
                continue
            path, name, raw = config
            name = os.path.join(os.path.relpath(directory, root), name)
            each = Found(directory, path, *parse((path, name, raw)))
        except PolicyError as error:
            # Without its directory the name of a file could be that of any package.
            place = os.path.relpath(directory, root)
            problems += [
                each if each.source.startswith(place) else each._replace(source=os.path.join(place, each.source))
                for each in error.problems
            ]
            continue
        for overlay in each.overlays:
            if PACKAGES.path in overlay.values:
                at, instead = overlay.sources[PACKAGES.path], f"all of them in {_named_in(settings)}"
                problems.append(problem(at, PACKAGES.path, "is set in a package", instead))
        found.append(each)
    if problems:
        raise PolicyError(tuple(problems))
    return found


def _named_in(settings: Settings) -> str:
    """The config that names the packages."""
    return settings.packages[0].source.name


def directories(settings: Settings, base: Path) -> list[str]:
    """What `packages` names below `base`: absolute, each once, in the order of their names. Raises PolicyError."""
    problems: list[Problem] = []
    found = _directories(settings, base, problems)
    if problems:
        raise PolicyError(tuple(problems))
    return found


def _directories(settings: Settings, base: Path, problems: list[Problem]) -> list[str]:
    found: set[str] = set()
    for entry in settings.packages:
        pattern = entry.pattern or "."
        directories = [
            os.path.normpath(path)
            for path in glob.glob(os.path.join(glob.escape(os.path.abspath(base)), pattern), recursive=True)
            if os.path.isdir(path)
        ]
        if not directories:
            problems.append(
                problem(
                    entry.source,
                    PACKAGES.path,
                    f"{quote(entry.text)} names no directory in {base}",
                    "directories that are there",
                )
            )
        found.update(directories)
    return sorted(found)


def narrowed(settings: Settings, packages: Sequence[Found], context: TemplateContext) -> Settings:
    """The settings of the run, with what packages, and the presets that they extend, take away from all."""
    for package in packages:
        base = preset(package.template, context).settings if package.template else Settings()
        settings = _narrowed(settings, merge_settings(base, *package.overlays))
    return settings


def _narrowed(settings: Settings, package: Settings) -> Settings:
    changes: dict[str, Any] = {}
    sources = dict(settings.sources)
    for key in of_section(""):
        if not key.narrows:
            continue
        outer, own = getattr(settings, key.name), getattr(package, key.name)
        both = key.kind.merge(outer, own) if isinstance(own, tuple) else outer or own
        if both != outer:
            changes[key.name] = both
            written = {name: source for name, source in package.sources if f"{name} ".startswith(f"{key.name} ")}
            sources = {**written, **sources}
    return settings._replace(**changes, sources=tuple(sources.items())) if changes else settings


def packages_of(
    found: Sequence[Found],
    run: Settings,
    policy: Policy,
    *,
    context: TemplateContext,
    template: str,
    root: Sequence[Overlay],
    flags: Sequence[Overlay],
) -> tuple[Package, ...]:
    """What the tests of each package may do. Raises PolicyError where one wants what the `run` has not.

    `policy`: the root's. `template`: the preset that it extends, and packages that name none. `root`: what its config
    says. `flags`: what flags say, the last word on everything.
    """
    problems: list[Problem] = []
    packages = []
    for each in found:
        for overlay in each.overlays:
            problems += _at_odds(overlay, run, policy, flags)
        own = merge(preset(each.template or template, context).policy, *root, *each.overlays)
        own = merge(own, *flags)._replace(sources=own.sources)
        files = own.filesystem._replace(base=each.directory, locked=policy.filesystem.locked)
        scopes = [overlay.values[SCOPE.path] for overlay in each.overlays if SCOPE.path in overlay.values]
        said = scopes[-1] if scopes and not any(SCOPE.path in flag.values for flag in flags) else None
        packages.append(
            Package(each.directory, own._replace(filesystem=files), said or run.scope, source_kind(each.path))
        )
    if problems:
        raise PolicyError(tuple(problems))
    return tuple(packages)


def _at_odds(own: Overlay, run: Settings, policy: Policy, flags: Sequence[Overlay]) -> Iterator[Problem]:
    """What a package sets for the run as a whole that the run has not."""
    for section, rules in (("", run), ("network", policy.network), ("filesystem", policy.filesystem)):
        for key in of_section(section):
            if key.marker or key.foreign or key.narrows or key in (EXTENDS, PACKAGES) or key.path not in own.values:
                continue
            wanted, has = own.values[key.path], getattr(rules, key.name)
            if wanted == has or any(key.path in flag.values for flag in flags):
                continue
            if isinstance(wanted, tuple) and set(wanted) <= set(has):
                continue
            yield problem(
                own.sources[key.path],
                key.path,
                "is set for the run as a whole, which has several packages, and another value",
                f"the same in the configuration of the root{f', or {key.flag}' if key.flag else ''}",
            )
