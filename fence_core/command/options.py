"""The flags of `fence`: one row each. The parser, the help and the reference page are made of these rows.

Read here and not by `getopt`, which takes any beginning of a name that is unique today, or `argparse`, whose import
costs more than all of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy.record import Record
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OPTIONS", "Asked", "Option", "UsageError", "parse"]


class UsageError(Exception):
    """The command line cannot be used; the text is for the user."""


class Option(Record):
    """One flag."""

    name: str
    """In full, without hyphens. The others are spellings of the same."""
    short: str
    value: str
    """What its value is called; empty where it has none."""
    help: str
    """For the help and the reference; empty where only the reference speaks of it."""
    aliases: tuple[str, ...] = ()
    many: bool = False
    """It may be given more than once."""
    refused: str = ""
    """Why it is not there. It is one of the Go tool."""
    accepted: str = ""
    """Why it has no effect. It is one of the Go tool."""


OPTIONS = (
    Option("command", "c", "STRING", "run STRING by a shell; further words are $0, $1, ..."),
    Option("settings", "s", "FILE", "the policy: .json, .jsonc, .yaml or .toml"),
    Option("template", "t", "NAME", "a policy that comes with fence: see --list-templates"),
    Option("monitor", "m", "", "show what is refused, as it happens"),
    Option("debug", "d", "", "show the policy, and which rules allow what, too"),
    Option("port", "p", "[ADDR:]PORT", "a server may open it; with ADDR for other machines", many=True),
    Option("allow-domain", "", "NAME", "as an item of network.allowedDomains, for this run", many=True),
    Option(
        "allow-write", "", "PATH", "as an item of filesystem.allowWrite, for this run", ("expose-host-path-rw",),
        many=True,
    ),
    Option("log-file", "", "FILE", "append what -m shows; as JSON if it ends in .jsonl", ("fence-log-file",)),
    Option("shell", "", "WHICH", "of -c: default (bash, else sh) or user ($SHELL)"),
    Option("shell-login", "", "", "start that shell as a login shell"),
    Option("no-project-config", "", "", "ignore this directory's policy: for untrusted code"),
    Option("list-templates", "", "", "list the names for -t and exit"),
    Option("features", "", "", "show what this kernel offers and exit", ("linux-features",)),
    Option("version", "v", "", "show the version and exit"),
    Option("help", "h", "", "show this text and exit"),
    Option(
        "expose-host-path", "", "PATH", "", many=True,
        accepted="every path of this machine is visible inside; deny_read closes some",
    ),
    Option("force-new-session", "", "", "", accepted="what it is for, typing into the caller's terminal, is refused"),
    Option(
        "service-execution-model", "", "MODEL", "",
        refused="containers are started by a daemon outside of the fence, so there is nothing to bridge",
    ),
    Option(
        "control-fd", "", "FD", "",
        refused="whoever has that descriptor could widen the policy of a command that runs",
    ),
)  # fmt: skip


class Asked:
    """What the command line says."""

    __slots__ = ("given", "long", "notes", "short", "words")

    def __init__(self, rows: Sequence[Option]) -> None:
        self.long = {name: option for option in rows for name in (option.name, *option.aliases)}
        self.short = {option.short: option for option in rows if option.short}
        self.given: dict[str, list[str]] = {}
        """Values by the full name of their flag; of one without a value an empty text."""
        self.words: list[str] = []
        """The command."""
        self.notes: list[str] = []
        """What is to be said about flags without effect."""

    def has(self, name: str) -> bool:
        return name in self.given

    def value(self, name: str) -> str | None:
        """The last one that was given."""
        values = self.given.get(name)
        return values[-1] if values else None

    def values(self, name: str) -> list[str]:
        return self.given.get(name, [])


def parse(arguments: Sequence[str], rows: Sequence[Option] = OPTIONS) -> Asked:
    """What is asked for. Options end at the first word that is none, or at ``--``. Raises UsageError.

    `rows`: the flags that there are, those of `fence` or of a subcommand.
    """
    asked = Asked(rows)
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _long(asked, word, rest)
        else:
            _cluster(asked, word, rest)
    asked.words = rest
    return asked


def _long(asked: Asked, word: str, rest: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    option = asked.long.get(name)
    if option is None:
        raise UsageError(f"unknown option --{escape(name)}{_meant(name, asked)}")
    if equals and not option.value:
        raise UsageError(f"--{name} takes no value")
    if option.value and not equals:
        value = _next(f"--{name}", option, rest)
    _take(asked, option, f"--{name}", value)


def _cluster(asked: Asked, word: str, rest: list[str]) -> None:
    """``-md``, ``-sFILE``."""
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = asked.short.get(letter)
        if option is None:
            raise UsageError(f"unknown option -{escape(letter)}")
        value = ""
        if option.value:
            value, letters = letters or _next(f"-{letter}", option, rest), ""
        _take(asked, option, f"-{letter}", value)


def _next(spelled: str, option: Option, rest: list[str]) -> str:
    if not rest:
        raise UsageError(f"{spelled} needs a value: {spelled} {option.value}")
    return rest.pop(0)


def _take(asked: Asked, option: Option, spelled: str, value: str) -> None:
    if option.refused:
        raise UsageError(f"{spelled} is not supported: {option.refused}")
    if option.accepted:
        asked.notes.append(f"{spelled} has no effect: {option.accepted}")
        return
    if option.value and not value and option.name != "command":
        raise UsageError(f"{spelled} needs a value that is not empty")
    if option.value and not option.many and option.name in asked.given:
        raise UsageError(f"{spelled} is given twice")
    asked.given.setdefault(option.name, []).append(value)


def _meant(name: str, asked: Asked) -> str:
    import difflib  # only where something is wrong already

    close = difflib.get_close_matches(name, list(asked.long), n=1, cutoff=0.6)
    return f" (did you mean --{close[0]}?)" if close else "; `fence --help` lists them"
