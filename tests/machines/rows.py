"""The table of machines: what each is, what is run there, and what should come of it."""

from __future__ import annotations

from dataclasses import dataclass

NOBODY = 65534

# Ways out, ways to write, and what must go on working: enough to know that a machine is served, in seconds.
SELECTION = tuple(
    f"tests/end_to_end/test_{name}.py"
    for name in (
        "call_bind",
        "call_sendmsg",
        "call_unix_sockets",
        "escape_network",
        "fails_closed_supervisor",
        "modes",
        "network_asyncio",
        "network_curl",
        "network_multiprocessing",
        "network_names",
        "network_socket_connect",
        "network_thread",
        "network_udp_sendto",
        "unix_made_inside",
        "write_open",
        "write_shell",
        "write_subprocess_elsewhere",
    )
)
BRIEF = tuple(
    f"tests/end_to_end/test_{name}.py"
    for name in (
        "call_sendmsg",
        "network_names",
        "network_socket_connect",
        "unix_made_inside",
        "write_open",
        "write_shell",
    )
)
"""For a second user of the same machine."""


@dataclass(frozen=True)
class Row:
    """One machine, seen by one user."""

    name: str  # what `dev.py machines` is given: "docker-root"
    where: str  # as the table says it
    kind: str  # "container", "emulated" or "python"
    what: str  # the runtime; the kernel; the version of Python
    user: int = 0
    tests: tuple[str, ...] = SELECTION
    refused: str = ""  # what pytest says there if there cannot be a fence; empty: there can
    least: int = 0  # of these tests, so many pass; others may be skipped for what the machine lacks
    layers: tuple[str, ...] = ()  # words that the header of a run has there


REFUSED_BY_DOCKER = "this run cannot be fenced: pidfd_getfd"
"""Docker's and containerd's profiles refuse that call where a container has no CAP_SYS_PTRACE."""

ROWS = (
    Row("docker-root", "Docker", "container", "docker", refused=REFUSED_BY_DOCKER),
    Row("docker-user", "Docker", "container", "docker", NOBODY, refused=REFUSED_BY_DOCKER),
    Row("podman-root", "Podman's profile", "container", "podman", tests=BRIEF, least=9),
    Row("podman-user", "Podman's profile", "container", "podman", NOBODY, least=50),
    Row("containerd-root", "containerd (Kubernetes)", "container", "containerd", refused=REFUSED_BY_DOCKER),
    Row("containerd-user", "containerd (Kubernetes)", "container", "containerd", NOBODY, refused=REFUSED_BY_DOCKER),
)
