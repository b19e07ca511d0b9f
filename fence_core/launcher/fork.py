"""Fencing a fork of this interpreter.

Run by the process that the user started. The child comes back fenced from `fence_this_process` and carries on as if
nothing had happened; this process becomes its supervisor and never comes back.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fence_core.errors import BrokerError, FenceError
from fence_core.kernel import arch, credentials, features, landlock, libc, pidfd, process
from fence_core.kernel.credentials import CAP_PERFMON, CAP_SYS_ADMIN
from fence_core.launcher import guardian, inherited, set_aside
from fence_core.launcher.child import BLOCKED, raise_fence
from fence_core.launcher.join import base_dir, maybe_join
from fence_core.link import start
from fence_core.policy.sources.files import source_kind

if TYPE_CHECKING:
    from fence_core.launcher.handle import Fence
    from fence_core.policy.model import Config

NEEDED = ("seccomp", "pidfd_open", "pidfd_getfd", "process_vm_readv", "ptrace")
"""Without these there is no fence at all; the others make it better."""
EXIT_UNAVAILABLE = 4
"""pytest's exit status for wrong usage: the run was not made."""


def obstacles() -> tuple[str, ...]:
    """Why this process cannot be fenced by a fork, one sentence each; empty where it can."""
    found: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        found.append(f"this is not the main thread but {threading.current_thread().name!r}")
    tasks = [int(name) for name in os.listdir("/proc/self/task")]
    if len(tasks) > 1:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        others = [tid for tid in tasks if tid != os.getpid()]
        for tid in others[:10]:
            name = names.get(tid, "not started by Python")
            found.append(f"another thread is running: {name} (native id {tid})")
    for pid in process.children()[:10]:
        try:
            name = process.program_name(pid)
        except OSError:
            continue
        found.append(f"a child process exists already: {name} (pid {pid})")
    return tuple(found)


def check_layers(required: Iterable[str]) -> features.Features:
    """What this kernel offers. Raises FenceUnavailable where something needed, or required by name, is missing."""
    found = features.detect()
    found.require(NEEDED)
    found.require(name for name in required if name)
    return found


def fence_this_process(
    config: Config, *, layers_required: Iterable[str] = (), meanwhile: Callable[[], object] = lambda: None
) -> Fence:
    """Fork: the child returns with a handle on the fence around it, this process never returns.

    `meanwhile`: what the child does, before its fence stands, while this process gets ready to supervise; for imports.
    Raises FenceUnavailable before anything was done.
    """

    def imports() -> None:
        import fence_core.launcher.handle  # noqa: F401 - what `maybe_join` below needs

        meanwhile()

    fork_fenced(config, layers_required, imports)
    fence = maybe_join(None, role="session")
    if fence is None:
        raise BrokerError("the fence stands, but its broker does not answer")
    return fence


