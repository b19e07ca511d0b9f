"""A raw mapping, from whatever file or marker, into an `Overlay`; or every problem it has, all at once.

What is accepted is one table, `KEYS`. Each key is taken in snake_case and in the camelCase of the Go tool.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

from fence_core.errors import PolicyError, Problem
from fence_core.policy.domains import DomainError, canonical_host, parse_endpoint, parse_pattern
from fence_core.policy.merge import Overlay
from fence_core.policy.model import (
    NOT_SUPPORTED_YET,
    CommandRules,
    Entry,
    FilesystemRules,
    NetworkRules,
    Settings,
)  # fmt: skip
from fence_core.policy.paths import PathError, PatternSet, expand
from fence_core.policy.record import Record
from fence_core.policy.requests import printable

if TYPE_CHECKING:
    from pathlib import Path

    from fence_core.policy.model import Leftovers, Mode, Source, Sources, TestScope

__all__ = ["KEYS", "Key", "camel", "is_known", "parse_overlay", "unwatched"]

Kind = Literal[
    "bool", "port", "url", "domains", "paths", "commands", "names", "variables", "ports", "fds", "hosts", "choice"
]


class Key(Record):
    """One key that can be set."""

    section: str  # network, filesystem, command; "" for how to run the fence
    name: str
    kind: Kind
    deny: bool = False
    """Of a list: it forbids. Its bare names match at any depth."""
    choices: tuple[str, ...] = ()
    default: object = None
    """The value that changes nothing, beside the empty list."""
    whole_run: bool = False
    """A key of a section that no marker has: it must be known before the first test."""

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name


KEYS = (
    Key("network", "allowed_domains", "domains"),
    Key("network", "denied_domains", "domains", deny=True),
    Key("network", "allow_unix_sockets", "paths"),
    Key("network", "allow_all_unix_sockets", "bool", default=False),
    Key("network", "allow_local_binding", "bool", default=False),
    Key("network", "allow_local_outbound", "bool"),
    Key("network", "allow_local_outbound_ports", "ports"),
    Key("network", "expose_ports", "ports"),
    Key("network", "upstream_proxy", "url", default=""),
    Key("network", "http_proxy_port", "port", default=0, whole_run=True),
    Key("network", "socks_proxy_port", "port", default=0),
    Key("network", "proxy_env", "bool", default=False, whole_run=True),
    Key("network", "hosts", "hosts", default={}),
    Key("filesystem", "allow_write", "paths"),
    Key("filesystem", "deny_write", "paths", deny=True),
    Key("filesystem", "deny_read", "paths", deny=True),
    Key("filesystem", "allow_git_config", "bool", default=False),
    Key("command", "deny", "commands", deny=True),
    Key("command", "allow", "commands"),
    Key("command", "use_defaults", "bool", default=True),
    Key("", "enabled", "bool", default=False),
    Key("", "mode", "choice", choices=("enforce", "warn", "audit")),
    Key("", "require", "names"),
    Key("", "leftovers", "choice", choices=("end", "wait")),
    Key("", "scope", "choice", choices=("session", "test")),
    Key("", "watch_reads", "bool", default=False),
    Key("", "env_deny", "variables", deny=True),
    Key("", "keep_fds", "fds"),
    Key("", "extends", "choice"),
    Key("", "allow_pty", "bool", default=False),
)

_SECTIONS = ("network", "filesystem", "command")
# Of the last section every key reads as something else when it stands alone: deny what?
_FLAT_SECTIONS = ("network", "filesystem")
_OF_MARKERS_TOO = frozenset({"allow_pty", "scope"})
"""Keys outside of the sections that one test may have for itself."""
_WHOLE_RUN = "is set for the run as a whole"
_FLAGS = {"enabled": ", or --fence", "mode": ", or --fence-mode", "require": ", or --fence-require"}
_PTY = ("/dev/ptmx", "/dev/pts/*", "/dev/tty")
_CONTROL = r"[\x00-\x1f\x7f]"


def camel(name: str) -> str:
    """The Go tool's spelling of a key: allow_git_config -> allowGitConfig."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _spellings(section: str) -> dict[str, Key]:
    return {spelling: key for key in KEYS if key.section == section for spelling in (key.name, camel(key.name))}


_BY_SECTION = {section: _spellings(section) for section in ("", *_SECTIONS)}


def is_known(name: object) -> bool:
    """Whether a file may have this at its top level: a section, or any of our keys."""
    return name in _SECTIONS or any(name in spellings for spellings in _BY_SECTION.values())


