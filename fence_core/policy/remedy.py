"""The smallest change that would allow what was refused, as data: `report/words.py` writes it for pasting.

Only what no rule lists has one. Where a deny rule or a protected target decided, the decision itself names what would
have to go, and proposing that by machine would make the rule worthless.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fence_core.policy import domains, siblings
from fence_core.policy.decide import ID_MAPS, Judge
from fence_core.policy.floor import RESOLVER_PORTS
from fence_core.policy.hints import hint, is_shared_root
from fence_core.policy.model import Remedy
from fence_core.policy.requests import UNNAMED, Bind, Connect, Move, Resolve, UnixConnect, Write

if TYPE_CHECKING:
    from fence_core.policy.decide import Decision
    from fence_core.policy.model import FilesystemRules, Policy
    from fence_core.policy.requests import Request

__all__ = ["advice", "fitting", "pattern", "remedy", "scratch_around", "shorten"]

_Change = tuple[str, bool | tuple[str | int, ...]]
"""Key and value."""
_DOMAINS = "network.allowed_domains"
_DIRECTORY_OPS = frozenset({"create", "rename", "link", "symlink", "mknod"})
"""Calls that rarely come alone: whoever renames into a directory wrote there before, under a name of the moment."""
_PASSING_PORTS = 32768
"""From here on the kernel chooses ports (`net.ipv4.ip_local_port_range`)."""


def remedy(request: Request, policy: Policy, decision: Decision, syntax: str = "toml") -> Remedy | None:
    """What to add to allow this request; None if it is allowed, or if nothing may or can allow it.

    `decision` is what the policy's `Judge` has said. `syntax` is that of the project's config: toml, json or yaml (see
    `load.source_kind`).
    """
    if decision.why == "unlisted":
        change = _change(request, policy, decision)
    else:
        change = _lifting(request, policy, decision)
    return None if change is None else Remedy(*change, syntax)


def advice(request: Request, policy: Policy, decision: Decision, syntax: str = "toml") -> tuple[Remedy | None, str]:
    """As `remedy`, and a hint: what helps instead, or what to know before it is allowed. Empty for most."""
    found = remedy(request, policy, decision, syntax)
    return found, hint(request, policy.filesystem, decision, found)


def _lifting(request: Request, policy: Policy, decision: Decision) -> _Change | None:
    """The setting that lifts the protection of this path, if there is one and it is enough."""
    if decision.why != "protected" or not isinstance(request, (Write, Move)):
        return None
    if decision.rule.key != "filesystem.allow_git_config":
        return None
    lifted = policy._replace(filesystem=policy.filesystem._replace(allow_git_config=True))
    return ("filesystem.allow_git_config", True) if Judge(lifted).decide(request).allowed else None


def _change(request: Request, policy: Policy, decision: Decision) -> _Change | None:
    """Key and value of the smallest rule; None if there is none."""
    if isinstance(request, Write):
        entries = _path_entries(request, policy.filesystem)
        return None if entries is None else ("filesystem.allow_write", tuple(entries))
    if isinstance(request, UnixConnect):
        if request.path.startswith("\0"):
            return "network.allow_all_unix_sockets", True
        return "network.allow_unix_sockets", (shorten(request.path, policy.filesystem),)
    if isinstance(request, Resolve):
        return _DOMAINS, (str(domains.canonical_host(request.name)),)
    if isinstance(request, Connect) and request.port in RESOLVER_PORTS:
        return None  # a name server: what names may be looked up is said by name
    if isinstance(request, Connect) and decision.rule.key == "network.allow_private":
        plain = request.port in (80, 443) or request.port >= _PASSING_PORTS
        return "network.allow_private", (request.name if plain else f"{request.name}:{request.port}",)
    if isinstance(request, (Connect, Bind)):
        return _reach(request)
    return None


def _reach(request: Connect | Bind) -> _Change | None:
    host = domains.canonical_host(request.host)
    # A port that the kernel has chosen is another one in the next run.
    port = request.port if request.port < _PASSING_PORTS else 0
    if domains.is_this_machine(host) if isinstance(host, str) else domains.is_loopback(host):
        if isinstance(request, Bind):
            return "network.allow_local_binding", True
        if port:
            return "network.allow_local_outbound_ports", (port,)
        return ("network.allow_local_outbound", True) if request.port else None
    if isinstance(host, str):
        # The two ports that a plain name suggests; any other is part of what is asked for.
        return _DOMAINS, (host if port in (0, 80, 443) else f"{host}:{port}",)
    shown = str(host)
    if not port:
        return _DOMAINS, (shown,)
    return _DOMAINS, (f"[{shown}]:{port}" if host.version == 6 else f"{shown}:{port}",)


# --- paths ---


def _path_entries(request: Write, rules: FilesystemRules) -> list[str] | None:
    """The narrowest patterns that help, also in the next run and on another machine; None where there are none.

    That is the path; or its directory, where the name is one of the moment, where a second call in it is sure to come,
    and in the places where programs keep what depends on their version. With what is written beside the file.
    """
    path = (request.toward or request.path).removesuffix(UNNAMED).rstrip("/") or "/"
    if path.startswith("/proc/"):
        return list(ID_MAPS) if path in ID_MAPS else [re.sub(r"(?<=/task/)\d+(?=/)", "*", pattern(path))]
    if request.path.endswith(UNNAMED):
        return None if _is_broad(path, rules) else [fitting(path, rules)]
    if is_shared_root(path, rules) and (request.op not in _OF_FILES or path.startswith(rules.home.rstrip("/") + "/.")):
        return None
    parts = path[1:].split("/")
    for place, part in enumerate(parts):
        span = siblings.moving_part(part)
        above = "/" + "/".join(parts[:place])
        scratch = scratch_around(above, rules)
        if scratch and (span is not None or (above == scratch and _is_made_up(part))):
            return [shorten(above, rules)]
        if span is None or above in _FIXED or (rules.root and f"{rules.root}/".startswith(f"{above}/{part}/")):
            continue
        if not _is_broad(above, rules):
            return [shorten(above, rules)]
        kept = part[: span[0]] + part[span[1] :]
        if place == len(parts) - 1 and sum(map(str.isalnum, kept)) >= _KEPT_MIN:
            head, tail = pattern(part[: span[0]]), pattern(part[span[1] :])
            return [f"{shorten(f'{above}/x', rules)[:-1]}{head}*{tail}"]
        return None
    directory, _, name = path.rpartition("/")
    meant = siblings.surely_beside(path)
    if meant and not _is_broad(directory, rules):
        return [fitting(directory, rules)]
    if meant:
        beside = siblings.companions(meant)
        also = meant + beside if beside and path.startswith(meant + beside[0]) else path
        return [shorten(meant, rules), shorten(also, rules) if also == path else shorten(meant, rules) + beside]
    if request.op in _DIRECTORY_OPS and not _is_broad(directory, rules):
        return [fitting(directory, rules)]
    narrow = fitting(path, rules)
    beside = siblings.companions(name) if request.op not in ("mkdir", "rmdir") else ""
    return [narrow, narrow + beside] if beside and narrow == shorten(path, rules) else [narrow]


_OF_FILES = frozenset({"open", "create", "rename", "link", "symlink", "mknod", "unlink", "truncate", "bind"})
_KEPT_MIN = 3
"""Letters and digits that a pattern has to name, for it not to cover everything."""
_FIXED = ("/proc", "/run/user")
"""Directories in which a number is no name of the moment, or none that could be left out."""
_DATA_HOMES = (".cache", ".config", ".local/share", ".local/state")
"""Where programs have a directory each, relative to the home directory."""


def scratch_around(directory: str, rules: FilesystemRules) -> str:
    """The directory for temporary files that this one is or lies in; empty if the project or the home lies between."""
    here = f"{directory}/"
    if any(place.strip("/") and here.startswith(f"{place.rstrip('/')}/") for place in (rules.root, rules.home)):
        return ""
    return next((place for place in ("/tmp", "/var/tmp", *rules.scratch) if here.startswith(f"{place}/")), "")


def _is_made_up(name: str) -> bool:
    """Whether `tempfile` could have made it up, with no part of its own: eight letters, digits and underscores."""
    return len(name) == 8 and all(char.islower() or char.isdigit() or char == "_" for char in name)


def fitting(path: str, rules: FilesystemRules) -> str:
    """As `_shorten`; below `~/.cache` and the like at most two levels, and nothing with a version in its name.

    What lies deeper depends on the machine: `~/.cache/thing/3.11/cp311-x86_64/1`.
    """
    home = rules.home.rstrip("/")
    for data in _DATA_HOMES if home else ():
        place = f"{home}/{data}/"
        if path.startswith(place):
            first, *more = path[len(place) :].split("/")
            digits = sum(map(str.isdigit, more[0])) if more else 0
            kept = [first, *(more[:1] if digits < (1 if len(more) > 1 else 2) else [])]
            return shorten(place + "/".join(kept), rules)
    return shorten(path, rules)


def _is_broad(directory: str, rules: FilesystemRules) -> bool:
    """Whether a rule for this directory would give away more than the task at hand."""
    return directory.count("/") < 2 or is_shared_root(directory, rules) or rules.root.startswith(directory + "/")


def shorten(path: str, rules: FilesystemRules) -> str:
    """A pattern for this one path, relative to the project or to the home directory if it lies there."""
    root, home = rules.root.rstrip("/"), rules.home.rstrip("/")
    if root and path.startswith(root + "/") and _is_base(rules):
        relative = pattern(path[len(root) + 1 :])
        # Alone, a glob counts at any depth and a tilde is somebody's home.
        return f"./{relative}" if relative[0] == "~" or ("/" not in relative and "[" in relative + "?") else relative
    if home and path.startswith(home + "/"):
        return "~/" + pattern(path[len(home) + 1 :])
    return pattern(path)


def _is_base(rules: FilesystemRules) -> bool:
    """Whether relative patterns count from the project's root: not if the config in use lies elsewhere."""
    return rules.base in ("", rules.root)


def pattern(path: str) -> str:
    """A pattern for the path that can be typed: `?` for what a config file cannot or should not hold."""
    return "".join(f"[{char}]" if char in "*?[" else char if char.isprintable() else "?" for char in path)
