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
class Job:
    """What one user does there, and what should come of it."""

    user: int = 0
    tests: tuple[str, ...] = ()  # after the quickstart
    least: int = 0  # so many of them pass; others may be skipped for what the machine lacks
    refused: str = ""  # what pytest says where there cannot be a fence; empty: there can
    layers: tuple[str, ...] = ()  # what the header of a run names there
    yama: str = ""  # the kernel's ptrace_scope meanwhile; empty: as it is


@dataclass(frozen=True)
class Row:
    """One machine."""

    name: str  # what `dev.py machines` is given
    kind: str  # "container", "emulated" or "python"
    what: str  # the runtime; the suite of Debian's that the kernel is from; the version of Python
    jobs: tuple[Job, ...]
    arch: str = "amd64"
    modules: bool = True  # whether the kernel has its modules: unix_diag is one


GATED = ("seccomp", "without pidfd_getfd")
"""Docker's and containerd's profiles refuse that call where a container has no CAP_SYS_PTRACE."""
REFUSED_BY_YAMA = "this run cannot be fenced: ptrace: Yama ptrace_scope 2"


def kernel(name: str, suite: str, *layers: str, arch: str = "amd64") -> tuple[Row, Row]:
    """A kernel with every setting of Yama, and once more without its modules."""
    yama = (
        Job(yama="0", layers=layers),
        Job(NOBODY, yama="0", layers=layers),
        Job(yama="2", layers=layers),
        Job(NOBODY, yama="2", refused=REFUSED_BY_YAMA),
        Job(tests=SELECTION, least=50, yama="1", layers=layers),
        Job(NOBODY, tests=BRIEF, least=9, yama="1", layers=layers),
    )
    bare = (Job(tests=BRIEF, least=9, layers=layers), Job(NOBODY, tests=BRIEF, least=9, layers=layers))
    return Row(name, "emulated", suite, yama, arch), Row(f"{name}-bare", "emulated", suite, bare, arch, modules=False)


ROWS = (
    Row("docker-root", "container", "docker", (Job(tests=SELECTION, least=50, layers=GATED),)),
    Row("docker-user", "container", "docker", (Job(NOBODY, tests=BRIEF, least=9, layers=GATED),)),
    Row("podman-root", "container", "podman", (Job(tests=BRIEF, least=9),)),
    Row("podman-user", "container", "podman", (Job(NOBODY, tests=SELECTION, least=50),)),
    Row("containerd-root", "container", "containerd", (Job(tests=BRIEF, least=9, layers=GATED),)),
    Row("containerd-user", "container", "containerd", (Job(NOBODY, tests=BRIEF, least=9, layers=GATED),)),
    *kernel("linux-5.10", "bullseye", "seccomp"),
    *kernel("linux-6.1", "bookworm", "seccomp", "landlock 2"),
    *kernel("linux-6.12", "trixie", "seccomp", "landlock 6"),
    *kernel("linux-newest", "sid", "seccomp", "landlock"),
    *kernel("aarch64", "bookworm", "seccomp", "landlock 2", arch="arm64"),
    Row("python-3.14", "python", "3.14", (Job(tests=("tests",), least=3000),)),
    Row("python-3.15", "python", "3.15", (Job(tests=("tests",), least=3000),)),
)
