"""Which policy a command is fenced with: a file's, and what the flags add. Run before the fork."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fence_core.errors import PolicyError
from fence_core.policy.sources.load import find_config
from fence_core.policy.sources.templates import TemplateContext

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fence_core.command.options import Asked
    from fence_core.command.ports import Opened
    from fence_core.errors import Problem
    from fence_core.policy.model import Config

__all__ = ["choose", "complaint"]

TEMPLATE = "command"
"""What holds where no file says anything."""
_FLAGS = {
    "allow-domain": ("network", "allowed_domains"),
    "allow-write": ("filesystem", "allow_write"),
}


def choose(asked: Asked, here: str, opened: Iterable[Opened], locked: Iterable[str]) -> Config:
    """The policy for a command in the directory `here`, and how to run it. Raises PolicyError.

    `opened`: of `-p`. `locked`: files of ours that nothing inside may change.
    """
    settings = asked.value("settings")
    overlays = [
        (f"--{flag}", {section: {key: asked.values(flag)}})
        for flag, (section, key) in _FLAGS.items()
        if asked.has(flag)
    ]
    config = find_config(
        Path(here),
        None if settings is None else Path(settings),
        default_template=TEMPLATE,
        context=TemplateContext.of_run(here),
        overlays=overlays,
        locked=locked,
    )
    policy = config.policy
    network, ports = policy.network, tuple(opened)
    exposed = tuple(port for host, port in ports if host)
    network = network._replace(
        opened_ports=ports,
        expose_ports=tuple(dict.fromkeys((*network.expose_ports, *exposed))),
        proxy_env=network.proxy_env or "proxy_env" not in dict(network.sources),
    )
    # Nothing but the Python that runs this command is to be kept from what it does to virtual environments.
    files = policy.filesystem._replace(guards_environments=False)
    return config._replace(policy=policy._replace(network=network, filesystem=files), packages=())


def complaint(error: PolicyError) -> str:
    """What is wrong with the policy, for the user: one line, or a list."""
    if len(error.problems) == 1 and not error.problems[0].key:
        only = error.problems[0]
        return f"{_where(only)} {only.found}" + ("" if "read" in only.found else _accepted(only))
    return "\n".join(
        [
            "the policy cannot be used:",
            *(
                f"  {_where(each)}: {each.key}{': ' if each.key else ''}{each.found}{_accepted(each)}"
                for each in error.problems
            ),
        ]
    )


def _where(problem: Problem) -> str:
    """``fence.json:4``."""
    source = problem.source.removesuffix(" [tool.fence]")
    here = os.getcwd()
    if source.startswith(f"{here}/"):
        source = source[len(here) + 1 :]
    return source if problem.line is None else f"{source}:{problem.line}"


def _accepted(problem: Problem) -> str:
    return f"; accepted: {problem.accepted.replace('--fence-config=FILE', '-s FILE')}" if problem.accepted else ""
