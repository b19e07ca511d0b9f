"""Rules of a file that say something, and probably not what was meant. For `fence check`.

Only what stands in a file is doubted: nobody has written the rules of a template here.
"""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any

from fence_core.command.choose import place_of
from fence_core.command.describe import where
from fence_core.policy import domains, paths
from fence_core.policy.commands import CommandJudge, Reading, parse
from fence_core.policy.decide import Judge
from fence_core.policy.kinds import quote
from fence_core.policy.model import Source
from fence_core.policy.requests import Connect, Write
from fence_core.policy.sources.lines import problem
from fence_core.report.rule import camel, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fence_core.errors import Problem
    from fence_core.policy.decision import Decision
    from fence_core.policy.domains import Network, Pattern
    from fence_core.policy.model import CommandRules, Config, Entry, NetworkRules

__all__ = ["doubts"]

_SHARED = frozenset(
    {"amazonaws.com", "appspot.com", "azurewebsites.net", "blogspot.com", "cloudfront.net", "firebaseapp.com",
     "github.io", "gitlab.io", "herokuapp.com", "netlify.app", "ngrok.io", "ngrok-free.app", "onrender.com",
     "pages.dev", "run.app", "vercel.app", "web.app", "windows.net", "workers.dev"}
)  # fmt: skip
"""Below these anybody can rent a name."""
_ALLOWED_NAMES, _DENIED_NAMES = "network.allowed_domains", "network.denied_domains"


def doubts(config: Config) -> tuple[Problem, ...]:
    """What whoever wrote the files of this policy may want to look at, in the order of its lists. Opens no file."""
    judge, policy = Judge(config.policy), config.policy
    files = policy.filesystem
    found = (
        *_places(judge, files.allow_write),
        *_names(judge, policy.network),
        *_denied_names(policy.network),
        *_denied_places("filesystem.deny_write", files.deny_write, files.allow_write),
        *_denied_places("filesystem.deny_read", files.deny_read, None),
        *_exceptions(policy.command),
    )
    return tuple(dict.fromkeys(found))


# -- places -----------------------------------------------------------------------------------------------------------


def _places(judge: Judge, entries: tuple[Entry, ...]) -> Iterator[Problem]:
    key, before = "filesystem.allow_write", list[tuple[str, "Entry"]]()
    for entry in entries:
        path = _literal(entry)
        if not entry.source.file or path is None:
            continue
        decision = judge.decide(Write("open", path))
        if decision.why in ("denied", "protected"):
            yield _doubt(entry, key, f"has no effect: {_because(decision, entry)}")
            continue
        if not os.path.lexists(path):
            yield _doubt(entry, key, f"does not exist{_meant(path) or ' (yet)'}")
        before.append((path, entry))
    yield from _repeated(key, before, lambda wide, narrow: narrow.startswith(wide.rstrip("/") + "/"))


def _denied_places(key: str, entries: Iterable[Entry], allowed: Iterable[Entry] | None) -> Iterator[Problem]:
    """`allowed`: what is allowed without them; None: everything."""
    open_places = None if allowed is None else [_fixed(entry) for entry in allowed]
    for entry in entries:
        path = _literal(entry)
        if not entry.source.file or path is None:
            continue
        meant = "" if os.path.lexists(path) else _meant(path)
        if meant:
            yield _doubt(entry, key, f"does not exist{meant}")
        elif open_places is not None and not any(_meet(path, place) for place in open_places):
            yield _doubt(entry, key, f"denies what {_said('filesystem.allow_write', entry)} does not allow: {_IDLE}")


def _literal(entry: Entry) -> str | None:
    return paths.literal_of(entry.pattern or entry.text)


def _fixed(entry: Entry) -> str:
    """The directory in which all lies that a pattern matches, or its only path."""
    return _literal(entry) or paths.split_fixed(entry.pattern or entry.text)[0]


def _meet(one: str, other: str) -> bool:
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def _meant(path: str) -> str:
    """What lies beside it and is called nearly the same; empty where nothing is."""
    directory, _, name = path.rpartition("/")
    try:
        beside = os.listdir(directory or "/")
    except OSError:
        beside = []
    close = difflib.get_close_matches(name, beside, n=1, cutoff=0.7)
    return f"; did you mean {quote(close[0])}?" if close else ""


# -- names ------------------------------------------------------------------------------------------------------------


