"""What a key may hold: how a value of each kind is read, and how two sources that both say something are merged.

A reading function takes the source that is being read, the key, where in the source the value is, and the value. What
is wrong it tells the source, and goes on: one run shows all that is wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fence_core.policy.domains import (
    DomainError,
    canonical_host,
    parse_endpoint,
    parse_local_name,
    parse_pattern,
)
from fence_core.policy.model import CommandRules, Entry, FilesystemRules, NetworkRules, Settings
from fence_core.policy.paths import PatternSet, expand
from fence_core.policy.record import Record
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.policy.model import Source

    At = tuple[str | int, ...]
    """Where in a source: its own keys, and places in lists."""
    Read = Callable[["Reading", "Key", At, object], object]

_CONTROL = r"[\x00-\x1f\x7f]"


_RULES: dict[str, object] = {
    "network": NetworkRules(),
    "filesystem": FilesystemRules(),
    "command": CommandRules(),
    "": Settings(),
}
"""Where `model.py` has the keys of each section, with their defaults."""


class Key(Record):
    """One key that can be set: a row of `keys.py`."""

    section: str  # network, filesystem, command; "" for how to run the fence
    name: str
    kind: Kind
    help: str
    """One line for the reference, as Markdown without links."""
    marker: bool = True
    """Whether a single test may have it for itself; if not, it is set for the run as a whole."""
    flag: str = ""
    """The option of the command line that says the same."""
    deny: bool = False
    """Of a list: it forbids. Its bare names match at any depth."""
    choices: tuple[str, ...] = ()
    example: str = ""
    """An item of such a list, for whoever gets it wrong."""
    list_in: str = ""
    """Of a boolean that is taken for a list: the key that is one."""
    cleared_by: str = ""
    """Of a list: a key of its section. A closer source that sets that one, and not this, empties this."""
    writes: tuple[str, ...] = ()
    """It is short for these paths in `allow_write`."""
    unset: str = ""
    """What holds where nobody sets it, in words, if that is not the model's default."""
    narrows: bool = False
    """Of a setting for the run as a whole: what one package of a monorepo sets holds for all of them, since it takes
    something away, or costs time at most."""
    adds_to: str = ""
    """Of a list of entries: the list that they are added to, as if they were written there."""
    foreign: bool = False
    """Of the Go tool: taken in files, so that its own load. Nothing comes of it here, but for what `adds_to` says."""
    refused: str = ""
    """Why it can be set to nothing but `harmless`, as the rest of a sentence: a fence that takes a rule and does not
    keep it is worse than none."""
    harmless: tuple[object, ...] = ()
    """Values of such a key that say what holds anyway."""
    instead: str = ""
    """What to write in place of what is refused."""

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def camel(self) -> str:
        """The Go tool's spelling: allow_git_config -> allowGitConfig."""
        first, *rest = self.name.split("_")
        return first + "".join(part.capitalize() for part in rest)

    @property
    def default(self) -> object:
        """The model's, with which nothing is set; None for what the model has no field for."""
        return getattr(_RULES.get(self.section), self.name, None)


class Reading:
    """A source that is being read: what its values mean, where they are, and what is wrong with them."""

    def __init__(self, source: Source, base: str, home: str) -> None:
        self.source = source
        self.base = base
        """What relative paths count from."""
        self.home = home
        self.problems: list[tuple[At, str, str]] = []
        """Where, what was found, what is accepted."""
        self.values: dict[str, object] = {}
        self.sources: dict[str, Source] = {}
        """Of what is set, by the key's path, where it is written; and of single items that are no entries."""

    def problem(self, at: At, found: str, accepted: str) -> None:
        self.problems.append((at, found, accepted))

    def at(self, at: At) -> Source:
        """This place in the source."""
        return self.source._replace(at=at) if self.source.file and self.source.line is None else self.source

    def item(self, key: Key, item: object, at: At) -> None:
        """Take note of where an item of a list is, which cannot carry that itself."""
        self.sources[f"{key.path} {item}"] = self.at(at)


