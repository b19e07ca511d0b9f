"""The config of a project: what its file says, on top of a preset, and below what this run adds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fence_core.config_files import OWN_FILES, PYPROJECT
from fence_core.policy.keys import ENABLED, EXTENDS, spellings
from fence_core.policy.kinds import leads_to_file
from fence_core.policy.model import Config, Package, Settings, Source
from fence_core.policy.sources.files import find, is_ours, read_explicit, source_kind
from fence_core.policy.sources.merge import merge, merge_settings
from fence_core.policy.sources.templates import TemplateContext, preset
from fence_core.policy.sources.validate import parse_overlay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fence_core.policy.sources.files import Found
    from fence_core.policy.sources.merge import Overlay, Parsed

__all__ = ["config_in", "find_config", "find_raw", "find_settings"]


def find_config(
    root: Path,
    explicit: Path | None = None,
    *,
    default_template: str = "pytest",
    context: TemplateContext | None = None,
    overlays: Iterable[tuple[str, Mapping[str, object]]] = (),
    locked: Iterable[str] = (),
    found: Found | None = None,
    looks: bool = True,
) -> Config:
    """The config of the project in `root`, or of the file `explicit`, with what this run adds to it; unless it `looks`,
    the one that was `found`.

    A config without `extends`, and a project without a config, get the template `default_template`. `context` is what
    the templates have to know of this run; without it, what holds for this process. `overlays`: what flags say, each
    with its name. `locked`: files that the next run would take its options from.

    Raises PolicyError for a file that cannot be read or parsed, for more than one config, and for all problems in it.
    """
    if context is None:
        context = TemplateContext.of_run(root)
    found = find_raw(root, explicit) if looks else found
    path, source, locked = None, f"preset {default_template}", list(locked)
    said: tuple[Overlay, ...] = ()
    if found is not None:
        path, source, _ = found
        said, read, template = _parse(found, context.home)
        locked[:0] = read
        default_template = template or default_template
    base = preset(default_template, context)
    flags = [
        parse_overlay(raw, source=Source(name), base_dir=root, settings=True, home=context.home)
        for name, raw in overlays
    ]
    settings = merge_settings(base.settings, *said)
    found_packages = []
    if settings.packages and path is not None:
        from fence_core.policy.sources.packages import narrowed, packages_of, read_packages  # most projects have none

        found_packages = read_packages(settings, path.parent.absolute(), root, lambda it: _parse(it, context.home))
        locked += [file for each in found_packages for file in each.files]
        settings = narrowed(settings, found_packages, context)
    policy = merge(base.policy, *said)
    # Flags hold no rules, so no refusal is to name them as where one was looked for; each entry knows its own source.
    policy = merge(policy, *flags)._replace(sources=policy.sources)
    # Out of the tests' reach, wherever they lie.
    files = policy.filesystem
    files = files._replace(
        base="" if path is None else str(path.parent.absolute()),
        locked=tuple(dict.fromkeys((*files.locked, *locked))),
    )
    policy, settings = policy._replace(filesystem=files), merge_settings(settings, *flags)
    packages: tuple[Package, ...] = ()
    if found_packages:
        packages = packages_of(
            found_packages, settings, policy, context=context, template=default_template, root=said, flags=flags
        )
    return Config(policy, settings, source, path, packages)


def _parse(found: Found, home: str) -> Parsed:
    """A config of a project's, and what it extends. Relative paths count from its directory. Raises PolicyError."""
    path, name, raw = found
    base, absolute = path.parent.absolute(), os.path.abspath(path)
    if leads_to_file(raw.get(EXTENDS.path)):
        from fence_core.policy.sources.chain import read_chain  # most configs extend a preset at most

        chain = read_chain(found, base=str(base), home=home)
        return chain.overlays, chain.files, chain.template
    source, flat = Source(name, absolute), source_kind(path) != "json"
    own = parse_overlay(raw, source=source, base_dir=base, flat=flat, settings=True, home=home)
    return (own,), (absolute,), own.values.get(EXTENDS.path, "")


def find_raw(root: Path, explicit: Path | None = None) -> Found | None:
    """The config itself: its path, its name, what it says. Raises PolicyError."""
    return find(root) if explicit is None else read_explicit(explicit)


def find_settings(root: Path, explicit: Path | None = None) -> list[Settings]:
    """How to run, of the config of the project and of those of its packages, for where no policy can be kept.

    Nothing else is read: what a path means depends on the system. Raises PolicyError.
    """
    found = find_raw(root, explicit)
    if found is None:
        return []
    settings = [_settings(found)]
    if settings[0].packages:
        from fence_core.policy.sources.packages import directories  # most projects have none

        configs = map(find, map(Path, directories(settings[0], found[0].parent)))
        settings += [_settings(each) for each in configs if each is not None and is_ours(each)]
    return settings


def _settings(found: Found) -> Settings:
    path, name, raw = found
    if leads_to_file(raw.get(EXTENDS.path)):
        from fence_core.policy.sources.chain import read_chain

        chain = read_chain(found, base=str(path.parent), home=os.path.expanduser("~"), only_settings=True)
        return merge_settings(Settings(), *chain.overlays)
    said = {key: value for key, value in raw.items() if key in spellings("")}
    source = Source(name, os.path.abspath(path))
    return merge_settings(Settings(), parse_overlay(said, source=source, base_dir=path.parent, settings=True))


def config_in(directory: str) -> tuple[Path, str, bool] | None:
    """The config that this directory would have as a root: its file, its name, whether it switches the fence on.

    Five lstat calls where there is none. A `fence.json` that holds none of our keys is another program's. Raises
    PolicyError as `find_config` does, but for a policy that is wrong: that one is not read.
    """
    if not any(os.path.lexists(f"{directory}/{name}") for name in (*OWN_FILES, PYPROJECT)):
        return None
    found = find(Path(directory))
    if found is None:
        return None
    if not is_ours(found):
        return None
    path, source, raw = found
    enabled = raw.get(ENABLED.name)
    if enabled is None and leads_to_file(raw.get(EXTENDS.path)):
        enabled = _settings(found).enabled
    return path, source, enabled is True
