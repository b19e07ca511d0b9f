"""What a pytest process may be doing when something is tried. Apart from the records, since every worker needs it."""

from __future__ import annotations

PHASES = ("startup", "collect", "setup", "call", "teardown", "session", "finish")