class Kind(Record):
    """A type of values."""

    words: str
    """For the reference: "boolean"."""
    read: Read
    merge: Callable[[Any, Any], object]
    """What holds, of what an outer and a closer source say."""
    unset: tuple[object, ...] = ()
    """What the Go tool writes for a value that is not set, beside null."""
    entries: bool = False
    """Whether it is a list of `Entry`, which know their sources."""


def _replace(outer: object, closer: object) -> object:
    return closer


def _add(outer: tuple[object, ...], closer: tuple[object, ...]) -> tuple[object, ...]:
    """Both lists, each item once, at its first place."""
    return tuple(dict.fromkeys(outer + closer)) if closer else outer


def _by_name(outer: tuple[tuple[str, str], ...], closer: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple({**dict(outer), **dict(closer)}.items())


def _boolean(reading: Reading, key: Key, at: At, value: object) -> bool:
    if key.list_in and isinstance(value, (list, tuple)):
        reading.problem(at, "is a list", f"true or false; a list goes into {key.list_in}")
    elif not isinstance(value, bool):
        reading.problem(at, shown(value), "true or false")
    return value is True


def _choice(reading: Reading, key: Key, at: At, value: object) -> str:
    if value not in key.choices:
        reading.problem(at, shown(value), " or ".join(f'"{choice}"' for choice in key.choices))
    return str(value)


BASE = "@base"
"""In `extends`: the user's own file."""


def leads_to_file(value: object) -> bool:
    """Whether what `extends` says is no template, but a file or `@base`. As in the Go tool."""
    return isinstance(value, str) and (value == BASE or value.startswith(".") or "/" in value or "\\" in value)


def _extends(reading: Reading, key: Key, at: At, value: object) -> str:
    accepted = (", ".join(f'"{choice}"' for choice in key.choices)) + (
        f'; or a file, with a "/" in it or a "." before it; or "{BASE}", your own'
    )
    if not isinstance(value, str):
        reading.problem(at, shown(value), accepted)
    elif not leads_to_file(value) and value not in key.choices:
        reading.problem(at, f"{quote(value)} is not a template", accepted)
    elif re.search(_CONTROL, value):
        reading.problem(at, f"{quote(value)} holds a control character", "the path of a file")
    return str(value)


def _number(lowest: int, highest: int, accepted: str) -> Read:
    def read(reading: Reading, key: Key, at: At, value: object) -> object:
        if type(value) is not int or not lowest <= value <= highest:
            reading.problem(at, shown(value), accepted)
        return value

    return read


def _numbers(number: Read, what: str, example: int) -> Read:
    def read(reading: Reading, key: Key, at: At, value: object) -> object:
        if not isinstance(value, (list, tuple)):
            alone = value if type(value) is int and value > 2 else example
            reading.problem(at, shown(value), f"a list of {what}, such as [{alone}]")
            return ()
        for place, item in enumerate(value):
            reading.item(key, number(reading, key, (*at, place), item), (*at, place))
        return tuple(value)

    return read


def _url(reading: Reading, key: Key, at: At, value: object) -> str:
    if isinstance(value, str) and value.startswith("https://"):
        accepted = 'a URL that begins with "http://": the proxy itself is asked without TLS'
        reading.problem(at, shown(value), accepted)
    elif not isinstance(value, str) or not re.fullmatch(r"http://[^\s/]+/?", value):
        reading.problem(at, shown(value), 'the URL of a proxy, such as "http://proxy.example:3128"')
    return str(value)


def _listening(reading: Reading, key: Key, at: At, value: object) -> str:
    """An address of this machine and a port; 0 for any."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    try:
        given = host and not isinstance(canonical_host(host), str)
    except DomainError:
        given = False
    if not (given and port.isascii() and port.isdigit() and int(port[:6]) < 65536):
        reading.problem(at, shown(value), 'an address and a port, such as "127.0.0.1:8899" or "[::1]:0"')
    return str(value)


def _hosts(reading: Reading, key: Key, at: At, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        reading.problem(at, shown(value), 'a table of names and addresses: {"api.stripe.com": "127.0.0.1:8443"}')
        return ()
    found = []
    for name, target in value.items():
        here = (*at, str(name))
        if not isinstance(name, str) or not (isinstance(target, str) or target is False):
            accepted = 'an address with an optional port, such as "127.0.0.1:8443", or false: no such name'
            reading.problem(here, shown(target), accepted)
            continue
        try:
            canonical = canonical_host(name)
        except DomainError as error:
            reading.problem(here, f"{quote(name)} {error}", "the name of a host")
            continue
        if not isinstance(canonical, str):
            reading.problem(here, f"{quote(name)} is an address", "the name of a host")
        try:
            if target is not False:
                parse_endpoint(target)
        except DomainError as error:
            reading.problem(here, f"{quote(target)} {error}", 'an address such as "127.0.0.1:8443"')
        reading.item(key, canonical, here)
        found.append((str(canonical), target or ""))
    return tuple(found)


def _strings(reading: Reading, key: Key, at: At, value: object) -> list[tuple[At, str]]:
    """The items of a list of strings, each with its place; anything else is a problem."""
    accepted = f'a list of strings, such as ["{key.example}"]'
    if isinstance(value, (str, os.PathLike)):
        reading.problem(at, f"{shown(value)}, not a list", f"[{quote(value)}]")
        return []
    if not isinstance(value, (list, tuple)):
        reading.problem(at, shown(value), accepted)
        return []
    items = []
    for place, item in enumerate(value):
        here = (*at, place)
        text = os.fspath(item) if isinstance(item, os.PathLike) else item
        if not isinstance(text, str):
            reading.problem(here, shown(item), "a string")
        elif not text.strip():
            reading.problem(here, "is empty", accepted)
        elif re.search(_CONTROL, text):
            found = f"{quote(text)} holds a control character"
            reading.problem(here, found, 'a "?" in its place, where it is a path')
        else:
            items.append((here, text))
    return items


def _names(reading: Reading, key: Key, at: At, value: object) -> tuple[str, ...]:
    return tuple(text for _, text in _strings(reading, key, at, value))


def _entries(pattern: Callable[[Reading, Key, str], str], accepted: str) -> Read:
    """Of a list of strings. `pattern` raises ValueError with what is wrong about one."""

    def read(reading: Reading, key: Key, at: At, value: object) -> object:
        entries = []
        for here, text in _strings(reading, key, at, value):
            try:
                entries.append(Entry(text, reading.at(here), pattern(reading, key, text)))
            except ValueError as error:
                reading.problem(here, f"{quote(text)} {error}", accepted)
        return tuple(entries)

    return read


def _domain(reading: Reading, key: Key, text: str) -> str:
    parse_pattern(text)
    return ""


def _narrow_domain(reading: Reading, key: Key, text: str) -> str:
    if parse_pattern(text).every:
        raise ValueError("would ignore everything")
    return ""


def _local_name(reading: Reading, key: Key, text: str) -> str:
    parse_local_name(text)
    return ""


def _path(reading: Reading, key: Key, text: str) -> str:
    pattern = expand(text, base=reading.base, home=reading.home, deny=key.deny)
    PatternSet[None]().add(pattern, None)  # a class that cannot be read shows here, not in the broker
    return pattern


def _directory(reading: Reading, key: Key, text: str) -> str:
    parts = text.replace(os.sep, "/").split("/")
    if text.startswith(("/", "~")) or ".." in parts:
        raise ValueError("leads out of the directory of the configuration")
    return "/".join(part for part in parts if part not in ("", "."))


def _device(reading: Reading, key: Key, text: str) -> str:
    pattern = _path(reading, key, text)
    if not text.startswith("/") or not pattern.startswith("/dev/"):
        raise ValueError("is not below /dev")
    return pattern


def _anything(reading: Reading, key: Key, at: At, value: object) -> object:
    if not isinstance(value, Mapping):
        reading.problem(at, shown(value), "a table")
    return value


def _command(reading: Reading, key: Key, text: str) -> str:
    from fence_core.policy.commands import parse  # few policies have such rules

    parse(text)
    return ""


def _variable(reading: Reading, key: Key, text: str) -> str:
    if "=" in text or "[" in text or text != text.strip():
        raise ValueError("is not the name of a variable")
    return ""


def _reports(reading: Reading, key: Key, at: At, value: object) -> tuple[str, ...]:
    from fence_core.policy import reports  # few policies want any

    if value == [reports.OFF]:  # of the flag
        return (reports.OFF,)
    found = []
    for here, text in _strings(reading, key, at, value):
        try:
            found.append(reports.parse_report(text, reading.base))
        except ValueError as error:
            reading.problem(here, f"{quote(text)} {error}", 'a type, or "TYPE:FILE", such as "json:build/fence.json"')
    return tuple(found)


_NO_ITEMS: tuple[object, ...] = ([], ())
_A_DOMAIN = """\
a name ("api.example.com"), a wildcard ("*.example.com"), "*" for every name, an IP address or a network, each with an \
optional ":port"\
"""
_A_NARROW_DOMAIN = _A_DOMAIN.replace('"*" for every name, ', "")
_A_NAME = 'a name ("db") or a wildcard ("*.internal"), each with an optional ":port"'
_A_PATH = 'a path, "~/...", or a glob of "*", "**", "?" and "[...]"'
_A_DEVICE = 'the path of a device, such as "/dev/dri"'
_A_DIRECTORY = 'a directory below that of the configuration, such as "packages/a" or "packages/*"'
_A_COMMAND = 'the first words of a command, such as "git push" or "rm -rf"'
_A_VARIABLE = 'the name of a variable, with "*" and "?" as globs'
_port = _number(1, 65535, "a port from 1 to 65535")
_descriptor = _number(3, (1 << 31) - 1, "the number of a descriptor above 2 (0 to 2 are always kept)")

BOOLEAN = Kind("boolean", _boolean, _replace)
CHOICE = Kind("choice", _choice, _replace)
EXTENDS = Kind("name, file or `@base`", _extends, _replace, ("",))
PORT = Kind("port", _port, _replace, (0,))
PORTS = Kind("list of ports", _numbers(_port, "ports", 5432), _add, _NO_ITEMS)
URL = Kind("URL", _url, _replace, ("",))
LISTENING = Kind("address and port", _listening, _replace, ("",))
HOSTS = Kind("table of names and addresses", _hosts, _by_name, ({},))
DOMAINS = Kind("list", _entries(_domain, _A_DOMAIN), _add, _NO_ITEMS, entries=True)
NARROW_DOMAINS = Kind("list", _entries(_narrow_domain, _A_NARROW_DOMAIN), _add, _NO_ITEMS, entries=True)
NAMES = Kind("list of names", _entries(_local_name, _A_NAME), _add, _NO_ITEMS, entries=True)
PATHS = Kind("list of paths", _entries(_path, _A_PATH), _add, _NO_ITEMS, entries=True)
DEVICES = Kind("list of devices", _entries(_device, _A_DEVICE), _add, _NO_ITEMS, entries=True)
DIRECTORIES = Kind("list of directories", _entries(_directory, _A_DIRECTORY), _add, _NO_ITEMS, entries=True)
COMMANDS = Kind("list of commands", _entries(_command, _A_COMMAND), _add, _NO_ITEMS, entries=True)
VARIABLES = Kind("list of patterns", _entries(_variable, _A_VARIABLE), _add, _NO_ITEMS, entries=True)
REPORTS = Kind("list of reports", _reports, _replace, _NO_ITEMS)
LAYERS = Kind("list of layers", _names, _add, _NO_ITEMS)
STRINGS = Kind("list of strings", _names, _add, _NO_ITEMS)
TABLE = Kind("table", _anything, _replace)
DESCRIPTORS = Kind("list of numbers above 2", _numbers(_descriptor, "descriptors", 9), _add, _NO_ITEMS)


def quote(value: object) -> str:
    return f'"{escape(os.fspath(value))}"' if isinstance(value, (str, os.PathLike)) else escape(repr(value))


def type_of(value: object) -> str:
    """What a user calls the type of a value."""
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
    return "a table" if isinstance(value, Mapping) else f"of type {type(value).__name__}"


def shown(value: object) -> str:
    """What was found, for the user to recognise: `is 3 (a number)`."""
    text = quote(value)
    if len(text) > 60 or isinstance(value, (list, tuple, Mapping)) or value is None:
        return f"is {type_of(value)}"
    return f"is {text} ({type_of(value)})"
