"""What to do instead of allowing a write, or to know before one is allowed: a sentence for the report.

A rule is not always the right answer. A fresh machine has no ``~/.cache``, and a rule for all of it would open much
more than was asked for; ``~/.gitconfig`` nothing may allow. There a variable, or a home of the test's own, helps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.policy.floor import RESOLVER_PORTS
from fence_core.policy.requests import UNNAMED, Connect, Write
from fence_core.policy.siblings import meant_by

if TYPE_CHECKING:
    from fence_core.policy.decision import Decision
    from fence_core.policy.model import FilesystemRules, Remedy
    from fence_core.policy.requests import Request

__all__ = ["hint", "is_shared_root"]

_SHARED_OF_HOME = {
    "": "HOME",
    ".cache": "XDG_CACHE_HOME",
    ".config": "XDG_CONFIG_HOME",
    ".local": "XDG_DATA_HOME or XDG_STATE_HOME",
    ".local/bin": "",
    ".local/lib": "",
    ".local/share": "XDG_DATA_HOME",
    ".local/state": "XDG_STATE_HOME",
    ".var": "",
    ".var/app": "",
}
"""Directories that many programs share, relative to the home directory, and the variable that moves each. Source: XDG
Base Directory Specification."""
_SHARED = frozenset({"/dev/shm", "/run/lock", "/run/user"}) | {
    f"/var/{name}" for name in ("cache", "lib", "lock", "log", "run", "spool")
}
_SHARED_TREES = ("/", "/usr", "/usr/local", "/usr/share")
"""Directories all of whose own directories are shared: `/etc`, `/usr/local/bin`."""
_OWN_VARIABLES = {
    ".cache/fontconfig": "XDG_CACHE_HOME",
    ".cache/huggingface": "HF_HOME",
    ".cache/matplotlib": "MPLCONFIGDIR",
    ".cache/numba": "NUMBA_CACHE_DIR",
    ".cache/pip": "PIP_CACHE_DIR",
    ".cache/pre-commit": "PRE_COMMIT_HOME",
    ".cache/torch": "TORCH_HOME",
    ".cache/uv": "UV_CACHE_DIR",
    ".cargo": "CARGO_HOME",
    ".config/matplotlib": "MPLCONFIGDIR",
    ".config/pip": "PIP_CONFIG_FILE",
    ".docker": "DOCKER_CONFIG",
    ".ipython": "IPYTHONDIR",
    ".jupyter": "JUPYTER_CONFIG_DIR",
    ".keras": "KERAS_HOME",
    ".matplotlib": "MPLCONFIGDIR",
    ".npm": "npm_config_cache",
    ".python_history": "PYTHON_HISTORY",
    ".triton": "TRITON_HOME",
    "nltk_data": "NLTK_DATA",
    "scikit_learn_data": "SCIKIT_LEARN_DATA",
}
"""Where well-known programs and libraries write, and how each is told of another place."""
_OF_THE_ROOTS = {
    ".cache": "matplotlib: MPLCONFIGDIR, numba: NUMBA_CACHE_DIR",
    ".config": "matplotlib: MPLCONFIGDIR",
}
_PROGRAMS = frozenset({"bin", "sbin", "shims"})


def is_shared_root(path: str, rules: FilesystemRules) -> bool:
    """Whether so many programs have something in this directory that a rule for it gives away more than was asked."""
    home = rules.home.rstrip("/")
    if path in _SHARED or path in ("/", home, rules.root.rstrip("/")):
        return True
    if home and path.startswith(home + "/"):
        return path[len(home) + 1 :] in _SHARED_OF_HOME
    above = path.rpartition("/")[0] or "/"
    return above in (*_SHARED_TREES, "/home", "/run/user")


def hint(request: Request, rules: FilesystemRules, decision: Decision, remedy: Remedy | None) -> str:
    """One sentence, or nothing. `remedy`: what is offered besides."""
    if isinstance(request, Connect) and request.port in RESOLVER_PORTS and decision.why == "unlisted":
        return "allow the names that are looked up, not the name server: --fence-mode=warn reports each of them"
    if not isinstance(request, Write) or decision.allowed:
        return ""
    path, home = request.path.removesuffix(UNNAMED).rstrip("/"), rules.home.rstrip("/")
    below_home = path[len(home) + 1 :] if home and path.startswith(home + "/") else ""
    if decision.why == "protected":
        return _of_protected(path, below_home, rules)
    if decision.why != "unlisted":
        return ""
    if remedy and isinstance(remedy.value, tuple) and any(_holds_programs(path, str(e), rules) for e in remedy.value):
        return "what lies there is run by you and by other programs, without a fence"
    for place, variable in _OWN_VARIABLES.items():
        if below_home == place or below_home.startswith(place + "/"):
            return f"point {variable} at a place of the tests' own"
    if remedy is None:
        if path == home or (below_home and below_home in _SHARED_OF_HOME):
            return _of_shared_root(below_home)
        if is_shared_root(path, rules):
            return "allow what is written below it, not all of it: the tests may then make missing directories above"
        return "the name is new in each run: let the caller say where the code writes, and pass tmp_path"
    return ""


def _of_shared_root(below_home: str) -> str:
    shown = f"~/{below_home}" if below_home else "~"
    variable = _SHARED_OF_HOME[below_home]
    text = f'allow only what is needed below it, such as "{shown}/NAME": the tests may then make {shown} as well'
    if not variable:
        return text
    known = _OF_THE_ROOTS.get(below_home)
    others = f" ({known})" if known else ""
    return f"{text}; or point {variable}{others} at a directory of the tests' own"


def _of_protected(path: str, below_home: str, rules: FilesystemRules) -> str:
    if not below_home or path.startswith(rules.root.rstrip("/") + "/"):
        return ""
    for each in (path, *meant_by(path)):
        if each.endswith("/.gitconfig") or "/.config/git/" in f"{each}/":
            return "point GIT_CONFIG_GLOBAL at a file of the test's own, or HOME at a directory of its own"
    return 'give the test a home directory of its own: monkeypatch.setenv("HOME", str(tmp_path))'


def _holds_programs(path: str, entry: str, rules: FilesystemRules) -> bool:
    """Whether programs lie in what an entry for this path opens, or it lies among them."""
    home = rules.home.rstrip("/")
    opened = home + entry[1:] if entry[:2] == "~/" else entry
    if not opened.startswith("/"):
        opened = f"{rules.root.rstrip('/')}/{opened}"
    if not _PROGRAMS.isdisjoint(path.split("/")[:-1]) or path.rpartition("/")[2] in _PROGRAMS:
        return True
    searched = [os.path.abspath(place) for place in os.environ.get("PATH", "").split(":") if place]
    return any(f"{place}/".startswith(opened.rstrip("/") + "/") or path.startswith(place + "/") for place in searched)
