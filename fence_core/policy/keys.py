"""Every key of a policy, each with one row: the only place where it is written down, but for its field in `model.py`.

Loading, validation, merging and the reference page come from these rows. See docs/internals/adding-a-policy-key.md.
"""

from __future__ import annotations

from typing import get_args

from fence_core.policy.kinds import (
    BOOLEAN,
    CHOICE,
    COMMANDS,
    DESCRIPTORS,
    DEVICES,
    DIRECTORIES,
    DOMAINS,
    HOSTS,
    LAYERS,
    LISTENING,
    NAMES,
    NARROW_DOMAINS,
    PATHS,
    PORT,
    PORTS,
    REPORTS,
    STRINGS,
    TABLE,
    URL,
    VARIABLES,
    Key,
)
from fence_core.policy.kinds import (
    EXTENDS as _EXTENDS,
)
from fence_core.policy.model import CONFIGURABLE_MODES, Blame, Leftovers, TestScope, Unsupported

__all__ = [
    "DENY_READ", "ENABLED", "EXTENDS", "FLAT_SECTIONS", "KEYS", "PACKAGES", "PRESETS", "SCOPE", "SECTIONS", "Key",
    "is_known", "of_section", "spellings",
]  # fmt: skip

PRESETS = (
    "pytest", "browser", "strict", "default-deny", "no-secrets", "command", "code", "code-relaxed", "git-readonly",
    "local-dev-server", "disable-telemetry", "django", "offline", "ci",
)  # fmt: skip
"""The named policies, each with a file of its own in `sources/templates`."""

_OWN_SECTIONS = ("network", "filesystem", "command")
SECTIONS = (*_OWN_SECTIONS, "devices", "ssh", "macos")
FLAT_SECTIONS = ("network", "filesystem")
"""Those that may be left out. Of the last one every key reads as something else when it stands alone: deny what?"""

_NO_READS = "reading cannot be limited to a list in this version, only what must not be read"
_NO_SSH = "rules for the words of ssh commands are not kept in this version"
_ITS_READS = "`deny_read`, or leaving it out"
_ITS_HOSTS = "leaving it out; allowed_domains says which hosts can be reached"

