"""Several sources, one policy: template, then file, then command line, then outer markers, then the closest marker.

Lists add up, scalars are replaced by the closest source. That a denial wins over every permission, wherever each was
written, is not settled here: the `Judge` asks the deny lists first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fence_core.policy.model import CommandRules, FilesystemRules, NetworkRules, Policy, Settings
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Hashable

    from fence_core.policy.model import Source, Sources

__all__ = ["Overlay", "merge", "merge_settings"]

T = TypeVar("T")
H = TypeVar("H", bound="Hashable")


_NETWORK, _FILES, _COMMANDS, _SETTINGS = NetworkRules(), FilesystemRules(), CommandRules(), Settings()


class Overlay(Record):
    """What one source says. A scalar counts only if the `sources` of its rules name it; the rest were not written."""

    source: Source
    network: NetworkRules = _NETWORK
    filesystem: FilesystemRules = _FILES
    command: CommandRules = _COMMANDS
    settings: Settings = _SETTINGS
    extends: str | None = None


def merge(base: Policy, *overlays: Overlay) -> Policy:
    """The policy with each overlay on top of it, in this order. It is a new value; nothing is changed."""
    policy = base
    for overlay in overlays:
        policy = Policy(
            network=_network(policy.network, overlay.network),
            filesystem=_filesystem(policy.filesystem, overlay.filesystem),
            command=_command(policy.command, overlay.command),
            sources=_add(policy.sources, (overlay.source,)),
        )
    return policy


def merge_settings(base: Settings, *overlays: Overlay) -> Settings:
    """The settings with those of each overlay on top, in this order."""
    settings = base
    for overlay in overlays:
        over = overlay.settings
        given = _given(over.sources)
        settings = Settings(
            enabled=_pick(given, "enabled", over.enabled, settings.enabled),
            mode=_pick(given, "mode", over.mode, settings.mode),
            require=_add(settings.require, over.require),
            leftovers=_pick(given, "leftovers", over.leftovers, settings.leftovers),
            watch_reads=_pick(given, "watch_reads", over.watch_reads, settings.watch_reads),
            scope=_pick(given, "scope", over.scope, settings.scope),
            env_deny=_add(settings.env_deny, over.env_deny),
            keep_fds=_add(settings.keep_fds, over.keep_fds),
            sources=_add_sources(settings.sources, over.sources),
        )
    return settings


def _network(base: NetworkRules, over: NetworkRules) -> NetworkRules:
    given = _given(over.sources)
    ports = _add(base.allow_local_outbound_ports, over.allow_local_outbound_ports)
    if "allow_local_outbound" in given and not over.allow_local_outbound_ports:
        ports = ()  # the closest word on it is "all", or "none"
    return NetworkRules(
        allowed_domains=_add(base.allowed_domains, over.allowed_domains),
        denied_domains=_add(base.denied_domains, over.denied_domains),
        allow_unix_sockets=_add(base.allow_unix_sockets, over.allow_unix_sockets),
        allow_all_unix_sockets=_pick(
            given, "allow_all_unix_sockets", over.allow_all_unix_sockets, base.allow_all_unix_sockets
        ),
        allow_local_binding=_pick(given, "allow_local_binding", over.allow_local_binding, base.allow_local_binding),
        allow_local_outbound=_pick(given, "allow_local_outbound", over.allow_local_outbound, base.allow_local_outbound),
        allow_local_outbound_ports=ports,
        expose_ports=_add(base.expose_ports, over.expose_ports),
        upstream_proxy=_pick(given, "upstream_proxy", over.upstream_proxy, base.upstream_proxy),
        http_proxy_port=_pick(given, "http_proxy_port", over.http_proxy_port, base.http_proxy_port),
        socks_proxy_port=_pick(given, "socks_proxy_port", over.socks_proxy_port, base.socks_proxy_port),
        proxy_env=_pick(given, "proxy_env", over.proxy_env, base.proxy_env),
        hosts=tuple({**dict(base.hosts), **dict(over.hosts)}.items()),
        sources=_add_sources(base.sources, over.sources),
    )


def _filesystem(base: FilesystemRules, over: FilesystemRules) -> FilesystemRules:
    given = _given(over.sources)
    return FilesystemRules(
        allow_write=_add(base.allow_write, over.allow_write),
        deny_write=_add(base.deny_write, over.deny_write),
        deny_read=_add(base.deny_read, over.deny_read),
        allow_git_config=_pick(given, "allow_git_config", over.allow_git_config, base.allow_git_config),
        # Where the project lies is no rule: only the template knows it.
        root=base.root,
        home=base.home,
        scratch=base.scratch,
        locked=_add(base.locked, over.locked),
        environment=base.environment,
        early_names=base.early_names,
        guards_environments=base.guards_environments,
        byte_code_dir=base.byte_code_dir,
        sources=_add_sources(base.sources, over.sources),
    )


def _command(base: CommandRules, over: CommandRules) -> CommandRules:
    return CommandRules(
        deny=_add(base.deny, over.deny),
        allow=_add(base.allow, over.allow),
        use_defaults=_pick(_given(over.sources), "use_defaults", over.use_defaults, base.use_defaults),
        sources=_add_sources(base.sources, over.sources),
    )


def _given(sources: Sources) -> frozenset[str]:
    return frozenset(name for name, _ in sources)


def _pick(given: frozenset[str], name: str, over: T, base: T) -> T:
    return over if name in given else base


def _add(base: tuple[H, ...], over: tuple[H, ...]) -> tuple[H, ...]:
    """Both lists, each item once, at its first place."""
    return tuple(dict.fromkeys(base + over)) if over else base


def _add_sources(base: Sources, over: Sources) -> Sources:
    return tuple({**dict(base), **dict(over)}.items()) if over else base
