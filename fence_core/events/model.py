"""The record of one violation, as the ledger keeps it and reports show it. Data, not text: see `report/words.py`."""

from __future__ import annotations

from fence_core.policy.model import Remedy, Rule
from fence_core.policy.record import Record


class Frame(Record):
    """One line of a Python stack."""

    path: str
    line: int
    function: str


class Target(Record):
    """What was reached for."""

    kind: str
    """``name``, ``address``, ``unix``, ``path``, ``command`` or ``other``."""
    host: str = ""
    """A name or an address."""
    port: int = 0
    """0: none in particular."""
    protocol: str = ""
    """``tcp``, ``udp``; of a socket that was to be made, its family and type: ``AF_PACKET/SOCK_RAW``."""
    path: str = ""
    """Of a file, or of a UNIX socket: an abstract one begins with ``@``."""
    detail: str = ""
    """In words, what the other fields do not tell."""


class Program(Record):
    """Who tried it."""

    name: str
    pid: int = 0
    path: str = ""
    """Of the executable; empty where that cannot be told."""
    chain: tuple[str, ...] = ()
    """Programs from the pytest process down to this one."""
    argv: tuple[str, ...] = ()
    is_pytest: bool = False
    """Whether it is the pytest process itself."""
    thread: str = ""
    """Name of the thread, where it is not the main one."""


class Doing(Record):
    """What a process of the session was running."""

    worker: int
    """0: the only one, or the controller of pytest-xdist; others count from 1."""
    nodeid: str
    phase: str


class Owner(Record):
    """A fixture of more than one test, which was being set up or torn down."""

    fixture: str
    scope: str
    file: str
    line: int


class Use(Record):
    """That an entry of a list has allowed something."""

    rule: Rule
    count: int  # type: ignore[assignment]  # as below
    """How often it has said yes: to look-ups, connections, sockets that were bound."""
    tests: tuple[str, ...]
    """Node ids of those that needed it; an empty one stands for what no test has asked for."""


class Violation(Record):
    """One thing that the policy does not allow, tried by one test in one phase.

    Equal attempts (same test, phase, target and program) are one violation with a count.
    """

    number: int
    """Position in the session's ledger, from 0; of workers on other machines, from a million of their own."""
    nodeid: str
    """Node id of the test or collector; empty where no test was running."""
    phase: str
    """One of `phases.PHASES`."""
    kind: str
    """One of `policy.requests.Kind`."""
    operation: str
    """What was tried, more exactly than by its kind: ``mkdir``."""
    target: Target
    verdict: str
    """``unlisted``: no rule allows it. ``denied``: a rule forbids it. ``protected``: refused whatever the rules say.
    ``error``: a fault of ours."""
    rule: Rule
    program: Program
    state: str
    """What the session does about it: ``failing``, ``warned`` or ``listed``."""
    errno: int
    """What the program was answered; 0 where the call was let through (audit)."""
    first_s: float
    """When it was tried, in seconds since the run began."""
    last_s: float
    """When it was tried last."""
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    owner: Owner | None = None
    """Whose doing it is, if not that of the one test."""
    started_by: Owner | None = None
    """The fixture of more than one test that has started the process which tried it."""
    late: bool = False
    """Whether the test had already ended when a process that it left behind tried this."""
    during: tuple[Doing, ...] = ()
    """What ran in each worker at that moment, the one that it is blamed on included."""
    stack: tuple[Frame, ...] = ()
    """Python stack of the calling thread, outermost call first; empty where none could be had."""
    remedy: Remedy | None = None
    """None where nothing may allow it."""
    hint: str = ""
    """What helps instead, or is to be known before it is allowed; empty for most."""
