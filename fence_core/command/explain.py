"""`fence explain`: would this be allowed, by which rule, and what would change that? Nothing is tried, only judged."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from fence_core.command.choose import CHOOSING
from fence_core.command.describe import where
from fence_core.command.nearest import is_one_letter_off, nearest
from fence_core.command.options import Option, UsageError, parse
from fence_core.policy.decide import Judge
from fence_core.policy.domains import DomainError, canonical_host
from fence_core.policy.model import Policy, Source
from fence_core.policy.record import Record
from fence_core.policy.requests import Bind, Connect, Execute, Read, Resolve, Run, Write
from fence_core.policy.sources.lines import located
from fence_core.report.rule import camel, sentence
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fence_core.command.options import Asked
    from fence_core.policy.decision import Decision
    from fence_core.policy.model import Remedy, Rule
    from fence_core.policy.requests import Request

__all__ = ["EXPLAIN_OPTIONS", "QUESTIONS", "explain"]

ALLOWED, REFUSED, NO_QUESTION = 0, 1, 2
_SYNTAXES = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}

EXPLAIN_OPTIONS = (
    *CHOOSING,
    Option("test", "", "NODEID", "for this test of pytest's: its run's policy, and its markers"),
    Option("json", "", "", "the answer as JSON"),
    Option("help", "h", "", "show this text and exit"),
)
_HEAD = """\
usage: fence explain [flags] connect HOST[:PORT]      a connection; by default port 443
                             resolve NAME             the look-up of a name
                             bind [ADDR:]PORT         a server's port
                             write PATH, read PATH    a file or directory
                             run COMMAND [WORDS]      a command
                             last                     what the last pytest --fence was refused

