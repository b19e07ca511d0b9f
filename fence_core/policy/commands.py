"""Command rules: does ``git push`` speak of this command line? Pure.

A rule is a few words. The first names the program, the others what is asked of it. A command can be read in several
ways (`Reading`): a script is its interpreter's command line too, a link has two names. A deny rule that covers any of
them refuses; an allow rule that covers the same reading is an exception, and the one place where an allow wins.

Rules for commands are guard rails: a program that does by itself what another one would is not stopped by them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fence_core.policy.record import Record

if TYPE_CHECKING:
    from fence_core.policy.model import CommandRules, Entry

__all__ = ["CommandJudge", "Reading", "Words", "is_called", "parse"]

_VERSION = re.compile(r"[0-9.]*")
_CLUSTER = re.compile(r"-[0-9A-Za-z]+")
# Their own options end at the first word that is none: what follows is for the script.
_INTERPRETER = re.compile(r"(?:python|pypy|perl|ruby|node|nodejs|bash|sh|dash|zsh|ksh|fish|php|lua)[0-9.]*")
# Options before the first word that are known to take no value; of others the next word may be one.
_WITHOUT_VALUE = {
    "git": (
        "-p", "-P", "-v", "-h", "--paginate", "--no-pager", "--bare", "--no-replace-objects", "--literal-pathspecs",
        "--glob-pathspecs", "--noglob-pathspecs", "--icase-pathspecs", "--no-optional-locks", "--no-advice",
        "--no-lazy-fetch", "--version", "--help", "--html-path", "--man-path", "--info-path",
    ),
    "docker": ("-D", "--debug", "--tls", "--tlsverify", "-v", "--version"),
    "podman": ("--remote", "-r", "-v", "--version", "--noout", "--trace"),
    "systemctl": (
        "--user", "--system", "--no-pager", "-q", "--quiet", "--now", "-a", "--all", "-l", "--full", "-f", "--force",
        "--no-block",
    ),
    "npm": ("-g", "--global", "-s", "--silent", "-q", "--quiet", "-d", "--verbose", "--json"),
    "cargo": ("-q", "--quiet", "-v", "--verbose", "--locked", "--offline", "--frozen"),
}  # fmt: skip


class Reading(Record):
    """One way to understand what is about to be run."""

    names: tuple[str, ...]
    """What the program is called: base names, and paths where a rule could name one."""
    words: tuple[str, ...]
    """Its arguments, without the program's name."""


class Words(Record):
    """A rule, taken apart."""

    program: str
    plain: tuple[str, ...]
    """Words that must come in this order, before all others."""
    options: tuple[str, ...]
    """Words that may stand anywhere: options, and beginnings such as `if=`."""
    all: tuple[str, ...]
    """Behind the program, as they were written."""


def parse(text: str) -> Words:
    """Take a rule apart at its spaces. Raises ValueError, with the reason for the user."""
    words = tuple(text.split())
    if not words:
        raise ValueError("it names no command")
    program = words[0]
    if program.startswith("-") or "=" in program:
        raise ValueError("it does not begin with the name of a program")
    if "/" in program and not program.startswith("/"):
        raise ValueError("a program is named by its base name or by its absolute path")
    odd = next((word for word in words if any(sign in word for sign in "*?|&;<>$`\"'")), "")
    if odd:
        raise ValueError(f"{odd} is not a plain word: rules are the first words of a command, without a shell's signs")
    rest = words[1:]
    options = tuple(word for word in rest if word.startswith("-") or word.endswith("="))
    return Words(program, tuple(word for word in rest if word not in options), options, rest)


def is_called(name: str, program: str) -> bool:
    """Whether a program of this name is meant: `python3.11` is `python3`, and `python`."""
    return name.startswith(program) and _VERSION.fullmatch(name, len(program)) is not None


class CommandJudge:
    """The command rules of a policy, taken apart."""

    __slots__ = ("_allow", "_deny", "programs")

    def __init__(self, rules: CommandRules) -> None:
        self._deny = tuple((parse(entry.text), entry) for entry in rules.deny)
        self._allow = tuple((parse(entry.text), entry) for entry in rules.allow)
        self.programs = frozenset(words.program for words, _ in self._deny)
        """The names that any rule begins with: whoever has none of them is not spoken of."""

    def denies(self, readings: Sequence[Reading]) -> Entry | None:
        """The rule that forbids to run this; None if there is none."""
        for reading in readings:
            for rule, entry in self._deny:
                if _covers(rule, reading) and not any(_excepts(each, reading) for each, _ in self._allow):
                    return entry
        return None


def _names(program: str, reading: Reading) -> bool:
    return any(name == program or is_called(name, program) for name in reading.names)


def _excepts(rule: Words, reading: Reading) -> bool:
    """An allow rule is the strict beginning of a command, as it was written."""
    return _names(rule.program, reading) and reading.words[: len(rule.all)] == rule.all


def _covers(rule: Words, reading: Reading) -> bool:
    if not _names(rule.program, reading):
        return False
    words = reading.words
    if rule.plain and not _begins(rule, words, 0):
        return False
    return not rule.options or _has_options(rule, words)


def _begins(rule: Words, words: Sequence[str], start: int) -> bool:
    """Whether the plain words of the rule are the first plain words, whichever option before them takes a value."""
    without = _WITHOUT_VALUE.get(rule.program, ())
    open_ends = [start]
    while open_ends:
        place = open_ends.pop()
        if place >= len(words):
            continue
        word = words[place]
        if word.startswith("-") and word != "-":
            open_ends.append(place + 1)
            if word not in without and "=" not in word and word != "--":
                open_ends.append(place + 2)
        elif _follow(rule.plain, words[place:]):
            return True
    return False


def _follow(plain: Sequence[str], words: Sequence[str]) -> bool:
    """Whether these words follow one another, with nothing but options between them."""
    rest = iter(word for word in words if not (word.startswith("-") and word != "-"))
    return all(next(rest, None) == word for word in plain)


def _has_options(rule: Words, words: Sequence[str]) -> bool:
    given = _options_of(rule, words)
    letters = {letter for word in given if _CLUSTER.fullmatch(word) for letter in word[1:]}
    for option in rule.options:
        if option.endswith("="):
            found = any(word.startswith(option) for word in words)
        elif _CLUSTER.fullmatch(option):
            found = option in given or set(option[1:]) <= letters
        else:
            found = any(word == option or word.startswith(f"{option}=") for word in given)
        if not found:
            return False
    return True


def _options_of(rule: Words, words: Sequence[str]) -> list[str]:
    """The words that may be options of the program itself."""
    ends = list(words)
    if "--" in ends:
        ends = ends[: ends.index("--")]
    if _INTERPRETER.fullmatch(rule.program):
        ends = ends[: _own_options(rule.program, ends)]
    return [word for word in ends if word.startswith("-")]


def _own_options(interpreter: str, words: Sequence[str]) -> int:
    """How many words may be options of the interpreter: none behind the script, or behind Python's `-m`.

    `python3 -W error -c ...`: a word behind an option may be its value.
    """
    for place, word in enumerate(words):
        if word.startswith("-"):
            if interpreter.startswith("py") and _CLUSTER.fullmatch(word) and word.endswith("m"):
                return place + 1
        elif place == 0 or _CLUSTER.fullmatch(words[place - 1]) is None:
            return place
    return len(words)
