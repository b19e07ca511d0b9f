"""What a test may do, as frozen values. What each key means is said in `keys.py`.

Every pattern is an `Entry` that knows where it was written, and every scalar has its source noted in `sources`, so
that each decision can name the rule behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fence_core.policy.record import Record
from fence_core.text import escape

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["enforce", "warn", "audit", "learn"]
CONFIGURABLE_MODES: tuple[Mode, ...] = ("enforce", "warn", "audit")
"""Those that a config or `--fence-mode` may ask for. Learning lets nearly everything happen: only a flag of its own
asks for that, on the command line that somebody has typed."""
Leftovers = Literal["end", "wait"]
Unsupported = Literal["refuse", "skip"]
TestScope = Literal["session", "test"]
Blame = Literal["running", "starter"]


class Source(Record):
    """Where something was written."""

    name: str  # for the user: "pyproject.toml [tool.fence]", "preset pytest", "@pytest.mark.fence of the test"
    file: str = ""
    """The absolute path, where it is a file of the project's: its config, or the module of a marker."""
    line: int | None = None
    """Counted from 1. Of a config file it is found only when somebody asks for it."""
    at: tuple[str | int, ...] = ()
    """Where in a config file, by its own keys and places in lists: ("network", "allowedDomains", 0)."""

    def __str__(self) -> str:
        # It may come from a test: see `wire.py`.
        return escape(self.name)


class Rule(Record):
    """What decided about a request, as data; the sentence for it is made in `report/`."""

    key: str = ""
    """The list or switch: "network.allowed_domains". Of what is refused whatever the lists say: the switch that would
    open it; empty if there is none."""
    entry: str = ""
    """The item of it that decided, or that is missing; empty where there is none."""
    source: Source | None = None
    """Where that was written."""
    reason: str = ""
    """Why, in words, where list and entry do not tell."""
    tried: tuple[Source, ...] = ()
    """Where rules of this list were found, none of which allows it."""


BUILT_IN = Source("built in")
Sources = tuple[tuple[str, Source], ...]
"""Pairs of a scalar's name and where its value was written; and of what is no `Entry`: "expose_ports 80". A name that
is not there has its built-in default."""


class Remedy(Record):
    """The smallest change that would allow what was refused. Every such key may stand in a marker, too."""

    key: str
    value: bool | tuple[str | int, ...]
    """What the setting is to be, or the entries that the list is to have besides."""
    syntax: str = "toml"
    """Of the config file in use: toml, json or yaml."""


class Entry(Record):
    """One item of a list: as it was written, and where."""

    text: str
    source: Source
    pattern: str = ""
    """Of a path: with `~` and the directory it is relative to filled in. Empty: the same as the text."""

    def __str__(self) -> str:
        return f'"{escape(self.text)}" ({self.source})'


_BUILT_IN = Source("the built-in default")


def _source(sources: Sources, name: str) -> Source:
    return dict(sources).get(name, _BUILT_IN)


class NetworkRules(Record):
    """Whom the tests may talk to. What no rule allows is refused."""

    allowed_domains: tuple[Entry, ...] = ()
    denied_domains: tuple[Entry, ...] = ()
    ignored_domains: tuple[Entry, ...] = ()
    allow_private: tuple[Entry, ...] = ()
    allow_unix_sockets: tuple[Entry, ...] = ()
    allow_all_unix_sockets: bool = False
    ignored_unix_sockets: tuple[Entry, ...] = ()
    allow_local_binding: bool = False
    allow_local_outbound: bool | None = None
    """None: as `allow_local_binding`."""
    allow_local_outbound_ports: tuple[int, ...] = ()
    expose_ports: tuple[int, ...] = ()
    upstream_proxy: str | None = None
    http_proxy_port: int | None = None
    proxy_env: bool = False
    hosts: tuple[tuple[str, str], ...] = ()
    """An empty address: the name does not exist."""
    opened_ports: tuple[tuple[str, int], ...] = ()
    """Addresses and ports that may be bound whatever `allow_local_binding` says; with an empty address on loopback."""
    sources: Sources = ()

    def source_of(self, name: str, item: object = "") -> Source:
        """Where the scalar of this name got its value; or what is in the list or table of this name its item."""
        return _source(self.sources, f"{name} {item}" if item else name)


