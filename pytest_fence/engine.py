"""The one door to the engine: all that this package uses of fence_core to put a fence up.

Imported only when a fence may be wanted. Tests that need no kernel replace the functions about processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol

from fence_core.errors import FenceError, FenceUnavailable, PolicyError, Problem
from fence_core.policy import load
from fence_core.policy.merge import merge, merge_settings
from fence_core.policy.model import Config, Source
from fence_core.policy.templates import TemplateContext
from fence_core.policy.validate import KEYS, camel, parse_overlay, unwatched

if TYPE_CHECKING:
    from fence_core.events.model import Violation as Violation
    from fence_core.link.one_test import Line

__all__ = [
    "Config",
    "Fence",
    "FenceError",
    "FenceUnavailable",
    "PolicyError",
    "Problem",
    "Role",
    "by_section",
    "check_marker",
    "check_needed",
    "config_in",
    "fence_this_process",
    "find_config",
    "keep_set_aside",
    "maybe_join",
    "obstacles",
    "respawn",
    "unwatched",
    "variables_denied",
]

Role = Literal["session", "worker", "nested"]


class Fence(Protocol):
    """What this package needs of a fence that stands: see `fence_core.launcher.handle.Fence`."""

    role: str
    mode: str
    layers: tuple[str, ...]
    watches_reads: bool
    withheld: tuple[str, ...]
    closed: tuple[tuple[int, str], ...]

    def register_policy(self, raw: Mapping[str, object], source: str) -> int: ...
    def enter(self, nodeid: str, phase: str, policy: int = 0) -> None: ...
    def prepare_forks(self) -> Line: ...
    def fork_test(self) -> int: ...
    def phase(self) -> str: ...
    def violation_count(self) -> int: ...
    def take(self, nodeid: str | None, *, by_fork: bool = False) -> list[Violation]: ...
    def proxy(self) -> str: ...
    def expect_workers(self) -> None: ...
    def ledger(self) -> list[Violation]: ...
    def settle(self, upto: int) -> None: ...
    def close(self) -> None: ...


# Policy


def find_config(
    root: Path,
    explicit: Path | None,
    *,
    cache_dir: str,
    temp_dirs: Sequence[str],
    extra_write: Sequence[str],
    locked: Sequence[str],
    overlays: Sequence[tuple[str, Mapping[str, object]]],
) -> Config:
    """The project's config with what this run adds to it: pairs of a source and what it says.

    `locked`: files that pytest was told to take its options from.
    """
    context = TemplateContext.of_run(root, cache_dir=cache_dir, extra_write=extra_write, extra_temp_dirs=temp_dirs)
    found = load.find_config(root, explicit, context=context)
    parsed = [
        parse_overlay(raw, source=Source(source), base_dir=root, settings=True, home=context.home)
        for source, raw in overlays
    ]
    # Flags hold no rules, so no refusal is to name them as where one was looked for; each entry knows its own source.
    policy = merge(found.policy, *parsed)._replace(sources=found.policy.sources)
    files = policy.filesystem
    policy = policy._replace(filesystem=files._replace(locked=tuple(dict.fromkeys((*files.locked, *locked)))))
    return Config(policy, merge_settings(found.settings, *parsed), found.source, found.path)


def config_in(directory: str) -> tuple[Path, str, bool] | None:
    """The config that this directory would have as a root: its file, its name, whether it switches the fence on."""
    return load.config_in(directory)


def check_marker(raw: Mapping[str, object], *, source: str, base_dir: str) -> None:
    """Raises PolicyError with everything that is wrong with these marker arguments."""
    parse_overlay(raw, source=Source(source), base_dir=base_dir)


def denies_reading(raw: Mapping[str, object]) -> bool:
    """Whether valid marker arguments have a `deny_read`."""
    files = by_section(raw).get("filesystem")
    return isinstance(files, Mapping) and bool(files.get("deny_read"))


def by_section(raw: Mapping[str, object]) -> dict[str, object]:
    """Valid marker arguments in the one spelling that can be merged: ``{"network": {"allowed_domains": ...}}``."""
    sections: dict[str, object] = {}
    for name, value in raw.items():
        if isinstance(value, Mapping) and name in _SECTIONS:
            inner = {f"{name}.{key}": item for key, item in value.items()}
        else:
            inner = {name: value}
        for spelled, item in inner.items():
            section, key = _SPELLINGS.get(spelled, ("", spelled))
            if section:
                table = sections.setdefault(section, {})
                assert isinstance(table, dict)
                table[key] = item
            else:
                sections[key] = item
    return sections


_SECTIONS = frozenset(key.section for key in KEYS if key.section)
_SPELLINGS = {
    spelling: (key.section, key.name)
    for key in KEYS
    for name in (key.name, camel(key.name))
    for spelling in (name, f"{key.section}.{name}")
}


# Processes


def variables_denied(config: Config) -> tuple[str, ...]:
    """The variables of this process that `env_deny` matches."""
    if not config.settings.env_deny:
        return ()
    from fence_core.launcher import withhold

    return withhold.named(config.settings)


def check_needed(config: Config, places: Iterable[tuple[str, str]], *, captures: bool, workers: bool) -> None:
    """Raises PolicyError for rules that cover what Python needs, or any of the `places` (what it is, and its path)."""
    from fence_core.launcher import needed

    needed.check(config, places, captures=captures, workers=workers)


def maybe_join(config: Config | None, *, role: Role) -> Fence | None:
    """The fence that this process is in already; None if there is none."""
    from fence_core.launcher import join

    return join.maybe_join(config, role=role)


def obstacles() -> tuple[str, ...]:
    """What this process would lose by a fork, or what forbids one."""
    from fence_core.launcher import fork

    return fork.obstacles()


def fence_this_process(config: Config, *, layers_required: tuple[str, ...], meanwhile: Callable[[], object]) -> Fence:
    """Fork; the child returns, fenced; the parent supervises and never returns.

    `meanwhile`: what the child may import while it waits for the parent.
    """
    from fence_core.launcher import fork

    return fork.fence_this_process(config, layers_required=layers_required, meanwhile=meanwhile)


def keep_set_aside() -> None:
    """The session is over: what was set aside from the garbage collector before the fork may stay so."""
    from fence_core.launcher import set_aside

    set_aside.keep()


def respawn(config: Config, argv: Sequence[str], *, layers_required: tuple[str, ...]) -> NoReturn:
    """Replace this process by a supervisor that starts the same command inside a fence. Does not return."""
    from fence_core.launcher.respawn import respawn_fenced

    respawn_fenced(config, list(argv), layers_required=layers_required)
