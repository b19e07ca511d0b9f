"""The table of machines: what each is, what is run there, and what should come of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
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
LINES = tuple(f"tests/end_to_end/test_{name}.py" for name in ("network_names", "network_socket_connect", "write_open"))
SOCKETS = ("tests/end_to_end/test_unix_made_inside.py",)
"""Where programs take twenty times as long: what another kernel makes a difference to."""

OLD_PYTEST = ("tests/end_to_end/test_scope_outcomes.py", "tests/end_to_end/test_when_fixtures.py")
"""Where our plugin meets what pytest has changed since 8.0: a test in a fork of its own most of all."""
APART = ("tests/end_to_end/test_playwright.py", "tests/end_to_end/test_report_plugins_shown.py")
"""With plugins that are not among the others: one changes what every pytest prints, one brings 200 MB."""
BORROWED = tuple(
    f"tests/end_to_end/test_{name}.py"
    for name in (
        "call_abrupt_end",
        "call_fast_open",
        "call_mapped_addresses",
        "call_mptcp",
        "call_sendmmsg",
        "call_socket_families",
        "call_socket_ties",
        "call_static_program",
        "caller_dies",
        "datagrams_outside",
        "datagrams_races",
        "datagrams_unchanged",
        "datagrams_unsent",
        "fails_closed_faults",
        "fails_closed_filter",
        "keeps_working_network",
        "look_ups_counted",
        "nested",
        "nested_unfenced",
        "network_connect_ex",
        "network_ctypes",
        "network_grpc",
        "network_node",
        "network_psycopg2",
        "network_pycurl",
        "network_resolver_ports",
        "network_socket_extension",
        "network_uvloop",
        "privileged_calls",
    )
)
"""What the broker does with a program's sockets, beside `SELECTION` and the ways out."""
MEMORY = tuple(
    f"tests/end_to_end/test_{name}.py"
    for name in (
        "accounts",
        "call_sendmmsg",
        "call_sendmsg",
        "caller_dies",
        "datagrams_unchanged",
        "escape_files",
        "escape_paths",
        "names_limits",
        "network_udp_sendto",
        "privileged_calls",
    )
)
"""What it reads and writes in a program's memory."""
WAYS_OUT = tuple(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/end_to_end/test_escape_*.py")))
"""Ways around what is said of files and the network."""
DOMAINS = ("tests/end_to_end/domains",)
"""Programs that reach a name: all of them; and without the browser and the engine that take longest."""
PLAIN_PROGRAMS = tuple(
    f"tests/end_to_end/domains/test_domains_{name}.py" for name in ("downloads", "python", "services")
)


COMMANDS = ("tests/end_to_end/command/test_command_examples.py",)
"""Among them programs that are too large to be installed for each run of CI: npm, cargo, vim."""


@dataclass(frozen=True)
class Job:
    """What one user does there, and what should come of it."""

    user: int = 0
    tests: tuple[str, ...] = ()  # after the quickstart
    least: int = 0  # so many of them pass; others may be skipped for what the machine lacks
    refused: str = ""  # what pytest says where there cannot be a fence; empty: there can
    yama: str = ""  # the kernel's ptrace_scope meanwhile; empty: as it is
    modules: bool = True  # whether the kernel has its modules: unix_diag is one


@dataclass(frozen=True)
class Row:
    """One machine."""

    name: str  # what `dev.py machines` is given
    kind: str  # "container", "refused", "emulated", "python" or "packages"
    what: str  # the runtime; calls; the suite of Debian's that the kernel is from; the version of Python; requirements
    where: str  # as the page says it; rows that say the same are one there
    jobs: tuple[Job, ...]
    layers: tuple[str, ...] = ("seccomp",)  # what the header of a run names there
    lacks: tuple[str, ...] = ()  # the layers that are missing there, and no others
    perhaps: tuple[str, ...] = ()  # those that some versions lack
    note: str = ""  # what the page says besides
    arch: str = "amd64"


def container(runtime: str, where: str, root: Job, user: Job, **more: Any) -> tuple[Row, Row]:
    return (
        Row(f"{runtime}-root", "container", runtime, where, (root,), **more),
        Row(f"{runtime}-user", "container", runtime, where, (user,), **more),
    )


GATED: dict[str, Any] = {
    "layers": ("seccomp", "without pidfd_getfd"),
    "lacks": ("pidfd_getfd",),
    "perhaps": ("process_vm_readv",),
    "note": "nothing with `--cap-add=SYS_PTRACE`",
}
"""These profiles refuse the call where a container has no CAP_SYS_PTRACE, and the other one if they are older."""
REFUSED_BY_YAMA = "this run cannot be fenced: ptrace: Yama ptrace_scope 2"


def kernel(name: str, suite: str, where: str, *layers: str, **more: Any) -> Row:
    """A kernel without its modules, as of small virtual machines, and then with them and every setting of Yama."""
    jobs = (
        Job(tests=SOCKETS, least=5, yama="1", modules=False),
        Job(tests=LINES, least=6, yama="1"),
        Job(NOBODY, tests=SOCKETS, least=5, yama="1"),
        Job(NOBODY, yama="0"),
        Job(yama="2"),
        Job(NOBODY, yama="2", refused=REFUSED_BY_YAMA),
    )
    return Row(name, "emulated", suite, where, jobs, ("seccomp", *layers), **more)


def refused(feature: str, calls: str, *jobs: Job) -> Row:
    """This machine, but for one of the two calls that containers may lack: in `GATED` ones here both are missing."""
    layers = ("seccomp", f"without {feature}")
    where = f"Where the kernel refuses `{feature}` alone"
    return Row(f"refused-{feature}", "refused", calls, where, jobs, layers, lacks=(feature,))


def python(version: str) -> Row:
    jobs = (Job(NOBODY, tests=BRIEF, least=9), Job(tests=("tests",), least=8800))
    return Row(f"python-{version}", "python", version, f"Python {version}: all tests", jobs)


def packages(name: str, needs: str, where: str, tests: tuple[str, ...], least: int) -> Row:
    """An environment on this machine with other packages than the tests' own: words for pip, or "oldest"."""
    return Row(name, "packages", needs, where, (Job(tests=tests, least=least),))


BEFORE_RULES_FOR_TCP = ("landlock_network", "landlock_scopes")
ROWS = (
    *container(
        "docker",
        "Docker: default profile and capabilities",
        Job(tests=(*SELECTION, *WAYS_OUT, *DOMAINS), least=280),
        Job(NOBODY, tests=(*BRIEF, *WAYS_OUT, *PLAIN_PROGRAMS), least=200),
        **GATED,
    ),
    *container(
        "podman",
        "Podman: default profile and capabilities",
        Job(tests=BRIEF, least=9),
        Job(NOBODY, tests=SELECTION, least=50),
    ),
    *container(
        "containerd",
        "containerd: default profile (Kubernetes' `RuntimeDefault`)",
        Job(tests=BRIEF, least=9),
        Job(NOBODY, tests=BRIEF, least=9),
        **GATED,
    ),
    refused("pidfd_getfd", "pidfd_getfd", Job(tests=BORROWED, least=120)),
    refused("process_vm_readv", "process_vm_readv,process_vm_writev", Job(tests=MEMORY, least=45)),
    kernel("linux-5.10", "bullseye", "Linux 5.10", lacks=("wait_killable", "landlock", *BEFORE_RULES_FOR_TCP)),
    kernel("linux-6.1", "bookworm", "Linux 6.1", "landlock 2", lacks=BEFORE_RULES_FOR_TCP),
    kernel("linux-6.12", "trixie", "Linux 6.12", "landlock 6"),
    kernel("linux-newest", "sid", "the newest Linux of Debian's", "landlock"),
    kernel("aarch64", "bookworm", "Linux 6.1 on aarch64", "landlock 2", lacks=BEFORE_RULES_FOR_TCP, arch="arm64"),
    python("3.14"),
    python("3.15"),
    packages("pytest-8.0", "oldest", "pytest 8.0, and the oldest of all other requirements", OLD_PYTEST, least=36),
    packages("pytest-8.1", "pytest==8.1.*", "pytest 8.1, 8.2", OLD_PYTEST, least=36),
    packages("pytest-8.2", "pytest==8.2.*", "pytest 8.1, 8.2", OLD_PYTEST, least=36),
    packages("other-plugins", "pytest-playwright pytest-pretty", "pytest-playwright, pytest-pretty", APART, least=7),
    packages("commands", "pip", "npm, cargo, docker, vim and less by `fence`", COMMANDS, least=12),
)


def page() -> str:
    """The table of docs/reference/platforms.md."""
    places: dict[str, list[Row]] = {}
    for row in ROWS:
        places.setdefault(row.where, []).append(row)
    lines = ["| Where | As | Works | Layers it lacks | Rows |", "|---|---|---|---|---|"]
    for where, rows in places.items():
        users = {"root" if job.user == 0 else "a user" for row in rows for job in row.jobs if not job.refused}
        names = ", ".join(f"`{row.name}`" for row in rows)
        lines.append(f"| {where} | {', '.join(sorted(users, reverse=True))} | yes | {lacking(rows[0])} | {names} |")
    return "\n".join(lines)


def lacking(row: Row) -> str:
    parts = [", ".join(f"`{name}`" for name in row.lacks) or "none"]
    if row.perhaps:
        parts.append("with some versions " + ", ".join(f"`{name}`" for name in row.perhaps))
    return "; ".join([*parts, row.note] if row.note else parts)
