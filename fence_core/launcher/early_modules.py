"""What Python loads before a fence stands, as far as a test could change it. Any process, before the fork.

Plugins, and what they import, run before the fence of their run; the supervisor and the filter never have one. A test
that could put a module in the way, or a start-up file into the environment, would run unfenced. So the places where
Python looks are recorded while it is still the user's: the environment as a whole, and in other directories on the
path (the project's, with ``python -m pytest``) the names that are found in a later one.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fence_core.policy.model import Config, FilesystemRules, Package, Policy

__all__ = ["protect_early_modules", "protect_packages", "trusted_path"]

_START_UP = ("sitecustomize", "usercustomize")
"""Imported by `site`, at the start of every Python, if they are anywhere on the path."""
_OURS = os.path.abspath(__file__).rsplit("/", 2)[0]
_HOMES_OF_ENVIRONMENTS = ("", ".tox", ".nox", ".venvs")
"""Directories of a project that virtual environments are made in."""


def protect_early_modules(policy: Policy) -> Policy:
    """The policy, with what this process has loaded so far out of the tests' reach; as it is if it says so already."""
    files = policy.filesystem
    if files.environment:
        return policy
    search = list(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
    others = _other_environments(files.root) if files.guards_environments else []
    environment = list(dict.fromkeys([*_environment(search), *others]))
    # With `python -m pytest` these come first: the next run may be started so.
    for place in (os.path.abspath("."), files.root) if files.guards_environments else ():
        if place and place not in search:
            search.insert(0, place)
    names = _names(search, environment)
    return policy._replace(
        filesystem=files._replace(
            environment=tuple(environment),
            early_names=tuple((place, tuple(sorted(found))) for place, found in names.items()),
            byte_code_dir=os.path.abspath(sys.pycache_prefix) if sys.pycache_prefix else "",
        )
    )


def protect_packages(config: Config, protected: Policy) -> tuple[Package, ...]:
    """The packages, with the same out of their tests' reach as out of the others'."""
    own = protected.filesystem

    def guarded(files: FilesystemRules) -> FilesystemRules:
        return files._replace(environment=own.environment, early_names=own.early_names, byte_code_dir=own.byte_code_dir)

    return tuple(
        each._replace(policy=each.policy._replace(filesystem=guarded(each.policy.filesystem)))
        for each in config.packages
    )


def trusted_path(environment: Iterable[str]) -> list[str]:
    """`sys.path` for a process without a fence: the environment, and where this package lies if that is elsewhere.

    Entries of the project would let a test choose what is imported from now on.
    """
    inside = tuple(f"{place}/" for place in environment)
    kept = [entry for entry in sys.path if entry and f"{os.path.abspath(entry)}/".startswith(inside)]
    own = os.path.dirname(_OURS)
    return kept if own in kept else [*kept, own]


def _names(search: list[str], environment: list[str]) -> dict[str, set[str]]:
    """Directories outside of the environment, and for each the names of modules that no test may put there.

    A name that ends in ``/`` is a namespace package's: what is in a directory of that name counts, whatever it is.
    """
    inside = tuple(f"{place}/" for place in environment)
    others = [place for place in search if not f"{place}/".startswith(inside)]
    links = _links(search)
    names: dict[str, set[str]] = {place: set(_START_UP) for place in others}
    found_in: dict[str, set[str]] = {}
    spaces: set[str] = set()
    top: set[str] = set()
    loaded: dict[str, object] = {**sys.modules}
    for name, module in loaded.items():
        is_top = "." not in name
        if is_top:
            top.add(name)
        origin = _origin(module)
        if not origin and is_top and isinstance(module, ModuleType) and "__path__" in module.__dict__:
            for path in map(os.path.abspath, module.__path__):
                if path.startswith(inside):
                    spaces.add(f"{name}/")
                else:
                    names.setdefault(path, set()).add("__init__")
        for file in _files(origin, inside, links):
            directory, _, base = file.rpartition("/")
            stem = base.partition(".")[0]
            for each in directory, f"{directory}/__pycache__":
                names.setdefault(each, set()).add(stem)
            if is_top:
                found_in.setdefault(os.path.dirname(directory) if stem == "__init__" else directory, set()).add(name)
    # Whatever is found in a later place would be found here first.
    later = top | spaces
    for place in reversed(search):
        if place in names:
            names[place] |= later - found_in.get(place, set())
        if place in found_in:
            later |= found_in[place]
        elif place.endswith(_PACKAGES):
            later |= {entry.partition(".")[0] for entry in _listed(place)}
        elif place == os.path.dirname(os.__file__):
            later |= sys.stdlib_module_names
    return names


_PACKAGES = ("/site-packages", "/dist-packages")


def _environment(search: list[str]) -> list[str]:
    """Where this Python and the packages installed for it lie, and the programs of its virtual environment."""
    site = sys.modules.get("site")
    found = [
        os.path.dirname(os.path.abspath(os.__file__)),
        os.path.join(sys.base_prefix, "lib"),
        # Archives too: whatever is no directory.
        *(place for place in search if place.endswith((*_PACKAGES, ".zip")) or os.path.isfile(place)),
        os.path.join(sys.prefix, "pyvenv.cfg"),
        # This package, wherever it lies: what the supervisor imports of it when it needs it is not to be a test's.
        _OURS,
    ]
    if sys.executable:
        found += [os.path.dirname(path) for path in (os.path.abspath(sys.executable), os.path.realpath(sys.executable))]
    if getattr(site, "ENABLE_USER_SITE", False):
        found.append(os.path.abspath(getattr(site, "USER_SITE", "")))
    return found


def _other_environments(root: str) -> list[str]:
    """The same of virtual environments that the project has besides, for other runs."""
    found = []
    for home in _HOMES_OF_ENVIRONMENTS if root else ():
        for name in _listed(os.path.join(root, home)):
            prefix = os.path.join(root, home, name)
            if os.path.lexists(f"{prefix}/pyvenv.cfg"):
                found += [f"{prefix}/pyvenv.cfg", f"{prefix}/bin"]
                for lib in "lib", "lib64":
                    found += [f"{prefix}/{lib}/{each}/site-packages" for each in _listed(f"{prefix}/{lib}")]
    return found


def _links(search: list[str]) -> dict[str, str]:
    """What is linked into the packages' directories, and where it lies: some installers do so with a project's tree."""
    found = {}
    for place in search:
        if place.endswith(_PACKAGES):
            try:
                with os.scandir(place) as entries:
                    found.update({entry.path: os.path.realpath(entry.path) for entry in entries if entry.is_symlink()})
            except OSError:
                continue
    return found


def _files(origin: str, inside: tuple[str, ...], links: dict[str, str]) -> set[str]:
    """The names of a module's file that lie outside of the environment."""
    if not origin:
        return set()
    if not origin.startswith(inside):
        return {name for name in (origin, os.path.realpath(origin)) if not name.startswith(inside)}
    for link, target in links.items():
        if origin == link or origin.startswith(f"{link}/"):
            return {target + origin[len(link) :]}
    return set()


def _origin(module: object) -> str:
    """The file that a module was loaded from; empty if there is none. Asks nothing that could run code."""
    origin = module.__dict__.get("__file__") if isinstance(module, ModuleType) else None
    if not isinstance(origin, str):
        return ""
    return origin if origin[:1] == "/" else os.path.abspath(origin)


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
