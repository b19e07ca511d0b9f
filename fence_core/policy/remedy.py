"""The smallest change that would allow what was refused, ready to paste.

Only what no rule lists has one. Where a deny rule or a protected target decided, the decision itself names what would
have to go, and proposing that by machine would make the rule worthless.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from fence_core.policy import domains
from fence_core.policy.decide import Judge
from fence_core.policy.record import Record
from fence_core.policy.requests import Bind, Connect, Resolve, UnixConnect, Write

if TYPE_CHECKING:
    from fence_core.policy.decide import Decision
    from fence_core.policy.model import FilesystemRules, Policy
    from fence_core.policy.requests import Request

__all__ = ["Remedy", "remedy"]


class Remedy(Record):
    """One change, in two places it can be made."""

    marker: str  # @pytest.mark.fence(allowed_domains=["api.stripe.com"])
    config: str  # the same for the whole project, in the syntax of its config


_DIRECTORY_OPS = frozenset({"create", "rename", "link", "symlink", "mknod"})
"""Calls that rarely come alone: whoever renames into a directory wrote there before, under a name of the moment."""
# Names that no second run has: many digits or hex, what mkstemp makes up, what editors and downloads leave half done.
_PASSING_NAME = (
    r".*(?:\d{6,}|[0-9a-f]{12,}).*"
    r"|(?:tmp|temp|\.tmp|~)[-_.]?[A-Za-z0-9_]{6,}.*"
    r"|.*(?:\.tmp|\.temp|~|\.sw[a-z]|\.part|\.lock)"
)

_RESOLVER_PORTS = (53, 853)
_judges: list[tuple[Policy, Judge]] = []


def remedy(request: Request, policy: Policy, syntax: str = "toml", decision: Decision | None = None) -> Remedy | None:
    """What to add to allow this request; None if it is allowed, or if nothing may or can allow it.

    `syntax` is that of the project's config: toml, json or yaml (see `load.source_kind`). `decision` is what the
    policy's `Judge` said, for a caller that has it at hand.
    """
    if decision is None:
        decision = _judge(policy).decide(request)
    if decision.why != "unlisted":
        return None
    change = _change(request, policy)
    if change is None:
        return None
    section, key, value = change
    return Remedy(f"@pytest.mark.fence({key}={_python(value)})", _config(section, key, value, syntax))


def _judge(policy: Policy) -> Judge:
    """The policy compiled; the last few are kept, since one test seldom does one wrong thing once."""
    for known, judge in _judges:
        if known is policy:
            return judge
    judge = Judge(policy)
    _judges.append((policy, judge))
    del _judges[:-4]
    return judge


def _change(request: Request, policy: Policy) -> tuple[str, str, bool | list[str] | list[int]] | None:
    """Section, key and value of the smallest rule; None if there is none."""
    if isinstance(request, Write):
        return "filesystem", "allow_write", [_path_entry(request, policy.filesystem)]
    if isinstance(request, UnixConnect):
        if request.path.startswith("\0"):
            return "network", "allow_all_unix_sockets", True
        return "network", "allow_unix_sockets", [_shorten(request.path, policy.filesystem)]
    if isinstance(request, Resolve):
        return "network", "allowed_domains", [str(domains.canonical_host(request.name))]
    if isinstance(request, Connect) and request.port in _RESOLVER_PORTS:
        return None  # a name server: what names may be looked up is said by name
    if isinstance(request, (Connect, Bind)):
        host = domains.canonical_host(request.host)
        if isinstance(host, str):
            if domains.is_loopback_name(host):
                return "network", "allow_local_outbound_ports", [request.port]
            # The two ports that a plain name suggests; any other is part of what is asked for.
            return "network", "allowed_domains", [host if request.port in (80, 443) else f"{host}:{request.port}"]
        if domains.is_loopback(host):
            if isinstance(request, Bind):
                return "network", "allow_local_binding", True
            return ("network", "allow_local_outbound_ports", [request.port]) if request.port else None
        shown = f"[{host}]" if host.version == 6 else str(host)
        return "network", "allowed_domains", [f"{shown}:{request.port}" if request.port else str(host)]
    return None


# --- paths ---


def _path_entry(request: Write, rules: FilesystemRules) -> str:
    """The narrowest pattern that helps: the path, or its directory where the name is one of the moment."""
    path = request.path.rstrip("/") or "/"
    directory, _, name = path.rpartition("/")
    passing = request.op in _DIRECTORY_OPS or re.fullmatch(_PASSING_NAME, name, re.DOTALL) is not None
    if passing and not _is_broad(directory, rules):
        path = directory
    return _shorten(path, rules)


def _is_broad(directory: str, rules: FilesystemRules) -> bool:
    """Whether a rule for this directory would give away more than the task at hand."""
    return directory.count("/") < 2 or directory in (rules.home, rules.root) or rules.root.startswith(directory + "/")


def _shorten(path: str, rules: FilesystemRules) -> str:
    """A pattern for this one path, relative to the project or to the home directory if it lies there."""
    root, home = rules.root.rstrip("/"), rules.home.rstrip("/")
    if root and path.startswith(root + "/") and _is_base(rules):
        relative = _pattern(path[len(root) + 1 :])
        # Alone, a glob counts at any depth and a tilde is somebody's home.
        return f"./{relative}" if relative[0] == "~" or ("/" not in relative and "[" in relative + "?") else relative
    if home and path.startswith(home + "/"):
        return "~/" + _pattern(path[len(home) + 1 :])
    return _pattern(path)


def _is_base(rules: FilesystemRules) -> bool:
    """Whether relative patterns count from the project's root: not if the config in use lies elsewhere."""
    return all(path.rpartition("/")[0] == rules.root.rstrip("/") for path in rules.locked)


def _pattern(path: str) -> str:
    """A pattern for the path that can be typed: `?` for what a config file cannot or should not hold."""
    return "".join(f"[{char}]" if char in "*?[" else char if char.isprintable() else "?" for char in path)


# --- syntaxes ---


def _python(value: bool | list[str] | list[int]) -> str:
    return str(value) if isinstance(value, bool) else _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _config(section: str, key: str, value: bool | list[str] | list[int], syntax: str) -> str:
    if syntax == "json":
        from fence_core.policy.validate import camel

        return _json({section: {camel(key): value}})
    if syntax == "yaml":
        return f"{key}: {_json(value)}"
    return f"[tool.fence]\n{key} = {_json(value)}"