class FilesystemRules(Record):
    """What the tests may change. What no rule allows is refused; reading is free but for `deny_read`."""

    allow_write: tuple[Entry, ...] = ()
    deny_write: tuple[Entry, ...] = ()
    deny_read: tuple[Entry, ...] = ()
    ignore_write: tuple[Entry, ...] = ()
    allow_git_config: bool = False
    root: str = ""
    """The project's directory: protected names hold here, whatever it lies in. Empty: unknown."""
    base: str = ""
    """What relative paths in the config count from. Empty: from `root`."""
    home: str = ""
    """The home directory at the start of the run, for protection, and to shorten what a remedy proposes."""
    scratch: tuple[str, ...] = ()
    """Directories for temporary files: protected names are free below them (see `protected.py`)."""
    locked: tuple[str, ...] = ()
    """Files that decide what tomorrow's run allows. No rule makes them writable."""
    environment: tuple[str, ...] = ()
    """Directories and files of the Python that runs the tests: a rule for a directory around them ends there."""
    early_names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Other directories where modules are looked for before a fence stands; names that no test may put there."""
    guards_environments: bool = True
    """Whether any virtual environment that was there before counts as one that somebody runs unfenced tomorrow, and
    modules of the project as what `python -m` finds first; if not, only what `environment` lists does."""
    byte_code_dir: str = ""
    """Where Python keeps all byte code (PYTHONPYCACHEPREFIX), if that is one place: no test may."""
    sources: Sources = ()

    def source_of(self, name: str) -> Source:
        """Where the scalar of this name got its value."""
        return _source(self.sources, name)


class CommandRules(Record):
    """Which commands may be run. Nothing enforces these yet."""

    deny: tuple[Entry, ...] = ()
    allow: tuple[Entry, ...] = ()
    use_defaults: bool = True
    sources: Sources = ()

    def source_of(self, name: str) -> Source:
        """Where the scalar of this name got its value."""
        return _source(self.sources, name)


class Policy(Record):
    """Everything that is allowed, from all sources together. The empty policy allows nothing."""

    network: NetworkRules = NetworkRules()
    filesystem: FilesystemRules = FilesystemRules()
    command: CommandRules = CommandRules()
    sources: tuple[Source, ...] = ()
    """All that took part, in the order of merging: "preset pytest", "pyproject.toml [tool.fence]"."""


class Settings(Record):
    """How to run the fence; nothing of what it allows."""

    enabled: bool = False
    mode: Mode = "enforce"
    require: tuple[str, ...] = ()
    leftovers: Leftovers = "end"
    watch_reads: bool = False
    scope: TestScope = "session"
    blame: Blame = "running"
    env_deny: tuple[Entry, ...] = ()
    keep_fds: tuple[int, ...] = ()
    packages: tuple[Entry, ...] = ()
    unsupported: Unsupported = "refuse"
    report: tuple[str, ...] = ()
    """As `reports.parse_report` has them; an empty one: none at all."""
    redact: bool = True
    github: bool = True
    junit_properties: bool = True
    service_proxy: str = ""
    sources: Sources = ()

    def source_of(self, name: str) -> Source:
        """Where the setting of this name got its value."""
        return _source(self.sources, name)


class Package(Record):
    """A directory of a monorepo whose tests have a policy of their own."""

    directory: str
    """Absolute. Relative paths of its config, and of the markers of its tests, count from here."""
    policy: Policy
    """All that its tests may do: of the root's config too."""
    scope: TestScope
    syntax: str
    """Of its config: toml, json or yaml."""


class Config(Record):
    """What was found for a project: a policy, and how to run it."""

    policy: Policy
    settings: Settings
    source: str  # "pyproject.toml [tool.fence]"; "preset pytest" where there is no file
    path: Path | None = None
    packages: tuple[Package, ...] = ()

    def denies_reading(self) -> bool:
        """Whether any policy of the run forbids to read anything."""
        return any(each.filesystem.deny_read for each in (self.policy, *(each.policy for each in self.packages)))

    def ignores(self) -> bool:
        """Whether any policy of the run has refusals that are no violations."""
        policies = (self.policy, *(each.policy for each in self.packages))
        return any(
            each.network.ignored_domains or each.network.ignored_unix_sockets or each.filesystem.ignore_write
            for each in policies
        )
