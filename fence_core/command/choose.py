"""Which policy a command is fenced with: that of a file, and what the flags add. Run before the fork."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.command.options import Option
from fence_core.policy.sources.discover import Discovered, discover

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fence_core.command.options import Asked
    from fence_core.command.ports import Opened
    from fence_core.errors import PolicyError, Problem

__all__ = ["CHOOSING", "choose", "complaint", "find", "place_of"]

CHOOSING = (
    Option("settings", "s", "FILE", "the policy: .json, .jsonc, .yaml or .toml"),
    Option("template", "t", "NAME", "a policy that comes with fence"),
    Option("no-project-config", "", "", "ignore this directory's policy"),
    Option("allow-domain", "", "NAME", "as an item of network.allowedDomains", many=True),
    Option("allow-write", "", "PATH", "as an item of filesystem.allowWrite", many=True),
)
"""The flags that say which policy it is, of the subcommands that run nothing."""
_FLAGS = {
    "allow-domain": ("network", "allowed_domains"),
    "allow-write": ("filesystem", "allow_write"),
}


def find(asked: Asked, here: str, locked: Iterable[str] = ()) -> Discovered:
    """The policy that a file or a template says, with what the flags add to its lists. Raises PolicyError."""
    return discover(
        here,
        settings=asked.value("settings") or "",
        template=asked.value("template") or "",
        project=not asked.has("no-project-config"),
        flags=[
            (f"--{flag}", {section: {key: asked.values(flag)}})
            for flag, (section, key) in _FLAGS.items()
            if asked.has(flag)
        ],
        locked=locked,
    )


def choose(asked: Asked, here: str, opened: Iterable[Opened], locked: Iterable[str]) -> Discovered:
    """The policy for a command in the directory `here`, and how to run it. Raises PolicyError.

    `opened`: of `-p`. `locked`: files of ours that nothing inside may change.
    """
    found = find(asked, here, locked)
    config = found.config
    network, ports = config.policy.network, tuple(opened)
    exposed = tuple(port for host, port in ports if host)
    network = network._replace(
        opened_ports=ports,
        expose_ports=tuple(dict.fromkeys((*network.expose_ports, *exposed))),
        proxy_env=network.proxy_env or "proxy_env" not in dict(network.sources),
    )
    # Packages are for tests, which have a policy each.
    return found._replace(config=config._replace(policy=config.policy._replace(network=network), packages=()))


def complaint(error: PolicyError) -> str:
    """What is wrong with the policy, for the user: one line, or a list."""
    if len(error.problems) == 1 and not error.problems[0].key:
        only = error.problems[0]
        if only.source == "-t":
            return f"{only.found}; there are: {only.accepted}"
        return f"{place_of(only)} {only.found}" + ("" if "read" in only.found else _accepted(only))
    return "\n".join(
        [
            "the policy cannot be used:",
            *(
                f"  {place_of(each)}: {each.key}{': ' if each.key else ''}{each.found}{_accepted(each)}"
                for each in error.problems
            ),
        ]
    )


def place_of(problem: Problem) -> str:
    """``fence.json:4``."""
    source = problem.source.removesuffix(" [tool.fence]")
    here = os.getcwd()
    if source.startswith(f"{here}/"):
        source = source[len(here) + 1 :]
    return source if problem.line is None else f"{source}:{problem.line}"


def _accepted(problem: Problem) -> str:
    return f"; accepted: {problem.accepted}" if problem.accepted else ""
