"""What a fence consists of, as a value: decided before anything is done, and printable.

Run by any process. Nothing here asks the machine: what counts of it is given, so that a fence that was never built can
be looked at. `fork`, `child` and `supervise` carry it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.kernel import landlock
from fence_core.link.start import Walls
from fence_core.policy.record import Record
from fence_core.policy.variables import matcher

if TYPE_CHECKING:
    from fence_core.kernel.features import Features
    from fence_core.launcher.inherited import Left
    from fence_core.policy.model import Config, Leftovers, Mode

__all__ = ["Facts", "Host", "Plan", "Reports", "make_plan"]


class Facts(Record):
    """What counts of the process that is to be fenced."""

    as_root: bool = False
    inspects: bool = False
    """It may look at others' performance (CAP_PERFMON): then the kernel shows the environment of processes outside,
    whatever Landlock says (mm_access and perfmon_capable in kernel/fork.c, measured on Linux 6.18 as root)."""
    variables: tuple[str, ...] = ()
    """Names in its environment."""


class Reports(Record):
    """Which report files a run is to leave, and what only the program that is fenced knows for them."""

    wanted: tuple[str, ...] = ()
    """As `policy.reports.parse_report` has them."""
    command: tuple[str, ...] = ()
    cwd: str = ""
    hidden: tuple[str, ...] = ()
    """Directories of the program's own code, as of `report.stack.View`."""
    runner: str = ""
    version: str = ""
    temporary: tuple[str, ...] = ()
    """Directories whose names are others in the next run."""


class Host(Record):
    """What the program that is fenced means by what it ends with, and what it starts by."""

    name: str = "the command"
    passing: tuple[int, ...] = (0,)
    """Exit statuses that claim that all is well."""
    failed: int = 1
    """What becomes of those when there are violations that fail the run."""
    unusable: int = 2
    """Where there was no run."""
    starts_by: tuple[str, ...] = ()
    """Beginnings of variables that decide how it starts."""
    internal: int = 3
    """Where the supervisor itself has failed."""
    greets: bool = True
    """Its first process runs a session, and says hello. If not, it is a program like any other."""
    syntax: str = "toml"
    """How remedies are written where there is no config."""
    blocked: str = ""
    """The first line of the page that tells a program of a refusal; empty: as sessions have it."""
    reports: Reports = Reports()


class Plan(Record):
    """All that is decided about a fence."""

    mode: Mode
    layers: tuple[str, ...]
    """For the header: ``seccomp``, ``landlock 7``, ``without pidfd_getfd``."""
    walls: Walls
    as_root: bool
    """Which of the filters: root has calls that nobody else may make."""
    watches_reads: bool
    """Opens for reading are trapped."""
    leftovers: Leftovers
    host: Host
    kept_fds: tuple[int, ...]
    """Descriptors that the caller had left open, and that the tests get."""
    closes_fds: bool
    """They get no others that lead outside."""
    withheld: tuple[str, ...]
    """Variables that the tests do not get."""
    closed: tuple[Left, ...] = ()
    """Descriptors that were found open, and that the tests do not get."""


def make_plan(config: Config, found: Features, facts: Facts, host: Host) -> Plan:
    """An audit changes nothing, so it has no floors and takes nothing away."""
    settings = config.settings
    acts = settings.mode != "audit"
    scopes = found.available("landlock_scopes")
    # Without ACCESS_FS_REFER (before ABI 2) no file could be moved to another directory any more.
    files = found.available("landlock") and found.landlock_abi >= landlock.ABI_REFER
    # For `env_deny` the broker guards what Landlock does not: see `Facts.inspects`.
    guards_environments = bool(settings.env_deny) and acts and facts.inspects
    return Plan(
        mode=settings.mode,
        layers=_layers(found, lands=scopes or files),
        walls=Walls(
            wait_killable=found.available("wait_killable"),
            signal_scope=scopes,
            network_floor=acts,
            file_floor=acts and files,
            borrows=found.available("pidfd_getfd"),
        ),
        as_root=facts.as_root,
        watches_reads=settings.watch_reads or config.denies_reading() or guards_environments,
        leftovers=settings.leftovers,
        host=host,
        kept_fds=settings.keep_fds,
        closes_fds=acts,
        withheld=tuple(sorted(filter(matcher(settings.env_deny), facts.variables))) if acts else (),
    )


def _layers(found: Features, *, lands: bool) -> tuple[str, ...]:
    """What holds; and what the broker has to do without, in the words that `require` takes."""
    landlocked = (f"landlock {found.landlock_abi}",) if lands else ()
    missed = tuple(f"without {name}" for name in ("pidfd_getfd", "process_vm_readv") if not found.available(name))
    return ("seccomp", *landlocked, *missed)
