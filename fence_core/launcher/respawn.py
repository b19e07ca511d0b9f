"""Starting over behind a fence, where this process cannot be forked: other threads run in it.

Threads do not survive a fork, and those of the original would go on unfenced. So the original execs a clean
supervisor in its place (same pid, same terminal), which forks a fenced child that starts the same command again.
There the fence is up before any plugin is imported.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from fence_core.launcher.early_modules import protect_early_modules, protect_packages, trusted_path
from fence_core.launcher.fork import fork_fenced
from fence_core.launcher.obstacles import check_layers
from fence_core.launcher.plan import Host
from fence_core.launcher.supervise import leave_quietly
from fence_core.launcher.withhold import check_restart, withhold
from fence_core.policy.model import Config, Package, Policy, Settings
from fence_core.policy.sources import files
from fence_core.policy.sources.wire import from_wire, to_wire

START = (
    "import json,os,sys;fd=int(sys.argv[1]);order=json.loads(os.pread(fd,os.fstat(fd).st_size,0));os.close(fd);"
    "sys.path[:]=order['sys_path'];from fence_core.launcher.respawn import supervise;supervise(order)"
)


def respawn_fenced(config: Config, argv: list[str], host: Host) -> NoReturn:
    """Replace this process by a supervisor that runs `argv` (as in `sys.orig_argv`) fenced.

    Raises FenceUnavailable or PolicyError while there is still a way back, OSError if the exec fails.
    """
    check_layers(config.settings.require)
    check_restart(config, host)
    order = make_order(config, argv, host)
    # Before the exec, whose program gets the rest: the names are all that is left to hand on.
    order["withheld"] = withhold(config.settings)
    fd = os.memfd_create("fence-order", 0)
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(order).encode())
    os.set_inheritable(fd, True)
    sys.stdout.flush()
    sys.stderr.flush()
    # -I -S: nothing of the user's start-up files runs in a process that is not fenced.
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", START, str(fd)])


def make_order(config: Config, argv: list[str], host: Host) -> dict[str, Any]:
    """What the new program is told, as JSON has it."""
    policy = protect_early_modules(config.policy)  # what was loaded is known here only
    return {
        "argv": argv,
        "executable": sys.executable,
        "sys_path": trusted_path(policy.filesystem.environment),
        "policy": to_wire(policy),
        "settings": to_wire(config.settings),
        "source": config.source,
        "path": str(config.path) if config.path else "",
        "packages": to_wire(protect_packages(config, policy)),
        "texts": files.texts,
        "host": to_wire(host),
    }


def read_order(order: dict[str, Any]) -> tuple[Config, Host]:
    files.texts.update(order["texts"])
    config = Config(
        policy=from_wire(Policy, order["policy"]),
        settings=from_wire(Settings, order["settings"]),
        source=order["source"],
        path=Path(order["path"]) if order["path"] else None,
        packages=tuple(from_wire(Package, each) for each in order["packages"]),
    )
    return config, from_wire(Host, order["host"])


def supervise(order: dict[str, Any]) -> NoReturn:
    """Run by the new program: fork, fence the child, start the command in it."""
    config, host = read_order(order)
    home = None
    if "home" in order:
        from fence_core.launcher.home import Home

        home = Home(order["home"], order["first"])
    fork_fenced(config, host, withheld=order["withheld"], home=home)
    try:
        os.execv(order["executable"], order["argv"])
    except OSError as error:
        leave_quietly(f"ERROR: fence: cannot start {order['executable']} again: {error}", host.unusable)