def _names(judge: Judge, network: NetworkRules) -> Iterator[Problem]:
    before = []
    private = {entry.text for entry in network.allow_private} | {name for name, _ in network.hosts}
    for entry in network.allowed_domains:
        if not entry.source.file:
            continue
        pattern = domains.parse_pattern(entry.text)
        decision = judge.decide(Connect(pattern.name, pattern.port or 443)) if pattern.name else None
        if decision is not None and decision.why == "denied":
            yield _doubt(entry, _ALLOWED_NAMES, f"has no effect: {_because(decision, entry)}")
            continue
        if _is_shared(pattern.suffix):
            yield _doubt(entry, _ALLOWED_NAMES, f"allows strangers: anybody can have a name below {pattern.suffix}")
        elif _is_local(pattern.name) and pattern.name not in private:
            found = f"leads to a private address in most networks, which only {_said('network.allow_private', entry)}"
            yield _doubt(entry, _ALLOWED_NAMES, f"{found} opens")
        before.append((pattern, entry))
    yield from _repeated(_ALLOWED_NAMES, before, _covers)


def _denied_names(network: NetworkRules) -> Iterator[Problem]:
    open_names = [domains.parse_pattern(entry.text) for entry in network.allowed_domains]
    open_names += [domains.parse_local_name(entry.text) for entry in network.allow_private]
    open_names += [domains.parse_pattern(name) for name, at in network.hosts if at]
    for entry in network.denied_domains:
        if not entry.source.file:
            continue
        denied = domains.parse_pattern(entry.text)._replace(port=None)
        bare = [each._replace(port=None) for each in open_names]
        if not any(each == denied or _covers(each, denied) or _covers(denied, each) for each in bare):
            yield _doubt(entry, _DENIED_NAMES, f"denies what {_said(_ALLOWED_NAMES, entry)} does not allow: {_IDLE}")


def _is_shared(suffix: str) -> bool:
    return suffix in _SHARED or any(suffix.endswith(f".{each}") for each in ("amazonaws.com", "windows.net"))


def _is_local(name: str) -> bool:
    return bool(name) and "." not in name and not domains.is_loopback_name(name)


def _covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether all that `narrow` means is meant by `wide` too, and more."""
    if wide.port not in (None, narrow.port) or wide == narrow:
        return False
    if wide.every:
        return narrow.network is None
    if wide.suffix:
        inner = narrow.name or narrow.suffix
        return narrow.suffix == wide.suffix or inner.endswith(f".{wide.suffix}")
    if wide.network is not None:
        return narrow.network is not None and _contains(wide.network, narrow.network)
    return wide.name == narrow.name


def _contains(wide: Network, narrow: Network) -> bool:
    bits = (32 if wide.version == 4 else 128) - wide.prefix
    same = wide.version == narrow.version and wide.prefix <= narrow.prefix
    return same and wide.value >> bits == narrow.value >> bits


# -- commands ---------------------------------------------------------------------------------------------------------


def _exceptions(rules: CommandRules) -> Iterator[Problem]:
    judge = CommandJudge(rules._replace(allow=()))
    for entry in rules.allow:
        words = parse(entry.text)
        if entry.source.file and judge.denies((Reading((words.program,), words.all),)) is None:
            found = f"excepts what {_said('command.deny', entry)} does not deny: it changes nothing"
            yield _doubt(entry, "command.allow", found)


# -- any of them ------------------------------------------------------------------------------------------------------

_IDLE = "it changes nothing, but for what a marker of a test allows"


def _repeated(key: str, entries: list[tuple[Any, Entry]], covers: Callable[[Any, Any], bool]) -> Iterator[Problem]:
    """Entries that are there twice, or that another one covers."""
    for place, (value, entry) in enumerate(entries):
        for other_place, (other, by) in enumerate(entries):
            if other == value and other_place < place:
                yield _doubt(entry, key, f"is there already ({_place(by)})")
                break
            if covers(other, value):
                yield _doubt(entry, key, f"is covered by {quote(by.text)} ({_place(by)}): it adds nothing")
                break


def _doubt(entry: Entry, key: str, found: str) -> Problem:
    return problem(entry.source, f"{_said(key, entry)} {quote(entry.text)}", found, "")


def _because(decision: Decision, entry: Entry) -> str:
    syntax = "toml" if entry.source.file.endswith(".toml") else "json"
    rule = decision.rule
    source = None if rule.source is None else Source(where(rule.source))
    return sentence(decision._replace(rule=rule._replace(source=source)), syntax)


def _said(key: str, entry: Entry) -> str:
    """As the file of this entry spells it."""
    return key if entry.source.file.endswith(".toml") else camel(key)


def _place(entry: Entry) -> str:
    return place_of(problem(entry.source, "", "", ""))
