"""How the supervisor is put together, once its child is there: the broker, and who forwards signals and ends.

Run by the process that the user started, after the fork. It never comes back.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from fence_core.errors import BrokerError, FenceError
from fence_core.kernel import arch, libc, pidfd, seccomp
from fence_core.launcher.join import base_dir
from fence_core.link import start
from fence_core.policy.sources.files import source_kind

if TYPE_CHECKING:
    from fence_core.broker.assemble import Broker
    from fence_core.broker.paths.ceiling import Ceiling
    from fence_core.broker.scopes import Scope
    from fence_core.launcher.home import Home
    from fence_core.launcher.plan import Plan
    from fence_core.launcher.session_report import Reporter
    from fence_core.launcher.supervisor import Supervisor
    from fence_core.policy.model import Config


class Child(NamedTuple):
    """The fenced process, and the ends of what leads to it."""

    pid: int
    hears: int
    """Pipe from the child."""
    tells: int
    """Pipe to the child."""
    guardian: socket.socket


class Ends(NamedTuple):
    """Of lines to what has started workers on other machines: sockets that no exec keeps."""

    supervisors: socket.socket
    tests: socket.socket


class Lines(NamedTuple):
    """What the supervisor takes over from the process that it was."""

    filter_listener: socket.socket | None
    """Of the filter, if it has one already."""
    carrier: socket.socket | None
    """To what has started workers on other machines."""
    home: Home | None
    """To the run that this fence is of, on another machine."""


def supervise(config: Config, plan: Plan, child: Child, reporter: Reporter, lines: Lines) -> NoReturn:
    """Whatever fails ends both processes with one line on stderr."""
    try:
        supervisor, broker = _put_together(config, plan, child, reporter, lines.filter_listener)
        if lines.carrier is not None:
            broker.hear_of_others(lines.carrier)
        if lines.home is not None:
            lines.home.on_end = supervisor.end_all
        os.write(child.tells, start.GO)
        os.close(child.tells)
        os.close(child.hears)
    except BaseException as error:  # whatever it is: this process must not go on as one that is not fenced
        os.kill(child.pid, signal.SIGKILL)
        why = str(error) if isinstance(error, FenceError | OSError) else f"{type(error).__name__}: {error}"
        leave_quietly(reporter.unusable(why), plan.host.unusable)
    supervisor.run(broker)


def _put_together(
    config: Config, plan: Plan, child: Child, reporter: Reporter, listener: socket.socket | None
) -> tuple[Supervisor, Broker]:
    """Meanwhile the child builds its part of the fence: so what only the supervisor needs is imported here."""
    from fence_core.broker.paths.ceiling import Ceiling, existing

    root = _root_scope(config, plan)
    places = existing(root.judges[0].places) if plan.walls.file_floor else None
    _send_program(plan, child, places or ())

    from fence_core.launcher.supervisor import Supervisor, raise_limits

    raise_limits()
    libc.set_dumpable(False)  # our memory holds the rules: not readable, even where Landlock is missing
    supervisor = Supervisor(child.pid, child.guardian, plan, reporter)
    on_meeting = None if plan.walls.signal_scope else supervisor.tell
    return supervisor, _broker(root, plan, child, Ceiling(places), on_meeting, listener)


def _root_scope(config: Config, plan: Plan) -> Scope:
    from fence_core.broker.scopes import Scope
    from fence_core.launcher.early_modules import protect_early_modules, protect_packages, trusted_path

    policy = protect_early_modules(config.policy)
    # Before the child may run anything: what is imported from now on is not the tests' to choose.
    sys.path[:] = trusted_path(policy.filesystem.environment)
    # Nor by whom it is found: plugins have finders of their own, and pytest's rewrites what belongs to plugins.
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, PathFinder]
    return Scope(
        policy,
        mode=plan.mode,
        source=config.source,
        syntax=source_kind(config.path) if config.path else plan.host.syntax,
        base_dir=base_dir(config),
        host=plan.host.name,
        watches_reads=plan.watches_reads,
        blame=config.settings.blame,
        parts=protect_packages(config, policy),
    )


def _send_program(plan: Plan, child: Child, places: start.Places) -> None:
    from fence_core.broker.table import filter_program

    program = filter_program(
        arch.current(), watch_reads=plan.watches_reads, as_root=plan.as_root, borrows=plan.walls.borrows
    )
    start.send_program(child.tells, program, places)


def _broker(
    root: Scope,
    plan: Plan,
    child: Child,
    ceiling: Ceiling,
    on_meeting: Callable[[int], object] | None,
    filter_listener: socket.socket | None,
) -> Broker:
    """Raises BrokerError where the child has none to listen to."""
    from fence_core.broker.assemble import Broker
    from fence_core.broker.services.sessions import Terms
    from fence_core.broker.services.tunnels import FilterEnd, FilterStart
    from fence_core.launcher.filter import listen, start_filter

    number, why = start.read_listener(child.hears)
    if why:
        raise BrokerError(why)
    borrows = plan.walls.borrows
    listener = pidfd.get_fd(pidfd.open_pidfd(child.pid), number) if borrows else start.take_over(child.guardian)
    if not seccomp.is_listener(listener):
        raise BrokerError("what the fenced process has handed over is no listener")
    terms = Terms(
        greets=plan.host.greets,
        layers=plan.layers,
        stacks=plan.walls.wait_killable,
        watches_reads=plan.watches_reads,
        withheld=plan.withheld,
        closed=plan.closed,
        announces_forks=on_meeting is not None,
    )

    def begin() -> FilterEnd:
        if filter_listener is not None:
            return start_filter(filter_listener, plan.host.blocked)
        with listen(root.base.network.http_proxy_port or 0) as own:
            return start_filter(own, plan.host.blocked)

    place = None if filter_listener is None else filter_listener.getsockname()
    return Broker(
        listener, child.pid, root, ceiling, terms, FilterStart(begin, place), on_meeting, borrows=plan.walls.borrows
    )


def leave_quietly(text: str, status: int) -> NoReturn:
    """Say why there is no fenced run on stderr, and end."""
    os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))
    libc.exit_now(status)