KEYS = (
    Key(
        "network", "allowed_domains", DOMAINS, example="api.example.com",
        help="names, wildcards (`*.example.com`, not `example.com` itself), `*` for every name, IP addresses and "
        "networks that may be reached, each with an optional `:port`; a listed address opens no server inside to other "
        "machines",
    ),
    Key("network", "denied_domains", DOMAINS, deny=True, example="api.example.com", help="the same, forbidden; wins"),
    Key(
        "network", "ignored_domains", NARROW_DOMAINS, example="telemetry.example.com",
        help="the same but `*`: refused like what no list has, and no violation; the end of the run says how often",
    ),
    Key(
        "network", "allow_private", NAMES, example="db",
        help="names and wildcards that may be reached even where they lead to private addresses: other containers, "
        "machines of one's own network",
    ),
    Key(
        "network", "allow_local_binding", BOOLEAN, unset="`true` in `pytest`, `strict`",
        help="open ports on loopback. Where it is false, a TCP socket is refused when it listens, a datagram socket "
        "when it is bound to a port of its choice",
    ),
    Key(
        "network", "allow_local_outbound", BOOLEAN, unset="as `allow_local_binding`",
        list_in="allow_local_outbound_ports",
        help="reach ports on loopback that were not opened inside",
    ),
    Key(
        "network", "allow_local_outbound_ports", PORTS, cleared_by="network.allow_local_outbound",
        help="if given: of the ports on loopback that were not opened inside, these and no others may be reached. "
        "Lists add up. A closer `allow_local_outbound` without a list replaces them; beside a list it has no effect",
    ),
    Key(
        "network", "allow_unix_sockets", PATHS, example="/var/run/postgresql",
        help="UNIX sockets outside the fence that may be connected to",
    ),
    Key("network", "allow_all_unix_sockets", BOOLEAN, help="all of them"),
    Key(
        "network", "ignored_unix_sockets", PATHS, deny=True, example="/run/dbus/system_bus_socket",
        help="refused, and no violation, as `ignored_domains`",
    ),
    Key(
        "network", "hosts", HOSTS,
        help='`"api.stripe.com" = "127.0.0.1:8443"`: the name is allowed, at that address only (without a port: at the '
        'one asked for). `"gone.example" = false`: the name does not exist, and looking it up is not a violation',
    ),
    Key(
        "network", "expose_ports", PORTS,
        help="ports that other machines may reach when they are bound to the wildcard address; all others stay on "
        "loopback",
    ),
    Key(
        "network", "upstream_proxy", URL,
        help="the proxy through which the filter connects: `http://user:password@proxy.example:3128`",
    ),
    Key(
        "network", "proxy_env", BOOLEAN, marker=False,
        help="point programs at the filter through `HTTP_PROXY` and the like; for the run as a whole, not in a marker",
    ),
    Key(
        "network", "http_proxy_port", PORT, marker=False, unset="any",
        help="the port of the filter on loopback; not in a marker",
    ),
    Key(
        "network", "socks_proxy_port", PORT, marker=False, foreign=True,
        refused="there is no SOCKS proxy, since programs reach allowed names directly and need none",
        instead="0, or leaving it out", help="the port of a SOCKS proxy on loopback",
    ),
    Key(
        "network", "default_action", CHOICE, marker=False, foreign=True, choices=("deny", "proxy"), harmless=("deny",),
        refused="what no list names is refused, and never sent to a proxy that could let it through",
        instead='"deny", or leaving it out', help="what becomes of names that no list has",
    ),
    Key("filesystem", "allow_write", PATHS, example="build", unset="the preset's", help="may be changed"),
    Key("filesystem", "deny_write", PATHS, deny=True, example="build", help="may not; wins"),
    Key(
        "filesystem", "deny_read", PATHS, deny=True, example="build",
        help="may be neither read nor run; every open for reading then goes through the broker",
    ),
    Key(
        "filesystem", "ignore_write", PATHS, deny=True, example="~/.config/chromium",
        help="refused, and no violation, as `ignored_domains`; what is denied or protected stays a violation",
    ),
    Key(
        "filesystem", "allow_git_config", BOOLEAN,
        help="tests may write anything into `.git/config`, and `git worktree add` works. Without it tests may still "
        "make repositories in the project (`git init`, `git clone`), as long as their `config` has nothing that git "
        "would run",
    ),
    Key("filesystem", "allow_read", STRINGS, marker=False, foreign=True, refused=_NO_READS, instead=_ITS_READS,
        help="may be read; with `default_deny_read`, nothing else"),
    Key("filesystem", "allow_execute", STRINGS, marker=False, foreign=True, refused=_NO_READS, instead=_ITS_READS,
        help="may be run, and not listed"),
    Key("filesystem", "default_deny_read", BOOLEAN, marker=False, foreign=True, harmless=(False,), refused=_NO_READS,
        instead=_ITS_READS, help="nothing may be read but what `allow_read` names, and the system"),
    Key("filesystem", "strict_deny_read", BOOLEAN, marker=False, foreign=True, harmless=(False,), refused=_NO_READS,
        instead=_ITS_READS, help="nothing may be read but what `allow_read` names"),
    Key(
        "filesystem", "wsl_interop", BOOLEAN, marker=False, foreign=True, harmless=(False,),
        refused="the fence knows nothing of WSL, and opens nothing for it",
        instead="false, or leaving it out", help="Windows programs may be run",
    ),
    Key(
        "command", "deny", COMMANDS, deny=True, example="git push",
        help="commands that may not be run, by their first words: `git push`, `rm -rf`, `dd if=`; whoever starts them, "
        "and by whatever name",
    ),
    Key(
        "command", "allow", COMMANDS, example="git push origin docs",
        help="exceptions, word for word from the first on; an exception wins over `deny`",
    ),
    Key("command", "use_defaults", BOOLEAN, marker=False, foreign=True, help="the Go tool's own list of commands"),
    Key("command", "runtime_exec_policy", CHOICE, marker=False, foreign=True, choices=("path", "argv"),
        help="how commands are told apart"),
    Key("command", "accept_shared_binary_cannot_runtime_deny", STRINGS, marker=False, foreign=True,
        help="commands that may share a file with others"),
    Key(
        "devices", "mode", CHOICE, marker=False, foreign=True, choices=("auto", "minimal", "host"),
        harmless=("auto", "host"),
        refused="there is no `/dev` of one's own: programs see the machine's, and may open what allow_write names",
        instead='"auto" or "host"', help="which `/dev` there is; here always the machine's",
    ),
    Key(
        "devices", "allow", DEVICES, marker=False, foreign=True, adds_to="filesystem.allow_write", example="/dev/dri",
        help="short for `allow_write` with these paths below `/dev`",
    ),
    *(
        Key("ssh", name, kind, marker=False, foreign=True, refused=_NO_SSH, instead=_ITS_HOSTS,
            harmless=(False,) if kind is BOOLEAN else (), help=words)
        for name, kind, words in (
            ("allowed_hosts", STRINGS, "hosts that `ssh` may be started for"),
            ("denied_hosts", STRINGS, "the same, forbidden"),
            ("allowed_commands", STRINGS, "commands that may be run there"),
            ("denied_commands", STRINGS, "the same, forbidden"),
            ("allow_all_commands", BOOLEAN, "all commands but those forbidden"),
            ("inherit_deny", BOOLEAN, "`command.deny` holds there, too"),
        )
    ),
    Key("macos", "mach", TABLE, marker=False, foreign=True, help="services of macOS"),
    Key("macos", "gpu", BOOLEAN, marker=False, foreign=True, help="Metal of macOS"),
    Key(
        "", "enabled", BOOLEAN, marker=False, flag="--fence", narrows=True,
        help="fence every run, as `--fence` does",
    ),
    Key("", "mode", CHOICE, marker=False, flag="--fence-mode", choices=CONFIGURABLE_MODES, help="as `--fence-mode`"),
    Key(
        "", "require", LAYERS, marker=False, flag="--fence-require", example="landlock", narrows=True,
        help="as `--fence-require`",
    ),
    Key(
        "", "leftovers", CHOICE, marker=False, choices=get_args(Leftovers),
        help="what happens to processes of the tests that are still alive when the session has ended: named and ended, "
        "or waited for, still fenced",
    ),
    Key("", "scope", CHOICE, flag="--fence-scope", choices=get_args(TestScope), help="as `--fence-scope`"),
    Key(
        "", "blame", CHOICE, marker=False, choices=get_args(Blame),
        help="on whose account a process is that a fixture of more than one test has started: that of the test that "
        "runs when the process does something, or of the one that needed the fixture first",
    ),
    Key(
        "", "env_deny", VARIABLES, marker=False, deny=True, example="*_TOKEN", narrows=True,
        help="environment variables that are removed for the tests and all that they start: names, in which `*` is any "
        "number of characters and `?` is one; case matters",
    ),
    Key(
        "", "keep_fds", DESCRIPTORS, marker=False, flag="--fence-keep-fd",
        help="descriptors that the caller of pytest left open and that the tests may keep",
    ),
    Key(
        "", "watch_reads", BOOLEAN, marker=False, narrows=True,
        help="send opens for reading to the broker although this configuration has no `deny_read`, so that markers may "
        "have one",
    ),
    Key(
        "", "packages", DIRECTORIES, marker=False, example="packages/*",
        help="directories whose tests have a policy of their own, each in a configuration that lies there; `*`, `?` "
        "and `[...]` are globs",
    ),
    Key(
        "", "unsupported", CHOICE, marker=False, choices=get_args(Unsupported), unset="by what asks for it",
        help="what becomes of a run on another system than Linux: refused, or run without a fence, which the header "
        "says. Where it is not set, `--fence` and `require` refuse, and `enabled` alone runs",
    ),
    Key(
        "", "report", REPORTS, marker=False, flag="--fence-report", example="json",
        help="report files, each a type, or a type and a file: `json:build/fence.json`; as `--fence-report`",
    ),
    Key(
        "", "redact", BOOLEAN, marker=False,
        help="keep secrets out of report files: values of environment variables whose names the preset `no-secrets` "
        "lists, users and passwords in URLs, what follows `--password`, `--token` and the like",
    ),
    Key(
        "", "github", BOOLEAN, marker=False,
        help="annotations and a step summary in GitHub Actions, without being asked for",
    ),
    Key(
        "", "junit_properties", BOOLEAN, marker=False,
        help="what the fence has to say in the file of `--junitxml`: properties, and a test case for what happened "
        "outside of tests",
    ),
    Key(
        "", "service_proxy", LISTENING, marker=False, unset="none",
        help='`"172.17.0.1:8899"`: beside the run, a proxy listens there for what cannot be fenced, and keeps its '
        "clients to this policy; what it refuses is a violation outside of any test",
    ),
    Key(
        "", "extends", _EXTENDS, marker=False, choices=PRESETS, unset='`"pytest"`',
        help="what this adds to: a preset, another file, or your own",
    ),
    Key(
        "", "allow_pty", BOOLEAN, writes=("/dev/ptmx", "/dev/pts/*", "/dev/tty"),
        help="short for `allow_write` with the terminal devices",
    ),
    Key("", "force_new_session", BOOLEAN, marker=False, foreign=True, help="a session of the terminal's own"),
)  # fmt: skip

_OF_SECTION = {section: tuple(key for key in KEYS if key.section == section) for section in ("", *SECTIONS)}
_SPELLINGS = {
    section: {spelling: key for key in keys for spelling in (key.name, key.camel)}
    for section, keys in _OF_SECTION.items()
}
_BY_PATH = {key.path: key for key in KEYS}
DENY_READ, ENABLED, EXTENDS, PACKAGES, SCOPE = (
    _BY_PATH[path] for path in ("filesystem.deny_read", "enabled", "extends", "packages", "scope")
)
"""Those that are more than a rule or a setting: see where they are imported."""


def of_section(section: str) -> tuple[Key, ...]:
    """The keys of a section; of "" those about how to run the fence."""
    return _OF_SECTION[section]


def spellings(section: str) -> dict[str, Key]:
    """The keys of a section, each in snake_case and in the camelCase of the Go tool."""
    return _SPELLINGS[section]


def is_known(name: object) -> bool:
    """Whether a file may have this at its top level: a section, or any of our keys."""
    return name in _OWN_SECTIONS or any(not row[name].foreign for row in _SPELLINGS.values() if name in row)