def parse_overlay(
    raw: Mapping[str, object],
    *,
    source: Source,
    base_dir: Path | str,
    flat: bool = True,
    settings: bool = False,
    home: str | None = None,
) -> Overlay:
    """Check a raw mapping and turn it into an `Overlay`.

    `source` is shown with every rule. Relative paths count from `base_dir`, `~` is `home` (the user's own unless
    given). `flat`: the section may be left out, as in TOML, YAML and markers. `settings`: keys about the run as a
    whole may be set, as in config files; a marker has none.

    Raises PolicyError with all problems.
    """
    parser = _Parser(source, os.path.abspath(base_dir), os.path.expanduser("~") if home is None else home)
    parser.read(raw, flat=flat, settings=settings)
    if parser.problems:
        raise PolicyError(tuple(parser.problems))
    return parser.overlay()


def unwatched(source: str, which: str = "the run") -> Problem:
    """`deny_read` where nothing watches what is read."""
    return Problem(
        source,
        "filesystem.deny_read",
        f"cannot be kept: {which} does not watch reads, and that has to be switched on before it starts",
        f"watch_reads = true, or a deny_read, in the configuration of {which} (nothing is watched otherwise, since "
        "each open for reading then takes some 30 microseconds longer)",
    )


class _Parser:
    """Collects the values and the problems of one source."""

    def __init__(self, source: Source, base: str, home: str) -> None:
        self.source = source
        self.base = base
        self.home = home
        self.problems: list[Problem] = []
        self.values: dict[str, object] = {}
        self.written: dict[str, str] = {}  # key -> how it was spelled
        self._settings = False

    def problem(self, key: str, found: str, accepted: str) -> None:
        self.problems.append(Problem(self.source.name, printable(key), found, accepted))

    # --- which key is meant ---

    def read(self, raw: Mapping[str, object], *, flat: bool, settings: bool) -> None:
        self._settings = settings
        for name, value in raw.items():
            if name == "$schema":
                continue
            if name in _SECTIONS:
                self._section(name, value)
                continue
            key = _BY_SECTION[""].get(name)
            if key is not None:
                if settings or key.name in _OF_MARKERS_TOO:
                    self._key(key, name, value)
                elif key.path in NOT_SUPPORTED_YET:
                    self._not_yet(key, name, value)
                else:
                    self.problem(name, _WHOLE_RUN, "in the configuration" + (_FLAGS.get(name, "")))
                continue
            owner = next((key for section in _SECTIONS if (key := _BY_SECTION[section].get(name))), None)
            if owner is None:
                self._unknown("", name, flat=flat, settings=settings)
            elif flat and owner.section in _FLAT_SECTIONS:
                self._key(owner, name, value)
            else:
                self.problem(name, "is outside its section", f'under "{owner.section}": {owner.section}.{name}')

    def _section(self, section: str, value: object) -> None:
        if value is None:
            return  # an empty section in YAML
        if not isinstance(value, Mapping):
            self.problem(section, f"is {_kind(value)}", f"a table of {section} keys")
            return
        for name, item in value.items():
            key = _BY_SECTION[section].get(name) if isinstance(name, str) else None
            if key is None:
                self._unknown(section, name, flat=False, settings=False)
            else:
                self._key(key, f"{section}.{name}", item)

    def _unknown(self, section: str, name: object, *, flat: bool, settings: bool) -> None:
        if not isinstance(name, str):
            self.problem(section, f"has a key that is {_kind(name)}", "names as keys")
            return
        sections = (section,) if section else (("", *_FLAT_SECTIONS) if flat else ("",))
        known = [spelling for each in sections if each or settings for spelling in _BY_SECTION[each]] + (
            [] if section else list(_SECTIONS)
        )
        import difflib  # only where something is wrong already

        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        path = f"{section}.{name}" if section else name
        if close:
            self.problem(path, f'is not a key of the fence; did you mean "{close[0]}"?', "")
            return
        for other in _SECTIONS:
            if name in _BY_SECTION[other]:
                self.problem(path, "is in the wrong section", f"{other}.{name}")
                return
        listed = ", ".join(key for key in known if key == key.lower())
        self.problem(path, "is not a key of the fence", listed)

    def _key(self, key: Key, path: str, value: object) -> None:
        if key.path in self.written:
            self.problem(path, f"is given a second time: {self.written[key.path]} is the same key", "each key once")
            return
        self.written[key.path] = path
        if value is None:
            return  # null in JSON, an empty key in YAML: not set, as the Go tool takes it
        if key.path in NOT_SUPPORTED_YET:
            self._not_yet(key, path, value)
            return
        if key.kind in ("port", "url") and type(value) is type(key.default) and value == key.default:
            return  # not set, as the Go tool writes it
        if key.whole_run and not self._settings:
            self.problem(path, _WHOLE_RUN, "in the config file")
            return
        before = len(self.problems)
        parsed = getattr(self, "_" + key.kind)(key, path, value)
        if len(self.problems) == before:
            self.values[key.path] = parsed

    def _not_yet(self, key: Key, path: str, value: object) -> None:
        empty = value in ([], ()) and key.kind not in ("bool", "port", "url", "choice")
        if not empty and not (type(value) is type(key.default) and value == key.default):
            self.problem(path, "is not supported yet in this version", "leaving it out, until it is enforced")

    # --- which values are good ---

    def _bool(self, key: Key, path: str, value: object) -> bool:
        if key.name == "allow_local_outbound" and isinstance(value, (list, tuple)):
            self.problem(path, "is a list", "true or false; ports go into allow_local_outbound_ports")
        elif not isinstance(value, bool):
            self.problem(path, _is(value), "true or false")
        return value is True

    def _choice(self, key: Key, path: str, value: object) -> str:
        choices = key.choices
        if key.name == "extends":
            from fence_core.policy.templates import template_names

            choices = template_names()
        if value not in choices:
            self.problem(path, _is(value), " or ".join(f'"{choice}"' for choice in choices))
        return str(value)

    def _port(self, key: Key, path: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
            self.problem(path, _is(value), "a port from 1 to 65535")
            return 0
        return value

    def _ports(self, key: Key, path: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, (list, tuple)):
            self.problem(path, _is(value), f"a list of ports, such as [{value if isinstance(value, int) else 5432}]")
            return ()
        return tuple(self._port(key, f"{path}[{place}]", port) for place, port in enumerate(value))

    def _fds(self, key: Key, path: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, (list, tuple)):
            example = value if isinstance(value, int) and not isinstance(value, bool) and value > 2 else 9
            self.problem(path, _is(value), f"a list of descriptors, such as [{example}]")
            return ()
        for place, fd in enumerate(value):
            if isinstance(fd, bool) or not isinstance(fd, int) or not 3 <= fd < 1 << 31:
                self.problem(f"{path}[{place}]", _is(fd), "the number of a descriptor above 2 (0 to 2 are always kept)")
        return tuple(value)

    def _url(self, key: Key, path: str, value: object) -> str:
        if isinstance(value, str) and value.startswith("https://"):
            self.problem(path, _is(value), 'a URL that begins with "http://": the proxy itself is asked without TLS')
        elif not isinstance(value, str) or not re.fullmatch(r"http://[^\s/]+/?", value):
            self.problem(path, _is(value), 'the URL of a proxy, such as "http://proxy.example:3128"')
        return str(value)

    def _hosts(self, key: Key, path: str, value: object) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, Mapping):
            self.problem(path, _is(value), 'a table of names and addresses: {"api.stripe.com": "127.0.0.1:8443"}')
            return ()
        found = []
        for name, target in value.items():
            here = f"{path}.{name}"
            if not isinstance(name, str) or not (isinstance(target, str) or target is False):
                self.problem(
                    here, _is(target),
                    'an address with an optional port, such as "127.0.0.1:8443", or false: no such name',
                )  # fmt: skip
                continue
            try:
                canonical = canonical_host(name)
            except DomainError as error:
                self.problem(here, f"{_quote(name)} {error}", "the name of a host")
                continue
            if not isinstance(canonical, str):
                self.problem(here, f"{_quote(name)} is an address", "the name of a host")
            if target is False:
                found.append((str(canonical), ""))
                continue
            try:
                parse_endpoint(target)
            except DomainError as error:
                self.problem(here, f"{_quote(target)} {error}", 'an address such as "127.0.0.1:8443"')
            found.append((str(canonical), target))
        return tuple(found)

    def _strings(self, path: str, value: object, example: str) -> list[tuple[str, str]]:
        """The items of a list of strings, each with its path; anything else is a problem."""
        accepted = f'a list of strings, such as ["{example}"]'
        if isinstance(value, (str, os.PathLike)):
            self.problem(path, f"{_is(value)}, not a list", f"[{_quote(value)}]")
            return []
        if not isinstance(value, (list, tuple)):
            self.problem(path, _is(value), accepted)
            return []
        items = []
        for place, item in enumerate(value):
            here = f"{path}[{place}]"
            text = os.fspath(item) if isinstance(item, os.PathLike) else item
            if not isinstance(text, str):
                self.problem(here, _is(item), "a string")
            elif not text.strip():
                self.problem(here, "is empty", accepted)
            elif re.search(_CONTROL, text):
                self.problem(
                    here, f"{_quote(text)} holds a control character", 'a "?" in its place, where it is a path'
                )
            else:
                items.append((here, text))
        return items

    def _domains(self, key: Key, path: str, value: object) -> tuple[Entry, ...]:
        entries = []
        for here, text in self._strings(path, value, "api.example.com"):
            try:
                parse_pattern(text)
            except DomainError as error:
                self.problem(
                    here, f"{_quote(text)} {error}",
                    'a name ("api.example.com"), a wildcard ("*.example.com"), an IP address or a network, each'
                    ' with an optional ":port"',
                )  # fmt: skip
            else:
                entries.append(Entry(text, self.source))
        return tuple(entries)

    def _paths(self, key: Key, path: str, value: object) -> tuple[Entry, ...]:
        entries = []
        for here, text in self._strings(path, value, "/var/run/postgresql" if key.section == "network" else "build"):
            try:
                pattern = expand(text, base=self.base, home=self.home, deny=key.deny)
                PatternSet[None]().add(pattern, None)  # a class that cannot be read shows here, not in the broker
            except PathError as error:
                self.problem(
                    here, f"{_quote(text)} {error}", 'a path, "~/...", or a glob of "*", "**", "?" and "[...]"'
                )
            else:
                entries.append(Entry(text, self.source, pattern))
        return tuple(entries)

    def _commands(self, key: Key, path: str, value: object) -> tuple[Entry, ...]:
        return tuple(Entry(text, self.source) for _, text in self._strings(path, value, "git push"))

    def _names(self, key: Key, path: str, value: object) -> tuple[str, ...]:
        return tuple(text for _, text in self._strings(path, value, "landlock"))

    def _variables(self, key: Key, path: str, value: object) -> tuple[Entry, ...]:
        found = []
        for here, text in self._strings(path, value, "*_TOKEN"):
            if "=" in text or "[" in text or text != text.strip():
                self.problem(
                    here,
                    f"{_quote(text)} is not the name of a variable",
                    'the name of a variable, with "*" and "?" as globs',
                )
            found.append(Entry(text, self.source))
        return tuple(found)

    # --- what it all comes to ---

    def overlay(self) -> Overlay:
        values = self.values

        def entries(path: str) -> tuple[Entry, ...]:
            return cast("tuple[Entry, ...]", values.get(path, ()))

        def sources(section: str) -> Sources:
            return tuple(
                (key.name, self.source)
                for key in KEYS
                if key.section == section
                and key.path in values
                and (key.kind == "hosts" or not isinstance(values[key.path], tuple))
            )

        allow_write = entries("filesystem.allow_write")
        if values.get("allow_pty"):
            allow_write += tuple(Entry(path, self.source) for path in _PTY)
        network = NetworkRules(
            allowed_domains=entries("network.allowed_domains"),
            denied_domains=entries("network.denied_domains"),
            allow_unix_sockets=entries("network.allow_unix_sockets"),
            allow_all_unix_sockets=values.get("network.allow_all_unix_sockets") is True,
            allow_local_binding=values.get("network.allow_local_binding") is True,
            allow_local_outbound=cast("bool | None", values.get("network.allow_local_outbound")),
            allow_local_outbound_ports=cast("tuple[int, ...]", values.get("network.allow_local_outbound_ports", ())),
            expose_ports=cast("tuple[int, ...]", values.get("network.expose_ports", ())),
            upstream_proxy=cast("str | None", values.get("network.upstream_proxy")),
            http_proxy_port=cast("int | None", values.get("network.http_proxy_port")),
            socks_proxy_port=cast("int | None", values.get("network.socks_proxy_port")),
            proxy_env=values.get("network.proxy_env") is True,
            hosts=cast("tuple[tuple[str, str], ...]", values.get("network.hosts", ())),
            sources=sources("network"),
        )
        filesystem = FilesystemRules(
            allow_write=allow_write,
            deny_write=entries("filesystem.deny_write"),
            deny_read=entries("filesystem.deny_read"),
            allow_git_config=values.get("filesystem.allow_git_config") is True,
            sources=sources("filesystem"),
        )
        command = CommandRules(
            deny=entries("command.deny"),
            allow=entries("command.allow"),
            use_defaults=values.get("command.use_defaults", True) is True,
            sources=sources("command"),
        )
        settings = Settings(
            enabled=values.get("enabled") is True,
            mode=cast("Mode", values.get("mode", "enforce")),
            require=cast("tuple[str, ...]", values.get("require", ())),
            leftovers=cast("Leftovers", values.get("leftovers", "end")),
            watch_reads=bool(values.get("watch_reads", False)),
            scope=cast("TestScope", values.get("scope", "session")),
            env_deny=entries("env_deny"),
            keep_fds=cast("tuple[int, ...]", values.get("keep_fds", ())),
            sources=sources(""),
        )
        return Overlay(self.source, network, filesystem, command, settings, cast("str | None", values.get("extends")))


def _quote(value: object) -> str:
    return f'"{printable(os.fspath(value))}"' if isinstance(value, (str, os.PathLike)) else printable(repr(value))


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "a table"
    return f"of type {type(value).__name__}"


def _is(value: object) -> str:
    """What was found, for the user to recognise: `is 3 (a number)`."""
    shown = _quote(value)
    if len(shown) > 60 or isinstance(value, (list, tuple, Mapping)) or value is None:
        return f"is {_kind(value)}"
    return f"is {shown} ({_kind(value)})"
