"""Keeping variables from the tests: what `env_deny` matches leaves the environment before the fork.

Run by any process that starts a session: the one that the user started, or one nested in a fence. What forks from it
afterwards, inside of the fence and beside it, has never had them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable, PolicyError, Problem
from fence_core.kernel import environment, features
from fence_core.policy.variables import matcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.launcher.plan import Host
    from fence_core.policy.model import Config, Settings


def variables_denied(settings: Settings) -> tuple[str, ...]:
    """The variables of this process that `env_deny` matches, whatever the mode."""
    return tuple(sorted(filter(matcher(settings.env_deny), os.environ)))


def withhold(settings: Settings) -> tuple[str, ...]:
    """Take what `env_deny` matches out of this process's environment; the names of what was there.

    Nothing in mode ``audit``, which changes nothing. Raises FenceUnavailable, before anything was done, where the
    kernel would show the environment of processes outside: the shell that started pytest has the same variables.
    """
    if not settings.env_deny or settings.mode == "audit":
        return ()
    check_scopes(settings)
    return environment.remove(matcher(settings.env_deny))


def check_scopes(settings: Settings) -> None:
    """Raises FenceUnavailable where `env_deny` is set, and this kernel could not keep it."""
    if not settings.env_deny or settings.mode == "audit":
        return
    scopes = features.detect()["landlock_scopes"]
    if not scopes.available:
        # Without them no Landlock domain is entered, and it is the domain that closes /proc/PID/environ of others.
        raise FenceUnavailable(
            "env_deny",
            f"the tests could read the environment of processes outside, since this kernel has no landlock_scopes "
            f"({scopes.detail})",
            "Take env_deny out of the configuration, and start pytest without what it was to keep from the tests.",
        )


def check_restart(config: Config, host: Host) -> None:
    """Raises PolicyError if a command that is started once more, in a fence, would miss what it was started with."""
    if config.settings.mode == "audit":
        return
    why = f"and {host.name} has to be started once more because a plugin has started threads"
    problems = taken(config.settings, lambda name: name.startswith(host.starts_by), why)
    if problems:
        raise PolicyError(tuple(problems))


def taken(settings: Settings, needed: Callable[[str], bool], why: str) -> list[Problem]:
    """One problem for each entry of `env_deny` that takes away variables which are set, and needed."""
    accepted = "patterns that leave these variables alone"
    problems = []
    for entry in settings.env_deny:
        names = sorted(name for name in filter(matcher((entry,)), os.environ) if needed(name))
        if names:
            found = f'"{entry.text}" takes {", ".join(names)} away, {why}'
            from fence_core.policy.sources.lines import problem

            problems.append(problem(entry.source, "env_deny", found, accepted))
    return problems
