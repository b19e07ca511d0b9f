"""Joining a fence that already stands around this process. Run by any pytest process, fenced or not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from fence_core.kernel import features
from fence_core.link import doors
from fence_core.policy.sources.files import source_kind

if TYPE_CHECKING:
    from fence_core.launcher.handle import Fence
    from fence_core.policy.model import Config


def maybe_join(
    config: Config | None, *, role: Literal["session", "worker", "nested"], host: str = "the command"
) -> Fence | None:
    """A handle on the fence around this process, None if there is none of ours.

    ``worker``: a further process of the session that started it. ``nested``: a session of its own, whose `config` can
    only narrow what the surrounding test may do. The first process of a fenced session gets that session, whatever it
    says. `host`: what the program of a nested session is called; empty: as its process is. Raises BrokerError,
    FenceUnavailable where a layer that `config` requires is missing.
    """
    if not doors.is_fenced():
        return None
    from fence_core.launcher.handle import Fence

    plain = None
    if config is not None:
        if config.settings.require:
            features.detect().require(config.settings.require)
        from fence_core.policy.sources.wire import to_wire

        plain = {
            "policy": to_wire(config.policy),
            "mode": config.settings.mode,
            "source": config.source,
            "syntax": source_kind(config.path),
            "base_dir": base_dir(config),
            "host": host,
            "blame": config.settings.blame,
            "parts": to_wire(config.packages),
        }
    fence = Fence(role, plain)
    if config is not None and config.settings.env_deny and fence.role == "nested":
        from fence_core.launcher.withhold import withhold

        # What this session starts does without them. Tests of the one around it had them, and their processes show
        # them to these.
        fence.withheld = withhold(config.settings)
    if fence.announces_forks:
        from fence_core.launcher import announced

        announced.bind_forks()
    return fence


def base_dir(config: Config) -> str:
    """What relative paths in markers count from: the project's root."""
    return config.policy.filesystem.root or os.getcwd()
