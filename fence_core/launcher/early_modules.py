"""What Python loads before a fence stands, as far as a test could change it. Any process, before the fork.

Plugins, and what they import, run before the fence of their run. A test that could put a module in the way, or a
start-up file into the environment, would run unfenced tomorrow. So the places where Python looks are recorded while
it is still the user's: the environment as a whole, and in other directories on the path (the project's, with
``python -m pytest``) the names that Python has looked for.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.policy.model import Policy

__all__ = ["protect_early_modules"]

_START_UP = ("sitecustomize", "usercustomize")
"""Imported by `site`, at the start of every Python, if they are anywhere on the path."""


def protect_early_modules(policy: Policy) -> Policy:
    """The policy, with what this process has loaded so far out of the tests' reach; as it is if it says so already."""
    if policy.filesystem.environment:
        return policy
    search = list(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
    environment = _environment(search)
    inside = tuple(f"{place}/" for place in environment)
    others = [place for place in search if place not in environment and not f"{place}/".startswith(inside)]
    top = {name for name in sys.modules if "." not in name}
    names = {place: set(_START_UP) for place in others}
    found_in: dict[str, set[str]] = {}
    loaded: dict[str, object] = {**sys.modules}
    for name, module in loaded.items():
        origin = _origin(module)
        if origin and not origin.startswith(inside):
            directory, _, file = origin.rpartition("/")
            stem = file.partition(".")[0]
            for each in directory, f"{directory}/__pycache__":
                names.setdefault(each, set()).add(stem)
            if name in top:
                found_in.setdefault(os.path.dirname(directory) if stem == "__init__" else directory, set()).add(name)
        elif not origin and name in top and isinstance(module, ModuleType) and "__path__" in module.__dict__:
            # Its directories hold what is not loaded, too.
            for path in module.__path__:
                found_in.setdefault(os.path.dirname(os.path.abspath(path)), set()).add(name)
    # Only what comes earlier on the path than the environment is looked at first.
    first = next((number for number, place in enumerate(search) if place in environment), len(search))
    for place in search[:first]:
        names[place] |= top - found_in.get(place, set())
    files = policy.filesystem
    return policy._replace(
        filesystem=files._replace(
            environment=tuple(environment),
            early_modules=tuple(sorted(top)),
            early_names=tuple((place, tuple(sorted(found))) for place, found in names.items()),
        )
    )


def _environment(search: list[str]) -> list[str]:
    """Where this Python and the packages installed for it lie, and the programs of its virtual environment."""
    site = sys.modules.get("site")
    found = [
        os.path.dirname(os.path.abspath(os.__file__)),
        *(place for place in search if place.endswith(("/site-packages", "/dist-packages", ".zip"))),
        os.path.join(sys.prefix, "pyvenv.cfg"),
    ]
    if sys.executable:
        found.append(os.path.dirname(os.path.abspath(sys.executable)))
    if getattr(site, "ENABLE_USER_SITE", False):
        found.append(os.path.abspath(getattr(site, "USER_SITE", "")))
    return list(dict.fromkeys(found))


def _origin(module: object) -> str:
    """The file that a module was loaded from; empty if there is none. Asks nothing that could run code."""
    origin = module.__dict__.get("__file__") if isinstance(module, ModuleType) else None
    if not isinstance(origin, str):
        return ""
    return origin if origin[:1] == "/" else os.path.abspath(origin)
