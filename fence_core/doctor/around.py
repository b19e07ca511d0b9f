"""What this process runs in: a container, another supervisor, a debugger, namespaces of users."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from fence_core.doctor.finding import Finding
from fence_core.errors import FenceUnavailable
from fence_core.kernel import bpf, libc, process, seccomp
from fence_core.link import doors
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["container", "machine", "surroundings"]

_SUPERVISED = 3
_FILES = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
_VARIABLES = {"KUBERNETES_SERVICE_HOST": "kubernetes"}
_CGROUPS = {"docker": "docker", "libpod": "podman", "kubepods": "kubernetes", "containerd": "containerd", "lxc": "lxc"}
_RESTRICTIONS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ("/proc/sys/user/max_user_namespaces", "0"),
)


def machine(program: str) -> str:
    """`program`: what is run here beside Python, with its version."""
    system = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    kind = container()
    where = f", in a container ({kind})" if kind else ""
    names = f"{system.sysname} {system.release} {system.machine}"
    return escape(f"{names}, Python {python}, {program}, uid {os.geteuid()}{where}")


def container() -> str:
    """Which kind it is; empty where there is none, as far as it shows."""
    for path, kind in _FILES.items():
        if os.path.exists(path):
            return kind
    for name, kind in _VARIABLES.items():
        if os.environ.get(name):
            return kind
    said = _read("/run/host/container-manager") or _read("/run/systemd/container")
    if said:
        return said
    groups = _read("/proc/1/cgroup") + _read("/proc/self/cgroup")
    return next((kind for word, kind in _CGROUPS.items() if word in groups), "")


def surroundings() -> Iterator[Finding]:
    """What is above this process, and other things that decide nothing."""
    yield _above()
    yield Finding("user namespaces", "-", f"{_restricted()} (not needed)")
    yield Finding("debugger", "-", _debugger())


def _above() -> Finding:
    """A process can have one supervisor; whether there is one, only the kernel knows."""
    name = "another supervisor"
    if doors.is_fenced():
        return Finding(name, "-", "a fence is around this process: what both allow is allowed")
    child = process.fork_unnoticed()
    if child == 0:
        status = 1
        try:
            libc.set_no_new_privs()
            seccomp.install_listener(bpf.assemble({}), wait_killable=False)
        except FenceUnavailable:
            status = _SUPERVISED
        finally:
            libc.exit_now(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _SUPERVISED:
        return Finding(
            name, "broken", "a container runtime, a sandbox or the like supervises this process; the kernel allows one",
            "run outside of it, or switch off its supervision (rules with SCMP_ACT_NOTIFY in the seccomp profile)",
        )  # fmt: skip
    return Finding(name, "-", "none")


def _restricted() -> str:
    named = [path for path, value in _RESTRICTIONS if _read(path) == value]
    return f"restricted by {', '.join(os.path.basename(path) for path in named)}" if named else "not restricted"


def _debugger() -> str:
    lines = _read("/proc/self/status").splitlines()
    tracer = next((line.split()[1] for line in lines if line.startswith("TracerPid:")), "0")
    if tracer != "0":
        return f"{escape(_read(f'/proc/{tracer}/comm') or 'a program')} (pid {tracer}) traces this process"
    return "pydevd is attached to this process" if "pydevd" in sys.modules else "none is attached"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