Says whether a fenced command may do that, by which rule, and what would allow it. Nothing is tried.
"""
_TAIL = "\nIt ends with 0 where that is allowed, 1 where it is refused, 2 where the question is wrong."


def explain(arguments: Sequence[str]) -> int:
    """An exit status. Raises PolicyError."""
    try:
        asked = parse(arguments, EXPLAIN_OPTIONS)
        if asked.has("help"):
            from fence_core.command.help import page

            print(page(_HEAD, EXPLAIN_OPTIONS, _TAIL))
            return ALLOWED
        if asked.words == ["last"]:
            from fence_core.command.last import last

            return last(as_json=asked.has("json"))
        requests = _question(asked.words)
        subject = _subject(asked)
    except UsageError as error:
        os.write(2, f"fence: {error}\n".encode("utf-8", "backslashreplace"))
        return NO_QUESTION
    policy = subject.policy
    judge = Judge(policy)
    for request in requests:
        decision = judge.decide(request)
        if not decision.allowed:
            break
    if asked.has("json"):
        print(json.dumps(_as_data(asked.words, request, decision, subject)))
    elif decision.allowed:
        print(f"allowed: {_by(decision)}")
        print("\n".join(_under(subject)) if subject.test else "", end="\n" if subject.test else "")
    else:
        print("\n".join(_refusal(request, decision, subject)))
    return ALLOWED if decision.allowed else REFUSED


class _Subject(Record):
    """Who is asked about: a command, or a test."""

    policy: Policy
    chain: tuple[str, ...]
    """What the policy is made of, the closest first."""
    syntax: str
    test: str = ""


def _subject(asked: Asked) -> _Subject:
    """Raises UsageError, PolicyError."""
    nodeid = asked.value("test")
    if nodeid is not None:
        from fence_core.command.of_test import of_test

        found = of_test(nodeid, asked)
        marked = tuple(dict.fromkeys(map(where, found.marked[::-1])))
        return _Subject(found.policy, (*marked, found.source), _syntax(found.file, "toml"), found.test)
    from fence_core.command.choose import choose

    chosen = choose(asked, os.getcwd(), (), ())
    return _Subject(chosen.config.policy, chosen.chain, _syntax(chosen.chain[0] if chosen.chain else "", "json"))


def _syntax(path: str, otherwise: str) -> str:
    return _SYNTAXES.get(os.path.splitext(path)[1], otherwise)


# -- the question -----------------------------------------------------------------------------------------------------


def _question(words: Sequence[str]) -> list[Request]:
    """What would be asked of the policy, in this order; the first refusal counts. Raises UsageError."""
    if not words:
        raise UsageError(f"explain what? There are: {', '.join(QUESTIONS)}, last; `fence explain --help` shows how")
    what, *rest = words
    ask = QUESTIONS.get(what)
    if ask is None:
        raise UsageError(f'"{escape(what)}" cannot be explained; there are: {", ".join(QUESTIONS)}, last')
    if not rest or (len(rest) > 1 and what != "run"):
        raise UsageError(f"explain {what} takes {'a command' if what == 'run' else 'one word'} behind it")
    return ask(rest)


def _connect(words: Sequence[str]) -> list[Request]:
    host, port = _split(words[0], 443)
    return [Connect(_host(host), port)]


def _resolve(words: Sequence[str]) -> list[Request]:
    return [Resolve(_host(words[0]))]


def _bind(words: Sequence[str]) -> list[Request]:
    text = words[0]
    if text.isascii() and text.isdigit():
        text = f"127.0.0.1:{text}"
    host, port = _split(text, 0)
    return [Bind(_host(host), port)]


def _write(words: Sequence[str]) -> list[Request]:
    path = _path(words[0])
    return [Write("open" if os.path.lexists(path) else "create", path)]


def _read(words: Sequence[str]) -> list[Request]:
    return [Read(_path(words[0]))]


def _run(words: Sequence[str]) -> list[Request]:
    import shutil

    from fence_core.policy.commands import Reading

    program = shutil.which(words[0]) or words[0]
    real = os.path.realpath(program)
    names = tuple(dict.fromkeys(name for path in (words[0], program, real) for name in (path, os.path.basename(path))))
    shown = (os.path.basename(words[0]), *words[1:])
    return [Run(real), Execute(shown, (Reading(names, tuple(words[1:])),))]


QUESTIONS: dict[str, Callable[[Sequence[str]], list[Request]]] = {
    "connect": _connect,
    "resolve": _resolve,
    "bind": _bind,
    "write": _write,
    "read": _read,
    "run": _run,
}


def _path(text: str) -> str:
    """Absolute, and with links followed, as the kernel names what is judged."""
    return os.path.realpath(os.path.expanduser(text))


def _host(text: str) -> str:
    try:
        return str(canonical_host(text))
    except DomainError as error:
        raise UsageError(f'"{escape(text)}" {error}') from None


def _split(text: str, otherwise: int) -> tuple[str, int]:
    """Host and port of ``name:443``, ``[::1]:80``, ``name``. Raises UsageError."""
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        return text.strip("[]"), otherwise  # a name, or an IPv6 address without a port
    if not (number.isascii() and number.isdigit() and int(number[:6]) < 65536):
        raise UsageError(f'"{escape(text)}" does not end in a port from 0 to 65535')
    return host.strip("[]"), int(number)


# -- the answer -------------------------------------------------------------------------------------------------------


def _by(decision: Decision) -> str:
    rule = decision.rule
    if not rule.key:
        return escape(rule.reason)
    entry = f' "{escape(rule.entry)}"' if rule.entry else ""
    return f"{camel(rule.key)}{entry}" + (f" ({where(rule.source)})" if rule.source is not None else "")


def _under(subject: _Subject) -> Iterator[str]:
    if subject.test:
        yield f"  test: {escape(subject.test)}"
    yield f"  policy: {', '.join(map(escape, subject.chain))}"


def _placed(rule: Rule) -> Rule:
    """With the lines on which it was written, and others were looked for."""
    source = None if rule.source is None else Source(where(rule.source))
    return rule._replace(source=source, tried=tuple(Source(where(each)) for each in rule.tried))


def _refusal(request: Request, decision: Decision, subject: _Subject) -> Iterator[str]:
    from fence_core.policy.remedy import remedy
    from fence_core.report import words

    policy, syntax = subject.policy, subject.syntax
    yield f"refused: {sentence(decision._replace(rule=_placed(decision.rule)), syntax)}"
    yield from _under(subject)
    close = nearest(request, policy) if decision.why == "unlisted" else None
    if close is not None:
        asked = getattr(request, "host", "") or getattr(request, "name", "")
        off = "; one letter off?" if is_one_letter_off(asked, close) else ""
        yield f'  closest: "{escape(close.text)}" ({where(close.source)}){off}'
    change = remedy(request, policy, decision, syntax)
    if change is not None and subject.test:
        yield f"  to allow it, on the test: {words.marker(change)}"
        yield "  or for all of them, in the policy:"
        yield from (f"    {line}" for line in words.config(change).splitlines())
    elif change is not None:
        flag = _flag(change)
        yield f"  to allow it: {flag} for one run, or in the policy:" if flag else "  to allow it, in the policy:"
        yield from (f"    {line}" for line in words.config(change).splitlines())
    elif decision.why == "denied":
        yield "  a denial wins over whatever allows it"


def _as_data(words: Sequence[str], request: Request, decision: Decision, subject: _Subject) -> dict[str, Any]:
    from fence_core.policy.remedy import remedy
    from fence_core.report.lines import remedy_data

    policy, rule = subject.policy, _placed(decision.rule)
    close = nearest(request, policy) if decision.why == "unlisted" else None
    source = None if decision.rule.source is None else located(decision.rule.source)
    return {
        "v": 1,
        "question": list(words),
        "test": subject.test,
        "verdict": "allowed" if decision.allowed else "refused",
        "rule": _by(decision) if decision.allowed else sentence(decision._replace(rule=rule), subject.syntax),
        "rule_key": decision.rule.key,
        "entry": decision.rule.entry,
        "source": None if source is None else {"file": source.file or source.name, "line": source.line},
        "closest": None if close is None else close.text,
        "remedy": None if decision.allowed else remedy_data(remedy(request, policy, decision, "json")),
        "policy": list(subject.chain),
    }


def _flag(change: Remedy) -> str:
    flag = {"network.allowed_domains": "--allow-domain", "filesystem.allow_write": "--allow-write"}.get(change.key)
    if flag is None or isinstance(change.value, bool):
        return ""
    return " ".join(f"{flag} {value}" for value in change.value)
