"""`fence config` and `fence check`: what policy there is, and whether it is one. Nothing is run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from fence_core.command.choose import find, place_of
from fence_core.command.options import UsageError, parse
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fence_core.command.options import Asked
    from fence_core.policy.sources.discover import Discovered

__all__ = ["check", "config"]

_CHOOSING = ("settings", "template", "no-project-config", "allow-domain", "allow-write")
"""Flags that say which policy it is."""
_SOURCES = "--sources"
_HELP = """\
usage: fence check [flags]                      one line about the policy, and one for each doubt
       fence config init [--help]               write a first policy, with comments
       fence config show [flags] [--sources]    all of it as JSON; --sources adds where each entry is
       fence config schema                      the JSON Schema of such files

Flags choose the policy: -s FILE, -t NAME, --no-project-config, --allow-domain, --allow-write."""


def config(words: Sequence[str]) -> int:
    """`config init`, `config show` (JSON; what it is made of on stderr), `config schema`. Raises UsageError."""
    what, *rest = words or [""]
    if what == "init":
        from fence_core.command.init import init

        return init(rest)
    if {"-h", "--help"} & set(words):
        print(_HELP)
        return 0
    if what == "show":
        return _show(_asked([word for word in rest if word != _SOURCES]), sources=_SOURCES in rest)
    if what == "schema" and not rest:
        return _schema()
    raise UsageError("config takes `init`, `show` with the flags that choose a policy and --sources, or `schema`")


def _show(asked: Asked, *, sources: bool) -> int:
    from fence_core.policy.sources.show import as_text

    found = _found(asked)
    print("\n".join(f"policy: {escape(each)}" for each in found.chain), file=sys.stderr)
    print(as_text(found.config, sources=sources))
    return 0


def _schema() -> int:
    from fence_core.policy.schema.generate import FILE

    with open(FILE, encoding="utf-8") as file:
        sys.stdout.write(file.read())
    return 0


def check(words: Sequence[str]) -> int:
    """One line about the policy, and one for each rule that may be a mistake. Raises PolicyError for those that are."""
    from fence_core.command.doubts import doubts
    from fence_core.doctor.examine import counted

    if {"-h", "--help"} & set(words):
        print(_HELP)
        return 0
    found = _found(_asked(words))
    own, *below = found.chain
    builds = f" (extends {', '.join(map(escape, below))})" if below else ""
    print(f"{escape(own)}: ok{builds}; {counted(found.config.policy)}")
    for each in doubts(found.config):
        print(f"  {place_of(each)}: {each.key}: {each.found}")
    return 0


def _asked(words: Sequence[str]) -> Asked:
    asked = parse(words)
    odd = next((name for name in asked.given if name not in _CHOOSING), "")
    if odd or asked.words:
        raise UsageError(f"{f'--{odd}' if odd else escape(asked.words[0])} has no meaning here; nothing is run")
    return asked


def _found(asked: Asked) -> Discovered:
    return find(asked, os.getcwd())
