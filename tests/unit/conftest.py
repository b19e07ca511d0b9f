"""Property tests measure no time: the machines they run on are shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fence", deadline=None)
settings.load_profile("fence")
