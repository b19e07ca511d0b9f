"""Fencing a fork of this interpreter.

Run by the process that the user started. The child comes back fenced from `fence_this_process` and carries on as if
nothing had happened; this process becomes its supervisor and never comes back.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fence_core.errors import BrokerError
from fence_core.kernel import credentials, memory, pidfd, process
from fence_core.kernel.credentials import CAP_PERFMON, CAP_SYS_ADMIN
from fence_core.launcher import guardian, inherited, set_aside
from fence_core.launcher.child import BLOCKED, raise_fence
from fence_core.launcher.join import maybe_join
from fence_core.launcher.obstacles import check_layers
from fence_core.launcher.plan import Facts, Host, Plan, make_plan
from fence_core.launcher.session_report import SessionReport
from fence_core.launcher.supervise import Child, Ends, Lines, supervise
from fence_core.link import start

if TYPE_CHECKING:
    from fence_core.launcher.debugger import Debugger
    from fence_core.launcher.handle import Fence
    from fence_core.launcher.home import Home
    from fence_core.launcher.session_report import Reporter
    from fence_core.policy.model import Config


def fence_this_process(
    config: Config,
    host: Host,
    meanwhile: Callable[[], object] = lambda: None,
    debugger: Debugger | None = None,
    *,
    carrier: Ends | None = None,
    reporter: Reporter | None = None,
) -> Fence:
    """Fork: the child returns with a handle on the fence around it, this process never returns.

    `meanwhile`: what the child does, before its fence stands, while this process gets ready to supervise; for imports.
    `debugger`: the one attached to this process, paused; it goes on in the child. `carrier`: lines to what
    has started workers on other machines. `reporter`: as of `fork_fenced`. Raises FenceUnavailable before anything was
    done.
    """

    def imports() -> None:
        import fence_core.launcher.handle  # noqa: F401 - what `maybe_join` below needs

        meanwhile()

    fork_fenced(config, host, imports, debugger=debugger, carrier=carrier, reporter=reporter)
    fence = maybe_join(None, role="session")
    if fence is None:
        raise BrokerError("the fence stands, but its broker does not answer")
    return fence


def fork_fenced(
    config: Config,
    host: Host,
    meanwhile: Callable[[], object] = lambda: None,
    *,
    withheld: Iterable[str] = (),
    debugger: Debugger | None = None,
    reporter: Reporter | None = None,
    filter_listener: socket.socket | None = None,
    carrier: Ends | None = None,
    home: Home | None = None,
) -> None:
    """Fork: returns in the child, with the fence around it. Raises FenceUnavailable before anything was done.

    `withheld`: variables that were kept from the tests already. `debugger`, `carrier`: as of `fence_this_process`.
    `reporter`: who tells the user what this process knows, if not the session. `filter_listener`: see `filter.listen`.
    `home`: the line to the run that this fence is of, on another machine.
    """
    plan = _plan(config, host, withheld)
    to_supervisor_r, to_supervisor_w = os.pipe2(os.O_CLOEXEC)
    from_supervisor_r, from_supervisor_w = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = start.Orders(
        walls=plan.walls,
        supervisor_pid=os.getpid(),
        supervisor_pidfd=pidfd.open_pidfd(os.getpid()),
        to_supervisor=to_supervisor_w,
        from_supervisor=from_supervisor_r,
        guardian_control=theirs.fileno(),
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    # The end of the interpreter alone took 20 ms more in the child.
    set_aside.set_aside()
    child = process.fork_unnoticed()
    if child == 0:
        os.close(to_supervisor_r)
        os.close(from_supervisor_w)
        ours.close()
        inherited.close_all(plan.closed)
        if carrier is not None:
            carrier.supervisors.close()
        raise_fence(orders, guardian.run, meanwhile)
        set_aside.give_back_when_asked()
        theirs.detach()  # closed by raise_fence
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if debugger is not None:
            debugger.resume()  # its threads are to be fenced, and to get signals
        return
    os.close(to_supervisor_w)
    os.close(from_supervisor_r)
    os.close(orders.supervisor_pidfd)
    theirs.close()
    if debugger is not None:
        debugger.leave()
    if carrier is not None:
        carrier.tests.close()
    fenced = Child(child, to_supervisor_r, from_supervisor_w, ours)
    lines = Lines(filter_listener, carrier.supervisors if carrier is not None else None, home)
    supervise(config, plan, fenced, home or reporter or SessionReport(host, config), lines)


def _plan(config: Config, host: Host, withheld: Iterable[str]) -> Plan:
    """With what is taken from this process already: variables are gone from it."""
    found = check_layers(config.settings.require)
    memory.choose(borrows=found.available("process_vm_readv"))
    plan = make_plan(config, found, _facts(), host)
    gone = tuple(withheld)
    if config.settings.env_deny:
        from fence_core.launcher.withhold import withhold

        gone = tuple(sorted({*gone, *withhold(config.settings)}))
    left = inherited.left_open(plan.kept_fds, watch_reads=plan.watches_reads) if plan.closes_fds else ()
    return plan._replace(withheld=gone, closed=left)


def _facts() -> Facts:
    own = credentials.of(os.getpid())
    return Facts(
        as_root=os.geteuid() == 0,
        inspects=own.may(CAP_PERFMON) or own.may(CAP_SYS_ADMIN),
        variables=tuple(os.environ),
    )
