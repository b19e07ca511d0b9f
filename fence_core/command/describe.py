"""What `-d` says of a fence: its policy before the command starts, and each rule that has allowed something.

Run before the fork, and by the supervisor. At most a screen, however long the lists are.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from fence_core.policy.sources.lines import located
from fence_core.report.rule import camel
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fence_core.command.surroundings import Surroundings
    from fence_core.policy.model import Config, Entry, FilesystemRules, NetworkRules, Rule, Source
    from fence_core.policy.requests import Request
    from fence_core.policy.sources.discover import Discovered

__all__ = ["allowance", "environment", "policy", "where"]

_HOW = {
    "settings": "-s",
    "template": "-t",
    "project": "the nearest of a project",
    "user": "the user's own",
    "default": "there is no file",
}
_ITEMS_MAX = 8
_WIDTH = 400
"""Characters of a line."""


def policy(found: Discovered, argv: Iterable[str], notes: Iterable[str]) -> Iterator[str]:
    """`notes`: on flags without effect."""
    config = found.config
    network, files = config.policy.network, config.policy.filesystem
    yield "command: " + " ".join(map(_word, argv))
    yield from notes
    yield f"policy: {', '.join(map(escape, found.chain))} ({_HOW[found.how]})" + (
        "" if config.settings.mode == "enforce" else f"; mode {config.settings.mode}: nothing is refused"
    )
    yield "allowed domains: " + _items(network.allowed_domains)
    if network.denied_domains:
        yield "denied domains: " + _items(network.denied_domains)
    if network.hosts:
        yield "hosts: " + ", ".join(f"{name} is {at or 'not there'}" for name, at in network.hosts[:_ITEMS_MAX])
    yield "this machine: " + _loopback(network)
    if network.allow_unix_sockets or network.allow_all_unix_sockets:
        yield "UNIX sockets: " + ("all" if network.allow_all_unix_sockets else _items(network.allow_unix_sockets))
    yield "write: " + _items(files.allow_write) + _denied(files)
    if config.policy.command.deny:
        yield "commands: all but " + _items(config.policy.command.deny)
    yield "read: everything" + (f", but {_items(files.deny_read)}" if files.deny_read else "")


def closed(found: Config) -> Iterator[str]:
    """What the caller has left open, and the command does not get."""
    from fence_core.launcher.inherited import left_open

    left = left_open(found.settings.keep_fds, watch_reads=found.denies_reading())
    if left and found.settings.mode != "audit":
        listed = ", ".join(f"{fd} ({escape(what)})" for fd, what in left)
        yield f"descriptors that are closed, since they lead outside: {listed} (keep_fds)"


def environment(found: Surroundings, withheld: Iterable[str]) -> str:
    """`withheld`: by `env_deny`."""
    own = [f"FENCE_SANDBOX={found.variables['FENCE_SANDBOX']}"]
    if "http_proxy" in found.variables:
        own.append(f"HTTP_PROXY={escape(found.variables['http_proxy'])}")
    gone = sorted({*found.withheld, *withheld})
    parts = [", ".join(own)]
    if found.replaced:
        parts.append(f"replaced: {', '.join(map(escape, found.replaced))}")
    if gone:
        parts.append(f"withheld: {', '.join(map(escape, gone))}")
    return "environment: " + "; ".join(parts)


def allowance(request: Request, rule: Rule, moment: float) -> str:
    """`[fence:filter] 15:04:05 ✓ api.test:443 by network.allowedDomains "*.test" (fence.json:4)`."""
    clock = time.strftime("%H:%M:%S", time.localtime(moment))
    host, port = getattr(request, "host", getattr(request, "name", "")), getattr(request, "port", 0)
    place = f"[{host}]" if ":" in host else host or getattr(request, "path", "")
    what = escape(f"{place}:{port}" if port else place)
    source = f" ({where(rule.source)})" if rule.source is not None else ""
    return f'[fence:filter] {clock} ✓ {what} by {camel(rule.key)} "{escape(rule.entry)}"{source}'


def _items(entries: Iterable[Entry]) -> str:
    """Those of templates by their number, all others by name."""
    templates: dict[str, int] = {}
    own = []
    for entry in entries:
        if entry.source.file or not entry.source.name.startswith(("template ", "the defaults")):
            own.append(f'"{escape(entry.text)}" ({where(entry.source)})')
        else:
            templates[entry.source.name] = templates.get(entry.source.name, 0) + 1
    more = [f"{len(own) - _ITEMS_MAX} more"] if len(own) > _ITEMS_MAX else []
    parts = [f"{number} of {name}" for name, number in templates.items()] + own[:_ITEMS_MAX] + more
    return ", ".join(parts)[:_WIDTH] or "none"


def _denied(files: FilesystemRules) -> str:
    return f"; denied: {_items(files.deny_write)}" if files.deny_write else ""


def _loopback(network: NetworkRules) -> str:
    def said(name: str, value: bool | None) -> str:
        source = dict(network.sources).get(name)
        return f"{'yes' if value else 'no'} ({where(source) if source is not None else 'default'})"

    binding = network.allow_local_binding
    outbound = network.allow_local_outbound
    name = "allow_local_binding" if outbound is None else "allow_local_outbound"
    opened = ", ".join(f"{host}:{port}" if host else str(port) for host, port in network.opened_ports)
    ports = ", ".join(map(str, network.allow_local_outbound_ports[:_ITEMS_MAX]))
    return (
        f"open ports {said('allow_local_binding', binding)}"
        + (f" and {opened} (-p)" if opened else "")
        + "; reach those of others "
        + (ports or said(name, binding if outbound is None else outbound))
    )


def where(source: Source) -> str:
    """``fence.json:4``, as far as that can be told."""
    found = located(source)
    if found.name.startswith("@") and found.file:  # a marker
        path = escape(os.path.relpath(found.file))
        return f"{escape(found.name)}, {path}" + ("" if found.line is None else f":{found.line}")
    name = escape(found.name).removesuffix(" [tool.fence]")
    return name if found.line is None else f"{name}:{found.line}"


def _word(word: str) -> str:
    import shlex

    return escape(shlex.quote(word))
