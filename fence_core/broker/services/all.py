"""What a trapped call may need of the broker: its parts, each with a file of its own. No behaviour and no loop.

Filled in by whoever puts the broker together, before the first call is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.broker.judging import Route
    from fence_core.broker.paths.ceiling import Ceiling
    from fence_core.broker.paths.identity import Identities
    from fence_core.broker.paths.resolve import Resolver
    from fence_core.broker.paths.terminals import Terminals
    from fence_core.broker.processes import Process, ProcessTable
    from fence_core.broker.reply import Reply
    from fence_core.broker.services.commands import CommandWatch
    from fence_core.broker.services.drafts import Drafts
    from fence_core.broker.services.made_sockets import MadeSockets
    from fence_core.broker.services.name_server import Names
    from fence_core.broker.services.recorder import Recorder
    from fence_core.broker.services.remote_ledgers import RemoteLedgers
    from fence_core.broker.services.sinks import Sinks
    from fence_core.broker.services.sockets import InsideSockets
    from fence_core.broker.services.ties import Ties
    from fence_core.broker.services.tunnels import Tunnels
    from fence_core.broker.services.unix_sockets import UnixSockets
    from fence_core.kernel.seccomp import Listener


class Services:
    """One object for all calls."""

    __slots__ = (
        "ceiling",
        "commands",
        "doors",
        "drafts",
        "identities",
        "inside",
        "listener",
        "made",
        "names",
        "others",
        "processes",
        "recorder",
        "resolver",
        "route",
        "sinks",
        "started",
        "terminals",
        "ties",
        "tunnels",
        "unix",
        "watches_reads",
    )

    listener: Listener
    processes: ProcessTable
    recorder: Recorder
    doors: Callable[[Process, bytes], Reply]
    """The opens that only a broker can answer."""
    started: float
    """When the run began."""
    commands: CommandWatch

    # files
    resolver: Resolver
    identities: Identities
    ceiling: Ceiling
    watches_reads: bool
    """Whether opens for reading are trapped: the filter cannot be changed later."""
    terminals: Terminals
    drafts: Drafts

    # sockets
    made: MadeSockets | None
    """Where the kernel lets us borrow no descriptors: see there."""
    inside: InsideSockets
    unix: UnixSockets
    ties: Ties
    names: Names
    tunnels: Tunnels
    sinks: Sinks
    route: Callable[[Process, int, str, int], Route]
    """Whether a process, in a thread, may connect to a name and port; a refusal is recorded."""

    others: RemoteLedgers | None
    """Of runs with workers on other machines: what these are refused."""
