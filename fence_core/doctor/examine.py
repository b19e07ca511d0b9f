"""The doctor: asks, tries, and says what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.doctor import around, trial
from fence_core.doctor.finding import Finding
from fence_core.doctor.layers import layers, required
from fence_core.errors import FenceUnavailable
from fence_core.kernel import features
from fence_core.launcher.obstacles import check_layers
from fence_core.launcher.withhold import check_scopes
from fence_core.link import doors
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fence_core.policy.model import Config, Policy

__all__ = ["counted", "examine"]

READY, NOT_READY = 0, 1


def examine(program: str, config: Config | None, named: str) -> Iterator[tuple[str, int]]:
    """Lines, as they come, each with the exit status so far.

    `program`: who asks, with its version. `config`: the policy that a run here would have; None where it cannot be
    used. `named`: what that is called, or what is wrong with it.
    """
    yield around.machine(program), READY
    status, broken, missing = READY, [], 0
    for finding in _findings(config):
        if finding.mark == "broken":
            status = NOT_READY
            broken.append(finding.name)
        missing += finding.mark == "no"
        for line in _lines(finding):
            yield line, status
    if config is None:
        status = NOT_READY
        broken.append("the policy")
    yield named, status
    for line in _verdict(broken, missing):
        yield line, status


def _findings(config: Config | None) -> Iterator[Finding]:
    supervised = False
    try:
        found = features.detect()
    except FenceUnavailable as error:
        yield Finding("this machine", "broken", error.reason, error.remedy)
        return
    yield from layers(found)
    for finding in around.surroundings():
        supervised |= finding.mark == "broken"
        yield finding
    if supervised:
        return
    try:
        check_layers(())
    except FenceUnavailable as error:
        if found.available("seccomp"):
            yield Finding("a fence", "broken", f"{error.feature}: {error.reason}", error.remedy)
        return
    nested = doors.is_fenced()
    tried = trial.try_command(nested=nested)
    yield from trial.judge(tried, nested=nested)
    if not tried.failure:
        yield trial.try_pytest()
    if config is not None:
        yield from _wanted(config)


def _wanted(config: Config) -> Iterator[Finding]:
    """What the policy asks for, and this machine does not have."""
    try:
        check_layers(config.settings.require)
    except FenceUnavailable as error:
        yield Finding("require", "broken", f"the policy asks for what is missing: {error.feature}")
    try:
        check_scopes(config.settings)
    except FenceUnavailable as error:
        yield Finding("env_deny", "broken", error.reason, error.remedy)


_WIDTH = 18
_TEXT_AT = _WIDTH + 10


def _lines(finding: Finding) -> Iterator[str]:
    mark = "no" if finding.mark == "broken" else finding.mark
    yield f"  {finding.name:<{_WIDTH}}  {mark:<3}  {finding.text}".rstrip()
    if finding.cure:
        yield " " * (_TEXT_AT - 3) + f"to get it: {finding.cure}"


def _verdict(broken: Sequence[str], missing: int) -> Iterator[str]:
    if broken:
        yield f"Not ready: {', '.join(broken)}."
        return
    wanted = ", ".join(f'"{name}"' for name in required(features.detect()))
    less = f", with less than there could be ({missing} missing)" if missing else ""
    yield f"Ready{less}." + (f" For CI on this machine: require = [{wanted}]" if wanted else "")


def counted(policy: Policy) -> str:
    """``3 names, 1 place, 0 refused commands``."""
    names = len(policy.network.allowed_domains) + len(policy.network.allow_private) + len(policy.network.hosts)
    counts = (
        (names, "name"), (len(policy.filesystem.allow_write), "place"), (len(policy.command.deny), "refused command"),
    )  # fmt: skip
    return ", ".join(f"{number} {what}{'' if number == 1 else 's'}" for number, what in counts)


def named(chain: Sequence[str], policy: Policy) -> str:
    """The line about the policy. `chain`: what it is made of."""
    return f"policy: {', '.join(map(escape, chain))}; {counted(policy)}"