def fork_fenced(
    config: Config,
    layers_required: Iterable[str] = (),
    meanwhile: Callable[[], object] = lambda: None,
    *,
    withheld: Iterable[str] = (),
) -> None:
    """Fork: returns in the child, with the fence around it. Raises FenceUnavailable before anything was done.

    `withheld`: variables that were kept from the tests already.
    """
    found = check_layers(layers_required)
    arch.current()  # raises on a machine whose calls we do not know
    gone = tuple(withheld)
    if config.settings.env_deny:
        from fence_core.launcher.withhold import withhold

        gone = tuple(sorted({*gone, *withhold(config.settings)}))
    left: tuple[inherited.Left, ...] = ()
    if config.settings.mode != "audit":
        left = inherited.left_open(config.settings.keep_fds, watch_reads=_watches_reads(config))
    to_supervisor_r, to_supervisor_w = os.pipe2(os.O_CLOEXEC)
    from_supervisor_r, from_supervisor_w = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = start.Orders(
        wait_killable=found.available("wait_killable"),
        signal_scope=found.available("landlock_scopes"),
        network_floor=config.settings.mode != "audit",
        file_floor=_has_file_floor(config, found),
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
        inherited.close_all(left)
        raise_fence(orders, guardian.run, meanwhile)
        set_aside.give_back_when_asked()
        theirs.detach()  # closed by raise_fence
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    os.close(to_supervisor_w)
    os.close(from_supervisor_r)
    os.close(orders.supervisor_pidfd)
    theirs.close()
    _supervise(config, child, to_supervisor_r, from_supervisor_w, ours, found, gone, left)


def _supervise(
    config: Config,
    child: int,
    from_child: int,
    to_child: int,
    guardian_control: socket.socket,
    found: features.Features,
    withheld: tuple[str, ...],
    left: tuple[inherited.Left, ...],
) -> NoReturn:
    try:
        # What only the supervisor needs is imported here, while the child builds its part of the fence.
        from fence_core.broker.ceiling import Ceiling, existing
        from fence_core.broker.scopes import Scope
        from fence_core.broker.table import filter_program
        from fence_core.launcher.early_modules import protect_early_modules, trusted_path

        policy = protect_early_modules(config.policy)
        # Before the child may run anything: what is imported from now on is not the tests' to choose.
        sys.path[:] = trusted_path(policy.filesystem.environment)
        watch_reads = _watches_reads(config)
        root = Scope(
            policy,
            mode=config.settings.mode,
            source=config.source,
            syntax=source_kind(config.path),
            base_dir=Path(base_dir(config)),
            watches_reads=watch_reads,
        )
        places = existing(root.judges[0].places) if _has_file_floor(config, found) else None
        program = filter_program(arch.current(), watch_reads=watch_reads, as_root=os.geteuid() == 0)
        start.send_walls(to_child, program, places or ())

        from fence_core.broker.loop import Broker
        from fence_core.launcher.supervisor import Supervisor, raise_limits

        raise_limits()
        libc.set_dumpable(False)  # our memory holds the rules: not readable, even where Landlock is missing
        number, why = start.read_listener(from_child)
        if why:
            os.waitpid(child, 0)
            leave_quietly(f"ERROR: fence: could not set up the fence: {why}", EXIT_UNAVAILABLE)
        listener = pidfd.get_fd(pidfd.open_pidfd(child), number)
        broker = Broker(
            listener,
            root,
            child,
            layers=_layers(found),
            stacks=found.available("wait_killable"),
            interruptible=not found.available("wait_killable"),
            ceiling=Ceiling(places),
            watches_reads=watch_reads,
        )
        broker.withheld = withheld
        broker.closed = left
        supervisor = Supervisor(
            broker,
            child,
            guardian_control,
            leftovers=config.settings.leftovers,
            scoped=found.available("landlock_scopes"),
        )
        os.write(to_child, start.GO)
        os.close(to_child)
        os.close(from_child)
    except BaseException as error:  # whatever it is: this process must not go on as an unfenced pytest
        os.kill(child, signal.SIGKILL)
        why = str(error) if isinstance(error, FenceError | OSError) else f"{type(error).__name__}: {error}"
        leave_quietly(f"ERROR: fence: could not set up the fence: {why}", EXIT_UNAVAILABLE)
    supervisor.run()


def _watches_reads(config: Config) -> bool:
    """`env_deny` needs it where this process may look at others' performance: then the kernel shows the environment of
    processes outside whatever Landlock says (mm_access and perfmon_capable in kernel/fork.c, measured on Linux 6.18 as
    root); the broker does not."""
    settings = config.settings
    if settings.watch_reads or config.policy.filesystem.deny_read:
        return True
    if not settings.env_deny or settings.mode == "audit":
        return False
    own = credentials.of(os.getpid())
    return own.may(CAP_PERFMON) or own.may(CAP_SYS_ADMIN)


def _has_file_floor(config: Config, found: features.Features) -> bool:
    """Without ACCESS_FS_REFER (before ABI 2) no file could be moved to another directory any more. A run that only
    audits refuses nothing."""
    return _landlock_files(found) and config.settings.mode != "audit"


def _landlock_files(found: features.Features) -> bool:
    return found.available("landlock") and found.landlock_abi >= landlock.ABI_REFER


def _layers(found: features.Features) -> tuple[str, ...]:
    layers = ["seccomp"]
    if found.available("landlock_scopes") or _landlock_files(found):
        layers.append(f"landlock {found.landlock_abi}")
    return tuple(layers)


def leave_quietly(text: str, status: int) -> NoReturn:
    """The fence could not be raised: say why on stderr, and end."""
    os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))
    libc.exit_now(status)
