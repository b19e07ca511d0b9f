"""Who the engine works for here: what it calls itself, and what it ends with."""

from __future__ import annotations

from fence_core.launcher.plan import Host

__all__ = ["HOST"]

HOST = Host(
    "fence", unusable=1, internal=1, greets=False, syntax="json", blocked="Connection blocked by network allowlist"
)
"""The page of a refusal begins as the Go tool's does: programs and people look for it."""
