"""What each layer is for, and how to get one that is missing. Only asked, not tried: that is `trial`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.doctor.finding import Finding
from fence_core.launcher.obstacles import NEEDED
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fence_core.kernel.features import Features

__all__ = ["LAYERS", "layers", "required"]

_PROFILE = "in a container, a seccomp profile that lets {} through, as Docker's does"
_PTRACE = "in a container, --cap-add=SYS_PTRACE or a seccomp profile that lets {} through"


class Layer(Record):
    """One of `fence_core.kernel.features.NAMES`."""

    without: str
    """What the fence is like without it."""
    get: str


LAYERS = {
    "seccomp": Layer("nothing can be fenced", f"Linux 5.9 or newer; {_PROFILE.format('seccomp')}"),
    "wait_killable": Layer("reports name no lines of Python", "Linux 5.19 or newer"),
    "landlock": Layer(
        "the broker alone decides about files",
        'Linux 5.13 or newer (files: 5.19) with "landlock" in the list of `lsm=` at boot; in a container, a seccomp '
        "profile that lets landlock_create_ruleset, landlock_add_rule and landlock_restrict_self through",
    ),
    "landlock_network": Layer("the broker alone decides about TCP", "Linux 6.7 or newer, with Landlock"),
    "landlock_scopes": Layer("env_deny, so the preset no-secrets, is refused", "Linux 6.12 or newer, with Landlock"),
    "pidfd_open": Layer("nothing can be fenced", f"Linux 5.3 or newer; {_PROFILE.format('pidfd_open')}"),
    "pidfd_getfd": Layer("the broker makes sockets itself, which costs more", _PTRACE.format("pidfd_getfd")),
    "process_vm_readv": Layer(
        "memory is read from /proc/PID/mem, which takes longer", _PTRACE.format("process_vm_readv")
    ),
    "ptrace": Layer("nothing can be fenced", "sysctl kernel.yama.ptrace_scope=1; with 2, run it as root"),
}
_IMPLIED = {"landlock": ("landlock_network", "landlock_scopes"), "landlock_network": ("landlock_scopes",)}
"""Who has one of those has this, too."""


def layers(found: Features) -> Iterator[Finding]:
    """A line for each, in the order of the header."""
    for feature in found:
        layer = LAYERS[feature.name]
        if feature.available:
            yield Finding(feature.name, "yes", feature.detail)
        else:
            text = "; ".join(filter(None, (feature.detail, f"without it {layer.without}")))
            yield Finding(feature.name, "broken" if feature.name in NEEDED else "no", text, layer.get)


def required(found: Features) -> tuple[str, ...]:
    """What `require` may ask for on this machine, so that a run elsewhere does not do with less. Without what the
    fence needs anyway."""
    there = [each.name for each in found if each.available and each.name not in NEEDED]
    return tuple(name for name in there if not {*_IMPLIED.get(name, ())} & {*there})
