"""The record of one violation, as the ledger keeps it and reports show it."""

from __future__ import annotations

from typing import NamedTuple


# Named tuples: immutable as well, and a fifth of a slotted dataclass's price at import (0.5 against 2.7 ms).
class Frame(NamedTuple):
    """One line of a Python stack."""

    path: str
    line: int
    function: str


class Violation(NamedTuple):
    """One thing that the policy does not allow, tried by one test in one phase.

    Equal attempts (same test, phase, target and program) are one violation with a count.
    """

    number: int
    """Position in the session's ledger, from 0."""
    nodeid: str
    """Node id of the test or collector; empty where no test was running."""
    phase: str
    """One of `phases.PHASES`."""
    kind: str
    """``connect``, ``resolve``, ``bind``, ``socket``, ``write``, ``read``, ``run`` or ``error`` (a fault of ours)."""
    what: str
    """What was tried, escaped for showing: ``connect 93.184.216.34:443/tcp``."""
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    pid: int
    program: str
    """Name of the program that tried, escaped for showing."""
    is_test_process: bool
    """Whether the pytest process itself tried it."""
    chain: tuple[str, ...]
    """Programs from the pytest process down to the one that tried."""
    argv: tuple[str, ...]
    stack: tuple[Frame, ...]
    """Python stack of the calling thread, outermost call first; empty where none could be had."""
    rule: str
    """The rule that refused it, with its source."""
    marker: str
    """Smallest marker that would allow it; empty where nothing may."""
    config: str
    """The same for the config file in use."""
    mode: str
    """``enforce``, ``warn`` or ``audit``: what the session does about it."""
    errno: int
    """What the program was answered; 0 where the call was let through (audit)."""
    late: bool
    """Whether the test had already ended when a process that it left behind tried this."""
    hint: str = ""
    """What helps instead, or is to be known before it is allowed; empty for most."""
